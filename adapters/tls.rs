//! TLS for the adapters on hyper.

use std::{error::Error, sync::Arc};

use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::adapter::certificates::{Loaded, nobody_is_trusted};

/// TLS with these certificates. Blocking: reads the system's.
pub(super) fn client_config(loaded: &Loaded) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    let mut errors = Vec::new();
    if loaded.system {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        errors = system.errors;
    }
    for authority in &loaded.authorities {
        roots.add(authority.clone())?;
    }
    if roots.is_empty() {
        return Err(nobody_is_trusted(errors).into());
    }
    // Always an explicit provider: the process may have two, or none, as its default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match &loaded.identity {
        Some([chain, key]) => config.with_client_auth_cert(
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>()?,
            PrivateKeyDer::from_pem_slice(key)?,
        )?,
        None => config.with_no_client_auth(),
    })
}

/// Whether the server never came to read a request: it did not accept the client's certificate.
pub(super) fn ends_handshake(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    matches!(
        error,
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
                | Alert::NoCertificate
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::HandshakeFailure
        )
    )
}
