//! How long answers get, learned from those that ended.
//!
//! A request may say the length of its answer, or limit it, or neither. Limits are often far above what comes,
//! so they are believed only while they predict better than the mean length does. Where nothing is believed, the
//! tokens still to come are those that answers of this length already had left on average: an answer that is
//! longer than the mean is not about to end because of it.
//!
//! A prompt that comes again, word for word, is expected to get an answer as long as last time: retries, templates and
//! tests do. The last lengths are kept by the hash of the prompt, in a table of fixed size in which a newer prompt
//! takes the place of an older one, and are believed as long as they predict better than the mean.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// Length assumed before any answer ended, in tokens.
const ASSUMED: u32 = 128;
/// Classes of lengths, four to an octave; the last one begins at 57,344 tokens (7/8 of 2^16).
const CLASSES: usize = 64;
/// What an answer is worth one answer later: a memory of about 1,000.
const FADE: f32 = 0.999;
/// Answers between two renewals of the table.
const RENEWAL: u32 = 16;

/// Prompts whose last answer is remembered; 1 MiB.
const REMEMBERED: usize = 1 << 17;
/// Longer answers are remembered as this long.
const LONGEST: u32 = (1 << 22) - 1;

/// Learned lengths of a pool's answers.
#[derive(Debug)]
pub(crate) struct Outputs {
    /// Upper bits of a prompt's hash and, in the lower 22, the length of its answer plus one.
    repeated: Box<[AtomicU64]>,
    /// They predict better than the mean.
    repeats_hold: AtomicBool,
    /// Tokens left on average to answers that have reached each class.
    left: [AtomicU32; CLASSES],
    /// Limits predict better than the mean.
    limits_hold: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Weight and sum of lengths in each class.
    classes: [(f32, f32); CLASSES],
    answers: u32,
    /// Mean errors of the limit and of the mean, for requests with a limit.
    limit_error: f32,
    mean_error: f32,
    /// The same of the last answer and of the mean, for prompts that were remembered.
    repeat_error: f32,
    repeat_mean_error: f32,
}

/// What is expected of one answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Expected {
    /// No answer gets longer.
    limit: u32,
    /// The limit is taken for the length.
    exact: bool,
    /// Hash of the prompt.
    prompt: Option<u64>,
    /// Length of the last answer to it, where that counts.
    last: Option<u32>,
}

fn class(tokens: u32) -> usize {
    let Some(octave) = tokens.checked_ilog2() else { return 0 };
    let quarter = if octave >= 2 { (tokens >> (octave - 2)) & 3 } else { (tokens << (2 - octave)) & 3 };
    ((octave * 4 + quarter) as usize).min(CLASSES - 1)
}

/// The shortest length of a class.
fn begin(class: usize) -> f32 {
    let octave = 2_f32.powi((class / 4) as i32);
    if class == 0 { 0.0 } else { octave * (4 + class % 4) as f32 / 4.0 }
}

impl Outputs {
    pub(crate) fn new() -> Self {
        Self {
            repeated: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            repeats_hold: AtomicBool::new(true),
            left: [const { AtomicU32::new(ASSUMED) }; CLASSES],
            limits_hold: AtomicBool::new(true),
            seen: Mutex::new(Seen {
                classes: [(0.0, 0.0); CLASSES],
                answers: 0,
                limit_error: 0.0,
                mean_error: 0.0,
                repeat_error: 0.0,
                repeat_mean_error: 0.0,
            }),
        }
    }

    /// What to expect of a request with this limit, and the hash of all of its prompt.
    pub(crate) fn expect(&self, limit: Option<u32>, prompt: Option<u64>) -> Expected {
        let exact = limit.is_some() && self.limits_hold.load(Relaxed);
        let last = if exact { None } else { self.last(prompt) };
        Expected { limit: limit.unwrap_or(u32::MAX), exact, prompt, last }
    }

    /// Length of the last answer to this prompt.
    fn last(&self, prompt: Option<u64>) -> Option<u32> {
        let prompt = prompt?;
        let entry = self.place(prompt).load(Relaxed);
        let length = (entry & u64::from(LONGEST)).checked_sub(1)?;
        (entry >> 22 == prompt >> 22).then_some(length as u32)
    }

    fn place(&self, prompt: u64) -> &AtomicU64 {
        &self.repeated[prompt as usize % REMEMBERED]
    }

    /// Tokens still to come after `produced` ones.
    pub(crate) fn left(&self, expected: Expected, produced: u32) -> u32 {
        let most = expected.limit.saturating_sub(produced);
        if expected.exact {
            return most;
        }
        let last = expected.last.filter(|_| self.repeats_hold.load(Relaxed));
        let as_before = last.and_then(|last| last.checked_sub(produced)).filter(|left| *left > 0);
        as_before.unwrap_or_else(|| self.left[class(produced)].load(Relaxed)).min(most)
    }

    /// An answer ended after `tokens`.
    pub(crate) fn ended(&self, expected: Expected, tokens: u32) {
        let last = self.last(expected.prompt);
        if let Some(prompt) = expected.prompt {
            let length = u64::from(tokens.min(LONGEST - 1)) + 1;
            self.place(prompt).store(prompt >> 22 << 22 | length, Relaxed);
        }
        let mut seen = self.seen.lock();
        let mean = self.left[0].load(Relaxed).min(expected.limit);
        let mean_error = tokens.abs_diff(mean) as f32;
        if let Some(last) = last {
            seen.repeat_error += (tokens.abs_diff(last) as f32 - seen.repeat_error) / 64.0;
            seen.repeat_mean_error += (mean_error - seen.repeat_mean_error) / 64.0;
            self.repeats_hold.store(seen.repeat_error <= seen.repeat_mean_error, Relaxed);
        }
        if expected.limit != u32::MAX {
            let limit_error = tokens.abs_diff(expected.limit) as f32;
            seen.limit_error += (limit_error - seen.limit_error) / 64.0;
            seen.mean_error += (mean_error - seen.mean_error) / 64.0;
            self.limits_hold.store(seen.limit_error <= seen.mean_error, Relaxed);
        }
        for (weight, sum) in &mut seen.classes {
            (*weight, *sum) = (*weight * FADE, *sum * FADE);
        }
        let (weight, sum) = &mut seen.classes[class(tokens)];
        *weight += 1.0;
        *sum += tokens as f32;
        seen.answers = seen.answers.wrapping_add(1);
        if seen.answers < RENEWAL || seen.answers.is_multiple_of(RENEWAL) {
            self.renew(&seen);
        }
    }

    fn renew(&self, seen: &Seen) {
        let (mut weight, mut sum, mut left) = (0.0, 0.0, 1.0);
        for (class, (in_class, sum_in_class)) in seen.classes.iter().enumerate().rev() {
            weight += in_class;
            sum += sum_in_class;
            if weight >= 0.5 {
                left = (sum / weight - begin(class)).max(1.0);
            }
            // Beyond the longest answer seen, as much as the longest one had left.
            self.left[class].store(left as u32, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_in_order() {
        let mut last = 0;
        for tokens in 0..300_000 {
            let class = class(tokens);
            assert!(class >= last && class < CLASSES);
            last = class;
        }
        assert_eq!([0, 1, 2, 3, 4, 5, 8, 1 << 20].map(class), [0, 0, 4, 6, 8, 9, 12, 63]);
        assert_eq!((begin(CLASSES - 1), class(57_343), class(57_344)), (57_344.0, 62, 63));
    }

    #[test]
    fn a_length_that_is_said_is_believed_while_it_is_right() {
        let outputs = Outputs::new();
        let exact = outputs.expect(Some(700), None);
        assert_eq!(
            (outputs.left(exact, 0), outputs.left(exact, 650), outputs.left(exact, 900)),
            (700, 50, 0)
        );
        for answer in 0..200 {
            outputs.ended(outputs.expect(Some(4096), None), 90 + answer % 20);
        }
        let limit = outputs.expect(Some(4096), None);
        assert!((95..105).contains(&outputs.left(limit, 0)), "the limit is not what comes");
        assert_eq!(outputs.left(outputs.expect(Some(8), None), 0), 8, "but nothing gets longer");
        for answer in 0..400_u32 {
            let length = 10 + 90 * (answer % 9);
            outputs.ended(outputs.expect(Some(length), None), length);
        }
        assert_eq!(outputs.left(outputs.expect(Some(333), None), 0), 333, "believed again");
    }

    #[test]
    fn long_answers_are_expected_to_go_on() {
        let outputs = Outputs::new();
        let unknown = outputs.expect(None, None);
        assert_eq!(outputs.left(unknown, 0), ASSUMED);
        for answer in 0..1000 {
            outputs.ended(unknown, if answer % 10 == 0 { 1000 } else { 20 });
        }
        assert!((115..122).contains(&outputs.left(unknown, 0)), "{}", outputs.left(unknown, 0));
        assert!(outputs.left(unknown, 40) > 900, "only the long ones are left");
        assert!(outputs.left(unknown, 5000) >= 1, "longer than all that was seen");
    }

    #[test]
    fn a_prompt_that_comes_again_gets_as_long_an_answer_while_that_is_so() {
        let outputs = Outputs::new();
        let prompt = |id: u64| Some(xxhash_rust::xxh3::xxh3_64(&id.to_le_bytes()));
        for id in 0..300 {
            outputs.ended(outputs.expect(None, prompt(id)), 10 + 3 * id as u32);
        }
        let left = |id, produced| outputs.left(outputs.expect(None, prompt(id)), produced);
        assert_eq!((left(20, 0), left(250, 0), left(250, 700)), (70, 760, 60));
        assert_eq!(left(999, 0), left(998, 0), "never seen");
        assert!(left(20, 80) > 70, "longer than last time: as others of this length");
        for round in 0..1000 {
            outputs.ended(outputs.expect(None, prompt(7)), if round % 2 == 0 { 900 } else { 20 });
        }
        assert_eq!(left(250, 0), left(999, 0), "the last answer says nothing any more");
    }
}
