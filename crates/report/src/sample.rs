//! Handmade records for tests.

use std::{sync::Arc, time::Duration};

use crate::{Chunk, Count, CountSource, Outcome, Record};

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// An answered request, sent on time: `tokens` tokens, the first after `ttft_ms`, the others `gap_ms` apart.
pub(crate) fn request(sent_ms: u64, ttft_ms: u64, gap_ms: u64, tokens: u32) -> Record {
    let chunks: Vec<Chunk> = (0..u64::from(tokens))
        .map(|index| Chunk { at: ms(sent_ms + ttft_ms + index * gap_ms), tokens: 1 })
        .collect();
    Record {
        model: Arc::from("m"),
        scheduled: ms(sent_ms),
        admitted: ms(sent_ms),
        sent: Some(ms(sent_ms)),
        written: Some(ms(sent_ms)),
        headers: Some(ms(sent_ms + ttft_ms)),
        first_byte: Some(ms(sent_ms + ttft_ms)),
        first_answer: chunks.first().map(|chunk| chunk.at),
        done: chunks.last().map_or(ms(sent_ms), |chunk| chunk.at),
        chunks,
        connection_reused: true,
        input_tokens: Count { tokens: 100, source: CountSource::Usage },
        output_tokens: Count { tokens, source: CountSource::Usage },
        requested_tokens: Some(tokens),
        status: Some(200),
        response_bytes: 100 * u64::from(tokens),
        outcome: Outcome::Success,
        ..Record::default()
    }
}

/// A request that ended badly, `after_ms` after it was sent.
pub(crate) fn failure(sent_ms: u64, after_ms: u64, outcome: Outcome) -> Record {
    let mut record = request(sent_ms, 0, 0, 0);
    record.done = ms(sent_ms + after_ms);
    record.status = match outcome {
        Outcome::Status(status, _) => Some(status),
        _ => None,
    };
    record.outcome = outcome;
    record
}
