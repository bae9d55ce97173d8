//! Standard output and standard error, for everything that the commands say.
//!
//! Printing never ends a command: what it measures may have taken hours, and its files are kept whoever listens. What
//! nobody reads any more, as behind `head`, is left unsaid. Another failure of standard output (a full disk) is kept,
//! and [`problem`] tells it when the command has ended.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write},
    sync::OnceLock,
};

/// What standard output failed with first; nothing is printed there afterwards.
static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// A line on standard output.
macro_rules! say {
    ($($text:tt)*) => { $crate::print::line(format_args!($($text)*)) };
}

/// A line on standard error.
macro_rules! remark {
    ($($text:tt)*) => { $crate::print::remark_line(format_args!($($text)*)) };
}

/// Standard output as a writer that never fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        attempt(|out| out.write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        attempt(Write::flush);
        Ok(())
    }
}

/// Prints `text` as it is, at once.
pub(crate) fn text(text: &str) {
    attempt(|out| out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// What [`say!`] does.
pub(crate) fn line(line: Arguments<'_>) {
    text(&format!("{line}\n"));
}

/// What [`remark!`] does. Nobody can be told of a standard error that fails.
pub(crate) fn remark_line(line: Arguments<'_>) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Why not everything was printed; a closed pipe is no reason to complain.
pub(crate) fn problem() -> Option<&'static io::Error> {
    attempt(Write::flush);
    FAILURE.get().filter(|error| error.kind() != ErrorKind::BrokenPipe)
}

fn attempt(print: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>) {
    if FAILURE.get().is_none()
        && let Err(error) = print(&mut io::stdout().lock())
    {
        // Only the first failure says something.
        let _ = FAILURE.set(error);
    }
}
