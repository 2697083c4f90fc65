//! TLS for the adapters on hyper.

use std::{error::Error, sync::Arc};

use rustls::{AlertDescription, ClientConfig, RootCertStore, pki_types::CertificateDer};

/// Trusts the system's authorities and these. Blocking: reads the system's certificates.
pub(super) fn client_config(
    authorities: &[CertificateDer<'static>],
) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system.certs);
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    if roots.is_empty() {
        let mut text = "no certificate authority is trusted: install the system's certificates, \
                        name a bundle in SSL_CERT_FILE, or give one to the adapter's builder"
            .to_owned();
        for error in system.errors {
            text.push_str("; ");
            text.push_str(&error.to_string());
        }
        return Err(text.into());
    }
    // Always an explicit provider: the process may have two, or none, as its default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
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
