//! One serving thread: a runtime of its own, a listener of its own, idle connections of its own.
//!
//! A request stays on the thread that accepted its connection, and its replica's connection is on the same one,
//! so nothing is handed from thread to thread (the cost of that is most of the CPU time of a balancer that does
//! it). Loads and counters are shared; they are atomics.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant, SystemTime},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{net::TcpListener, task::spawn_local};

use crate::{
    config::Limits,
    server,
    shared::{Shared, Stage},
    upstream::pool::Pool,
};

/// Bytes of one read.
const ROOM_BYTES: usize = 64 * 1024;
/// Time between two sweeps of the idle connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What the tasks of one thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    /// When the task that runs now was woken. Reading the clock once a wake-up is enough for all it does.
    now: Cell<Instant>,
    pub(crate) random: RefCell<ChaCha8Rng>,
    pub(crate) scratch: RefCell<Scratch>,
    /// Room for one read, from whichever socket: nothing stays in it, so connections need none of their own.
    pub(crate) room: RefCell<Box<[u8]>>,
    stage: Cell<Stage>,
    connections: RefCell<HashMap<u64, Waker>>,
    accepted: Cell<u64>,
    idle_counted: Cell<u64>,
}

/// Buffers that every request uses for a moment.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) prompt: Vec<u8>,
    pub(crate) blocks: Vec<u64>,
}

/// A connection in its worker's list; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) worker: Rc<Worker>,
    number: u64,
}

// === impl Worker ===

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed =
            since_epoch.as_nanos() as u64 ^ (u64::from(std::process::id()) << 40) ^ ((number as u64) << 56);
        Self {
            pool: Pool::new(shared.settings.limits.upstream_idle),
            now: Cell::new(Instant::now()),
            random: RefCell::new(ChaCha8Rng::seed_from_u64(seed)),
            scratch: RefCell::default(),
            room: RefCell::new(vec![0; ROOM_BYTES].into()),
            stage: Cell::new(Stage::Running),
            connections: RefCell::default(),
            accepted: Cell::new(0),
            idle_counted: Cell::new(0),
            shared,
        }
    }

    /// Serves until the gateway ends: until its last connection is gone, or until it is told to end now.
    pub(crate) async fn run(self: Rc<Self>, listener: TcpListener) {
        let mut stage = self.shared.stage.subscribe();
        let sweeping = spawn_local(Rc::clone(&self).sweep());
        let accepting = async {
            self.shared.first_checks().await;
            server::accept(&self, &listener).await;
        };
        tokio::select! {
            // The sender lives in what this worker shares, so waiting cannot fail.
            _ = stage.wait_for(|&stage| stage >= Stage::Draining) => {}
            () = accepting => {}
        }
        if let Err(error) = server::accept_rest(&self, listener) {
            tracing::warn!(%error, "cannot accept the last connections");
        }
        self.enter(Stage::Draining);
        while !self.connections.borrow().is_empty() {
            let ended = tokio::time::timeout(
                Duration::from_millis(20),
                stage.wait_for(|&stage| stage == Stage::Ending),
            );
            if ended.await.is_ok() {
                self.enter(Stage::Ending);
                tokio::task::yield_now().await;
                break;
            }
        }
        sweeping.abort();
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        for waker in self.connections.borrow().values() {
            waker.wake_by_ref();
        }
    }

    async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.pool.sweep(Instant::now(), |replica| self.shared.fleet.backend(replica).is_some());
            let idle = self.pool.len() as u64;
            self.shared.metrics.idle_upstream.replace(self.idle_counted.replace(idle), idle);
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.settings.limits
    }

    /// Reads the clock; to be called once a wake-up.
    pub(crate) fn tick(&self) -> Instant {
        let now = Instant::now();
        self.now.set(now);
        now
    }

    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// The time of this wake-up, as routing counts it.
    pub(crate) fn routing_now(&self) -> Duration {
        self.shared.fleet.at(self.now.get())
    }

    /// A random number.
    pub(crate) fn random_u64(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Puts a connection in the list of those that are waited for at the end, and woken when the stage changes.
    pub(crate) fn list(self: &Rc<Self>) -> Listed {
        let number = self.accepted.get();
        self.accepted.set(number + 1);
        self.connections.borrow_mut().insert(number, Waker::noop().clone());
        Listed { worker: Rc::clone(self), number }
    }
}

// === impl Listed ===

impl Listed {
    /// How to wake it.
    pub(crate) fn wake_by(&self, waker: &Waker) {
        self.worker.connections.borrow_mut().insert(self.number, waker.clone());
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.number);
    }
}
