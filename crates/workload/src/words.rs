//! Text of an exact length, made from numbers.
//!
//! A prompt of which only block ids and lengths are known still has to be sent as text. Each id names an endless
//! stream of words; a block is the beginning of its stream. A word is a space and three letters: four bytes, one
//! token of the common token rule, and one token of the usual tokenizers too, so that a real engine counts about
//! the same. The first eight words spell the id one to one: different ids differ within their first 32 bytes.

/// Longest prompt that is made or read, in tokens.
pub const MAX_PROMPT_TOKENS: u32 = 1 << 22;

const WORD_BYTES: usize = 4;

const VOCABULARY: &str = concat!(
    " ace act add age ago aid aim air all and ant any arc are ark arm art ash ask ate awe bad bag ban",
    " bar bat bay bed bee beg bet bid big bin bit bow box boy bud bug bus but buy cab can cap car cat",
    " cow cry cue cup cut dad dam day den did dig dim doc dog dot dry due ear eat egg ego elm end era",
    " eve eye fan far fat fee few fig fin fir fit fix fly for fox fun fur gap gas gem get got had has",
    " hat hay hen her hey him hip his hit hop hot how hub hue ice icy ink inn ion its jam jar jaw jet",
    " job joy jug key kid kin kit lab lad lap law lay leg let lid lie lip log lot low mad man map mat",
    " max may men met mid mix net new nod nor not now nut odd off oil old one opt our out owe owl own",
    " pad pan par pat pay pen pet pie pig pin pit ply pod pop pot pub put ram ran rat raw ray red rib",
    " rip rob rod row rub rug run sad sat say sea see set she sip sit six ski sky son spa spy sum sun",
    " tab tag tan tap tar tax tea ten the tie tin tip ton too top toy try two use van vet via war was",
    " way web wed who why wig win wit won wow yen yes yet you zen zip",
);

/// Appends the text of a prompt that is known by its block ids: `block_tokens` tokens for each of `ids`, cut after
/// `tokens`; what the ids do not cover is filled from the stream of `tail`.
pub fn render_blocks(ids: &[u64], block_tokens: u32, tokens: u32, tail: u64, out: &mut String) {
    let mut left = tokens;
    for &id in ids {
        let length = block_tokens.min(left);
        push_words(id, length, out);
        left -= length;
    }
    push_words(tail, left, out);
}

/// Appends the first `count` words of the stream of `id`.
pub(crate) fn push_words(id: u64, count: u32, out: &mut String) {
    out.reserve(count as usize * WORD_BYTES);
    let mut state = id;
    let mut left = count as usize;
    while left > 0 {
        for byte in split_mix(&mut state).to_le_bytes().iter().take(left) {
            let start = usize::from(*byte) * WORD_BYTES;
            out.push_str(&VOCABULARY[start..start + WORD_BYTES]);
        }
        left = left.saturating_sub(8);
    }
}

/// SplitMix64. Its first output is a bijection of the state.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use protocol::{BYTES_PER_TOKEN, estimate_tokens};

    use super::*;

    fn render(ids: &[u64], block_tokens: u32, tokens: u32, tail: u64) -> String {
        let mut out = String::new();
        render_blocks(ids, block_tokens, tokens, tail, &mut out);
        out
    }

    #[test]
    fn the_vocabulary_has_256_different_words_of_one_token() {
        assert_eq!(WORD_BYTES, BYTES_PER_TOKEN);
        assert_eq!(VOCABULARY.len(), 256 * WORD_BYTES);
        let words: BTreeSet<&str> = VOCABULARY.split(' ').skip(1).collect();
        assert_eq!(words.len(), 256);
        assert!(
            words.iter().all(|word| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_lowercase()))
        );
    }

    #[test]
    fn tokens_come_out_exactly() {
        for (ids, block_tokens, tokens) in
            [(3, 16, 48), (3, 16, 61), (3, 16, 40), (0, 16, 5), (2, 512, 700), (2, 0, 3)]
        {
            let ids: Vec<u64> = (0..ids).collect();
            assert_eq!(estimate_tokens(render(&ids, block_tokens, tokens, 9).len()), tokens);
        }
    }

    #[test]
    fn equal_ids_give_equal_text_and_different_ids_differ_at_once() {
        let (a, b) = (render(&[1, 2, 3], 16, 50, 7), render(&[1, 2, 4], 16, 50, 7));
        assert_eq!(a[..128], b[..128]);
        assert_ne!(a[128..160], b[128..160]);
        assert_eq!(a[192..], b[192..]);
        let starts: BTreeSet<String> = (0..20_000).map(|id| render(&[id], 8, 8, 0)).collect();
        assert_eq!(starts.len(), 20_000);
    }

    #[test]
    fn the_words_of_an_id_never_change() {
        assert_eq!(render(&[0, u64::MAX], 4, 10, 5), " pie she beg key big can him bed gas row");
    }
}
