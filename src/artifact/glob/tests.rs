use quickcheck::{Arbitrary, Gen, quickcheck};

use super::*;

fn matches(pattern: &str, path: &str) -> bool {
    let glob = Glob::new(pattern, "/builds/group/project").unwrap();
    glob.matches(&path.split('/').collect::<Vec<_>>())
}

#[test]
fn stars_stay_in_a_name_unless_doubled() {
    for (pattern, path, wanted) in [
        ("*.txt", "a.txt", true),
        ("*.txt", ".txt", true),
        ("*.txt", "a/b.txt", false),
        ("*", ".hidden", true),
        ("?", "ä", true),
        ("?", "", false),
        ("a?c", "a/c", false),
        ("**/*.txt", "a.txt", true),
        ("**/*.txt", "a/b/c.txt", true),
        ("a/**/c", "a/c", true),
        ("a/**/c", "a/b/b/c", true),
        ("a/**/c", "a/b/b", false),
        ("x/**", "x", true),
        ("x/**", "x/y/z", true),
        ("x/**", "xy", false),
        ("a**.txt", "ab.txt", true),
        ("a**.txt", "ab/c.txt", false),
        ("a/b**", "a/bc", true),
        ("**", "a/b", true),
        ("***", "ab", true),
        ("***/c", "a/b/c", false),
        ("**/**/c", "c", true),
    ] {
        assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
    }
}

#[test]
fn a_directory_means_its_content() {
    for (pattern, path, wanted) in [
        ("foo", "foo/a/b", true),
        ("foo/", "foo/a", true),
        ("foo/test/", "foo/test/bar/baz", true),
        ("foo/test/", "foo/tests", false),
        ("f*", "foo/a/b", true),
        ("*/bar", "foo/bar/baz/file.txt", true),
        ("foo/**/*.txt", "foo/file.txt", true),
        ("foo/**/*.txt", "foo/bar/baz/file.txt", true),
        ("foo//*.txt", "foo/file.txt", true),
        ("foo//*.txt", "foo/bar/file.txt", false),
        ("./foo/**//*/*.*", "foo/bar/file.txt", true),
        (".", "anything/at/all", true),
        ("./", "a", true),
        ("foo/..", "a", true),
    ] {
        assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
    }
}

#[test]
fn classes() {
    for (pattern, path, wanted) in [
        ("[abc]", "b", true),
        ("[abc]", "d", false),
        ("[a-c]x", "bx", true),
        ("[^a]", "b", true),
        ("[^a]", "a", false),
        ("[!a-c]", "b", false),
        ("[a^]", "^", true),
        ("[-a]", "-", true),
        ("[a-]", "-", true),
        ("[a-c-e]", "d", false),
        ("[a-c-e]", "-", true),
        ("[\\]]", "]", true),
        ("[a\\-c]", "b", false),
        ("[a-\\c]", "b", true),
        ("[z-a]", "m", false),
        ("[{,}]", ",", true),
        ("[ä-ö]", "é", true),
        ("[*]", "x", false),
    ] {
        assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
    }
}

#[test]
fn braces() {
    for (pattern, path, wanted) in [
        ("{a,b}.txt", "b.txt", true),
        ("{a,b}.txt", "{a,b}.txt", false),
        ("{a,b/**}", "b/c/d", true),
        ("{**,x}/y", "a/b/y", true),
        ("a/{,b/}c", "a/c", true),
        ("a/{,b}/c", "a/c", true),
        ("{a{b,c},d}", "ac", true),
        ("{a,{b,{c,d}}}", "d", true),
        ("{a}", "a", true),
        ("x{}y", "xy", true),
        ("a,b", "a,b", true),
        ("a}", "a}", true),
        ("\\{a,b\\}", "{a,b}", true),
        ("{a\\,b,c}", "a,b", true),
        ("{[,],b}", ",", true),
        ("{../../etc,a}", "a", true),
    ] {
        assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
    }
}

#[test]
fn a_backslash_escapes() {
    assert!(matches("\\*", "*"));
    assert!(!matches("\\*", "a"));
    assert!(matches("\\*\\*", "**"));
    assert!(!matches("\\*\\*", "a"));
    assert!(matches("\\a", "a"));
    assert!(matches("a\\\\b", "a\\b"));
}

#[test]
fn a_pattern_stays_in_the_project() {
    for (pattern, path) in [
        ("/builds/group/project/foo/*.txt", "foo/a.txt"),
        ("/builds/group/./project/", "a"),
        ("/../builds/group/project/a", "a"),
        ("../project/foo/*.txt", "foo/a.txt"),
        ("../../group/project/a", "a"),
        ("foo/../../project/a", "a"),
        ("../project", "a"),
    ] {
        assert!(matches(pattern, path), "{pattern} {path}");
    }
    for pattern in [
        "/etc/passwd",
        "/builds/group/project2/a",
        "/builds/group/project/../other",
        "../other/a",
        "..",
        "../*/a",
        "../../../../builds/group/project/a",
        "/",
        "{../a,/b}",
    ] {
        let error = Glob::new(pattern, "/builds/group/project").unwrap_err();
        assert_eq!(error, GlobError::Outside, "{pattern}");
    }
}

#[test]
fn what_is_no_pattern() {
    use GlobError::*;

    for (pattern, wanted) in [
        ("", Empty),
        ("[a", UnclosedClass),
        ("[", UnclosedClass),
        ("[a\\", UnclosedClass),
        ("[a-", UnclosedClass),
        ("[a/b]", UnclosedClass),
        ("[]a]", EmptyClass),
        ("[^]", EmptyClass),
        ("{a,b", UnclosedBrace),
        ("{a,{b}", UnclosedBrace),
        ("a\\", TrailingBackslash),
    ] {
        assert_eq!(Glob::new(pattern, "/p").unwrap_err(), wanted, "{pattern}");
    }
    for pattern in ["{a,b}".repeat(20), "{a,".repeat(5000), "{}".repeat(8000)] {
        let error = Glob::new(&pattern, "/p").unwrap_err();
        assert!(matches!(error, TooLarge | UnclosedBrace), "{error}");
    }
}

#[test]
fn no_pattern_takes_for_ever() {
    let name = "a".repeat(4000);
    let path = vec!["a"; 2000].join("/");
    assert!(!matches(&("a*".repeat(1000) + "b"), &name));
    assert!(!matches(&("**/a/".repeat(1000) + "b"), &path));
}

/// A pattern with braces, of names `a` and `b`.
#[derive(Clone, Debug)]
struct Pattern(String);

impl Arbitrary for Pattern {
    fn arbitrary(g: &mut Gen) -> Self {
        fn pattern(g: &mut Gen, depth: usize, text: &mut String) {
            for _ in 0..usize::arbitrary(g) % 6 {
                match u8::arbitrary(g) % 16 {
                    0 if depth > 0 => {
                        text.push('{');
                        pattern(g, depth - 1, text);
                        for _ in 0..usize::arbitrary(g) % 3 {
                            text.push(',');
                            pattern(g, depth - 1, text);
                        }
                        text.push('}');
                    }
                    1..4 => text.push('*'),
                    4 => text.push_str("/**/"),
                    5 => text.push('?'),
                    6 => text.push_str("[^a]"),
                    7 => text.push_str("[!b-c]"),
                    8..11 => text.push('/'),
                    11..14 => text.push('a'),
                    _ => text.push('b'),
                }
            }
        }
        let mut text = String::new();
        pattern(g, 3, &mut text);
        Self(text)
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Self>> {
        let text = self.0.clone();
        Box::new((0..text.len()).filter_map(move |at| {
            let mut shorter = text.clone();
            shorter.remove(at);
            Glob::new(&shorter, "/").ok().map(|_| Self(shorter))
        }))
    }
}

quickcheck! {
    fn a_pattern_matches_what_the_reference_matches(pattern: Pattern, names: Vec<(u8, u8)>) -> bool {
        let glob = match Glob::new(&pattern.0, "/") {
            Ok(glob) => glob,
            Err(GlobError::Empty | GlobError::TooLarge) => return true,
            Err(_) => return false,
        };
        let names: Vec<&str> = names
            .iter()
            .take(5)
            .map(|(a, b)| ["a", "b", "ab", "ba", "aab", "abb"][(a % 4 + b % 3) as usize])
            .collect();
        reference::matches(&pattern.0, &names) == glob.matches(&names)
    }

    fn any_text_is_a_pattern_or_an_error(pattern: String, path: String) -> bool {
        if let Ok(glob) = Glob::new(&pattern, "/p") {
            glob.matches(&path.split('/').collect::<Vec<_>>());
        }
        true
    }
}
