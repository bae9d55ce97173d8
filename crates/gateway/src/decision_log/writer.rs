//! Writes decisions to files of limited size.
//!
//! There are [`FILES`] files: the one that is written, and older ones with numbers, the highest the oldest. Lines
//! are whole. A disk that takes no more costs the lines that do not fit, not those that come later.
//!
//! What is no plain file of that very name (a pipe, `/dev/stdout`, a link) is somebody else's: it is written on, and
//! neither renamed, cut nor limited.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use protocol::Decision;

use super::{Counts, DecisionLogSettings};

/// The file that is written, and those before it.
const FILES: u64 = 4;
/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 256 << 10;
/// Lines wait no longer to be written.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    /// Bytes in the file.
    length: u64,
    /// Bytes that a file may have.
    most: u64,
    /// The files are ours.
    owned: bool,
    buffer: Vec<u8>,
    /// Lines in the buffer.
    lines: u64,
    complained: bool,
    counts: Arc<Counts>,
}

impl Writer {
    pub(super) fn open(settings: &DecisionLogSettings, counts: Arc<Counts>) -> io::Result<Self> {
        let path = settings.path.clone();
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        let owned = fs::symlink_metadata(&path)?.is_file();
        if owned && is_cut(&path).unwrap_or(false) {
            file.write_all(b"\n")?;
        }
        if !owned {
            tracing::warn!(file = %path.display(), "the decision log is no plain file: it grows without limit");
        }
        let length = file.metadata()?.len();
        let mut writer = Self {
            path,
            file,
            length,
            most: (settings.max_bytes / FILES).max(1),
            owned,
            buffer: Vec::new(),
            lines: 0,
            complained: false,
            counts,
        };
        // The limit may have been another one.
        if writer.owned {
            if writer.length > writer.most {
                writer.turn_over();
            }
            writer.remove_oldest();
        }
        writer.count_bytes();
        Ok(writer)
    }

    /// Writes what comes, until nobody sends any more.
    pub(super) fn run(&mut self, decisions: &Receiver<Decision<'static>>) {
        loop {
            match decisions.recv_timeout(PAUSE) {
                Ok(decision) => self.take(&decision),
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
        }
    }

    fn take(&mut self, decision: &Decision<'_>) {
        self.counts.taken(decision);
        let before = self.buffer.len();
        let encoded = serde_json::to_writer(&mut self.buffer, decision);
        self.buffer.push(b'\n');
        let line = (self.buffer.len() - before) as u64;
        if encoded.is_err() || line > self.most {
            self.buffer.truncate(before);
            self.counts.dropped.add(1);
            return;
        }
        self.lines += 1;
        if self.owned && self.length + self.buffer.len() as u64 > self.most {
            let last = self.buffer.split_off(before);
            self.lines -= 1;
            self.flush();
            self.turn_over();
            self.buffer.extend(last);
            self.lines = 1;
        }
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        match self.file.write_all(&self.buffer) {
            Ok(()) => {
                self.counts.written.add(self.lines);
                self.complained = false;
            }
            Err(error) => {
                self.counts.failed.add(self.lines);
                self.complain("cannot write to the decision log", &error);
                if self.owned {
                    // Part of a line may be there; what follows begins on a line of its own.
                    let _ = self.file.set_len(self.length);
                }
            }
        }
        self.length = self.file.metadata().map_or(self.length, |file| file.len());
        self.buffer.clear();
        self.lines = 0;
        self.count_bytes();
    }

    /// Makes the file the first of the older ones, and begins a new one.
    fn turn_over(&mut self) {
        let turned = (1..FILES)
            .rev()
            .try_for_each(|number| match fs::rename(self.numbered(number - 1), self.numbered(number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                renamed => renamed,
            })
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&self.path));
        match turned {
            Ok(file) => {
                (self.file, self.length) = (file, 0);
                self.remove_oldest();
            }
            Err(error) => {
                self.complain("cannot turn the decision log over; it begins again", &error);
                let _ = self.file.set_len(0);
                self.length = 0;
            }
        }
    }

    /// Leaves room for a whole file beside the older ones.
    fn remove_oldest(&mut self) {
        let mut bytes = 0;
        for number in 1..FILES {
            let path = self.numbered(number);
            let length = fs::metadata(&path).map_or(0, |file| file.len());
            bytes += length;
            if bytes <= self.most * (FILES - 1) {
                continue;
            }
            match fs::remove_file(&path) {
                // In the usual turn nothing is too large: the limit was another one.
                Ok(()) => tracing::warn!(
                    file = %path.display(), bytes = length,
                    "an older decision log is removed: it exceeds the limit of all files"
                ),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.complain("cannot remove an older decision log", &error),
            }
        }
    }

    /// The file with this number; 0 is the one that is written.
    fn numbered(&self, number: u64) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    fn count_bytes(&self) {
        let lengths = (0..FILES).filter_map(|number| Some(fs::metadata(self.numbered(number)).ok()?.len()));
        self.counts.bytes.store(lengths.sum(), Relaxed);
    }

    fn complain(&mut self, what: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::error!(file = %self.path.display(), %error, "{what}");
        }
    }
}

/// Whether a process that died left part of a line: what follows begins on a line of its own.
fn is_cut(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn decision(number: u64) -> Decision<'static> {
        Decision { timestamp: number as f64, hash_ids: vec![number; 20].into(), ..Decision::default() }
    }

    fn hundred_written(settings: &DecisionLogSettings) -> Arc<Counts> {
        let counts = Arc::<Counts>::default();
        let (sender, receiver) = std::sync::mpsc::sync_channel(100);
        (0..100).for_each(|number| sender.send(decision(number)).unwrap());
        drop(sender);
        Writer::open(settings, Arc::clone(&counts)).unwrap().run(&receiver);
        assert_eq!((counts.written.get(), counts.dropped.get(), counts.failed.get()), (100, 0, 0));
        counts
    }

    #[test]
    fn files_are_turned_over_and_keep_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            DecisionLogSettings { path: folder.path().join("decisions.jsonl"), max_bytes: 4000, salt: None };
        let counts = hundred_written(&settings);
        let mut last = Vec::new();
        let mut bytes = 0;
        for number in (0..FILES).rev() {
            let name = if number == 0 { String::new() } else { format!(".{number}") };
            let text = fs::read_to_string(format!("{}{name}", settings.path.display())).unwrap();
            assert!(text.len() <= 1000 && text.ends_with('\n'));
            bytes += text.len() as u64;
            last.extend(
                text.lines().map(|line| serde_json::from_str::<Decision<'_>>(line).unwrap().timestamp),
            );
        }
        let expected: Vec<f64> = (100 - last.len() as u32..100).map(f64::from).collect();
        assert_eq!(last, expected, "the newest are kept, in order");
        assert_eq!(counts.bytes.load(Relaxed), bytes);
        // Another start goes on where this one ended.
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        sender.send(decision(100)).unwrap();
        drop(sender);
        Writer::open(&settings, counts).unwrap().run(&receiver);
        let text = fs::read_to_string(&settings.path).unwrap();
        assert!(text.lines().last().unwrap().contains("\"timestamp\":100"), "{text}");
    }

    /// Counts warnings.
    #[derive(Default)]
    struct Warnings(AtomicUsize);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Relaxed);
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn older_files_that_are_too_large_go_first() {
        for (lengths, left) in [
            ([1000, 1000, 1000, 1000], &[1000, 1000, 1000, 1000][..]),
            ([500, 2000, 1000, 1000], &[500, 2000, 1000]),
            ([500, 1000, 3000, 10], &[500, 1000]),
            ([500, 5000, 10, 10], &[500]),
            ([2000, 1000, 1000, 1000], &[0, 2000, 1000]),
            ([9000, 10, 10, 10], &[0]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("decisions.jsonl");
            let settings = DecisionLogSettings { path: path.clone(), max_bytes: 4000, salt: None };
            let name = |number: usize| match number {
                0 => path.clone(),
                _ => path.with_extension(format!("jsonl.{number}")),
            };
            for (number, length) in lengths.into_iter().enumerate() {
                fs::write(name(number), "\n".repeat(length)).unwrap();
            }
            let counts = Arc::<Counts>::default();
            let warnings = Arc::<Warnings>::default();
            tracing::subscriber::with_default(Arc::clone(&warnings), || {
                Writer::open(&settings, Arc::clone(&counts)).unwrap();
            });
            let found =
                (0..).map_while(|number| Some(fs::metadata(name(number)).ok()?.len())).collect::<Vec<_>>();
            assert_eq!(found, left, "of {lengths:?}");
            assert_eq!(warnings.0.load(Relaxed) > 0, left.len() < lengths.len(), "of {lengths:?}");
            assert_eq!(counts.bytes.load(Relaxed), left.iter().sum::<u64>());
        }
    }

    #[test]
    fn what_is_no_plain_file_is_written_on_and_left_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link");
        let target = folder.path().join("target");
        fs::write(&target, "whoever else writes there\n".repeat(100)).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let settings = DecisionLogSettings { path: path.clone(), max_bytes: 4000, salt: None };
        hundred_written(&settings);
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["link", "target"]);
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap().lines().count(), 200);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let settings = DecisionLogSettings { path: path.clone(), max_bytes: 1 << 20, salt: None };
        for (before, expected) in [("", 1), ("{\"timest", 2), ("{}\n", 2)] {
            fs::write(&path, before).unwrap();
            let (sender, receiver) = std::sync::mpsc::sync_channel(1);
            sender.send(decision(7)).unwrap();
            drop(sender);
            let counts = Arc::<Counts>::default();
            Writer::open(&settings, Arc::clone(&counts)).unwrap().run(&receiver);
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), expected, "{text}");
            let last: Decision<'_> = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            assert_eq!(last, decision(7));
            assert_eq!(counts.bytes.load(Relaxed), text.len() as u64);
        }
    }
}
