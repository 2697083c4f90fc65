//! What may happen to a machine, read from bytes.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::model::HIDDEN;

/// One thing that happens. Numbers choose among what there is at that moment.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Pass(u16),
    /// The clock of the driver goes back for one input.
    Back(u16),
    /// The time has come, or not yet.
    Deadline,
    Early,
    Answer(u8, Answer),
    Fail(u8, bool),
    /// An answer to a request that has one already.
    Late(u8),
    Log(u8, u16),
    /// A mark that was overtaken.
    StaleMark(u8),
    /// The handler answers what it owes.
    Handle(u8, Handled),
    /// The handler answers what it does not owe.
    Nonsense(u8, u8),
    /// The handler wants artifacts of a job with this number.
    Download(u8, u8),
    DropDownload(u8),
    /// The reply to a request is in its file, if it was to go into one.
    Spooled(u8),
    Capacity(u8),
    PollOnce,
    WithdrawPoll,
    /// The operator wants something.
    Call(u8),
    /// A new token is stored, or not.
    Stored(bool),
    Drain,
    DrainWithin(u16),
    Abort,
}

/// What the server says.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) job_status: Option<&'static str>,
    pub(super) range: Option<u16>,
    pub(super) retry_after: Option<u16>,
    pub(super) interval: Option<u16>,
    pub(super) redirect: Option<&'static str>,
    /// A header that nobody expects like that: which one, and its value.
    pub(super) odd: Option<(&'static str, Vec<u8>)>,
    pub(super) job: u8,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    /// As it belongs to the request.
    Good,
    /// The first part of that.
    Cut,
    Other(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Handled {
    Well,
    Failed,
    Panicked,
}

/// All events in `data`.
pub(super) fn events(data: &[u8]) -> Vec<Event> {
    let mut source = Unstructured::new(data);
    let mut events = Vec::new();
    while !source.is_empty() {
        // The numbers of the last one may be missing: they are zero then.
        events.extend(Event::arbitrary(&mut source));
    }
    events
}

impl Answer {
    /// The answer with this status and nothing to wonder about.
    pub(super) fn plain(status: u16) -> Self {
        Self {
            status,
            job_status: None,
            range: None,
            retry_after: None,
            interval: None,
            redirect: None,
            odd: None,
            job: 0,
            body: Body::Good,
        }
    }
}

impl<'a> Arbitrary<'a> for Answer {
    fn arbitrary(source: &mut Unstructured<'a>) -> Result<Self> {
        let status = *source.choose(&[
            200, 200, 200, 201, 201, 201, 202, 202, 204, 302, 307, 400, 403, 404, 409, 412, 413,
            416, 416, 429, 500, 503,
        ])?;
        // Most answers have none of these.
        let extras = u8::arbitrary(source)?;
        let has = |bit: u8| extras >> bit & 1 == 1;
        let mut answer = Self::plain(status);
        answer.job = u8::arbitrary(source)? % 6;
        if has(0) {
            answer.range = Some(u16::arbitrary(source)? % 3000);
        }
        if extras < 64 {
            return Ok(answer);
        }
        if has(1) {
            answer.job_status =
                Some(*source.choose(&["running", "canceling", "canceled", "failed", "success"])?);
        }
        if has(2) {
            answer.retry_after = Some(u16::arbitrary(source)?);
        }
        if has(3) {
            answer.interval = Some(u16::arbitrary(source)?);
        }
        if has(4) {
            answer.redirect = Some(*source.choose(&[
                "https://h/again",
                "https://storage/x?signature=y",
                "http://h/plain",
                "/elsewhere",
                "ftp://h/x",
            ])?);
        }
        if has(5) {
            let name = *source.choose(&[
                "range",
                "job-status",
                "retry-after",
                "ratelimit-resettime",
                "x-gitlab-trace-update-interval",
                "x-gitlab-last-update",
                "date",
                "location",
                "content-type",
            ])?;
            answer.odd = Some((name, bytes(source)?));
        }
        answer.body = match u8::arbitrary(source)? % 4 {
            0 => Body::Cut,
            1 => Body::Other(bytes(source)?),
            _ => Body::Good,
        };
        Ok(answer)
    }
}

fn bytes(source: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = usize::from(u8::arbitrary(source)?).min(source.len());
    let bytes = source.bytes(len)?;
    // Whoever says that word himself cannot be told from a leak.
    let says_it = bytes
        .windows(HIDDEN.len())
        .any(|part| part == HIDDEN.as_bytes());
    Ok(if says_it { Vec::new() } else { bytes.to_vec() })
}

impl<'a> Arbitrary<'a> for Event {
    fn arbitrary(source: &mut Unstructured<'a>) -> Result<Self> {
        let kind = u8::arbitrary(source)? % 44;
        let mut which = || u8::arbitrary(source);
        Ok(match kind {
            0..=1 => Self::Pass(u16::arbitrary(source)?),
            2..=8 => Self::Deadline,
            9..=17 => Self::Answer(which()?, Answer::arbitrary(source)?),
            18 => Self::Fail(which()?, bool::arbitrary(source)?),
            19 => Self::Late(which()?),
            20..=21 => Self::Log(which()?, u16::arbitrary(source)?),
            22..=26 => Self::Handle(
                which()?,
                *source.choose(&[
                    Handled::Well,
                    Handled::Well,
                    Handled::Failed,
                    Handled::Panicked,
                ])?,
            ),
            27 => Self::Nonsense(which()?, u8::arbitrary(source)?),
            28 => Self::Capacity(which()? % 5),
            29 => Self::PollOnce,
            30 => Self::WithdrawPoll,
            31..=32 => Self::Download(which()?, u8::arbitrary(source)? % 3),
            33 => Self::DropDownload(which()?),
            34 => Self::Spooled(which()?),
            35 => Self::Call(which()?),
            36..=37 => Self::Stored(bool::arbitrary(source)?),
            38 => Self::StaleMark(which()?),
            39 => Self::Back(u16::arbitrary(source)?),
            40 => Self::Early,
            41..=42 => Self::Answer(which()?, Answer::plain(200)),
            // An end must not come too often, or little happens before it.
            _ => match which()? {
                0..6 => Self::Drain,
                6..12 => Self::DrainWithin(u16::arbitrary(source)? % 1000),
                12..20 => Self::Abort,
                _ => Self::Deadline,
            },
        })
    }
}
