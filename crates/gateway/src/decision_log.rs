//! A file of routed requests: hashes, lengths and times, no text.
//!
//! A request hands its [`Decision`] over when it ends; a thread of its own writes it. Between them is a queue of
//! limited length and size: when the disk does not keep up, lines are dropped and counted, and nobody waits. The
//! file is turned over when it is full; with the older ones it never takes more than the limit.
//!
//! Block hashes are keyed with a secret, so that who has the file cannot test whether a text that they guess was
//! sent. Unless the operator gives one, it is drawn at every start and kept nowhere; hashes of different runs then
//! have nothing to do with one another. The hash is fast, not cryptographic: the file shows who shares how long a
//! beginning with whom, and how long it all was, and should be read by those only who may know that.

mod writer;

use std::{
    fs::File,
    io::Read,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Instant, SystemTime},
};

use protocol::{BLOCK_TOKENS, Decision};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::metrics::Counter;
use writer::Writer;

/// Lines that wait to be written, and bytes of their hashes.
const MOST_WAITING: usize = 4096;
const MOST_WAITING_BYTES: usize = 64 << 20;
/// Every reader of JSON has whole numbers of so many bits.
const NUMBER_BITS: u32 = 53;

/// Where decisions are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DecisionLogSettings {
    /// The file; older ones have a number after its name.
    pub path: PathBuf,
    /// Bytes of all files.
    pub max_bytes: u64,
    /// The secret that block hashes are keyed with; drawn at the start where there is none.
    pub salt: Option<String>,
}

/// A log that is open.
#[derive(Debug)]
pub(crate) struct DecisionLog {
    sender: Option<SyncSender<Decision<'static>>>,
    writer: Option<JoinHandle<()>>,
    key: u64,
    /// A moment, and what time it was in milliseconds since 1970.
    clock: (Instant, f64),
    pub(crate) counts: Arc<Counts>,
}

/// What became of decisions.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) written: Counter,
    pub(crate) dropped: Counter,
    pub(crate) failed: Counter,
    /// In the files.
    pub(crate) bytes: AtomicU64,
    waiting_bytes: AtomicUsize,
}

/// Name, help, and where to look.
type Row = (&'static str, &'static str, fn(&Counts) -> u64);

/// Counters of the gateway.
pub(crate) const COUNTERS: &[Row] = &[
    ("decision_log_written", "Decisions written to the decision log.", |all| all.written.get()),
    ("decision_log_dropped", "Decisions that were not kept, because too many waited to be written.", |all| {
        all.dropped.get()
    }),
    ("decision_log_failed", "Decisions that the disk did not take.", |all| all.failed.get()),
];

impl DecisionLog {
    /// Opens the log; what its files hold already stays within the limit.
    pub(crate) fn open(settings: &DecisionLogSettings) -> std::io::Result<Self> {
        let counts = Arc::<Counts>::default();
        let mut writer = Writer::open(settings, Arc::clone(&counts))?;
        let (sender, receiver) = sync_channel(MOST_WAITING);
        let writer =
            thread::Builder::new().name("decision-log".into()).spawn(move || writer.run(&receiver))?;
        let key = match &settings.salt {
            Some(salt) => xxh3_64(salt.as_bytes()),
            None => drawn()?,
        };
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = (Instant::now(), since_1970.as_secs_f64() * 1e3);
        Ok(Self { sender: Some(sender), writer: Some(writer), key, clock, counts })
    }

    /// A number that stands for a hash in the file.
    pub(crate) fn keyed(&self, hash: u64) -> u64 {
        xxh3_64_with_seed(&hash.to_le_bytes(), self.key) >> (u64::BITS - NUMBER_BITS)
    }

    /// A decision about a prompt with these blocks.
    pub(crate) fn begin(&self, blocks: &[u64]) -> Decision<'static> {
        let hash_ids: Vec<u64> = blocks.iter().map(|block| self.keyed(*block)).collect();
        Decision { hash_ids: hash_ids.into(), block_tokens: BLOCK_TOKENS as u32, ..Decision::default() }
    }

    /// A moment as the file has it.
    pub(crate) fn time(&self, moment: Instant) -> f64 {
        let (then, milliseconds) = self.clock;
        // The clock was read when the log was opened, before any request.
        milliseconds + (moment.saturating_duration_since(then).as_secs_f64() * 1e6).round() / 1e3
    }

    /// Hands a decision to the writer, if there is room.
    pub(crate) fn offer(&self, decision: Decision<'static>) {
        let counts = &self.counts;
        let bytes = size_of_val(&*decision.hash_ids);
        let waiting = counts.waiting_bytes.fetch_add(bytes, Relaxed) + bytes;
        let sender = self.sender.as_ref().filter(|_| waiting <= MOST_WAITING_BYTES);
        if sender.is_none_or(|sender| sender.try_send(decision).is_err()) {
            counts.waiting_bytes.fetch_sub(bytes, Relaxed);
            counts.dropped.add(1);
        }
    }
}

/// A number that nobody can guess.
fn drawn() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

impl Counts {
    fn taken(&self, decision: &Decision<'_>) {
        self.waiting_bytes.fetch_sub(size_of_val(&*decision.hash_ids), Relaxed);
    }
}

impl Drop for DecisionLog {
    /// Everything that was handed over is written.
    fn drop(&mut self) {
        drop(self.sender.take());
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of the decision log panicked");
        }
    }
}
