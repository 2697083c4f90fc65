//! What a secret looks like within a text that was encoded in base64.

/// So much of it has to be left to be known by, in characters: what stands next to a secret changes
/// the first and the last.
const SHORTEST: usize = 10;

const ALPHABETS: [&[u8; 64]; 2] = [
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
];

/// All forms of `secret`, wherever it begins in the encoded text, that are long enough.
pub(super) fn forms(secret: &str) -> Vec<String> {
    let mut forms = Vec::new();
    for before in 0..3 {
        for alphabet in ALPHABETS {
            let form = form(secret.as_bytes(), before, alphabet);
            if form.len() >= SHORTEST && forms.last() != Some(&form) {
                forms.push(form);
            }
        }
    }
    forms
}

/// The characters that say nothing but `secret`, with so many bytes before it.
fn form(secret: &[u8], before: usize, alphabet: &[u8; 64]) -> String {
    let first = (8 * before).div_ceil(6);
    let end = 8 * (before + secret.len()) / 6;
    let character = |at: usize| {
        let bit = 6 * at - 8 * before;
        let byte = |at: usize| u16::from(secret.get(at).copied().unwrap_or(0));
        let two = byte(bit / 8) << 8 | byte(bit / 8 + 1);
        char::from(alphabet[usize::from(two >> (10 - bit % 8) & 63)])
    };
    (first..end).map(character).collect()
}
