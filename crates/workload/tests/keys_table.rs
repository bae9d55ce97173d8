//! The table of keys in `docs/run.md` is the code's.
//!
//! `EVENLOAD_WRITE_DOCS=1 cargo test -p workload --test keys_table` writes it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{env, fs, path::Path};

use serde_json::Value;
use workload::inference_perf::{Config, Key};

const HEAD: &str = "| key | type | default | |\n|---|---|---|---|\n";

fn row(key: &Key) -> String {
    let default = match &key.default {
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        Value::Object(_) => String::new(),
        other => format!("`{other}`"),
    };
    format!("| `{}` | {} | {default} | {} |\n", key.path, key.kind, key.about.replace('|', "\\|"))
}

#[test]
fn the_table_of_keys_is_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/run.md");
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find(HEAD).expect("the table's head is in docs/run.md");
    let table: String = HEAD.to_owned() + &Config::all_keys().iter().map(row).collect::<String>();
    if env::var_os("EVENLOAD_WRITE_DOCS").is_some() {
        fs::write(&path, text[..start].to_owned() + &table).unwrap();
    } else {
        assert!(text[start..] == table, "docs/run.md is not up to date; see the head of this test");
    }
}
