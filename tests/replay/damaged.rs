//! Archives and transcripts that were damaged, or made to do harm: no panic, and an end.

use std::fs;

use gitlab_runner::{
    Secret,
    har::{Har, HarServer, Mode, replay_machine},
    machine::{MachineConfig, transcript::Transcript},
    protocol::ServerUrl,
};

use crate::{
    sessions::SESSIONS,
    world::{TOKEN, path},
};

/// A few bytes of it are other ones, or twice there, or missing.
fn damaged(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut bytes = bytes.to_vec();
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(4) {
            0 => bytes[at] = next(256) as u8,
            // Digits and letters keep more of it readable.
            1 => bytes[at] = b"0123456789abcxyz\"\\"[next(18)],
            2 => {
                let end = (at + next(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let end = (at + next(40)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

#[test]
fn a_damaged_archive_is_refused_or_replayed_to_an_end() {
    let server = ServerUrl::parse("https://gitlab.example.test").unwrap();
    let mut replayed = 0;
    for (number, (name, ..)) in SESSIONS.iter().enumerate() {
        let bytes = fs::read(path(name)).unwrap();
        for seed in 0..12 {
            let Ok(har) = Har::parse(&damaged(&bytes, seed * 31 + number as u64)) else {
                continue;
            };
            for mode in [Mode::Strict, Mode::Lenient] {
                if HarServer::new(&har, mode).is_err() {
                    continue;
                }
                let config = MachineConfig::new(server.clone(), Secret::from(TOKEN), "s");
                let server = replay_machine(&har, mode, config, seed, 2).unwrap();
                let _ = server.verdict().map_err(|mismatch| mismatch.to_string());
                replayed += 1;
            }
        }
    }
    assert!(replayed > 50, "{replayed}");
}

#[test]
fn a_damaged_transcript_is_refused_or_replayed() {
    let text = crate::transcripts::record(gitlab_runner::machine::transcript::Secrets::Redacted);
    let mut replayed = 0;
    for seed in 0..150 {
        if let Ok(transcript) = Transcript::parse(&damaged(text.as_bytes(), seed)) {
            let _ = transcript
                .replay()
                .map_err(|divergence| divergence.to_string());
            replayed += 1;
        }
    }
    assert!(replayed > 30, "{replayed}");
}
