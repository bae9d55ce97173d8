//! One request and its answer, from the moment it is issued to its record.

use std::{
    io::{self, IoSlice, Write},
    time::Duration,
};

use report::{Count, CountSource, Outcome, Record};

use crate::{
    Guard,
    answer::{Answer, AnswerText, Measured},
    response::Response,
    session::Session,
    timers::TimerKey,
};

/// A request under way.
pub(crate) struct Exchange {
    pub(crate) session: Box<Session>,
    pub(crate) target: u16,
    pub(crate) guard: Option<Box<dyn Guard>>,
    pub(crate) head: Vec<u8>,
    /// Bytes of head and body that the kernel has taken.
    written_bytes: usize,
    pub(crate) response: Response,
    pub(crate) answer: Answer,
    pub(crate) sent: Option<Duration>,
    pub(crate) written: Option<Duration>,
    pub(crate) headers: Option<Duration>,
    pub(crate) connect: Option<Duration>,
    /// The connection had served a request before.
    pub(crate) reused: bool,
    /// Addresses of the target that did not take a connection.
    pub(crate) addresses_tried: usize,
    /// It has been moved off a dead connection once.
    pub(crate) resent: bool,
    /// It holds a slot of the limit on prefills.
    pub(crate) prefill_slot: bool,
    pub(crate) time_limit: Option<TimerKey>,
    pub(crate) connect_limit: Option<TimerKey>,
    pub(crate) cancellation: Option<TimerKey>,
}

impl Exchange {
    pub(crate) fn new(
        session: Box<Session>,
        target: u16,
        guard: Option<Box<dyn Guard>>,
        keep_text: bool,
    ) -> Self {
        let request = session.request();
        let keep_text = keep_text || session.has_more_turns();
        Self {
            answer: Answer::new(request.endpoint, request.stream, request.output_tokens, keep_text),
            session,
            target,
            guard,
            head: Vec::with_capacity(512),
            written_bytes: 0,
            response: Response::default(),
            sent: None,
            written: None,
            headers: None,
            connect: None,
            reused: false,
            addresses_tried: 0,
            resent: false,
            prefill_slot: false,
            time_limit: None,
            connect_limit: None,
            cancellation: None,
        }
    }

    pub(crate) fn is_written(&self) -> bool {
        self.written.is_some()
    }

    /// Hands bytes to the kernel, as many as it takes. True when it has taken all.
    pub(crate) fn write_to(&mut self, socket: &mut impl Write, now: Duration) -> io::Result<bool> {
        let total = self.head.len() + self.session.body.len();
        while self.written_bytes < total {
            let from_head = self.written_bytes.min(self.head.len());
            let from_body = self.written_bytes - from_head;
            let parts =
                [IoSlice::new(&self.head[from_head..]), IoSlice::new(&self.session.body[from_body..])];
            match socket.write_vectored(&parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written_bytes += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.sent.get_or_insert(now);
        }
        Ok(true)
    }

    /// Starts over on another connection.
    pub(crate) fn rewind(&mut self) {
        self.written_bytes = 0;
        self.written = None;
        self.resent = true;
        self.reused = false;
    }

    /// The record, the text of the answer, and the session.
    pub(crate) fn conclude(self, phase: u16, outcome: Outcome, done: Duration) -> Concluded {
        let Self { session, answer, response, .. } = self;
        let Measured { chunks, first_answer, usage, output_tokens, text } = answer.into_measured();
        let input_tokens = match usage {
            Some(usage) if usage.prompt_tokens > 0 => {
                Count { tokens: usage.prompt_tokens, source: CountSource::Usage }
            }
            _ => session.input_tokens,
        };
        let record = Record {
            target: self.target,
            sent: self.sent,
            written: self.written,
            headers: self.headers,
            chunks,
            first_answer,
            connection_reused: self.reused,
            connect: self.connect,
            input_tokens,
            output_tokens,
            reasoning_tokens: usage.and_then(|usage| usage.reasoning_tokens),
            cached_tokens: usage.and_then(|usage| usage.cached_tokens),
            status: response.status(),
            ..unsent(&session, phase, outcome, done)
        };
        Concluded { record, text, session }
    }
}

/// What is left of a request that is over.
#[derive(Debug)]
pub(crate) struct Concluded {
    pub(crate) record: Record,
    pub(crate) text: AnswerText,
    pub(crate) session: Box<Session>,
}

/// The record of a request that was not sent. It belongs to no target, unless its session has one.
pub(crate) fn unsent(session: &Session, phase: u16, outcome: Outcome, done: Duration) -> Record {
    let request = session.request();
    Record {
        phase,
        index: session.index(),
        session: session.id,
        turn: session.turn(),
        target: session.target.unwrap_or(u16::MAX),
        model: request.model.clone(),
        scheduled: session.due,
        admitted: session.admitted,
        sent: None,
        written: None,
        headers: None,
        chunks: Vec::new(),
        first_answer: None,
        done,
        connection_reused: false,
        connect: None,
        input_tokens: session.input_tokens,
        output_tokens: Count::default(),
        reasoning_tokens: None,
        cached_tokens: None,
        requested_tokens: request.output_tokens,
        status: None,
        outcome,
    }
}
