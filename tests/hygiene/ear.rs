//! Listens to all that is said in this process.

use std::{
    error::Error,
    fmt::Debug,
    io, panic,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use tracing_subscriber::fmt::{MakeWriter, format::FmtSpan};

/// What a handler says in its own panics is its own business, everywhere but in the log.
pub(crate) const OWN_WORDS: &str = "the handler's own words";

/// Everything that is said.
#[derive(Clone, Default)]
pub(crate) struct Ear(Arc<Mutex<Vec<u8>>>);

impl Ear {
    /// The one of this process: events of all threads and panics go there.
    pub(crate) fn of_the_process() -> &'static Self {
        static EAR: OnceLock<Ear> = OnceLock::new();
        EAR.get_or_init(|| {
            let ear = Self::default();
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_span_events(FmtSpan::FULL)
                .with_ansi(false)
                .with_writer(ear.clone())
                .init();
            let (hearing, hook) = (ear.clone(), panic::take_hook());
            panic::set_hook(Box::new(move |info| {
                let text = info.to_string();
                if !text.contains(OWN_WORDS) {
                    hearing.hear(&text);
                    hook(info);
                }
            }));
            ear
        })
    }

    pub(crate) fn hear(&self, text: &str) {
        let mut heard = self.heard();
        heard.extend_from_slice(text.as_bytes());
        heard.push(b'\n');
    }

    pub(crate) fn look_at(&self, what: &dyn Debug) {
        self.hear(&format!("{what:?} {what:#?}"));
    }

    pub(crate) fn error(&self, error: &dyn Error) {
        self.hear(&format!("{error} {error:?}"));
        if let Some(source) = error.source() {
            self.error(source);
        }
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(|error| error.into_inner())
    }
}

impl io::Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Ear {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
