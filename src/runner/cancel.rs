//! How the end of what a job's task does is asked for.

use tokio_util::sync::CancellationToken;

use crate::machine::CancelMode;

/// The tokens of one thing that a task does: the user's code sees the first, and is dropped at the
/// second, which then fires the first as well.
#[derive(Clone, Default)]
pub(super) struct Cancel {
    pub(super) graceful: CancellationToken,
    pub(super) forced: CancellationToken,
}

impl Cancel {
    /// For the next thing. What was not asked for of the last one can be asked for of this.
    pub(super) fn renew(&mut self) -> Self {
        if self.graceful.is_cancelled() || self.forced.is_cancelled() {
            *self = Self::default();
        }
        self.clone()
    }

    pub(super) fn fire(&self, mode: CancelMode) {
        match mode {
            CancelMode::Graceful => self.graceful.cancel(),
            CancelMode::Forced => self.forced.cancel(),
        }
    }
}
