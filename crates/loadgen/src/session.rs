//! A session on its way through its turns.
//!
//! A session has one owner at a time and moves between them: the planner writes the body of its next request, the
//! queue of a thread holds it until it is due, and a connection holds it while a request is under way. Its history
//! holds what was said so far, and grows by the server's real answers.

use std::{sync::Arc, time::Duration};

use protocol::{BYTES_PER_TOKEN, estimate_tokens};
use report::{Count, CountSource};
use workload::{Arrival, Message, Prompt, Request, Turn};

use crate::{Options, RouteKey};

/// A session, and the request it is about to send.
#[derive(Debug)]
pub(crate) struct Session {
    /// Position in the plan, over all phases.
    pub(crate) position: u64,
    /// Position of the session in its phase.
    pub(crate) ordinal: u64,
    /// Position in its phase of the session's first request.
    first_index: u64,
    /// The session's name in the plan.
    pub(crate) id: u64,
    /// The thread that serves it.
    pub(crate) thread: usize,
    /// Since the start of the phase.
    pub(crate) at: Duration,
    turns: Vec<Turn>,
    turn: usize,
    /// The target, once it is settled.
    pub(crate) target: Option<u16>,
    /// The connection of its own, with sticky sessions.
    pub(crate) connection: Option<ConnectionId>,
    history: Vec<Message>,
    /// Body of the next request.
    pub(crate) body: Vec<u8>,
    /// What the choice of its target depends on.
    pub(crate) key: RouteKey,
    /// Prompt length of the next request, where the server does not say.
    pub(crate) input_tokens: Count,
    /// When the next request is due, since the start of the run.
    pub(crate) due: Duration,
    /// When its slot was granted.
    pub(crate) admitted: Duration,
    /// How long after its planned time the next request is due.
    pub(crate) behind: Duration,
    /// How long it was late for want of a processor.
    pub(crate) core_wait: Duration,
}

/// A connection of a thread. The serial number tells it from a later one in the same place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ConnectionId {
    pub(crate) place: usize,
    pub(crate) serial: u64,
}

/// Where in the plan a session stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// Position of the session, over all phases.
    pub(crate) position: u64,
    /// Position of the session in its phase.
    pub(crate) ordinal: u64,
    /// Position of its first request in its phase.
    pub(crate) first_index: u64,
}

impl Session {
    pub(crate) fn new(place: Place, thread: usize, arrival: Arrival) -> Self {
        let Arrival { at, session } = arrival;
        Self {
            position: place.position,
            ordinal: place.ordinal,
            first_index: place.first_index,
            id: session.id,
            thread,
            at,
            turns: session.turns,
            turn: 0,
            target: session.target,
            connection: None,
            history: Vec::new(),
            body: Vec::new(),
            key: RouteKey::default(),
            input_tokens: Count::default(),
            due: Duration::ZERO,
            admitted: Duration::ZERO,
            behind: Duration::ZERO,
            core_wait: Duration::ZERO,
        }
    }

    pub(crate) fn request(&self) -> &Request {
        &self.turns[self.turn].request
    }

    /// Its name in the data.
    pub(crate) fn conversation(&self) -> Option<Arc<str>> {
        self.turns[self.turn].conversation.clone()
    }

    pub(crate) fn turn(&self) -> u32 {
        u32::try_from(self.turn).unwrap_or(u32::MAX)
    }

    /// Position in the phase of the current request.
    pub(crate) fn index(&self) -> u64 {
        self.first_index + self.turn as u64
    }

    pub(crate) fn has_more_turns(&self) -> bool {
        self.turn + 1 < self.turns.len()
    }

    /// Writes the body of the current request.
    pub(crate) fn render(&mut self, options: &Options) {
        self.body.clear();
        let Turn { request, prompt_limit, .. } = &self.turns[self.turn];
        let counted =
            |history: &[Message]| options.count_prompt.as_ref().and_then(|count| count(request, history));
        if let Some(limit) = *prompt_limit {
            let tokens = |history: &[Message]| {
                counted(history).unwrap_or_else(|| input_tokens(request, history, 0).tokens)
            };
            while tokens(&self.history) > limit && forget_oldest(&mut self.history) {}
        }
        (options.render)(request, &self.history, &mut self.body);
        self.key = options.chooser.prepare(request, &self.body);
        self.input_tokens = match counted(&self.history) {
            Some(tokens) => Count { tokens, source: CountSource::Tokenizer },
            None => input_tokens(request, &self.history, self.body.len()),
        };
    }

    /// Goes on to the next turn, due at `due` by the think time after `done`. A turn that was not answered leaves
    /// its messages in the history, without an answer. A whole prompt begins the history anew.
    pub(crate) fn advance(&mut self, answer: Option<&str>, done: Duration, phase_start: Duration) {
        if self.turns[self.turn + 1].request.is_whole {
            self.history.clear();
        } else {
            self.turns[self.turn].request.prompt.extend_history(&mut self.history);
            self.history.extend(answer.map(|answer| Message::new("assistant", Arc::from(answer))));
        }
        self.turn += 1;
        let turn = &self.turns[self.turn];
        let ready = done + turn.delay;
        let planned = turn.not_before.map(|earliest| phase_start + earliest);
        self.due = planned.map_or(ready, |planned| planned.max(ready));
        self.behind = planned.map_or(Duration::ZERO, |planned| self.due - planned);
        self.core_wait = Duration::ZERO;
    }
}

/// Takes the oldest exchange out, what the system says left in; false if there is none.
fn forget_oldest(history: &mut Vec<Message>) -> bool {
    let Some(first) = history.iter().position(|message| &*message.role != "system") else { return false };
    let next = history[first + 1..].iter().position(|message| &*message.role != "assistant");
    history.drain(first..next.map_or(history.len(), |next| first + 1 + next));
    true
}

fn input_tokens(request: &Request, history: &[Message], body_bytes: usize) -> Count {
    let said = |messages: &[Message]| messages.iter().map(|message| message.content.len()).sum::<usize>();
    let own_bytes = match &request.prompt {
        Prompt::Blocks { tokens, .. } => *tokens as usize * BYTES_PER_TOKEN,
        Prompt::Text(text) => text.len(),
        Prompt::Messages(messages) => said(messages),
        Prompt::Raw(_) => body_bytes,
    };
    let stated = match &request.prompt {
        Prompt::Blocks { tokens, .. } => Some(*tokens),
        _ => request.input_tokens,
    };
    match stated {
        Some(tokens) if history.is_empty() || is_whole(request) => {
            Count { tokens, source: CountSource::Dataset }
        }
        _ => Count { tokens: estimate_tokens(own_bytes + said(history)), source: CountSource::Estimate },
    }
}

/// Whether a request brings the earlier messages of its session itself.
fn is_whole(request: &Request) -> bool {
    request.is_whole || request.extra.as_ref().is_some_and(|keys| keys.contains_key("messages"))
}

#[cfg(test)]
mod tests {
    use protocol::Endpoint;

    use super::*;

    fn session(turns: Vec<Turn>) -> Session {
        let place = Place { position: 3, ordinal: 3, first_index: 10 };
        let session = workload::Session { id: 7, turns, target: None };
        Session::new(place, 0, Arrival { at: Duration::ZERO, session })
    }

    fn text(text: &str) -> Request {
        Request::new(Endpoint::ChatCompletions, "m", Prompt::Text(text.into()))
    }

    #[test]
    fn the_history_holds_both_sides_and_skips_missing_answers() {
        let options = Options::new(Arc::new(|request, history, out| {
            let Prompt::Text(text) = &request.prompt else { return };
            for message in history {
                out.extend_from_slice(format!("{}:{};", message.role, message.content).as_bytes());
            }
            out.extend_from_slice(text.as_bytes());
        }));
        let mut session = session(vec![text("a").into(), text("b").into(), text("c").into()]);
        session.advance(Some("A"), Duration::ZERO, Duration::ZERO);
        session.render(&options);
        assert_eq!(session.body, b"user:a;assistant:A;b");
        session.advance(None, Duration::ZERO, Duration::ZERO);
        session.render(&options);
        assert_eq!(session.body, b"user:a;assistant:A;user:b;c");
        assert_eq!((session.turn(), session.index(), session.has_more_turns()), (2, 12, false));
    }

    #[test]
    fn the_oldest_exchanges_are_left_out_where_a_prompt_has_a_limit() {
        let options = Options::new(Arc::new(|_, history, out| {
            history.iter().for_each(|message| out.extend_from_slice(message.content.as_bytes()));
        }));
        let mut first = text("");
        first.prompt = Prompt::Messages([Message::new("system", "sys."), Message::user("one.")].into());
        let later = |words: &str, limit| Turn { prompt_limit: Some(limit), ..text(words).into() };
        let turns = vec![first.into(), later("two.", 9), later("now.", 4), later("end.", 1)];
        let mut session = session(turns);
        for (answer, said) in [("One.", "sys.one.One."), ("Two.", "sys.two.Two."), ("Now.", "sys.")] {
            session.advance(Some(answer), Duration::ZERO, Duration::ZERO);
            session.render(&options);
            assert_eq!(session.body, said.as_bytes(), "the system's words stay, whatever the limit");
        }
    }

    #[test]
    fn a_whole_prompt_begins_the_history_anew() {
        let whole = Request { is_whole: true, ..text("b") };
        let mut session = session(vec![text("a").into(), whole.into(), text("c").into()]);
        session.advance(Some("A"), Duration::ZERO, Duration::ZERO);
        assert!(session.history.is_empty());
        session.advance(Some("B"), Duration::ZERO, Duration::ZERO);
        assert_eq!(session.history, [Message::user("b"), Message::new("assistant", "B")]);
    }

    #[test]
    fn a_turn_is_due_after_its_think_time_and_not_before_its_time() {
        let seconds = Duration::from_secs;
        let turn = |delay, not_before: Option<u64>| Turn {
            delay: seconds(delay),
            not_before: not_before.map(seconds),
            ..text("x").into()
        };
        let mut session = session(vec![turn(9, None), turn(2, None), turn(2, Some(30)), turn(2, Some(1))]);
        session.advance(None, seconds(10), seconds(5));
        assert_eq!((session.due, session.behind), (seconds(12), seconds(0)));
        session.advance(None, seconds(12), seconds(5));
        assert_eq!((session.due, session.behind), (seconds(35), seconds(0)));
        session.advance(None, seconds(40), seconds(5));
        assert_eq!((session.due, session.behind), (seconds(42), seconds(36)));
    }

    #[test]
    fn a_stated_prompt_length_covers_the_first_turn_only() {
        let mut request = text("12345678");
        request.input_tokens = Some(5);
        assert_eq!(input_tokens(&request, &[], 0), Count { tokens: 5, source: CountSource::Dataset });
        let history = [Message::user("abcd")];
        assert_eq!(input_tokens(&request, &history, 0), Count { tokens: 3, source: CountSource::Estimate });
        let blocks =
            Prompt::Blocks { ids: [1].into(), with_answer: false, block_tokens: 16, tokens: 20, tail: 0 };
        let request = Request::new(Endpoint::Completions, "m", blocks);
        assert_eq!(input_tokens(&request, &history, 0), Count { tokens: 20, source: CountSource::Dataset });
        let request = Request { is_whole: false, ..request };
        assert_eq!(input_tokens(&request, &history, 0), Count { tokens: 21, source: CountSource::Estimate });
    }
}
