//! What the task of a job has packed last, for the driver to send.

use std::sync::{Arc, Mutex};

use super::blocking::Blocking;
use crate::{ids::ArtifactId, spool::SpoolFile, sync::lock};

#[derive(Clone, Default)]
pub(super) struct Packed(Arc<Mutex<Option<PackedFile>>>);

type PackedFile = (ArtifactId, Arc<SpoolFile>);

impl Packed {
    pub(super) fn of(&self, artifact: ArtifactId) -> Option<Arc<SpoolFile>> {
        let packed = lock(&self.0);
        let (of, file) = packed.as_ref()?;
        (*of == artifact).then(|| Arc::clone(file))
    }

    pub(super) fn set(&self, artifact: ArtifactId, file: Arc<SpoolFile>) {
        let before = lock(&self.0).replace((artifact, file));
        drop(before);
    }

    /// Lets go of it where that may block: the larger a file is, the longer it takes to be no more.
    pub(super) fn clear(&self, blocking: &Arc<Blocking>) {
        let before = lock(&self.0).take();
        if before.is_some() {
            blocking.spawn(move || drop(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JobId;

    #[test]
    fn only_what_was_packed_for_it_is_sent() {
        let artifact = |index| ArtifactId {
            job: JobId(1),
            index,
        };
        let file = || Arc::new(SpoolFile::create(&std::env::temp_dir()).unwrap());
        let packed = Packed::default();
        assert!(packed.of(artifact(0)).is_none());
        let (first, second) = (file(), file());
        packed.set(artifact(0), Arc::clone(&first));
        assert!(Arc::ptr_eq(&packed.of(artifact(0)).unwrap(), &first));
        packed.set(artifact(1), Arc::clone(&second));
        assert!(packed.of(artifact(0)).is_none());
        assert!(Arc::ptr_eq(&packed.of(artifact(1)).unwrap(), &second));
        assert_eq!(
            (Arc::strong_count(&first), Arc::strong_count(&second)),
            (1, 2)
        );
    }
}
