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
        phase: 0,
        index: 0,
        session: 0,
        turn: 0,
        target: 0,
        model: Arc::from("m"),
        scheduled: ms(sent_ms),
        admitted: ms(sent_ms),
        sent: Some(ms(sent_ms)),
        written: Some(ms(sent_ms)),
        headers: Some(ms(sent_ms + ttft_ms)),
        first_answer: chunks.first().map(|chunk| chunk.at),
        done: chunks.last().map_or(ms(sent_ms), |chunk| chunk.at),
        chunks,
        connection_reused: true,
        connect: None,
        input_tokens: Count { tokens: 100, source: CountSource::Usage },
        output_tokens: Count { tokens, source: CountSource::Usage },
        reasoning_tokens: None,
        cached_tokens: None,
        requested_tokens: Some(tokens),
        own_input_tokens: None,
        own_output_tokens: None,
        own_reasoning_tokens: None,
        request_bytes: 0,
        response_bytes: 0,
        retries: 0,
        retried_for: Duration::ZERO,
        session_wait: Duration::ZERO,
        core_wait: Duration::ZERO,
        status: Some(200),
        outcome: Outcome::Success,
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
