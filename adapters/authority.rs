//! Certificate authorities that the user gave.

use std::path::PathBuf;

use rustls::{
    RootCertStore,
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
