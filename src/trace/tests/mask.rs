//! Known answers, and every way to cut an input.

use super::{NONE, masker, reference, run, text};
use crate::trace::{DEFAULT_TOKEN_PREFIXES, Masker};

/// Writes are separated by `|`.
fn masked(values: &[&str], writes: &str) -> String {
    let output = run(
        &mut masker(values, &[]),
        writes.split('|').map(str::as_bytes),
    );
    text(&output)
}

#[test]
fn values() {
    let cases: &[(&[&str], &str, &str)] = &[
        (&["secrets"], "s|secrets", "s[MASKED]"),
        (&["secrets"], "secretssecrets", "[MASKED][MASKED]"),
        (&["secrets"], "secret", "secret"),
        (
            &["mask", "prefix_mask"],
            "prefix_mask mask prefix_|mask prefix_ma|sk mas|k",
            "[MASKED] [MASKED] [MASKED] [MASKED] [MASKED]",
        ),
        (
            &["this is the end", "en foobar", "en"],
            "this is the en| foobar",
            "this is the [MASKED]",
        ),
        (&["foo", "bar"], "ffooo bbarr", "f[MASKED]o b[MASKED]r"),
        (&["aa"], "aaa", "[MASKED]"),
        (&["  padded\n"], "a padded b", "a [MASKED] b"),
        (&["", " \t\n"], "nothing to hide", "nothing to hide"),
        (&["one\ntwo"], "one\n|two one\ntree", "[MASKED] one\ntree"),
        (&["grün"], "gr\u{fc}n grau", "[MASKED] grau"),
        (&["x"], "axbx|x", "a[MASKED]b[MASKED][MASKED]"),
        (&["glpat-"], "glpat-x", "[MASKED][MASKED]"),
        (&["at-xyz"], "glpat-xyzw", "glp[MASKED]"),
        (&["z end"], "glpat-xyz end", "glpat-[MASKED]"),
    ];
    for (values, writes, expected) in cases {
        assert_eq!(masked(values, writes), *expected, "{writes}");
    }
}

#[test]
fn a_secret_in_two_long_halves() {
    let half = "0123456789abcdef".repeat(500);
    let secret = format!("{half}{half}");
    assert_eq!(secret.len(), 16_000);
    assert_eq!(
        masked(&[&secret], &format!("<{half}|{half}>")),
        "<[MASKED]>"
    );
    // Without the second half it comes out as it is.
    assert_eq!(
        masked(&[&secret], &format!("<{half}|>")),
        format!("<{half}>")
    );
}

#[test]
fn url_parameters() {
    let secret = "https://host/a?Private_TOKEN=abc%20d&x=1&rss_token=&x-amz-signature=s?\
                  x-amz-credential=c x&X-Amz-Security-Token=t\u{1b}[0m?authenticity_token=\u{e9}\t";
    let shown = "https://host/a?Private_TOKEN=[MASKED]&x=1&rss_token=[MASKED]&\
                 x-amz-signature=[MASKED]?x-amz-credential=[MASKED] \
                 x&X-Amz-Security-Token=[MASKED]\u{1b}[0m?authenticity_token=[MASKED]\t";
    assert_eq!(masked(&[], secret), shown);
    let cases = [
        ("rss_token=x", "rss_token=x"),
        ("?a_rss_token=x", "?a_rss_token=x"),
        ("?rss_tokens=x", "?rss_tokens=x"),
        ("?rss_token x", "?rss_token x"),
        ("?rss_token=", "?rss_token=[MASKED]"),
        ("?rss_token=|", "?rss_token=[MASKED]"),
        ("?rss_to|ken=|a|b| c", "?rss_token=[MASKED] c"),
        ("??rss_token=a=b/c#d", "??rss_token=[MASKED]"),
        ("?rss_token=glpat-x/y z", "?rss_token=[MASKED] z"),
    ];
    for (writes, expected) in cases {
        assert_eq!(masked(&[], writes), expected, "{writes}");
    }
}

#[test]
fn token_prefixes() {
    let cases = [
        ("glpat-impglpat-erdiet", "glpat-[MASKED]"),
        ("glpat-imp|glpat|-erdiet", "glpat-[MASKED]"),
        ("esseglpat-imperdiet=_-. end", "esseglpat-[MASKED] end"),
        ("glpat- x", "glpat- x"),
        ("glpat-", "glpat-"),
        ("glpat-|", "glpat-"),
        ("gl|pat|-|x", "glpat-[MASKED]"),
        ("glpat-a/b", "glpat-[MASKED]/b"),
        ("GLPAT-a", "GLPAT-a"),
    ];
    for (writes, expected) in cases {
        assert_eq!(masked(&[], writes), expected, "{writes}");
    }
    assert_eq!(DEFAULT_TOKEN_PREFIXES.len(), 14);
    for prefix in DEFAULT_TOKEN_PREFIXES {
        let shown = masked(&[], &format!("a {prefix}0b.C b"));
        assert_eq!(shown, format!("a {prefix}[MASKED] b"));
    }
}

#[test]
fn all_prefixes_of_the_server_are_kept() {
    let prefixes: Vec<String> = (0..40).map(|n| format!("{}{n}:", "p".repeat(n))).collect();
    let mut masker = Masker::new(NONE, &prefixes);
    for prefix in &prefixes {
        let shown = run(&mut masker, [format!("{prefix}tok en").as_bytes()]);
        assert_eq!(text(&shown), format!("{prefix}[MASKED] en"));
    }
}

#[test]
fn where_the_official_runner_leaks() {
    let cases: &[(&[&str], &str, &str)] = &[
        (&["aab"], "aa|ab", "a[MASKED]"),
        (&["abcabd"], "abcab|cabd", "abc[MASKED]"),
        (&["ab", "XYZ"], "aXYZc", "a[MASKED]c"),
        (&[], "glpat-", "glpat-"),
    ];
    for (values, writes, expected) in cases {
        assert_eq!(masked(values, writes), *expected, "{writes}");
    }
}

/// Lines without a secret are not looked at closely; each that has one must be.
#[test]
fn a_secret_anywhere_in_a_long_line() {
    let line = "0123456789 /usr/bin/gcc -O2 main.c ".repeat(3);
    let secrets = [
        ("hunter-2", "[MASKED]"),
        ("xyz", "[MASKED]"),
        ("glpat-a1", "glpat-[MASKED]"),
        ("_gitlab_session=c", "_gitlab_session=[MASKED]"),
        ("?Rss_TokEn=t", "?Rss_TokEn=[MASKED]"),
        ("&x-amz-signaturE=t", "&x-amz-signaturE=[MASKED]"),
        ("&x-amz-credentiAl=t", "&x-amz-credentiAl=[MASKED]"),
    ];
    for (secret, shown) in secrets {
        let mut masker = masker(&["hunter-2", "xyz"], &[]);
        for at in 0..=line.len() {
            let (before, after) = line.split_at(at);
            let whole = format!("{before}{secret} {after}\n");
            let expected = format!("{before}{shown} {after}\n");
            assert_eq!(text(&run(&mut masker, [whole.as_bytes()])), expected);
            // Cut inside the secret, with clean lines around it.
            let cut = at + 1 + at % (secret.len() - 1);
            let writes = [&line[..], "\n", &whole[..cut], &whole[cut..], &line];
            let shown = text(&run(&mut masker, writes.map(str::as_bytes)));
            assert_eq!(
                shown,
                format!("{line}\n{expected}{line}"),
                "{secret} at {at}"
            );
        }
    }
}

#[test]
fn nothing_is_masked_on_request() {
    let mut masker = Masker::none();
    let shown = run(&mut masker, [b"glpat-x ?rss_token".as_slice(), b"=y"]);
    assert_eq!(text(&shown), "glpat-x ?rss_token=y");
}

#[test]
fn a_finished_masker_begins_anew() {
    let mut masker = masker(&["secret"], &[]);
    for (writes, expected) in [
        ("secr", "secr"),
        ("et", "et"),
        ("?rss_token=", "?rss_token=[MASKED]"),
        ("a", "a"),
        ("?rss_token", "?rss_token"),
        ("=a", "=a"),
        ("glpat-", "glpat-"),
        ("b", "b"),
    ] {
        assert_eq!(text(&run(&mut masker, [writes.as_bytes()])), expected);
    }
}

/// The limit of a log looks back to the start of a character, and no further than such a call.
#[test]
fn what_is_passed_on_is_made_of_whole_characters() {
    let input = format!("x{}", "ü€🐤 secret ".repeat(2000));
    for mut masker in [
        masker(&["secret"], &[]),
        masker(&["secret"], &[]).without_prefilter(),
        masker(&["secret", "€ "], &[]),
        Masker::none(),
    ] {
        let whole = |out: &[u8]| assert!(std::str::from_utf8(out).is_ok(), "{out:?}");
        masker.write(input.as_bytes(), whole);
        masker.finish(whole);
    }
}

#[test]
fn debug_shows_no_secret() {
    let mut masker = masker(&["hidden-value"], &["hidden-prefix"]);
    masker.write(b"hidden-va", |_| {});
    let shown = format!("{masker:?}");
    assert!(!shown.contains("hidden"), "{shown}");
    let prefixes = DEFAULT_TOKEN_PREFIXES.len() + 1;
    let counts = format!("values: 1, token_prefixes: {prefixes}, held_bytes: 9");
    assert!(shown.contains(&counts), "{shown}");
}

/// Secrets that overlap, nest and repeat themselves, and inputs that meet their edges.
const CASES: &[(&[&str], &[&str], &str)] = &[
    (&["abab", "ba", "aab"], &[], "aababababaabbaab"),
    (&["aa", "aaaa"], &[], "aaaaabaaabaaaaaaaba"),
    (
        &["abcdef", "cd", "bcdx", "efg"],
        &[],
        "abcdxabcdefgabcdeabcde",
    ),
    (&["abcdefgh", "c", "ef"], &[], "abcdefgabcdefghcabcdef"),
    (&["a b", "b a", " "], &[], "a b a b ab  a b"),
    (&["t-sec", "glpat"], &[], "glpat-secret glpat-t-sec"),
    (&["glp", "x y"], &["at-", "x"], "glpat-x y glpat-at-x xx y"),
    (&["&foo", "n=&", "=a"], &[], "?rss_token=&foo?rss_token=a&f"),
    (
        &["token", "k"],
        &["token="],
        "?RSS_token=&rss_token=k?k=tok",
    ),
    (&["b c", "glpat-b"], &[], "?rss_token=glpat-b c&rss_token= "),
    (&["ü", "äü", "üö"], &[], "äüöüäöäü?rss_token=ü ä"),
];

#[test]
fn every_cut_gives_the_same() {
    for (values, prefixes, input) in CASES {
        let expected = text(&reference::mask(values, prefixes, input.as_bytes()));
        let mut slow = masker(values, prefixes);
        let mut fast = masker(values, prefixes);
        fast.use_fast();
        for masker in [&mut slow, &mut fast] {
            let input = input.as_bytes();
            assert_eq!(text(&run(masker, [input])), expected);
            assert_eq!(text(&run(masker, input.chunks(1))), expected);
            for first in 0..=input.len() {
                for second in first..=input.len() {
                    let writes = [&input[..first], &input[first..second], &input[second..]];
                    assert_eq!(text(&run(masker, writes)), expected, "{first} {second}");
                }
            }
        }
    }
}

#[test]
fn a_secret_of_a_kilobyte_in_every_cut() {
    let mut secret: String = (0..100u32).map(|n| format!("{}-", n * n % 97)).collect();
    secret.push_str("end of it");
    let input = format!("{}{secret}{}{secret}", &secret[..150], &secret[..200]);
    let values = [secret.as_str(), "9-16", "0-1-4-9-16-25-36-x"];
    let expected = reference::mask(&values, &[], input.as_bytes());
    let mut masker = masker(&values, &[]);
    for cut in 0..=input.len() {
        let (first, second) = input.as_bytes().split_at(cut);
        assert_eq!(run(&mut masker, [first, second]), expected, "{cut}");
    }
    assert_eq!(run(&mut masker, input.as_bytes().chunks(1)), expected);
}

#[test]
fn a_long_log_changes_the_automaton_and_nothing_else() {
    let values = ["secret value", "value of", "ü?"];
    let mut input = String::new();
    for n in 0..12_000 {
        input.push_str(&format!(
            "line {n} with a secret value of glpat-{n} and ü?\n"
        ));
    }
    assert!(input.len() > 600_000);
    let expected = reference::mask(&values, &[], input.as_bytes());
    for size in [7, 100, 4096, 1 << 20] {
        let mut masker = masker(&values, &[]);
        assert!(run(&mut masker, input.as_bytes().chunks(size)) == expected);
    }
}

#[test]
fn each_piece_is_told_where_it_was() {
    let text = b"a secret, half a secr and x=1 secret\nsecretsecret end".repeat(3);
    for values in [Some(&["secret"][..]), Some(&[]), None] {
        for size in 1..text.len() {
            let mut masker = values.map_or_else(Masker::none, |values| masker(values, &[]));
            let mut end = 0;
            let mut check = |at: u64, piece: Option<&[u8]>| {
                let at = usize::try_from(at).unwrap();
                assert!(at >= end);
                match piece {
                    Some(bytes) => {
                        assert!(!bytes.is_empty());
                        assert_eq!(&text[at..at + bytes.len()], bytes);
                        end = at + bytes.len();
                    }
                    None => end = at + "secret".len(),
                }
            };
            for write in text.chunks(size) {
                masker.write_at(write, &mut check);
            }
            assert_eq!(masker.position(), text.len() as u64);
            masker.finish_at(&mut check);
            assert_eq!(end, text.len());
        }
    }
}
