//! Lines of JSON to a file, held back in a bounded buffer, and what happens when the disk is full.
//!
//! Up to [`BUFFER_BYTES`] are held back. When the file takes no more, the error says how many lines are in it, and
//! what is held stays held: once there is room again, the next write goes on where the last one stopped.

use std::io::{self, Write};

use serde::Serialize;

use crate::RecordsError;

/// Bytes held back before they are written.
const BUFFER_BYTES: usize = 64 * 1024;

/// Writes values as lines of JSON.
#[derive(Debug)]
pub(crate) struct LineWriter<W: Write> {
    pub(crate) output: W,
    held: Vec<u8>,
    /// Where each held line that counts ends in `held`.
    ends: Vec<usize>,
    written: u64,
}

impl<W: Write> LineWriter<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output, held: Vec::new(), ends: Vec::new(), written: 0 }
    }

    /// Takes a line that is not counted.
    pub(crate) fn head(&mut self, value: &impl Serialize) {
        serde_json::to_writer(&mut self.held, value).expect("names and numbers always make JSON");
        self.held.push(b'\n');
    }

    /// Takes one line. On an error it is not taken.
    pub(crate) fn write(&mut self, value: &impl Serialize) -> Result<(), RecordsError> {
        if self.held.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        self.head(value);
        self.ends.push(self.held.len());
        Ok(())
    }

    /// Writes what is held back.
    pub(crate) fn flush(&mut self) -> Result<(), RecordsError> {
        let mut done = 0;
        let result = loop {
            if done == self.held.len() {
                break self.output.flush();
            }
            match self.output.write(&self.held[done..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let whole = self.ends.partition_point(|&end| end <= done);
        self.written += whole as u64;
        self.ends.drain(..whole);
        self.ends.iter_mut().for_each(|end| *end -= done);
        self.held.drain(..done);
        let held = self.ends.len() as u64;
        result.map_err(|source| RecordsError::Write { written: self.written, held, source })
    }

    /// Lines that are wholly in the file.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }
}

impl<W: Write> Drop for LineWriter<W> {
    /// A run that ends early still leaves what it measured; whoever wants to know of errors flushes first.
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then is full until it gets more room.
    struct Disk {
        content: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room - self.content.len());
            if taken == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.content.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_nothing_that_was_taken() {
        let mut writer = LineWriter::new(Disk { content: Vec::new(), room: 100_000 });
        writer.head(&"format");
        let line = "x".repeat(997);
        let taken = (0..).take_while(|_| writer.write(&line).is_ok()).count() as u64;
        let Err(RecordsError::Write { written, held, .. }) = writer.flush() else { panic!("no error") };
        assert_eq!(written + held, taken);
        assert!(written > 0 && held > 0, "{written} written, {held} held");
        assert!(writer.held.len() < BUFFER_BYTES + 1000, "the buffer is bounded");
        writer.output.room = usize::MAX;
        writer.write(&line).unwrap();
        writer.flush().unwrap();
        assert_eq!(writer.written(), taken + 1);
        let text = std::str::from_utf8(&writer.output.content).unwrap();
        assert_eq!(text.lines().count() as u64, taken + 2);
        assert!(text.lines().skip(1).all(|text| text.len() == 999), "no line is torn");
    }
}
