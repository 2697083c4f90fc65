//! Answers that come slowly.

use std::{iter, time::Duration};

use bytes::Bytes;

/// The body of an answer comes piece by piece: the head at once, then a piece each time that
/// `every` has passed. [`Override::Trickle`](super::Override::Trickle) plans it for one request.
///
/// It is an extension of the response, which [`http::Loopback`](super::http::Loopback) heeds and
/// so does the [simulator](crate::sim); whoever else serves a [`Server`](super::Server) may do
/// without. A server of one's own makes any of its answers slow with it:
///
/// ```
/// # use std::time::Duration;
/// # use bytes::Bytes;
/// # use gitlab_runner::mock::{Answer, Trickle};
/// let mut reply = http::Response::new(Bytes::from_static(b"slowly"));
/// reply.extensions_mut().insert(Trickle::new(1, Duration::from_secs(20)));
/// let answer = Answer::Reply(reply); // Takes two minutes.
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trickle {
    /// The bytes of a piece; the last one may be shorter. 0 counts as 1.
    pub piece: usize,
    /// The time before each piece, the first one included.
    pub every: Duration,
}

impl Trickle {
    /// Pieces of so many bytes, each after this time.
    pub const fn new(piece: usize, every: Duration) -> Self {
        Self { piece, every }
    }

    /// A body in pieces, none of them empty.
    pub(crate) fn pieces(self, mut body: Bytes) -> impl Iterator<Item = Bytes> + Send + 'static {
        iter::from_fn(move || {
            let len = self.piece.max(1).min(body.len());
            (len > 0).then(|| body.split_to(len))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_body() {
        for (piece, expected) in [
            (0, &["a", "b", "c"][..]),
            (2, &["ab", "c"][..]),
            (3, &["abc"][..]),
            (usize::MAX, &["abc"][..]),
        ] {
            let trickle = Trickle::new(piece, Duration::ZERO);
            let pieces: Vec<_> = trickle.pieces(Bytes::from_static(b"abc")).collect();
            assert_eq!(pieces, expected);
        }
        assert_eq!(
            Trickle::new(1, Duration::ZERO).pieces(Bytes::new()).count(),
            0
        );
    }
}
