//! Keeps secrets out of recordings: the same secret becomes the same placeholder everywhere.
//!
//! A [`Redactor`] learns secrets from where they stand (the `token` of a body, the variables of a job,
//! a header, a parameter of a URL) and replaces them wherever else they show up. A placeholder can
//! stand where the secret stood, so that a recording can be replayed: it is visible ASCII, and keeps
//! the prefix by which GitLab's tokens are known. It is pure, and its memory is bounded: once it
//! [is full](Redactor::is_full), a recording has to end.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod embedded;
mod json;
mod percent;
mod places;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use http::{HeaderMap, HeaderValue};

use self::{
    json::Nature,
    places::{is_secret_header, nested_urls, secret_parameters},
};
use crate::{protocol::percent_decoded, trace::DEFAULT_TOKEN_PREFIXES};

/// Shorter ones are found in every other word, and are replaced only where they stand.
const SHORTEST: usize = 4;
/// Values of variables that are not marked as secret.
const SHORTEST_PRIVATE: usize = 8;
/// A user of a URL without a password: names of users are shorter, and tokens longer.
const SHORTEST_USER: usize = 16;
/// What follows the prefix of a token.
const SHORTEST_TOKEN: usize = 8;
const MAX_PREFIXES: usize = 32;
const MAX_SECRETS: usize = 16 << 10;
const MAX_BYTES: usize = 8 << 20;

/// What is behind the prefix of a placeholder.
const PLACEHOLDER: &str = "redacted-";

/// So deep are URLs looked for in parameters of URLs: where to go after a login, say.
const NESTED_URLS: u32 = 3;
/// Longer ones, or more of them in all, are not looked for in base64, in bytes.
const LONGEST_IN_BASE64: usize = 4 << 10;
const MAX_IN_BASE64: usize = 1 << 20;

/// What a recording does with secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Secrets {
    /// Each is replaced by a placeholder, the same one everywhere: tokens, passwords, variables that
    /// are masked, files or not public, secret headers and parameters of URLs. What is nothing of
    /// that is not known to be secret: a log shows what the job shows.
    #[default]
    Redacted,
    /// They stay as they are.
    Kept,
}

impl Secrets {
    pub(crate) fn redactor(self) -> Redactor {
        match self {
            Self::Redacted => Redactor::new(),
            Self::Kept => Redactor::off(),
        }
    }
}

/// Replaces secrets by placeholders.
pub(crate) struct Redactor {
    on: bool,
    /// Each secret and its number.
    known: BTreeMap<String, usize>,
    bytes: usize,
    full: bool,
    /// Beginnings of an instance's own tokens.
    prefixes: Vec<String>,
    /// The forms of all secrets that are long enough, and their placeholders; made when it is needed.
    finder: Option<(AhoCorasick, Vec<String>)>,
}

impl Redactor {
    pub(crate) fn new() -> Self {
        Self {
            on: true,
            known: BTreeMap::new(),
            bytes: 0,
            full: false,
            prefixes: Vec::new(),
            finder: None,
        }
    }

    /// One that changes nothing.
    pub(crate) fn off() -> Self {
        Self {
            on: false,
            ..Self::new()
        }
    }

    /// Whether there was a secret that it could not take any more.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Takes note of a secret. Blank ones, and placeholders, are none.
    pub(crate) fn learn(&mut self, secret: &str) {
        let secret = secret.trim();
        if !self.on || secret.is_empty() || is_placeholder(secret) {
            return;
        }
        if self.known.contains_key(secret) {
            return;
        }
        self.full |= self.known.len() >= MAX_SECRETS || self.bytes + secret.len() > MAX_BYTES;
        if self.full {
            return;
        }
        self.bytes += secret.len();
        let number = self.known.len() + 1;
        self.known.insert(secret.to_owned(), number);
        if secret.len() >= SHORTEST {
            self.finder = None;
        }
    }

    /// Learns from a body: JSON, or what looks like it.
    pub(crate) fn learn_json(&mut self, body: &[u8]) {
        if !self.on {
            return;
        }
        self.learn_prefixes(body);
        for literal in json::literals(body) {
            let text = literal.text.trim();
            let is_secret = match literal.nature {
                Nature::Plain => false,
                Nature::Private => text.len() >= SHORTEST_PRIVATE && !is_setting(text),
                // The same short number may be an ID, where no placeholder can stand.
                Nature::Secret if body[literal.range.start] != b'"' => {
                    text.len() >= SHORTEST_PRIVATE
                }
                Nature::Secret => !is_switch(text),
            };
            if is_secret {
                self.learn(text);
            }
            self.learn_text(text);
        }
    }

    /// Learns from any text: from what it says in the form of tokens, and from its URLs.
    pub(crate) fn learn_text(&mut self, text: &str) {
        if self.on {
            self.learn_url(text);
            self.learn_tokens(text);
        }
    }

    pub(crate) fn learn_headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
                continue;
            };
            self.learn_header(name.as_str(), value);
        }
    }

    fn learn_header(&mut self, name: &str, value: &str) {
        if is_secret_header(name) {
            let secret = credential(value);
            if !is_switch(secret) {
                self.learn(secret);
            }
            // Cookies come back without what is said about them.
            let cookie = secret.split(';').next().and_then(|it| it.split_once('='));
            if let Some((_, value)) = cookie.filter(|_| name.eq_ignore_ascii_case("set-cookie")) {
                self.learn_shown(value);
            }
        } else {
            self.learn_url(value);
        }
    }

    /// Learns from a URL, or from all that are in a text.
    pub(crate) fn learn_url(&mut self, url: &str) {
        self.learn_nested(url, NESTED_URLS);
    }

    fn learn_nested(&mut self, url: &str, depth: u32) {
        self.learn_password(url);
        for value in secret_parameters(url) {
            if is_switch(value) {
                continue;
            }
            self.learn_encoded(value);
            // In a query it may be a space.
            if value.contains('+') {
                self.learn_form(
                    &percent_decode(&value.replace('+', " ")),
                    &percent_decode(value),
                );
            }
        }
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        for url in nested_urls(url) {
            self.learn_nested(&percent_decode(url), depth);
        }
    }

    /// A secret that may be a short word, and then shows up elsewhere.
    fn learn_shown(&mut self, secret: &str) {
        if secret.len() >= SHORTEST_PRIVATE {
            self.learn(secret);
        }
    }

    /// Learns a part of a URL as what it says, and as it stands if another would encode it in another
    /// way. All of it has the same placeholder.
    fn learn_encoded(&mut self, raw: &str) {
        let decoded = percent_decode(raw);
        self.learn(&decoded);
        if raw != percent_encoded(&decoded) {
            self.learn_form(raw, &decoded);
        }
    }

    /// Learns what stands for a secret that is known.
    fn learn_form(&mut self, form: &str, secret: &str) {
        let form = form.trim();
        if self.known.contains_key(form) {
            return;
        }
        let number = self.known.get(secret.trim()).copied();
        self.learn(form);
        if let (Some(number), Some(new)) = (number, self.known.get_mut(form)) {
            *new = number;
        }
    }

    /// The passwords in front of the hosts of all URLs in a text, and users that look like tokens.
    fn learn_password(&mut self, text: &str) {
        for (at, mark) in text.match_indices("://") {
            let rest = &text[at + mark.len()..];
            let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
            let Some((user, _)) = authority.rsplit_once('@') else {
                continue;
            };
            match user.split_once(':') {
                Some((_, password)) => self.learn_encoded(password),
                None if user.len() >= SHORTEST_USER && !user.contains(char::is_whitespace) => {
                    self.learn_encoded(user);
                }
                None => {}
            }
        }
    }

    /// Those that a payload names, but for what every other word begins with.
    fn learn_prefixes(&mut self, payload: &[u8]) {
        let named = b"\"token_mask_prefixes\"";
        if !payload.windows(named.len()).any(|text| text == named) {
            return;
        }
        let payload: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
        let prefixes = payload.pointer("/features/token_mask_prefixes");
        let prefixes = prefixes.and_then(|prefixes| prefixes.as_array());
        for prefix in prefixes.into_iter().flatten().filter_map(|it| it.as_str()) {
            let is_new = !self.prefixes.iter().any(|known| known == prefix);
            if is_new && prefix.len() >= SHORTEST && self.prefixes.len() < MAX_PREFIXES {
                self.prefixes.push(prefix.to_owned());
            }
        }
    }

    /// What begins like one of GitLab's tokens.
    fn learn_tokens(&mut self, text: &str) {
        let prefixes = std::mem::take(&mut self.prefixes);
        let own = prefixes.iter().map(String::as_str);
        for prefix in DEFAULT_TOKEN_PREFIXES.iter().copied().chain(own) {
            for (at, _) in text.match_indices(prefix) {
                let rest = &text[at + prefix.len()..];
                let is_over = |c: char| !c.is_ascii_alphanumeric() && !"._=-".contains(c);
                let rest = rest.split(is_over).next().unwrap_or(rest);
                // The end of a sentence is none of a token.
                let rest = rest.trim_end_matches(['.', '_', '=', '-']);
                if rest.len() >= SHORTEST_TOKEN && !rest.starts_with(PLACEHOLDER) {
                    self.learn(&text[at..at + prefix.len() + rest.len()]);
                }
            }
        }
        self.prefixes = prefixes;
    }

    /// The same text without what is known.
    pub(crate) fn text<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        let Some((finder, placeholders)) = self.finder() else {
            return Cow::Borrowed(text);
        };
        let text = match finder.is_match(text) {
            true => Cow::Owned(finder.replace_all(text, placeholders)),
            false => Cow::Borrowed(text),
        };
        match percent::replaced(text.as_bytes(), finder, placeholders) {
            Some(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
            None => text,
        }
    }

    /// The same bytes without what is known.
    pub(crate) fn bytes<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let Some((finder, placeholders)) = self.finder() else {
            return Cow::Borrowed(bytes);
        };
        let bytes = match finder.is_match(bytes) {
            true => Cow::Owned(finder.replace_all_bytes(bytes, placeholders)),
            false => Cow::Borrowed(bytes),
        };
        match percent::replaced(&bytes, finder, placeholders) {
            Some(bytes) => Cow::Owned(bytes),
            None => bytes,
        }
    }

    /// The same body without what is known and without what is secret by its place. Every other byte
    /// stays as it is.
    pub(crate) fn json<'a>(&mut self, body: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.on {
            return Cow::Borrowed(body);
        }
        self.learn_json(body);
        let mut redacted = Vec::new();
        let mut done = 0;
        for literal in json::literals(body) {
            let text = literal.text.as_str();
            let known = self.known.contains_key(text.trim());
            let is_whole = match literal.nature {
                Nature::Secret => {
                    known || is_switch(text.trim()) || body[literal.range.start] != b'"'
                }
                Nature::Private => !is_setting(text.trim()) && !text.trim().is_empty(),
                Nature::Plain => false,
            };
            let new = if is_whole {
                Cow::Owned(self.whole(text))
            } else if literal.nature == Nature::Plain && text.trim().len() < SHORTEST {
                continue;
            } else {
                self.text(text)
            };
            if new == text {
                continue;
            }
            let quoted = serde_json::to_vec(&*new).unwrap_or_default();
            redacted.extend_from_slice(&self.bytes(&body[done..literal.range.start]));
            redacted.extend_from_slice(&quoted);
            done = literal.range.end;
        }
        if done == 0 {
            return self.bytes(body);
        }
        redacted.extend_from_slice(&self.bytes(&body[done..]));
        Cow::Owned(redacted)
    }

    /// The same URL without its secret parameters and without what is known.
    #[cfg(any(feature = "har", test))]
    pub(crate) fn url(&mut self, url: &str) -> String {
        if !self.on {
            return url.to_owned();
        }
        self.learn_url(url);
        self.text(url).into_owned()
    }

    /// The value of a header.
    pub(crate) fn header(&mut self, name: &str, value: &str) -> String {
        if !self.on {
            return value.to_owned();
        }
        self.learn_header(name, value);
        if is_secret_header(name) {
            let secret = credential(value);
            let scheme = &value[..value.len() - secret.len()];
            return format!("{scheme}{}", self.whole(secret));
        }
        self.text(value).into_owned()
    }

    pub(crate) fn headers(&mut self, headers: &HeaderMap) -> HeaderMap {
        let mut redacted = HeaderMap::with_capacity(headers.len());
        for (name, value) in headers {
            let new = match std::str::from_utf8(value.as_bytes()) {
                Ok(text) => HeaderValue::from_str(&self.header(name.as_str(), text)).ok(),
                Err(_) => HeaderValue::from_bytes(&self.bytes(value.as_bytes())).ok(),
            };
            redacted.append(name, new.unwrap_or_else(|| HeaderValue::from_static("")));
        }
        redacted
    }

    /// The placeholder of a text that is secret as a whole.
    fn whole(&self, text: &str) -> String {
        if is_placeholder(text.trim()) {
            return text.to_owned();
        }
        let secret = text.trim();
        match self.known.get(secret) {
            Some(number) => text.replacen(secret, &placeholder(secret, *number), 1),
            // Too short to be known.
            None => format!("{PLACEHOLDER}0"),
        }
    }

    fn finder(&mut self) -> Option<(&AhoCorasick, &[String])> {
        if self.finder.is_none() {
            let mut forms: Vec<String> = Vec::new();
            let mut placeholders = Vec::new();
            let mut in_base64 = 0;
            for (secret, number) in &self.known {
                if secret.len() < SHORTEST {
                    continue;
                }
                // A text in a text that is JSON may be JSON itself.
                let escaped = json_escaped(secret);
                let twice = json_escaped(&escaped);
                let mut variants = vec![secret.clone(), escaped, twice, percent_encoded(secret)];
                variants.dedup();
                if secret.len() <= LONGEST_IN_BASE64 && in_base64 < MAX_IN_BASE64 {
                    in_base64 += secret.len();
                    variants.extend(embedded::forms(secret));
                }
                for variant in variants {
                    forms.push(variant);
                    placeholders.push(placeholder(secret, *number));
                }
            }
            if forms.is_empty() {
                return None;
            }
            let mut finder = automaton(&forms);
            // What a placeholder is made of may be a secret here: it stays as it is all the same.
            if let Some(found) = &finder {
                let known = placeholders.iter().filter(|it| found.is_match(it.as_str()));
                let known: BTreeSet<String> = known.cloned().collect();
                if !known.is_empty() {
                    forms.extend(known.iter().cloned());
                    placeholders.extend(known);
                    finder = automaton(&forms);
                }
            }
            let Some(finder) = finder else {
                self.full = true;
                return None;
            };
            self.finder = Some((finder, placeholders));
        }
        self.finder
            .as_ref()
            .map(|(finder, placeholders)| (finder, placeholders.as_slice()))
    }
}

fn automaton(forms: &[String]) -> Option<AhoCorasick> {
    let finder = AhoCorasick::builder()
        // Never a table of a row for each byte of each secret.
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .match_kind(MatchKind::LeftmostLongest)
        .build(forms);
    finder.ok()
}

/// Counts only.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.known.len())
    }
}

fn placeholder(secret: &str, number: usize) -> String {
    let prefix = DEFAULT_TOKEN_PREFIXES
        .iter()
        .find(|prefix| secret.starts_with(**prefix))
        .map_or("", |prefix| *prefix);
    format!("{prefix}{PLACEHOLDER}{number}")
}

/// Whether a recording was redacted here before.
pub(crate) fn is_placeholder(text: &str) -> bool {
    let rest = DEFAULT_TOKEN_PREFIXES
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    rest.strip_prefix(PLACEHOLDER)
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
}

/// What switches something on or off is no secret, and a replay without it would go another way.
fn is_setting(text: &str) -> bool {
    let is_number = text.len() <= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number || is_switch(text)
}

/// What stands in every other body is replaced only where it is secret.
fn is_switch(text: &str) -> bool {
    ["true", "false", "yes", "no"].contains(&text.to_ascii_lowercase().as_str())
}

/// What follows `Bearer` and the like.
fn credential(value: &str) -> &str {
    match value.split_once(' ') {
        Some((scheme, rest)) if scheme.bytes().all(|c| c.is_ascii_alphabetic()) => {
            rest.trim_start()
        }
        _ => value,
    }
}

/// `%XX` as what it stands for; other bytes as they are.
fn percent_decode(text: &str) -> String {
    percent_decoded(text).unwrap_or_else(|| text.to_owned())
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    crate::protocol::percent_encode(text, &mut encoded);
    encoded
}

/// Inside of the quotes.
fn json_escaped(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let inner = quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
