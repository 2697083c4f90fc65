//! Certificate authorities and TLS for the live adapters.

use std::{error::Error, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::adapter::{AdapterError, AdapterErrorKind};

/// A certificate authority that the user gave.
#[derive(Clone)]
pub(super) enum Authority {
    Pem(Vec<u8>),
    File(PathBuf),
}

impl Authority {
    /// Reads and checks it. Blocking, but only if it is a file.
    pub(super) fn read_into(
        &self,
        authorities: &mut Vec<CertificateDer<'static>>,
    ) -> Result<(), AdapterError> {
        let origin = match self {
            Self::Pem(_) => "the given PEM".to_owned(),
            Self::File(path) => path.display().to_string(),
        };
        let failed = |what: &str| {
            AdapterError::new(
                AdapterErrorKind::Certificate,
                format!("certificate authority in {origin}: {what}"),
            )
        };
        let read;
        let pem = match self {
            Self::Pem(pem) => pem,
            Self::File(path) => {
                read = std::fs::read(path)
                    .map_err(|error| failed("the file cannot be read").with_source(error))?;
                &read
            }
        };
        let before = authorities.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate =
                certificate.map_err(|error| failed("this is not PEM").with_source(error))?;
            RootCertStore::empty()
                .add(certificate.clone())
                .map_err(|error| failed("a certificate is broken").with_source(error))?;
            authorities.push(certificate);
        }
        if authorities.len() == before {
            return Err(failed(
                "there is no certificate (`BEGIN CERTIFICATE`) in it",
            ));
        }
        Ok(())
    }
}

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
