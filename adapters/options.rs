//! The options that all live adapters have.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::CertificateDer;

use crate::adapter::{AdapterError, IDLE_CONNECTION, authority::Authority};

#[derive(Clone)]
pub(super) struct Options {
    pub(super) authorities: Vec<Authority>,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            authorities: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: IDLE_CONNECTION,
        }
    }
}

impl Options {
    pub(super) fn read_authorities(&self) -> Result<Arc<[CertificateDer<'static>]>, AdapterError> {
        let mut certificates = Vec::new();
        for authority in &self.authorities {
            authority.read_into(&mut certificates)?;
        }
        Ok(certificates.into())
    }
}

/// The setters of a builder that keeps its [`Options`] in the field `options`, and its `Debug`.
macro_rules! builder_options {
    ($builder:ident) => {
        impl $builder {
            /// Trusts the certificates in `pem` besides those of the system. May be repeated.
            pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
                let authority = $crate::adapter::authority::Authority::Pem(pem.into());
                self.options.authorities.push(authority);
                self
            }

            /// Trusts the certificates in this PEM file besides those of the system. May be
            /// repeated.
            ///
            /// The file is read by [`build`](Self::build), once.
            pub fn ca_file(mut self, path: impl Into<::std::path::PathBuf>) -> Self {
                let authority = $crate::adapter::authority::Authority::File(path.into());
                self.options.authorities.push(authority);
                self
            }

            /// The longest time to wait for a TCP connection, all addresses of the host together;
            /// 10 s by default. The request's own timeout goes on beside it and covers TLS.
            pub fn connect_timeout(mut self, timeout: ::std::time::Duration) -> Self {
                self.options.connect_timeout = timeout;
                self
            }

            /// How long an unused connection is kept; 60 s by default. Should be less than the
            /// server's own limit (75 s is common), or requests meet connections that close under
            /// them.
            pub fn idle_timeout(mut self, timeout: ::std::time::Duration) -> Self {
                self.options.idle_timeout = timeout;
                self
            }
        }

        impl ::std::fmt::Debug for $builder {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.debug_struct(stringify!($builder))
                    .field("extra_authorities", &self.options.authorities.len())
                    .field("connect_timeout", &self.options.connect_timeout)
                    .field("idle_timeout", &self.options.idle_timeout)
                    .finish()
            }
        }
    };
}
pub(super) use builder_options;
