//! The folder of the reports.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;
use workload::inference_perf::Config;

/// Where reports go, and what their names begin with.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    prefix: String,
}

/// A JSON array that is written as its items come.
#[derive(Debug)]
pub(super) struct Array {
    file: BufWriter<File>,
    empty: bool,
}

impl Folder {
    /// Creates the folder that a configuration names.
    pub(super) fn create(config: &Config) -> anyhow::Result<Self> {
        let storage = &config.storage.local_storage;
        let prefix = storage.report_file_prefix.clone().unwrap_or_default();
        Self::at(Path::new(&storage.path), prefix)
    }

    pub(super) fn at(path: &Path, prefix: String) -> anyhow::Result<Self> {
        let folder = Self { path: path.to_owned(), prefix };
        // The prefix may name folders, too.
        let file = folder.file("any");
        let deepest = file.parent().unwrap_or(path);
        fs::create_dir_all(deepest).with_context(|| format!("cannot create {}", deepest.display()))?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{}{name}", self.prefix))
    }

    pub(super) fn write_text(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.file(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes JSON with an indent of 2.
    pub(super) fn write_json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        self.write_text(name, &serde_json::to_string_pretty(value)?)
    }

    pub(super) fn array(&self, name: &str) -> anyhow::Result<Array> {
        let path = self.file(name);
        let mut file =
            BufWriter::new(File::create(&path).with_context(|| format!("cannot write {}", path.display()))?);
        file.write_all(b"[")?;
        Ok(Array { file, empty: true })
    }
}

impl Array {
    pub(super) fn push(&mut self, item: &impl Serialize) -> anyhow::Result<()> {
        let before: &[u8] = if std::mem::take(&mut self.empty) { b"\n" } else { b",\n" };
        self.file.write_all(before)?;
        serde_json::to_writer(&mut self.file, item)?;
        Ok(())
    }

    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        self.file.write_all(b"\n]\n")?;
        Ok(self.file.flush()?)
    }
}
