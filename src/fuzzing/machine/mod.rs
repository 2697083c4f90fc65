//! The invariants of the machine, whatever happens to it: inputs that fit and inputs that do not.

mod event;
mod model;
mod play;

pub(crate) use self::model::HIDDEN;
use self::{event::events, model::Model};
use crate::machine::{Input, transcript::Transcript};

/// Lets happen what `data` says, then brings all to its end. Panics if an invariant is broken.
pub fn run(data: &[u8]) {
    // Invariant 9.
    assert_eq!(play(data), play(data), "same inputs, other outputs");
}

/// All inputs that `data` leads to.
pub(super) fn recorded(data: &[u8]) -> Transcript {
    played(data).inputs
}

/// All outputs, in words.
fn play(data: &[u8]) -> String {
    played(data).into_words()
}

fn played(data: &[u8]) -> Model {
    let mut model = Model::new();
    model.input(Input::SetCapacity(2));
    for event in events(data) {
        model.apply(&event);
    }
    model.wind_down();
    model
}
