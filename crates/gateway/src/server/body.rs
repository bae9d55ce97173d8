//! The body of a request, read to its end within the limits. Only then is a replica asked, so a slow client holds
//! none.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};

use super::client::{Client, Phase};
use crate::{
    Reason,
    error::Refusal,
    http1::{
        chunked::ChunkedDecoder,
        request::{BodyLength, RequestHead},
    },
    metrics::Share,
};

/// Bytes of a body that must arrive within the time limit.
const LEAST_PROGRESS: u64 = 1024;
/// Most room that is made for a body before its bytes have come.
const MOST_ROOM: usize = 256 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A body on its way in.
struct Reading<'c> {
    client: &'c Client,
    length: u64,
    marked: u64,
    held: Share<'c>,
}

/// Reads the body of the request with this head. What is held of the memory limit is given back with the share.
pub(super) async fn read<'c>(
    client: &'c Client,
    head: &RequestHead,
) -> Result<(Bytes, Option<Share<'c>>), Refusal> {
    if matches!(head.body, BodyLength::None | BodyLength::Known(0)) {
        return Ok((Bytes::new(), None));
    }
    let limits = client.worker.limits();
    let held = client.worker.shared.metrics.buffered_bytes.hold(0);
    let mut reading = Reading { client, length: 0, marked: 0, held };
    if let BodyLength::Known(length) = head.body
        && length > limits.max_body
    {
        return Err(reading.too_large());
    }
    if head.expects_continue() && client.input.borrow().is_empty() {
        let mut words = BytesMut::from(CONTINUE);
        if poll_fn(|context| client.poll_write(context, &mut words)).await.is_err() {
            return Err(broken("the connection broke before the request body".into()));
        }
    }
    client.enter(Phase::Body, limits.body_timeout);
    let body = match head.body {
        // A length that memory cannot have was refused above.
        BodyLength::Known(length) => reading.known(usize::try_from(length).unwrap_or(usize::MAX)).await?,
        _ => reading.chunked().await?,
    };
    // What was read behind the body would keep the body's memory for as long as the answer takes.
    let mut input = client.input.borrow_mut();
    *input = BytesMut::from(&input[..]);
    drop(input);
    Ok((body, Some(reading.held)))
}

// === impl Reading ===

impl Reading<'_> {
    async fn known(&mut self, length: usize) -> Result<Bytes, Refusal> {
        let client = self.client;
        let there = client.input.borrow().len().min(length);
        self.count(there)?;
        poll_fn(|context| {
            loop {
                let mut input = client.input.borrow_mut();
                let there = input.len();
                if there >= length {
                    return Poll::Ready(Ok(input.split_to(length).freeze()));
                }
                if input.capacity() == there {
                    input.reserve((length - there).min(MOST_ROOM.max(there)));
                }
                drop(input);
                let read = ready!(self.poll_fill(context, true))?;
                self.count(read.min(length - there))?;
            }
        })
        .await
    }

    async fn chunked(&mut self) -> Result<Bytes, Refusal> {
        let client = self.client;
        let (mut decoder, mut body) = (ChunkedDecoder::default(), BytesMut::new());
        poll_fn(|context| {
            loop {
                let mut input = client.input.borrow_mut();
                let earlier = body.len();
                let progress = decoder.read(&input, |data| body.extend_from_slice(data));
                let progress = progress.map_err(|error| broken(error.to_string()))?;
                drop(input.split_to(progress.used));
                drop(input);
                self.count(body.len() - earlier)?;
                if progress.over {
                    return Poll::Ready(Ok(std::mem::take(&mut body).freeze()));
                }
                ready!(self.poll_fill(context, false))?;
            }
        })
        .await
    }

    fn poll_fill(&mut self, context: &mut Context<'_>, in_place: bool) -> Poll<Result<usize, Refusal>> {
        let polled = match in_place {
            true => self.client.poll_fill_in_place(context),
            false => self.client.poll_fill(context),
        };
        match polled {
            Poll::Ready(Ok(length @ 1..)) => Poll::Ready(Ok(length)),
            Poll::Ready(_) => Poll::Ready(Err(broken("the connection ended inside the request body".into()))),
            Poll::Pending if self.client.is_late() => {
                let message = "the request body did not arrive in time";
                Poll::Ready(Err(Refusal::new(Reason::BodyTimeout, message)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Counts bytes that came, against both limits and for the time limit.
    fn count(&mut self, bytes: usize) -> Result<(), Refusal> {
        let limits = self.client.worker.limits();
        self.length += bytes as u64;
        if self.length > limits.max_body {
            return Err(self.too_large());
        }
        if self.held.grow(bytes as u64) > limits.max_buffered {
            let message = "too many request bodies are in memory; try again in a moment";
            return Err(Refusal::new(Reason::BufferFull, message));
        }
        if self.length - self.marked >= LEAST_PROGRESS {
            self.marked = self.length;
            self.client.enter(Phase::Body, limits.body_timeout);
        }
        Ok(())
    }

    fn too_large(&self) -> Refusal {
        let most = self.client.worker.limits().max_body;
        Refusal::new(Reason::BodyTooLarge, format!("the request body exceeds {most} bytes"))
    }
}

fn broken(message: String) -> Refusal {
    Refusal::new(Reason::BodyBroken, message)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, runtime::Builder};

    use super::*;

    #[test]
    fn a_body_is_freed_with_its_last_owner() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let head = |framing: &str| {
            let mut text = BytesMut::from(&*format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
            RequestHead::take(&mut text, 1024).unwrap().unwrap()
        };
        let text = vec![b'a'; 300_000];
        let chunked = [b"493e0\r\n", &text[..], b"\r\n0\r\n\r\n"].concat();
        for (framing, sent) in [("Content-Length: 300000", &text), ("Transfer-Encoding: chunked", &chunked)] {
            for behind in ["", "GET /next HTTP/1.1"] {
                runtime.block_on(async {
                    let (client, mut stream) = Client::pair().await;
                    let sent = [sent, behind.as_bytes()].concat();
                    let sending = tokio::spawn(async move { stream.write_all(&sent).await.map(|()| stream) });
                    let head = head(framing);
                    let (body, _held) = read(&client, &head).await.unwrap();
                    assert!(body == text && body.is_unique(), "{framing}, then {behind:?}");
                    let _stream = sending.await.unwrap().unwrap();
                    while client.input.borrow().len() < behind.len() {
                        poll_fn(|context| client.poll_fill(context)).await.unwrap();
                    }
                    assert_eq!(*client.input.borrow(), behind);
                    assert!(client.input.borrow().capacity() < 128 * 1024);
                });
            }
        }
    }
}
