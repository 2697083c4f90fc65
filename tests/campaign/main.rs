//! Some hundreds of random runs of the whole crate: the body of `examples/simulate`, where there are as
//! many as you like.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../examples/simulate/campaign/mod.rs"]
#[allow(dead_code, reason = "only the example shrinks and prints")]
mod campaign;

use campaign::{Without, parts, simulate};

fn run(seeds: std::ops::Range<u64>) {
    let none = Without::new();
    for seed in seeds {
        let outcome = simulate(seed, &none);
        assert!(
            outcome.wrong.is_empty(),
            "seed {seed}: {:#?}\n\nmore: cargo run --release --example simulate -- --seed {seed}",
            outcome.wrong
        );
    }
}

// In parts, to be run side by side.

#[test]
fn seeds_from_0() {
    run(0..35);
}

#[test]
fn seeds_from_35() {
    run(35..70);
}

#[test]
fn seeds_from_70() {
    run(70..105);
}

#[test]
fn seeds_from_105() {
    run(105..140);
}

#[test]
fn seeds_from_140() {
    run(140..175);
}

#[test]
fn seeds_from_175() {
    run(175..210);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let none = Without::new();
    for seed in 300..310 {
        let first = simulate(seed, &none).fingerprint;
        assert_eq!(first, simulate(seed, &none).fingerprint, "seed {seed}");
    }
}

#[test]
fn a_recording_changes_nothing() {
    let unrecorded = Without::from(["recorded".to_owned()]);
    let none = Without::new();
    let recorded = (0..2000).filter(|seed| parts(*seed, &none).contains("recorded"));
    let recorded: Vec<u64> = recorded.take(3).collect();
    assert_eq!(recorded.len(), 3);
    for seed in recorded {
        let first = simulate(seed, &none);
        assert!(first.wrong.is_empty(), "seed {seed}: {:#?}", first.wrong);
        let second = simulate(seed, &unrecorded).fingerprint;
        assert_eq!(first.fingerprint, second, "seed {seed}");
    }
}

/// A campaign of nothing but sunshine would be worth nothing.
#[test]
fn trouble_of_each_kind_is_drawn() {
    let none = Without::new();
    let parts: std::collections::BTreeSet<String> = (0..60)
        .flat_map(|seed| simulate(seed, &none).parts)
        .collect();
    for part in [
        "storm-0",
        "weather-Stale",
        "fault-CutAfter",
        "deed-0",
        "runner-1",
        "job-0/panic",
    ] {
        assert!(parts.contains(part), "{part} in {parts:?}");
    }
}
