//! A process that may not open what its sending threads need. Alone in its file: the limit is that of the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{fs, sync::mpsc, thread};

use common::{PATIENCE, options, plan};
use loadgen::{Control, Error, Options, Targets};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use workload::Limits;

#[test]
fn a_run_without_descriptors_is_refused_and_does_not_hang() {
    let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let mut refused = Vec::new();
    // From too few for the last thread's timer down to too few for any poll.
    for spare in (1..40).rev() {
        let limits = Rlimit { maximum: Some(open + spare), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }).unwrap();
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            let targets = Targets::resolve(["127.0.0.1:1"]).unwrap();
            let options = Options { threads: 6, ..options() };
            let nothing = plan(Limits::default(), Vec::new());
            done.send(loadgen::run(nothing, &targets, &options, &Control::new(), |_, _| {})).unwrap();
        });
        if let Err(Error::Io { what, .. }) = ended.recv_timeout(PATIENCE).expect("the run hangs") {
            refused.push(what);
        }
    }
    refused.dedup();
    assert!(refused.contains(&"create a timer") && refused.contains(&"create a poll"), "{refused:?}");
}
