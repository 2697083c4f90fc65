//! What patterns mean, by trying everything.

/// Whether a pattern matches a path below `/`, or a directory above it. The pattern must be one that
/// can be read.
pub(crate) fn matches(pattern: &str, path: &[&str]) -> bool {
    alternatives(&units(pattern)).iter().any(|pattern| {
        let wanted = cleaned(pattern);
        wanted.is_some_and(|wanted| (0..=path.len()).any(|len| fits(&wanted, &path[..len])))
    })
}

/// The pattern cut into what cannot be cut further: escapes, classes and characters.
fn units(pattern: &str) -> Vec<String> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut units = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let len = match chars[at] {
            '\\' => 2,
            '[' => {
                let mut end = at + 1;
                while chars[end] != ']' {
                    end += if chars[end] == '\\' { 2 } else { 1 };
                }
                end + 1 - at
            }
            _ => 1,
        };
        units.push(chars[at..at + len].iter().collect());
        at += len;
    }
    units
}

/// All patterns without braces.
fn alternatives(units: &[String]) -> Vec<String> {
    let Some(open) = units.iter().position(|unit| unit == "{") else {
        return vec![units.concat()];
    };
    let (mut depth, mut start) = (0, open + 1);
    let mut found = Vec::new();
    for (at, unit) in units.iter().enumerate().skip(open) {
        match unit.as_str() {
            "{" => depth += 1,
            "," | "}" if depth == 1 => {
                found.push(&units[start..at]);
                start = at + 1;
                if unit == "}" {
                    break;
                }
            }
            "}" => depth -= 1,
            _ => {}
        }
    }
    let with = |one: &&[String]| alternatives(&[&units[..open], one, &units[start..]].concat());
    found.iter().flat_map(with).collect()
}

/// The parts of a path without `.` and `..`. A relative one does not go above where it starts.
fn cleaned(pattern: &str) -> Option<Vec<&str>> {
    let mut clean = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if clean.pop().is_some() || pattern.starts_with('/') => {}
            ".." => return None,
            part => clean.push(part),
        }
    }
    Some(clean)
}

fn fits(parts: &[&str], path: &[&str]) -> bool {
    match parts {
        [] => path.is_empty(),
        ["**", rest @ ..] => (0..=path.len()).any(|taken| fits(rest, &path[taken..])),
        [part, rest @ ..] => {
            let Some((first, path)) = path.split_first() else {
                return false;
            };
            let name: Vec<char> = first.chars().collect();
            is_name(&units(part), &name) && fits(rest, path)
        }
    }
}

fn is_name(part: &[String], name: &[char]) -> bool {
    let Some((unit, part)) = part.split_first() else {
        return name.is_empty();
    };
    if unit == "*" {
        return (0..=name.len()).any(|taken| is_name(part, &name[taken..]));
    }
    let Some((first, name)) = name.split_first() else {
        return false;
    };
    let unit: Vec<char> = unit.chars().collect();
    let fits = match unit[..] {
        ['?'] => true,
        ['\\', escaped] => escaped == *first,
        ['[', '^' | '!', ref class @ ..] => !is_in(class, *first),
        ['[', ref class @ ..] => is_in(class, *first),
        _ => unit == [*first],
    };
    fits && is_name(part, name)
}

/// Whether a class, from behind its bracket on, holds the character.
fn is_in(class: &[char], wanted: char) -> bool {
    let (first, rest) = match class {
        [']', ..] | [] => return false,
        ['\\', first, rest @ ..] | [first, rest @ ..] => (*first, rest),
    };
    let (last, rest) = match rest {
        ['-', ']', ..] => (first, rest),
        ['-', '\\', last, rest @ ..] | ['-', last, rest @ ..] => (*last, rest),
        _ => (first, rest),
    };
    (first..=last).contains(&wanted) || is_in(rest, wanted)
}
