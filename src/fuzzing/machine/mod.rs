//! The invariants of the machine, whatever happens to it: inputs that fit and inputs that do not.

mod event;
mod model;
mod play;

use self::{event::events, model::Model};
use crate::machine::Input;

/// Lets happen what `data` says, then brings all to its end. Panics if an invariant is broken.
pub fn run(data: &[u8]) {
    // Invariant 9.
    assert_eq!(play(data), play(data), "same inputs, other outputs");
}

/// All outputs, in words.
fn play(data: &[u8]) -> String {
    let mut model = Model::new();
    model.input(Input::SetCapacity(2));
    for event in events(data) {
        model.apply(&event);
    }
    model.wind_down();
    model.into_transcript()
}
