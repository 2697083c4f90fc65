//! Certificates and keys that the user gave, as PEM or in files that may change.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::adapter::{AdapterError, AdapterErrorKind, options::Options};

/// What a file of certificates may hold, in bytes; the largest bundles have a quarter of a MiB.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The granularity of a file's time: what was written within it of the last look may look the same.
const GRAIN: Duration = Duration::from_secs(2);

/// PEM that was given, or the file that it is in.
#[derive(Clone)]
pub(super) enum Pem {
    Given(Arc<[u8]>),
    File(PathBuf),
}

/// A certificate chain and its key.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) chain: Pem,
    pub(super) key: Pem,
}

/// What is trusted, and who we are.
pub(super) struct Loaded {
    /// Whether the system's authorities are trusted besides.
    pub(super) system: bool,
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// Certificates and their key, both PEM.
    pub(super) identity: Option<[Arc<[u8]>; 2]>,
}

/// Keeps what was loaded, and looks whether it has changed.
pub(super) struct Certificates {
    system: bool,
    authorities: Vec<Source>,
    identity: Option<[Source; 2]>,
    loaded: Arc<Loaded>,
}

impl Certificates {
    /// Reads and checks what the options name. Blocking, if there are files.
    pub(super) fn load(options: &Options) -> Result<Self, AdapterError> {
        let mut authorities = Vec::new();
        for pem in &options.authorities {
            authorities.push(Source::open(pem, "certificate authority")?);
        }
        let identity = match &options.identity {
            Some(Identity { chain, key }) => Some([
                Source::open(chain, "client certificate")?,
                Source::open(key, "key of the client certificate")?,
            ]),
            None => None,
        };
        let system = options.system_roots;
        let loaded = Arc::new(parse(system, &authorities, identity.as_ref())?);
        Ok(Self {
            system,
            authorities,
            identity,
            loaded,
        })
    }

    pub(super) fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// Whether there is any file.
    pub(super) fn may_change(&self) -> bool {
        let identity = self.identity.iter().flatten();
        let mut sources = self.authorities.iter().chain(identity);
        sources.any(|source| matches!(source.pem, Pem::File(_)))
    }

    /// Reads the files that have changed; whether any had. What cannot be used, as it is being
    /// written right now, say, leaves all as it was until it has changed again. Blocking.
    pub(super) fn refresh(&mut self) -> bool {
        let identity = self.identity.iter_mut().flatten();
        let sources = self.authorities.iter_mut().chain(identity);
        // All of them have to be looked at.
        if sources
            .filter_map(|source| source.refresh().then_some(()))
            .count()
            == 0
        {
            return false;
        }
        let parsed = parse(self.system, &self.authorities, self.identity.as_ref());
        match parsed {
            Ok(loaded) => {
                self.loaded = Arc::new(loaded);
                true
            }
            Err(_) => false,
        }
    }
}

/// What is wrong if there is no certificate authority, and why the system has none.
pub(super) fn nobody_is_trusted(errors: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let mut text =
        "no certificate authority is trusted: install the system's certificates, name a \
                    bundle in SSL_CERT_FILE, or give one to the adapter's builder"
            .to_owned();
    for error in errors {
        text.push_str("; ");
        text.push_str(&error.to_string());
    }
    text
}

/// Some PEM, and what it is, for errors.
struct Source {
    pem: Pem,
    what: &'static str,
    bytes: Arc<[u8]>,
    /// The file's time and length, if what is read then cannot change without them.
    stamp: Option<(SystemTime, u64)>,
}

impl Source {
    fn open(pem: &Pem, what: &'static str) -> Result<Self, AdapterError> {
        let mut source = Self {
            pem: pem.clone(),
            what,
            bytes: Arc::default(),
            stamp: None,
        };
        source
            .read()
            .map_err(|error| source.failed("the file cannot be read").with_source(error))?;
        Ok(source)
    }

    fn refresh(&mut self) -> bool {
        let before = self.bytes.clone();
        self.read().is_ok() && self.bytes != before
    }

    fn read(&mut self) -> io::Result<()> {
        let path = match &self.pem {
            Pem::Given(bytes) => {
                self.bytes = bytes.clone();
                return Ok(());
            }
            Pem::File(path) => path,
        };
        let file = File::open(path)?;
        let about = file.metadata()?;
        let stamp = about.modified().ok().map(|time| (time, about.len()));
        if stamp.is_some() && stamp == self.stamp {
            return Ok(());
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.stamp = stamp.filter(|(time, _)| time.elapsed().is_ok_and(|age| age > GRAIN));
        self.bytes = bytes.into();
        Ok(())
    }

    /// At least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, AdapterError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| self.failed("this is not PEM").with_source(error))?;
        if certificates.is_empty() {
            return Err(self.failed("there is no certificate (`BEGIN CERTIFICATE`) in it"));
        }
        Ok(certificates)
    }

    fn failed(&self, problem: &str) -> AdapterError {
        let origin = match &self.pem {
            Pem::Given(_) => "the given PEM".to_owned(),
            Pem::File(path) => path.display().to_string(),
        };
        AdapterError::new(
            AdapterErrorKind::Certificate,
            format!("{} in {origin}: {problem}", self.what),
        )
    }
}

fn parse(
    system: bool,
    sources: &[Source],
    identity: Option<&[Source; 2]>,
) -> Result<Loaded, AdapterError> {
    let mut authorities = Vec::new();
    for source in sources {
        for certificate in source.certificates()? {
            RootCertStore::empty()
                .add(certificate.clone())
                .map_err(|error| source.failed("a certificate is broken").with_source(error))?;
            authorities.push(certificate);
        }
    }
    if let Some([chain, key]) = identity {
        check_identity(chain, key)?;
    }
    Ok(Loaded {
        system,
        authorities,
        identity: identity.map(|sources| sources.each_ref().map(|it| it.bytes.clone())),
    })
}

fn check_identity(chain: &Source, key: &Source) -> Result<(), AdapterError> {
    let certificates = chain.certificates()?;
    let private = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|error| {
        key.failed("there is no private key in it")
            .with_source(error)
    })?;
    CertifiedKey::from_der(certificates, private, &ring::default_provider()).map_err(|error| {
        let problem = "this is no certificate, or the key is not that of the certificate";
        chain.failed(problem).with_source(error)
    })?;
    Ok(())
}
