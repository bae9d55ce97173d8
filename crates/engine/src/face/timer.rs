//! A timer that is exact to about 100 us. Tokio's own are up to 2 ms late, which a step of 4 ms would show.

use std::{io, time::Instant};

/// Wakes one task at a time that it is told.
#[derive(Debug)]
pub(crate) struct Timer(imp::Timer);

impl Timer {
    /// Must be made and used on a thread of a tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        imp::Timer::new().map(Self)
    }

    /// Waits until `deadline`. Returns at once if that is over.
    pub(crate) async fn wait_until(&mut self, deadline: Instant) -> io::Result<()> {
        while Instant::now() < deadline {
            self.0.wait_until(deadline).await?;
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{io, time::Instant};

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe;

    /// A timerfd, read like a pipe: tokio has no safe way to wait for another kind of descriptor.
    #[derive(Debug)]
    pub(super) struct Timer(pipe::Receiver);

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            pipe::Receiver::from_owned_fd_unchecked(timer).map(Self)
        }

        pub(super) async fn wait_until(&mut self, deadline: Instant) -> io::Result<()> {
            let wait = deadline.saturating_duration_since(Instant::now());
            let never = Timespec { tv_sec: 0, tv_nsec: 0 };
            // Zero would disarm the timer.
            let nanoseconds = wait.subsec_nanos().max(u32::from(wait.as_secs() == 0));
            let first = Timespec { tv_sec: wait.as_secs() as _, tv_nsec: nanoseconds.into() };
            let setting = Itimerspec { it_interval: never, it_value: first };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &setting)?;
            // Setting the timer forgets that it went off before; this read tells tokio so, and finds nothing.
            match self.0.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.0.readable().await,
                read => read.map(drop),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::{io, time::Instant};

    #[derive(Debug)]
    pub(super) struct Timer;

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn wait_until(&mut self, deadline: Instant) -> io::Result<()> {
            tokio::time::sleep_until(deadline.into()).await;
            Ok(())
        }
    }
}
