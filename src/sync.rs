//! Locks that a panic elsewhere cannot break.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. Nothing here is left half-changed by a panic, so poison says nothing.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
