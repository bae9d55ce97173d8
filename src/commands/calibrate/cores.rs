//! Which threads of a calibration run where: a thread starts on the cores of the one that starts it.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processor cores that this process may use, divided.
pub(super) struct Cores(Option<Shares>);

struct Shares {
    engines: CpuSet,
    senders: CpuSet,
    all: CpuSet,
}

impl Cores {
    /// Gives the engines a core for each of their threads, and at least one to the load generator. A single core is
    /// not divided.
    pub(super) fn share(engine_threads: usize) -> Self {
        let Ok(all) = sched_getaffinity(None) else { return Self(None) };
        let cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
        let (mut engines, mut senders) = (CpuSet::new(), CpuSet::new());
        let for_engines = engine_threads.min((all.count() as usize).saturating_sub(1));
        for (place, core) in cores.enumerate() {
            if place < for_engines { &mut engines } else { &mut senders }.set(core);
        }
        Self((for_engines > 0).then_some(Shares { engines, senders, all }))
    }

    /// What `start` starts runs on the engines' cores.
    pub(super) fn for_engines<T>(&self, start: impl FnOnce() -> T) -> T {
        self.on(|shares| &shares.engines, start)
    }

    /// What `start` starts runs on the load generator's.
    pub(super) fn for_senders<T>(&self, start: impl FnOnce() -> T) -> T {
        self.on(|shares| &shares.senders, start)
    }

    fn on<T>(&self, cores: fn(&Shares) -> &CpuSet, start: impl FnOnce() -> T) -> T {
        let Some(shares) = &self.0 else { return start() };
        // Where it is forbidden, the kernel goes on placing threads as it likes.
        let _ = sched_setaffinity(None, cores(shares));
        let started = start();
        let _ = sched_setaffinity(None, &shares.all);
        started
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_cores_and_none_is_in_both() {
        let all = sched_getaffinity(None).unwrap();
        for engine_threads in [1, 2, 64] {
            let Cores(Some(Shares { engines, senders, .. })) = Cores::share(engine_threads) else {
                assert_eq!(all.count(), 1);
                continue;
            };
            assert!(engines.count() > 0 && senders.count() > 0);
            assert_eq!(engines.count() + senders.count(), all.count());
            assert!((0..CpuSet::MAX_CPU).all(|core| !(engines.is_set(core) && senders.is_set(core))));
        }
    }

    #[test]
    fn a_thread_starts_where_it_was_told_and_this_one_goes_back() {
        let before = sched_getaffinity(None).unwrap();
        let cores = Cores::share(1);
        let started = cores.for_engines(|| std::thread::spawn(|| sched_getaffinity(None).unwrap()));
        let engines = cores.0.as_ref().map_or(before, |shares| shares.engines);
        assert_eq!(started.join().unwrap(), engines);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
