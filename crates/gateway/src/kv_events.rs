//! Engines' cache events: replicas that publish what happens to their prefix caches are listened to, and
//! `prefix_aware` hears of it.
//!
//! One task a replica, on the control thread, keeps a [`Subscription`](subscription): connected, gapless or aware
//! of the gap. A [`Ledger`] a replica keeps which token blocks its cache holds. The [`Correspondence`] keeps which
//! token blocks stand behind which blocks of text, because the router knows prompts as text and never has the
//! model's tokenizer. It is learned: for a prompt that was sent to a replica, the same replica is asked beside the
//! data path what its tokens are (see [`lessons`]).
//!
//! A block of which the engine said nothing, or of which nothing was learned, is judged by the router's own
//! history. So events improve the index as far as they go and are never needed.

mod correspondence;
mod counters;
mod ledger;
mod lessons;
mod socket;
mod subscription;

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    pin::pin,
    rc::Rc,
    sync::Arc,
};

use protocol::kv_events::EventBatch;
use tokio::task::spawn_local;

use crate::{fleet::Backend, shared::Shared};
use correspondence::{Correspondence, Prompt};
pub(crate) use counters::{
    COUNTERS, GAUGES, KvEventCounters, LESSON_COUNTERS, LESSON_GAUGES, LessonCounters,
};
use ledger::{Change, Ledger};
pub(crate) use lessons::Lessons;

/// What the control thread knows of caches.
struct Room {
    shared: Arc<Shared>,
    correspondence: RefCell<Correspondence>,
    /// By the replica's id.
    ledgers: RefCell<HashMap<u64, Ledger>>,
}

/// What became of a replica's cache, as far as its events are concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// Its ledger is right.
    Known,
    /// Its ledger may become right again, when the connection is back.
    Silent,
    /// Its ledger cannot be trusted any more.
    Lost,
    /// It is empty.
    Empty,
}

/// Listens to all replicas that publish, also those that join later.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let room = Rc::new(Room {
        correspondence: RefCell::default(),
        ledgers: RefCell::default(),
        shared: Arc::clone(&shared),
    });
    spawn_local(lessons::learn(Rc::clone(&room)));
    let mut watched = HashSet::new();
    loop {
        let mut changed = pin!(shared.fleet.changed.notified());
        changed.as_mut().enable();
        watched.retain(|&id| shared.fleet.backend(id).is_some());
        room.ledgers.borrow_mut().retain(|id, _| watched.contains(id));
        for (_, backend) in shared.fleet.members() {
            if backend.kv_events.is_some() && watched.insert(backend.id) {
                room.ledgers.borrow_mut().insert(backend.id, Ledger::default());
                spawn_local(subscription::follow(Rc::clone(&room), backend));
            }
        }
        changed.await;
    }
}

impl Room {
    /// Takes a replica's events over.
    fn apply(&self, backend: &Backend, batch: EventBatch) {
        let Some(replica) = self.shared.fleet.replica(backend.id) else { return };
        let mut ledgers = self.ledgers.borrow_mut();
        let Some(ledger) = ledgers.get_mut(&backend.id) else { return };
        let correspondence = self.correspondence.borrow();
        let counters = &backend.metrics.kv_events;
        counters.batches.add(1);
        counters.unknown.add(batch.unknown.into());
        for event in batch.events {
            ledger.apply(event, counters, |change| match change {
                Change::Held(block) => replica.cache_holds(correspondence.text_blocks(block)),
                Change::Lost(block) => replica.cache_lost(correspondence.text_blocks(block)),
                Change::Cleared => replica.cache_emptied(),
            });
        }
        counters.set_blocks(ledger.blocks());
    }

    /// Tells the router how far a replica's events can be trusted from now on.
    fn stand(&self, backend: &Backend, standing: Standing) {
        let Some(replica) = self.shared.fleet.replica(backend.id) else { return };
        let mut ledgers = self.ledgers.borrow_mut();
        let Some(ledger) = ledgers.get_mut(&backend.id) else { return };
        match standing {
            Standing::Known => {
                let correspondence = self.correspondence.borrow();
                ledger.held().for_each(|block| replica.cache_holds(correspondence.text_blocks(block)));
            }
            Standing::Silent => replica.cache_unknown(),
            Standing::Lost => {
                ledger.clear();
                replica.cache_unknown();
            }
            Standing::Empty => {
                ledger.clear();
                replica.cache_emptied();
            }
        }
        backend.metrics.kv_events.set_blocks(ledger.blocks());
    }

    /// Learns what the blocks of a prompt's text stand for.
    fn learn(&self, prompt: &Prompt<'_>) {
        let ledgers = self.ledgers.borrow();
        let mut correspondence = self.correspondence.borrow_mut();
        let sizes = ledgers.values().filter_map(Ledger::block_tokens);
        let forgotten = correspondence.learn(prompt, sizes, |text_block, token_block| {
            for (id, ledger) in &*ledgers {
                if ledger.holds(token_block)
                    && let Some(replica) = self.shared.fleet.replica(*id)
                {
                    replica.cache_holds(&[text_block]);
                }
            }
        });
        self.shared.fleet.router.forget_blocks(&forgotten);
        self.shared.metrics.lessons.set_learned(correspondence.blocks());
    }

    /// Whether `model` is the name of an adapter in some engine's events.
    fn is_adapter(&self, model: &str) -> bool {
        self.ledgers.borrow().values().any(|ledger| ledger.knows_adapter(model))
    }
}
