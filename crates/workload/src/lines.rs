//! Reads JSON lines, plain or gzipped, one record at a time.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use serde::de::DeserializeOwned;

use crate::Error;

/// Longest line that is read.
const MAX_LINE_BYTES: u64 = 256 << 20;
const BUFFER_BYTES: usize = 256 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What some editors and exporters put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Opens a file for reading, after the byte order mark if there is one; gzip is recognised by its first bytes, whatever
/// the name.
pub(crate) fn open(path: &Path) -> Result<Box<dyn BufRead>, Error> {
    let file = File::open(path).map_err(|error| Error::read(path, error))?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let head = reader.fill_buf().map_err(|error| Error::read(path, error))?;
    let mut reader: Box<dyn BufRead> = if head.starts_with(&GZIP_MAGIC) {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(reader)))
    } else {
        Box::new(reader)
    };
    let head = reader.fill_buf().map_err(|error| Error::read(path, error))?;
    if head.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    Ok(reader)
}

/// What is wrong with a line of JSON, and where in it; the number of the line is its reader's to say.
fn said(error: &serde_json::Error) -> String {
    let (text, place) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
    match text.strip_suffix(&place) {
        Some(problem) => format!("{problem} at column {}", error.column()),
        None => text,
    }
}

/// Calls `each` with the number and the record of every line that is not blank.
pub(crate) fn for_each_record<T: DeserializeOwned>(
    path: &Path,
    mut each: impl FnMut(u64, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut reader = open(path)?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        let read = read.map_err(|error| Error::read(path, error))?;
        if read == 0 {
            break;
        }
        if read as u64 == MAX_LINE_BYTES {
            return Err(Error::line(path, number, "longer than 256 MiB; is this a file of JSON lines?"));
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            let record =
                serde_json::from_slice(text).map_err(|error| Error::line(path, number, said(&error)))?;
            each(number, record)?;
        }
    }
    Ok(())
}
