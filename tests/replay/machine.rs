//! The machine alone before each session: no handler, no runner, no simulator.

use gitlab_runner::{
    Secret,
    har::{Mode, replay_machine},
    machine::MachineConfig,
    protocol::ServerUrl,
};

use crate::{
    sessions::SESSIONS,
    world::{TOKEN, session},
};

fn config() -> MachineConfig {
    let server = ServerUrl::parse("https://gitlab.example.test").unwrap();
    MachineConfig::new(server, Secret::from(TOKEN), "s_by_hand")
}

#[test]
fn every_session_is_one_for_a_bare_machine() {
    for (name, ..) in SESSIONS {
        let server = replay_machine(&session(name), Mode::Strict, config(), 12_345, 1).unwrap();
        if let Err(mismatch) = server.verdict() {
            panic!("{name}: {mismatch}");
        }
    }
}

#[test]
fn a_machine_goes_the_way_of_the_official_runner() {
    for name in ["official-failure", "official-cancel", "official-refused"] {
        let server = replay_machine(&session(name), Mode::Lenient, config(), 1, 1).unwrap();
        server.verdict().unwrap();
        assert!(server.is_over(), "{name}: {:?}", server.left());
    }
}

#[test]
fn a_machine_that_goes_another_way_is_found_out() {
    let mut har = session("rewind-416");
    let refused = har
        .log
        .entries
        .iter()
        .position(|it| it.response.status == 416);
    // It is not told that a part of its log is lost, and so does not send it again.
    har.log.entries.remove(refused.unwrap());
    let server = replay_machine(&har, Mode::Strict, config(), 12_345, 1).unwrap();
    let shown = server.verdict().unwrap_err().to_string();
    assert!(
        shown.contains("the header content-range has another value"),
        "{shown}"
    );
}
