//! One request and its answer, from the moment it is issued to its record.

use std::{
    io::{self, IoSlice, Write},
    time::Duration,
};

use report::{Count, CountSource, Outcome, Record};
use workload::Request;

use crate::{
    ChunkRule, Guard, Options,
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
    /// When it was first started.
    pub(crate) begun: Duration,
    /// How often it has been tried again, and how long after its beginning it was the last time.
    pub(crate) retries: u16,
    pub(crate) retried_for: Duration,
    pub(crate) request_bytes: usize,
    /// The body, where it is kept.
    pub(crate) kept_body: Option<Vec<u8>>,
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
        options: &Options,
        begun: Duration,
    ) -> Self {
        let request = session.request();
        let keep_text = options.keep_answers || session.has_more_turns();
        Self {
            answer: new_answer(request, keep_text, options.keep_bodies, options.chunk_rule),
            request_bytes: session.body.len(),
            kept_body: options.keep_bodies.then(|| session.body.clone()),
            begun,
            retries: 0,
            retried_for: Duration::ZERO,
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
        match socket.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            flushed => flushed.map(|()| true),
        }
    }

    /// Starts over on another connection.
    pub(crate) fn rewind(&mut self) {
        self.written_bytes = 0;
        // Its times are those of the attempt that is answered: a connection is opened before the first byte.
        (self.sent, self.written, self.connect) = (None, None, None);
        self.resent = true;
        self.reused = false;
    }

    /// Starts over after a failure before any answer.
    pub(crate) fn try_again(&mut self, now: Duration) {
        let request = self.session.request();
        let bodies = self.kept_body.is_some();
        self.answer = new_answer(request, self.answer.keeps_text(), bodies, self.answer.chunk_rule());
        self.response = Response::default();
        self.rewind();
        self.resent = false;
        self.addresses_tried = 0;
        self.retried_for = now.saturating_sub(self.begun);
    }

    /// The record, the text of the answer, and the session.
    pub(crate) fn conclude(self, phase: u16, outcome: Outcome, done: Duration) -> Concluded {
        let Self { session, answer, response, .. } = self;
        let Measured {
            chunks,
            ended,
            first_answer,
            usage,
            output_tokens,
            own_reasoning_tokens,
            bytes,
            reads,
            first_byte,
            mut text,
        } = answer.into_measured();
        if let (Some(bodies), Some(request)) = (&mut text.bodies, self.kept_body) {
            bodies.request = request;
        }
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
            ended,
            first_answer,
            connection_reused: self.reused,
            connect: self.connect,
            input_tokens,
            output_tokens,
            reasoning_tokens: usage.and_then(|usage| usage.reasoning_tokens),
            own_reasoning_tokens,
            cached_tokens: usage.and_then(|usage| usage.cached_tokens),
            status: response.status(),
            request_bytes: u32::try_from(self.request_bytes).unwrap_or(u32::MAX),
            response_bytes: bytes,
            response_reads: reads,
            first_byte,
            retries: self.retries,
            retried_for: self.retried_for,
            ..unsent(&session, phase, outcome, done)
        };
        Concluded { record, text, session }
    }
}

fn new_answer(request: &Request, keep_text: bool, keep_bodies: bool, rule: ChunkRule) -> Answer {
    Answer::new(request.endpoint, request.stream, request.output_tokens, keep_text, keep_bodies, rule)
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
        conversation: session.conversation(),
        turn: session.turn(),
        target: session.target.unwrap_or(u16::MAX),
        model: request.model.clone(),
        scheduled: session.due,
        admitted: session.admitted,
        done,
        input_tokens: session.input_tokens,
        requested_tokens: request.output_tokens,
        own_input_tokens: (session.input_tokens.source != CountSource::Estimate)
            .then_some(session.input_tokens.tokens),
        request_bytes: u32::try_from(session.body.len()).unwrap_or(u32::MAX),
        session_wait: session.behind,
        core_wait: session.core_wait,
        outcome,
        ..Record::default()
    }
}
