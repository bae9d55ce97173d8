//! Text and tokens: four bytes each, both ways, and the words that the simulated model speaks.

use protocol::BYTES_PER_TOKEN;

/// One token each, with the space before it.
const WORDS: &[u8; 64 * BYTES_PER_TOKEN] = b" air and are arm art ask bag bed big box boy bus but can car cat cow cup cut day did dog ear eat egg eye far few fly for get had has hat her him his hot how ice its job key law let man map may new not now oil old one our out own put red run sea she sun the";

/// The word with this number; any number has one.
pub(crate) fn word(number: u64) -> &'static [u8] {
    let start = (number % 64) as usize * BYTES_PER_TOKEN;
    &WORDS[start..start + BYTES_PER_TOKEN]
}

/// A number that depends on both arguments, evenly spread (splitmix64).
pub(crate) fn mix(seed: u64, index: u64) -> u64 {
    let mut number = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Token ids of a text: its bytes, four to an id, little end first, the last one filled up with zeros. A prompt
/// of these ids has the same tokens and full blocks as the text.
pub(crate) fn encode(text: &[u8]) -> Vec<u32> {
    let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id: u32, byte| (id << u8::BITS) | u32::from(*byte));
    text.chunks(BYTES_PER_TOKEN).map(id).collect()
}

/// The text of token ids. What is not UTF-8 is replaced.
pub(crate) fn decode(ids: &[u32]) -> String {
    let mut bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_both_ways() {
        for text in ["", "a", "abcd", "abcde", "Grüße, 世界"] {
            let ids = encode(text.as_bytes());
            assert_eq!(ids.len(), text.len().div_ceil(4));
            assert_eq!(decode(&ids), text);
        }
        assert_eq!(encode(b"abcde"), [u32::from_le_bytes(*b"abcd"), u32::from(b'e')]);
    }

    #[test]
    fn every_word_is_one_token_and_needs_no_escape() {
        for number in 0..64 {
            let word = word(number);
            assert!(word[0] == b' ' && word[1..].iter().all(u8::is_ascii_lowercase), "{word:?}");
        }
    }
}
