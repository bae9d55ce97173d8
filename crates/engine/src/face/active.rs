//! A request in an engine: what is asked, what was sent, and what goes wrong on purpose on the way.

use std::{rc::Rc, sync::Arc, time::Duration};

use protocol::Usage;

use super::{
    adapters::Served,
    connection::Link,
    fault::{Fault, Midway},
    feed::{Feed, FeedState, Generated},
    metrics::Finished,
    reply::Script,
};

const MALFORMED_EVENT: &[u8] = b"data: {\"id\":\n\n";

/// What is asked of the engine.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) served: Served,
    pub(crate) block_hashes: Arc<[u64]>,
    /// Of prompt and answer, where somebody is told of them.
    pub(crate) token_ids: Vec<u32>,
    pub(crate) prompt_tokens: u32,
    pub(crate) max_tokens: u32,
    pub(crate) script: Rc<Script>,
    pub(crate) fault: Option<Fault>,
    pub(crate) link: Rc<Link>,
}

/// A request in the engine, from its submission to its last token or to its abort.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) job: Job,
    feed: Rc<Feed>,
    pub(crate) arrived: Duration,
    /// Since its arrival.
    pub(crate) admitted: Duration,
    pub(crate) first_token: Duration,
    pub(crate) last_token: Duration,
    pub(crate) cached_tokens: u32,
    /// Generated so far.
    pub(crate) tokens: u32,
}

impl Active {
    pub(crate) fn new(job: Job, feed: Rc<Feed>, now: Duration) -> Self {
        Self {
            job,
            feed,
            arrived: now,
            admitted: Duration::ZERO,
            first_token: now,
            last_token: now,
            cached_tokens: 0,
            tokens: 0,
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.job.prompt_tokens,
            completion_tokens: self.tokens,
            cached_tokens: Some(self.cached_tokens),
            reasoning_tokens: None,
        }
    }

    /// Sends one more token.
    pub(crate) fn token(&mut self, now: Duration) {
        let index = self.tokens;
        self.last_token = now;
        self.fail(index);
        self.tokens += 1;
        if self.job.script.streams() {
            let usage = self.usage();
            self.feed.append(|out| self.job.script.write_token(index, usage, out));
        }
    }

    /// Lets the answer go wrong if it is to do so after `tokens` tokens. An answer in one piece is written then, and
    /// spoilt by its writer.
    fn fail(&self, tokens: u32) {
        let Some(Fault::After(when, midway)) = self.job.fault else { return };
        if when != tokens {
            return;
        }
        match midway {
            Midway::Reset => {
                self.job.link.reset_on_close();
                self.feed.end(FeedState::Broken);
            }
            Midway::Stall => self.feed.end(FeedState::Stalled),
            _ if !self.job.script.streams() => self.feed.end(self.generated(Some(midway))),
            Midway::Truncate => self.feed.end(FeedState::Broken),
            Midway::End => self.feed.end(FeedState::Complete),
            Midway::Error => {
                self.feed.append(|out| out.extend_from_slice(self.job.script.error_event()));
                self.feed.end(FeedState::Complete);
            }
            Midway::Malformed => self.feed.append(|out| out.extend_from_slice(MALFORMED_EVENT)),
        }
    }

    fn generated(&self, fault: Option<Midway>) -> FeedState {
        FeedState::Generated(Generated { usage: self.usage(), fault })
    }

    /// Ends the answer, after the last token.
    pub(crate) fn finish(&self) {
        if self.tokens == 0 {
            self.fail(0);
        }
        let streams = self.job.script.streams();
        self.feed.end(if streams { FeedState::Complete } else { self.generated(None) });
        self.feed.release();
    }

    /// What the metrics want to know.
    pub(crate) fn finished(&self) -> Finished {
        Finished {
            stopped: self.job.script.answer.stopped,
            prompt_tokens: self.job.prompt_tokens,
            output_tokens: self.tokens,
            max_tokens: self.job.max_tokens,
            admitted: self.admitted,
            first_token: self.first_token.saturating_sub(self.arrived),
            last_token: self.last_token.saturating_sub(self.arrived),
        }
    }
}
