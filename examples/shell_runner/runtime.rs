//! What the runner runs on: each adapter that is built in, and one that is not of the crate.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use gitlab_runner::adapter::Adapter;

#[path = "../custom_adapter/adapter.rs"]
mod threads;

/// An adapter, and the runtime that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    #[cfg(feature = "tokio")]
    Tokio,
    #[cfg(feature = "smol")]
    Smol,
    #[cfg(feature = "async-std")]
    AsyncStd,
    /// Plain threads, with the adapter of `examples/custom_adapter`.
    Threads,
}

impl Runtime {
    /// Those that there are; the first is taken if nobody chooses.
    const ALL: &[(&str, Self)] = &[
        #[cfg(feature = "tokio")]
        ("tokio", Self::Tokio),
        #[cfg(feature = "smol")]
        ("smol", Self::Smol),
        #[cfg(feature = "async-std")]
        ("async-std", Self::AsyncStd),
        ("threads", Self::Threads),
    ];

    /// The one of this name, or the first.
    ///
    /// # Errors
    /// The names that there are, for people.
    pub(crate) fn named(name: Option<&str>) -> Result<Self, String> {
        let mut all = Self::ALL.iter();
        let found = all.find(|(it, _)| name.is_none_or(|name| *it == name));
        found.map(|(_, runtime)| *runtime).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            format!("there is no such adapter; with the features of this build there are: {names}")
        })
    }

    /// Runs `work` with the adapter, which trusts the certificates in `ca_file` besides.
    pub(crate) fn block_on<F, T>(
        self,
        ca_file: Option<&Path>,
        work: impl FnOnce(Arc<dyn Adapter>) -> F,
    ) -> Result<T, Box<dyn Error>>
    where
        F: Future<Output = Result<T, Box<dyn Error>>>,
    {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio => tokio::runtime::Runtime::new()?.block_on(async {
                let builder = gitlab_runner::adapter::TokioHyper::builder();
                let builder = ca_file.iter().fold(builder, |it, file| it.ca_file(file));
                work(Arc::new(builder.build()?)).await
            }),
            #[cfg(feature = "smol")]
            Self::Smol => smol::block_on(async {
                let builder = gitlab_runner::adapter::SmolHyper::builder();
                let builder = ca_file.iter().fold(builder, |it, file| it.ca_file(file));
                work(Arc::new(builder.build()?)).await
            }),
            #[cfg(feature = "async-std")]
            Self::AsyncStd => async_std::task::block_on(async {
                let builder = gitlab_runner::adapter::AsyncStdIsahc::builder();
                let builder = ca_file.iter().fold(builder, |it, file| it.ca_file(file));
                work(Arc::new(builder.build()?)).await
            }),
            Self::Threads => {
                let authorities = match ca_file {
                    Some(file) => vec![read(file)?],
                    None => Vec::new(),
                };
                let adapter = threads::Threads::new(&authorities)?;
                futures::executor::block_on(work(Arc::new(adapter)))
            }
        }
    }
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", PathBuf::from(file).display()))
}
