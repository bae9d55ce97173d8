//! Asks replicas what the tokens of the prompts are that they were sent.
//!
//! Beside the data path, and within bounds: a prompt waits in a queue of limited length and size, from which it is
//! dropped before anything slows down; few questions are open at once; a replica that does not know the question
//! (`POST /tokenize`, as in vLLM) is not asked again for a while. A prompt that is given as tokens needs no
//! question. Nothing is asked about a prompt that is known to its last block.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use protocol::{Endpoint, RequestView};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_local,
};

use super::{Room, correspondence::Prompt};
use crate::{
    fleet::Backend,
    probe::{self, ProbeError},
    security::Security,
    shared::Shared,
};

const PATH: &str = "/tokenize";
/// Time for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer: some ten for each of a million tokens.
const MOST_ANSWER_BYTES: usize = 16 << 20;
/// Prompts that wait, and their bytes.
const MOST_WAITING: usize = 256;
const MOST_WAITING_BYTES: usize = 32 << 20;
/// Questions that are open at once.
const MOST_QUESTIONS: usize = 4;
/// A replica that did not answer is asked again after this time.
const REFUSAL: Duration = Duration::from_secs(60);
/// Members of a request that decide about its tokens.
const MEMBERS: [&str; 11] = [
    "model",
    "prompt",
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "chat_template",
    "chat_template_kwargs",
    "mm_processor_kwargs",
];

/// The way of prompts from the data path to the control thread.
#[derive(Debug)]
pub(crate) struct Lessons {
    sender: mpsc::Sender<Lesson>,
    receiver: Mutex<Option<mpsc::Receiver<Lesson>>>,
    waiting_bytes: AtomicUsize,
}

/// A prompt that a replica answers.
#[derive(Debug)]
struct Lesson {
    replica: u64,
    endpoint: Endpoint,
    body: Bytes,
}

impl Default for Lessons {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        Self { sender, receiver: Mutex::new(Some(receiver)), waiting_bytes: AtomicUsize::new(0) }
    }
}

impl Lessons {
    /// A replica answers this request.
    pub(crate) fn offer(&self, shared: &Shared, backend: &Backend, endpoint: Endpoint, body: &Bytes) {
        let told = matches!(endpoint, Endpoint::Completions | Endpoint::ChatCompletions);
        if backend.kv_events.is_none() || !told || !shared.fleet.router.policy().needs().blocks {
            return;
        }
        let bytes = self.waiting_bytes.fetch_add(body.len(), Relaxed) + body.len();
        let lesson = Lesson { replica: backend.id, endpoint, body: body.clone() };
        if bytes > MOST_WAITING_BYTES || self.sender.try_send(lesson).is_err() {
            self.waiting_bytes.fetch_sub(body.len(), Relaxed);
            shared.metrics.lessons.dropped.add(1);
        }
    }
}

/// Learns from all prompts that are offered, for ever.
pub(super) async fn learn(room: Rc<Room>) {
    let lessons = &room.shared.lessons;
    let Some(mut receiver) = lessons.receiver.lock().take() else { return };
    let questions = Arc::new(Semaphore::new(MOST_QUESTIONS));
    let refused: Rc<RefCell<HashMap<u64, Instant>>> = Rc::default();
    while let Some(lesson) = receiver.recv().await {
        lessons.waiting_bytes.fetch_sub(lesson.body.len(), Relaxed);
        let Ok(permit) = Arc::clone(&questions).acquire_owned().await else { return };
        let (room, refused) = (Rc::clone(&room), Rc::clone(&refused));
        spawn_local(async move {
            room.take_lesson(lesson, &refused).await;
            drop(permit);
        });
    }
}

impl Room {
    async fn take_lesson(&self, lesson: Lesson, refused: &RefCell<HashMap<u64, Instant>>) {
        let Lesson { replica, endpoint, body } = lesson;
        let Ok(view) = RequestView::parse(endpoint, &body) else { return };
        let (mut text, mut blocks) = (Vec::new(), Vec::new());
        view.render_prompt(&mut text);
        protocol::block_hashes(view.model.as_bytes(), &text, &mut blocks);
        if self.correspondence.borrow().knows(&blocks) {
            return;
        }
        let adapter = Some(&*view.model).filter(|model| self.is_adapter(model));
        let told;
        let tokens = match view.token_ids() {
            Some(tokens) => tokens,
            None => {
                let Some(backend) = self.shared.fleet.backend(replica) else { return };
                if refused.borrow().get(&replica).is_some_and(|at| at.elapsed() < REFUSAL) {
                    return;
                }
                match ask(&self.shared.security, &backend, &body).await {
                    Ok(tokens) => told = tokens,
                    Err(problem) => {
                        self.shared.metrics.lessons.failed.add(1);
                        if problem.lasts && refused.borrow_mut().insert(replica, Instant::now()).is_none() {
                            tracing::warn!(
                                replica = %backend.authority, problem = problem.what,
                                "tokens are not told; without them its cache events say little about prompts"
                            );
                        }
                        return;
                    }
                }
                &told
            }
        };
        self.shared.metrics.lessons.taken.add(1);
        self.learn(&Prompt { adapter, blocks: &blocks, bytes: text.len(), tokens });
    }
}

/// Why no tokens were told.
struct Problem {
    what: String,
    /// It would be the same with the next prompt.
    lasts: bool,
}

async fn ask(security: &Security, backend: &Arc<Backend>, body: &[u8]) -> Result<Vec<u32>, Problem> {
    #[derive(Deserialize)]
    struct Answer {
        tokens: Vec<u32>,
    }
    let Some(question) = question(body) else {
        return Err(Problem { what: "the prompt is a list".into(), lasts: false });
    };
    match probe::post(security, backend, PATH, question, TIMEOUT, MOST_ANSWER_BYTES).await {
        Ok((status, answer)) if status.is_success() => {
            let answer: Result<Answer, _> = serde_json::from_slice(&answer);
            answer
                .map(|answer| answer.tokens)
                .map_err(|error| Problem { what: format!("{PATH} answers {error}"), lasts: true })
        }
        Ok((status, _)) => {
            Err(Problem { what: format!("{PATH} answers {status}"), lasts: status.as_u16() != 400 })
        }
        Err(error) => {
            let lasts = !matches!(error, ProbeError::OwnWant(_));
            Err(Problem { what: error.to_string(), lasts })
        }
    }
}

/// The body of the question that belongs to a request.
fn question(body: &[u8]) -> Option<Bytes> {
    let mut members: Map<String, Value> = serde_json::from_slice(body).ok()?;
    if members.get("prompt").is_some_and(|prompt| !prompt.is_string()) {
        return None;
    }
    members.retain(|name, _| MEMBERS.contains(&name.as_str()));
    Some(Value::Object(members).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_what_decides_about_the_tokens() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[],"stream":true,
            "max_tokens":5,"temperature":0}"#;
        let question: Value = serde_json::from_slice(&question(body).unwrap()).unwrap();
        let wanted =
            serde_json::json!({"model": "m", "tools": [], "messages": [{"role": "user", "content": "hi"}]});
        assert_eq!(question, wanted);
        assert_eq!(super::question(br#"{"prompt": ["a", "b"]}"#), None);
    }
}
