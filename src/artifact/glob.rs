//! Patterns as GitLab knows them: `*` and `?` within a name, `**` across names, `[a-z]`, `{a,b}`.
//!
//! A pattern that matches a directory means all that is below it. Braces are spelled out when the
//! pattern is read; what is left is matched with one step back per star, so the time is bounded by
//! the lengths of pattern and path, whatever they hold.

use std::{error::Error, fmt};

use super::name::clean;

/// A pattern may not be longer than this, in bytes.
const MAX_LEN: usize = 16 << 10;
/// Nor spell out to more alternatives.
const MAX_ALTERNATIVES: usize = 1000;

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GlobError {
    /// There is nothing to match.
    Empty,
    /// It matches nothing in the job's directory.
    Outside,
    /// `[` without `]`.
    UnclosedClass,
    /// `[]`, which no character matches.
    EmptyClass,
    /// `{` without `}`.
    UnclosedBrace,
    /// A backslash at the end, with nothing to escape.
    TrailingBackslash,
    /// It is too long, or its braces mean too many patterns.
    TooLarge,
}

impl fmt::Display for GlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::Outside => "it lies outside of the job's directory",
            Self::UnclosedClass => "it has a `[` without a `]`",
            Self::EmptyClass => "it has a `[]` with nothing in it",
            Self::UnclosedBrace => "it has a `{` without a `}`",
            Self::TrailingBackslash => "it ends in a backslash that escapes nothing",
            Self::TooLarge => "it is too long or means too many patterns",
        })
    }
}

impl Error for GlobError {}

/// A pattern that was read.
#[derive(Debug)]
pub(crate) struct Glob {
    /// It matches what any of these matches.
    alternatives: Vec<Vec<Part>>,
    /// Their lengths together.
    size: usize,
}

/// What stands between slashes.
#[derive(Debug)]
enum Part {
    /// `**`: any number of names, also none.
    Any,
    Literal(String),
    Name(Vec<Token>),
}

#[derive(Debug)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Many,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Reads a pattern for paths relative to `project`, the absolute path of a directory with `/`.
    ///
    /// A pattern may say the absolute path of something in the directory, or leave the directory
    /// and come back to it (`../<its name>/x`).
    pub(crate) fn new(pattern: &str, project: &str) -> Result<Self, GlobError> {
        if pattern.is_empty() {
            return Err(GlobError::Empty);
        }
        let (mut alternatives, mut size) = (Vec::new(), 0);
        for pattern in spell_out(pattern)? {
            size += pattern.len();
            let parts = inside(&pattern, project).map(|parts| parts.into_iter().map(part));
            if let Some(parts) = parts {
                // A directory means what is below it.
                let parts = parts.chain([Ok(Part::Any)]).collect::<Result<_, _>>()?;
                alternatives.push(parts);
            }
        }
        if alternatives.is_empty() {
            return Err(GlobError::Outside);
        }
        Ok(Self { alternatives, size })
    }

    /// The bytes of all that it spells out to: what it takes in memory, and in time for each path.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Whether it matches a path, given by its names, or a directory above it.
    pub(crate) fn matches(&self, path: &[&str]) -> bool {
        let mut alternatives = self.alternatives.iter();
        alternatives.any(|parts| {
            wildcard(
                parts,
                path,
                |part| matches!(part, Part::Any),
                |part, name| part.matches(name),
            )
        })
    }
}

impl Part {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => literal == name,
            Self::Name(tokens) => {
                let name: Vec<char> = name.chars().collect();
                wildcard(
                    tokens,
                    &name,
                    |token| matches!(token, Token::Many),
                    |token, c| token.matches(*c),
                )
            }
        }
    }
}

impl Token {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Char(wanted) => *wanted == c,
            Self::One | Self::Many => true,
            Self::Class { negated, ranges } => {
                let mut ranges = ranges.iter();
                ranges.any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

/// Whether `pattern` matches all of `text`: a star any number of items, another part the one item
/// that it `fits`. Only the last star is ever gone back to: whatever an earlier one could take more,
/// the last can take as well.
fn wildcard<P, T>(
    pattern: &[P],
    text: &[T],
    is_star: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut wanted, mut rest) = (pattern, text);
    let mut retry: Option<(&[P], &[T])> = None;
    loop {
        match (wanted, rest) {
            ([part, next @ ..], _) if is_star(part) => {
                retry = Some((next, rest));
                wanted = next;
            }
            ([part, next @ ..], [item, left @ ..]) if fits(part, item) => {
                (wanted, rest) = (next, left);
            }
            ([], []) => return true,
            _ => {
                let Some((next, [_, left @ ..])) = retry else {
                    return false;
                };
                retry = Some((next, left));
                (wanted, rest) = (next, left);
            }
        }
    }
}

/// The parts of a pattern without braces, from the project's directory on; `None` if it is not
/// in there.
fn inside<'p>(pattern: &'p str, project: &str) -> Option<Vec<&'p str>> {
    let project: Vec<&str> = project.split('/').filter(|part| !part.is_empty()).collect();
    let mut parts: Vec<&str>;
    if let Some(absolute) = pattern.strip_prefix('/') {
        parts = Vec::new();
        for part in absolute.split('/') {
            match part {
                "" | "." => {}
                // There is nothing above the root.
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
    } else if let Some(parts) = clean(pattern) {
        return Some(parts);
    } else {
        // It leaves the directory; perhaps it comes back.
        let mut ups = 0;
        parts = Vec::new();
        for part in pattern.split('/') {
            match part {
                "" | "." => {}
                ".." if parts.pop().is_none() => ups += 1,
                ".." => {}
                part => parts.push(part),
            }
        }
        let above = project.len().checked_sub(ups)?;
        let back = project.get(above..)?;
        return parts.starts_with(back).then(|| parts.split_off(back.len()));
    }
    let is_inside = parts.starts_with(&project);
    is_inside.then(|| parts.split_off(project.len()))
}

fn part(text: &str) -> Result<Part, GlobError> {
    if text == "**" {
        return Ok(Part::Any);
    }
    let mut tokens = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '?' => Token::One,
            '*' => match tokens.last() {
                Some(Token::Many) => continue,
                _ => Token::Many,
            },
            '[' => class(&mut chars)?,
            '\\' => Token::Char(chars.next().ok_or(GlobError::TrailingBackslash)?),
            c => Token::Char(c),
        });
    }
    let literal = tokens.iter().map(|token| match token {
        Token::Char(c) => Some(c),
        _ => None,
    });
    Ok(match literal.collect() {
        Some(literal) => Part::Literal(literal),
        None => Part::Name(tokens),
    })
}

/// The class behind a `[`, up to its `]`.
fn class(chars: &mut std::str::Chars<'_>) -> Result<Token, GlobError> {
    let negated = chars.as_str().starts_with(['^', '!']);
    if negated {
        chars.next();
    }
    let mut ranges = Vec::new();
    // The end of a range that may begin at the last character.
    let mut open = None;
    loop {
        let end = match chars.next().ok_or(GlobError::UnclosedClass)? {
            ']' if ranges.is_empty() => return Err(GlobError::EmptyClass),
            ']' => return Ok(Token::Class { negated, ranges }),
            '\\' => chars.next().ok_or(GlobError::UnclosedClass)?,
            '-' if open.is_some() && !chars.as_str().starts_with(']') => {
                let end = chars.next().ok_or(GlobError::UnclosedClass)?;
                let end = match end {
                    '\\' => chars.next().ok_or(GlobError::UnclosedClass)?,
                    end => end,
                };
                if let (Some(range), Some(start)) = (ranges.last_mut(), open.take()) {
                    *range = (start, end);
                }
                continue;
            }
            c => c,
        };
        ranges.push((end, end));
        open = Some(end);
    }
}

/// The patterns without braces that a pattern with braces stands for.
fn spell_out(pattern: &str) -> Result<Vec<String>, GlobError> {
    if pattern.len() > MAX_LEN {
        return Err(GlobError::TooLarge);
    }
    let mut done = Vec::new();
    let mut todo = vec![pattern.to_owned()];
    let mut steps = 0;
    while let Some(pattern) = todo.pop() {
        steps += 1;
        if steps > 4 * MAX_ALTERNATIVES || done.len() + todo.len() >= MAX_ALTERNATIVES {
            return Err(GlobError::TooLarge);
        }
        let Some(braces) = first_braces(&pattern)? else {
            done.push(pattern);
            continue;
        };
        let (before, after) = (&pattern[..braces.open], &pattern[braces.close + 1..]);
        let mut start = braces.open + 1;
        for end in braces.commas.iter().copied().chain([braces.close]) {
            todo.push([before, &pattern[start..end], after].concat());
            start = end + 1;
        }
    }
    Ok(done)
}

/// Where a pair of braces is, and the commas between its alternatives.
struct Braces {
    open: usize,
    commas: Vec<usize>,
    close: usize,
}

fn first_braces(pattern: &str) -> Result<Option<Braces>, GlobError> {
    let mut chars = pattern.char_indices();
    let mut depth = 0;
    let mut open = 0;
    let mut commas = Vec::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '[' => {
                let mut rest = chars.as_str().chars();
                class(&mut rest)?;
                let left = rest.as_str().len();
                while chars.as_str().len() > left {
                    chars.next();
                }
            }
            '{' => {
                if depth == 0 {
                    open = at;
                }
                depth += 1;
            }
            ',' if depth == 1 => commas.push(at),
            '}' if depth == 1 => {
                return Ok(Some(Braces {
                    open,
                    commas,
                    close: at,
                }));
            }
            '}' if depth > 1 => depth -= 1,
            _ => {}
        }
    }
    match depth {
        0 => Ok(None),
        _ => Err(GlobError::UnclosedBrace),
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
