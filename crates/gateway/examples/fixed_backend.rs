//! A backend whose answers have a fixed size and a fixed pace, to measure proxies against.
//!
//! `POST /v1/chat/completions` and `/v1/completions` give a JSON answer of exactly [`SIZE`] bytes or, where the
//! first [`HEAD`] bytes of the body ask for `"stream":true`, a stream: `--chunks` events of exactly [`SIZE`]
//! bytes, each flushed by itself, then `[DONE]`. `--first-ms` is the time to the first event and `--gap-ms` the
//! time between two; with `--burst` events come in pairs, one right after the other, and the gap follows a pair.
//! `GET /health` answers 200. `GET /count` tells the requests and the events (`[DONE]` is one) so far. All else is
//! a 404 at once.
//!
//! One thread, HTTP/1.1, `TCP_NODELAY`. It prints `listening on ADDRESS` and runs until it is killed.

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    time::{Sleep, sleep},
};

/// Bytes of an answer, and of an event.
const SIZE: usize = 200;
/// Bytes of a request body in which `"stream":true` is looked for.
const HEAD: usize = 256;

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static EVENTS: AtomicU64 = AtomicU64::new(0);

static ANSWER: LazyLock<Bytes> = LazyLock::new(|| {
    fill(
        r#"{"id":"chatcmpl-0","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":""#,
        r#""}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
    )
});
static EVENT: LazyLock<Bytes> = LazyLock::new(|| {
    fill(
        r#"data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":""#,
        "\"},\"finish_reason\":null}]}\n\n",
    )
});

#[derive(Clone, Copy, Debug)]
struct Settings {
    port: u16,
    events: u64,
    first: Duration,
    gap: Duration,
    burst: bool,
}

/// The body of a streamed answer.
struct Stream {
    settings: Settings,
    sent: u64,
    pause: Pause,
}

/// What comes before the next event.
enum Pause {
    Nothing,
    /// One turn of the runtime, in which what was sent is flushed.
    Turn,
    Sleep(Pin<Box<Sleep>>),
}

fn main() -> Result<(), Box<dyn Error>> {
    let settings = Settings::from_arguments(std::env::args().skip(1))?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", settings.port)).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(move |request| answer(settings, request));
        // A connection that breaks is its client's affair.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    settings: Settings,
    request: Request<Incoming>,
) -> Result<Response<Either<Full<Bytes>, Stream>>, hyper::Error> {
    let (head, mut body) = request.into_parts();
    let mut streamed = false;
    let mut seen = 0;
    while let Some(frame) = body.frame().await.transpose()? {
        if let (true, Some(data)) = (seen < HEAD, frame.data_ref()) {
            let start = &data[..data.len().min(HEAD)];
            streamed |= String::from_utf8_lossy(start).contains(r#""stream":true"#);
            seen += data.len();
        }
    }
    let mut response = match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/chat/completions" | "/v1/completions") => {
            REQUESTS.fetch_add(1, Relaxed);
            let body = match streamed {
                true => Either::Right(Stream::new(settings)),
                false => Either::Left(Full::new(ANSWER.clone())),
            };
            Response::new(body)
        }
        (&Method::GET, "/health") => Response::new(Either::Left(Full::default())),
        (&Method::GET, "/count") => {
            let count = format!("{} {}\n", REQUESTS.load(Relaxed), EVENTS.load(Relaxed));
            Response::new(Either::Left(Full::new(count.into())))
        }
        _ => {
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    };
    let kind = if streamed { "text/event-stream" } else { "application/json" };
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    Ok(response)
}

/// `before` and `after` with as much text between them as makes [`SIZE`] bytes.
fn fill(before: &str, after: &str) -> Bytes {
    let text = "x".repeat(SIZE - before.len() - after.len());
    [before, &text, after].concat().into()
}

// === impl Settings ===

impl Settings {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut settings =
            Self { port: 0, events: 64, first: Duration::ZERO, gap: Duration::ZERO, burst: false };
        while let Some(flag) = arguments.next() {
            if flag == "--burst" {
                settings.burst = true;
                continue;
            }
            let value: u64 = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?.parse()?;
            match flag.as_str() {
                "--port" => settings.port = value.try_into()?,
                "--chunks" => settings.events = value,
                "--first-ms" => settings.first = Duration::from_millis(value),
                "--gap-ms" => settings.gap = Duration::from_millis(value),
                _ => return Err(format!("unknown flag {flag}").into()),
            }
        }
        Ok(settings)
    }
}

// === impl Stream ===

impl Stream {
    fn new(settings: Settings) -> Self {
        Self { settings, sent: 0, pause: Pause::of(settings.first) }
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.pause {
            Pause::Nothing => {}
            Pause::Turn => {
                self.pause = Pause::Nothing;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Pause::Sleep(sleep) => ready!(sleep.as_mut().poll(context)),
        }
        let Settings { events, gap, burst, .. } = self.settings;
        let data = match self.sent {
            sent if sent > events => return Poll::Ready(None),
            sent if sent == events => Bytes::from_static(b"data: [DONE]\n\n"),
            _ => EVENT.clone(),
        };
        EVENTS.fetch_add(1, Relaxed);
        self.sent += 1;
        let follows_at_once = self.sent >= events || (burst && self.sent % 2 == 1);
        self.pause = Pause::of(if follows_at_once { Duration::ZERO } else { gap });
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

// === impl Pause ===

impl Pause {
    fn of(time: Duration) -> Self {
        if time.is_zero() { Self::Turn } else { Self::Sleep(Box::pin(sleep(time))) }
    }
}
