//! Ctrl-C, for commands that send load: the first one stops sending and waits for answers, the second cuts them off.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use loadgen::Control;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// Exit status of what was ended by hand, as shells give it to a command that Ctrl-C ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// The user's signals, in the hands of the run that goes on.
#[derive(Debug)]
pub(crate) struct Interrupts(Arc<Mutex<Arc<Control>>>);

impl Interrupts {
    /// Takes over Ctrl-C and termination.
    pub(crate) fn listen() -> io::Result<Self> {
        let current: Arc<Mutex<Arc<Control>>> = Arc::default();
        let held = Arc::clone(&current);
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate) = {
            let _context = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let wait = async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                let control = Arc::clone(&held.lock().unwrap_or_else(PoisonError::into_inner));
                // Said first: what it ends may be all that keeps the program going.
                let effect = match control.stops() {
                    0 => "stopping: waiting for the answers under way; press Ctrl-C again to cut them off",
                    _ => "cutting off the answers under way",
                };
                remark!("evenload: {effect}");
                control.stop();
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait))?;
        Ok(Self(current))
    }

    /// The control of the next run. A signal that came before stops it at once.
    pub(crate) fn next_run(&self) -> Arc<Control> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(Control::new());
        (0..current.stops()).for_each(|_| next.stop());
        *current = Arc::clone(&next);
        next
    }
}
