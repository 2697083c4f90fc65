//! The name of this runner manager among those that share a token.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::notice;

const FILE: &str = ".runner_system_id";
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// The id that is kept in `dir`; else that of this machine, or a random one, which is kept from now
/// on. Reads and writes files.
pub(super) fn find(dir: &Path) -> String {
    kept_in(dir, || {
        let machine_id = MACHINE_IDS.iter().find_map(|path| {
            let id = fs::read_to_string(path).ok()?;
            let id = id.trim();
            (!id.is_empty()).then(|| id.to_owned())
        });
        machine_id.and_then(|id| of_machine(&id))
    })
}

/// `s_` and 12 hex digits: the machine's id itself is not for others to know.
fn of_machine(machine_id: &str) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(machine_id.as_bytes()).ok()?;
    mac.update(b"gitlab-runner");
    let digest = mac.finalize().into_bytes();
    let hex: String = digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Some(format!("s_{hex}"))
}

/// The same one as long as the directory is kept, whatever becomes of the machine.
fn kept_in(dir: &Path, of_machine: impl FnOnce() -> Option<String>) -> String {
    let path = dir.join(FILE);
    if let Ok(id) = fs::read_to_string(&path)
        && is_valid(id.trim())
    {
        return id.trim().to_owned();
    }
    let of_machine = of_machine();
    let is_lasting = of_machine.is_some();
    let id = of_machine.unwrap_or_else(random);
    if let Err(error) = write(&path, &id) {
        let then = if is_lasting {
            "it is taken from this machine again at the next start"
        } else {
            "the next start will have another one, which GitLab takes for another runner manager"
        };
        notice::trouble_with_runner(&format!(
            "the system id {id} could not be kept in {}: {error}; {then}",
            path.display()
        ));
    }
    id
}

fn write(path: &Path, id: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(id.as_bytes())
}

/// `r_` and 12 random characters.
fn random() -> String {
    const CHARACTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bytes = [0; 12];
    // Without entropy the id is not unique, but it is one.
    let _ = getrandom::fill(&mut bytes);
    let characters = bytes
        .iter()
        .map(|byte| usize::from(*byte) % CHARACTERS.len());
    let id: String = characters.map(|at| char::from(CHARACTERS[at])).collect();
    format!("r_{id}")
}

fn is_valid(id: &str) -> bool {
    let Some(rest) = id.strip_prefix("s_").or_else(|| id.strip_prefix("r_")) else {
        return false;
    };
    rest.len() == 12 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_one_id_and_does_not_show_its_own() {
        let id = of_machine("0123456789abcdef0123456789abcdef").unwrap();
        assert!(is_valid(&id), "{id}");
        // HMAC-SHA256 of `gitlab-runner` with that key, by `openssl dgst -hmac`.
        assert_eq!(id, "s_ee3af03959fe");
        assert_ne!(of_machine("another").unwrap(), id);
    }

    #[test]
    fn a_random_id_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let id = kept_in(dir.path(), || None);
        assert!(id.starts_with("r_") && is_valid(&id), "{id}");
        assert_eq!(kept_in(dir.path(), || None), id);
        // Also when the machine gets an id later, and with a line end that an editor has left.
        assert_eq!(kept_in(dir.path(), || of_machine("x")), id);
        let path = dir.path().join(FILE);
        assert_eq!(fs::read_to_string(&path).unwrap(), id);
        fs::write(&path, format!(" {id}\n")).unwrap();
        assert_eq!(kept_in(dir.path(), || None), id);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(dir.path().join(FILE))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::write(dir.path().join(FILE), "not an id").unwrap();
        let other = kept_in(dir.path(), || None);
        assert!(is_valid(&other) && other != id, "{other}");
    }

    #[test]
    fn an_id_that_cannot_be_kept_is_one_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("not there");
        assert!(is_valid(&kept_in(&dir, || None)));
        let of_machine = || of_machine("x");
        assert_eq!(kept_in(&dir, of_machine), kept_in(&dir, of_machine));
    }

    #[test]
    fn the_id_of_a_machine_is_kept_too() {
        let dir = tempfile::tempdir().unwrap();
        let id = kept_in(dir.path(), || of_machine("one"));
        assert_eq!(id, of_machine("one").unwrap());
        assert_eq!(kept_in(dir.path(), || of_machine("another")), id);
    }

    #[test]
    fn only_the_agreed_form_is_valid() {
        for id in ["s_0123456789ab", "r_ABCdef012345"] {
            assert!(is_valid(id), "{id}");
        }
        for id in [
            "",
            "s_",
            "s_0123456789a",
            "s_0123456789abc",
            "x_0123456789ab",
            "r_01234567 9ab",
        ] {
            assert!(!is_valid(id), "{id}");
        }
    }
}
