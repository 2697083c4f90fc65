//! What a job prints: secrets whole, in parts and inside of each other, odd bytes, long lines, and
//! all of it cut where it hurts.

use bytes::Bytes;

use super::dice::Random;

/// The values that a job must not show.
pub(crate) fn secrets(random: &mut Random) -> Vec<String> {
    let base = random.word(12);
    let mut values = vec![base.clone()];
    for _ in 0..random.below(6) {
        values.push(match random.below(12) {
            // One inside of the other, one that begins or ends as the other does, one twice.
            0 => base[..8].to_owned(),
            1 => base[3..].to_owned(),
            2 => format!("{base}{}", random.word(3)),
            3 => format!("{}{base}", &base[6..]),
            4 => "Q7Q7Q7Q7Q9".to_owned(),
            5 => "Q7".to_owned(),
            // Several lines, several bytes a character, blanks around it, a token in it.
            6 => format!("{}\n{}", random.word(5), random.word(5)),
            7 => format!("ключ-{}-ü", random.word(4)),
            8 => format!("  {}\t", random.word(9)),
            9 => format!("glpat-{}", random.word(6)),
            // As in a URL, and long.
            10 => format!("{}=={}", random.word(4), random.word(2)),
            _ => random.word(300),
        });
    }
    values
}

/// Text of some hundred bytes, or many thousands.
pub(crate) fn text(random: &mut Random, secrets: &[String]) -> Bytes {
    let pieces = match random.below(40) {
        0 => 400,
        1..4 => 60,
        _ => 1 + random.below(8),
    };
    let mut text = Vec::new();
    for _ in 0..pieces {
        piece(random, secrets, &mut text);
    }
    text.into()
}

fn piece(random: &mut Random, secrets: &[String], out: &mut Vec<u8>) {
    let secret = match secrets {
        [] => String::new(),
        some => random.pick(some),
    };
    match random.below(20) {
        0..5 => out.extend_from_slice(format!("line {}\n", random.word(9)).as_bytes()),
        5 | 6 => out.extend_from_slice(secret.as_bytes()),
        7 => out.extend_from_slice(format!("{secret}{secret}").as_bytes()),
        // The beginning of one, with and without the rest of it or another one.
        8 => {
            let cut = random.below(secret.len() + 1);
            out.extend_from_slice(&secret.as_bytes()[..cut]);
        }
        9 => {
            let cut = random.below(secret.len() + 1);
            out.extend_from_slice(&secret.as_bytes()[..cut]);
            out.extend_from_slice(secret.as_bytes());
        }
        10 => {
            let prefix = random.pick(&["glpat-", "glrt-", "glcbt-", "_gitlab_session=", "xmy-"]);
            out.extend_from_slice(format!("{prefix}{} ", random.word(7)).as_bytes());
        }
        11 => {
            let name = random.pick(&["private_token", "RSS_TOKEN", "X-Amz-Signature", "other"]);
            let mark = random.pick(&["?", "&", "x"]);
            let end = random.pick(&["&", " ", "\n", "?", ""]);
            let value = random.pick(&["abc", "", "a/b%20c", &secret]);
            out.extend_from_slice(format!("{mark}{name}={value}{end}").as_bytes());
        }
        12 => out.extend_from_slice(b"\x1b[32mgreen\x1b[0;m\r\n"),
        13 => out.extend_from_slice("日本語 ünïcödé 🦀\n".as_bytes()),
        // No characters: cut ones, too long ones, surrogates, and what is never one.
        14 => {
            let odd: [&[u8]; 6] = [
                b"\xE2\x82",
                b"\xF0\x9F\xA6",
                b"\xFF\xFE",
                b"\xED\xA0\x80",
                b"\xC0\x80",
                b"\x80",
            ];
            out.extend_from_slice(random.pick(&odd));
        }
        15 => out.push(random.next() as u8),
        16 => out.extend_from_slice(b"\n"),
        17 => out.extend_from_slice(b"\0\x07\r"),
        18 if random.chance(10) => out.extend(std::iter::repeat_n(b'x', random.below(20_000))),
        _ => out.extend_from_slice(random.word(30).as_bytes()),
    }
}

/// `text` in writes: mostly a few, sometimes byte by byte.
pub(crate) fn cut(random: &mut Random, mut text: Bytes) -> Vec<Bytes> {
    let largest = match random.below(4) {
        0 if text.len() < 300 => 1,
        1 => 7,
        2 => 100,
        _ => 5000,
    };
    let mut writes = Vec::new();
    while !text.is_empty() {
        writes.push(text.split_to(1 + random.below(largest.min(text.len()))));
    }
    writes
}
