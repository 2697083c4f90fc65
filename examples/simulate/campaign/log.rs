//! Whether the log that GitLab has is the one that the handler and the runner have written.

use gitlab_runner::Time;

use super::{
    fate::Story,
    masking::{Hidden, stored},
    record::Entry,
};

/// So many ways in which things of one moment may have come one after the other are looked at.
const MOST_ORDERS: usize = 4000;

/// What a log has to be made of.
pub(crate) struct Log<'a> {
    pub(crate) entries: &'a [(Time, Entry)],
    pub(crate) story: &'a Story,
    pub(crate) hidden: &'a Hidden,
    pub(crate) limit: Option<usize>,
}

/// How much of the log has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Much {
    All,
    /// A beginning of it.
    Some,
}

impl Log<'_> {
    /// The notes of the runner about uploads in `log`, if `log` is right apart from those.
    pub(crate) fn check(&self, log: &[u8], much: Much) -> Result<Vec<String>, String> {
        let mut first = None;
        for order in self.orders() {
            let halves = self.written(&order);
            match self.fits(log, much, &halves) {
                Some(notes) => return Ok(notes),
                None => first = first.or(Some(halves)),
            }
        }
        let (before, after) = first.unwrap_or_default();
        let wanted = stored(&[before, after].concat(), self.hidden, self.limit);
        let at = wanted.iter().zip(log).take_while(|(a, b)| a == b).count();
        let piece = |bytes: &[u8]| {
            let from = at.saturating_sub(60).min(bytes.len());
            let to = (at + 120).min(bytes.len());
            String::from_utf8_lossy(&bytes[from..to]).into_owned()
        };
        Err(format!(
            "wrong log: {} bytes, should be {}, differs at {at}:\n  is        {:?}\n  should be {:?}",
            log.len(),
            wanted.len(),
            piece(log),
            piece(&wanted)
        ))
    }

    fn fits(&self, log: &[u8], much: Much, halves: &(Vec<u8>, Vec<u8>)) -> Option<Vec<String>> {
        let (before, after) = halves;
        let whole = stored(&[&before[..], after].concat(), self.hidden, self.limit);
        if log == whole || much == Much::Some && whole.starts_with(log) {
            return Some(Vec::new());
        }
        self.story.uploads?;
        // With notes of the runner in between, each half is masked by itself: a line end is in
        // front of them and behind.
        let before = stored(before, self.hidden, None);
        let after = stored(after, self.hidden, None);
        let rest = log.strip_prefix(&before[..])?;
        if let Some(rest) = rest.strip_suffix(&after[..])
            && let Some(notes) = notes(rest)
        {
            return Some(notes);
        }
        (much == Much::Some).then(Vec::new)
    }

    /// What was given to the log in front of the uploads, and behind them.
    fn written(&self, order: &Order) -> (Vec<u8>, Vec<u8>) {
        let (mut text, mut before) = (Vec::new(), None);
        for line in &self.story.first {
            note(&mut text, line);
        }
        let (_, closed_at) = self.story.closed.unwrap_or((usize::MAX, Time::MAX));
        let mut late = 0;
        for (number, (at, entry)) in self.entries.iter().enumerate() {
            for (place, line) in &order.0 {
                if *place == number {
                    note(&mut text, line);
                }
            }
            if self.story.uploads.is_some_and(|(_, end)| end == number) {
                before = Some(std::mem::take(&mut text));
            }
            if let Entry::Wrote(bytes) = entry {
                let closed = self.story.closed.is_some_and(|(closed, _)| number > closed);
                late += usize::from(closed && *at == closed_at);
                if *at < closed_at || !closed || *at == closed_at && late <= order.1 {
                    text.extend_from_slice(bytes);
                }
            }
            for (behind, line) in &self.story.behind {
                if *behind == number {
                    note(&mut text, line);
                }
            }
        }
        for (place, line) in &order.0 {
            if *place == self.entries.len() {
                note(&mut text, line);
            }
        }
        match before {
            Some(before) => (before, text),
            None => (text, Vec::new()),
        }
    }

    /// All orders in which the things of one moment may have come: notes at that time, and what was
    /// written in the moment of the end.
    fn orders(&self) -> Vec<Order> {
        let (closed, closed_at) = self.story.closed.unwrap_or((usize::MAX, Time::MAX));
        let in_the_end = self.entries.iter().skip(closed.saturating_add(1));
        let in_the_end = in_the_end
            .filter(|(at, entry)| *at == closed_at && matches!(entry, Entry::Wrote(_)))
            .count();
        let mut orders = vec![Order(Vec::new(), 0)];
        for (at, line) in &self.story.at {
            let from = self.entries.partition_point(|(time, _)| time < at);
            let to = self.entries.partition_point(|(time, _)| time <= at);
            let places: Vec<usize> = (from..=to).collect();
            let with = |order: &Order, place: usize| {
                let mut places = order.0.clone();
                places.push((place, line.clone()));
                Order(places, order.1)
            };
            orders = orders
                .iter()
                .flat_map(|order| places.iter().map(|place| with(order, *place)))
                .take(MOST_ORDERS)
                .collect();
        }
        let with_end = |order: &Order| {
            let places = order.0.clone();
            (0..=in_the_end).map(move |end| Order(places.clone(), end))
        };
        orders.iter().flat_map(with_end).collect()
    }
}

/// In front of which entries which notes stand, and how many of the last writes are in time.
struct Order(Vec<(usize, String)>, usize);

/// A line of the runner has a line of its own, which one behind the marker of a section has.
fn note(text: &mut Vec<u8>, line: &str) {
    let begins_a_line = text.ends_with(b"\n") || text.ends_with(b"\r\x1b[0K");
    if !text.is_empty() && !begins_a_line {
        text.push(b'\n');
    }
    text.extend_from_slice(line.as_bytes());
}

/// The lines of the runner that `bytes` is made of, and of nothing else.
fn notes(bytes: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut rest = text.strip_prefix('\n').unwrap_or(text);
    let mut notes = Vec::new();
    while !rest.is_empty() {
        let starts = ["\x1b[31;1mERROR: ", "\x1b[0;33mWARNING: "];
        if !starts.iter().any(|start| rest.starts_with(start)) {
            return None;
        }
        let end = "\x1b[0;m\n";
        let at = rest.find(end)? + end.len();
        notes.push(rest[..at].to_owned());
        rest = &rest[at..];
    }
    Some(notes)
}
