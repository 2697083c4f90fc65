//! What there is to do, known to server, clients and the report alike.

use std::{fmt, str::FromStr, time::Duration};

/// The length of every line of every log, its end included.
pub const LINE: usize = 100;
/// Lines of a short job.
pub const SHORT_LINES: usize = 20;

/// One piece of work, as it stands on the command line: `short:2000`, `log:640000`, `live:500:20`,
/// `idle:30`, `random:512`, `text:256`, `downloads:40:16`, `pick-up:15`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// So many jobs of 20 lines, 64 at once.
    Short { jobs: usize },
    /// One job that prints so many lines, as fast as it can.
    Log { lines: usize },
    /// So many jobs at once that print a line a second each, for so many seconds.
    Live { jobs: usize, seconds: usize },
    /// No job at all, for so many seconds.
    Idle { seconds: usize },
    /// One job with an artifact of so many MiB.
    Upload { content: Content, mib: usize },
    /// One job that downloads so many artifacts of so many MiB each, one after the other.
    Downloads { count: usize, mib: usize },
    /// So many jobs, each of which is there some time after the one before has ended.
    PickUp { jobs: usize },
}

/// What an artifact is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing that compressing makes shorter.
    Random,
    Text,
}

impl Work {
    pub fn jobs(self) -> usize {
        match self {
            Self::Short { jobs } | Self::Live { jobs, .. } | Self::PickUp { jobs } => jobs,
            Self::Log { .. } | Self::Upload { .. } | Self::Downloads { .. } => 1,
            Self::Idle { .. } => 0,
        }
    }

    /// How many jobs may run at the same time.
    pub fn capacity(self) -> usize {
        match self {
            Self::Short { .. } => 64,
            Self::Live { jobs, .. } => jobs,
            _ => 1,
        }
    }

    /// How many lines each job prints.
    pub fn lines(self) -> usize {
        match self {
            Self::Short { .. } => SHORT_LINES,
            Self::Log { lines } => lines,
            Self::Live { seconds, .. } => seconds,
            _ => 0,
        }
    }

    /// How many bytes there are to transfer besides logs, as files.
    pub fn bytes(self) -> usize {
        match self {
            Self::Upload { mib, .. } => mib << 20,
            Self::Downloads { count, mib } => (count * mib) << 20,
            _ => 0,
        }
    }

    /// How long to hold a request for which there is no job.
    pub fn long_poll(self) -> Option<Duration> {
        matches!(self, Self::Idle { .. } | Self::PickUp { .. }).then_some(Duration::from_secs(50))
    }

    /// The pause ahead of each line.
    pub fn pause(self) -> Option<Duration> {
        matches!(self, Self::Live { .. }).then_some(Duration::from_secs(1))
    }

    /// How long to do nothing, if that is the work.
    pub fn idle(self) -> Option<Duration> {
        match self {
            Self::Idle { seconds } => Some(Duration::from_secs(seconds as u64)),
            _ => None,
        }
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no work");
        let parts: Vec<&str> = text.split(':').collect();
        let numbers: Result<Vec<usize>, _> = parts[1..].iter().map(|part| part.parse()).collect();
        let numbers = numbers.map_err(|_| wrong())?;
        match (parts[0], &numbers[..]) {
            ("short", &[jobs]) => Ok(Self::Short { jobs }),
            ("log", &[lines]) => Ok(Self::Log { lines }),
            ("live", &[jobs, seconds]) => Ok(Self::Live { jobs, seconds }),
            ("idle", &[seconds]) => Ok(Self::Idle { seconds }),
            ("random", &[mib]) => {
                let content = Content::Random;
                Ok(Self::Upload { content, mib })
            }
            ("text", &[mib]) => {
                let content = Content::Text;
                Ok(Self::Upload { content, mib })
            }
            ("downloads", &[count, mib]) => Ok(Self::Downloads { count, mib }),
            ("pick-up", &[jobs]) => Ok(Self::PickUp { jobs }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { jobs } => write!(f, "short:{jobs}"),
            Self::Log { lines } => write!(f, "log:{lines}"),
            Self::Live { jobs, seconds } => write!(f, "live:{jobs}:{seconds}"),
            Self::Idle { seconds } => write!(f, "idle:{seconds}"),
            Self::Upload {
                content: Content::Random,
                mib,
            } => write!(f, "random:{mib}"),
            Self::Upload {
                content: Content::Text,
                mib,
            } => write!(f, "text:{mib}"),
            Self::Downloads { count, mib } => write!(f, "downloads:{count}:{mib}"),
            Self::PickUp { jobs } => write!(f, "pick-up:{jobs}"),
        }
    }
}

/// What lines are made of; [`Line`] puts a number before one of them.
pub fn texts() -> Vec<String> {
    (0..64)
        .map(|part| {
            let mut text =
                format!("Building CXX object src/core/CMakeFiles/core.dir/part_{part}.o ");
            while text.len() < LINE - NUMBER - 2 {
                text.push(char::from(b'a' + (text.len() * 7 + part) as u8 % 26));
            }
            text
        })
        .collect()
}

/// Digits of the number before each line; a space follows.
const NUMBER: usize = 7;

/// A line of a log without its end. To put it together is the job's own work, so all clients do it.
pub struct Line<'a> {
    pub texts: &'a [String],
    pub number: usize,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.texts[self.number % self.texts.len()];
        write!(f, "{:>NUMBER$} {text}", self.number)
    }
}
