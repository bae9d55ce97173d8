//! The tables of keys, metrics and errors in `docs/serve.md` are the code's.
//!
//! `EVENLOAD_WRITE_DOCS=1 cargo test -p gateway --test reference` writes them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{collections::BTreeSet, env, fmt::Write, fs, path::Path};

use clap::{Arg, ArgGroup, Args, Command};
use gateway::{Config, DecisionLogSettings, Reason};
use support::{Gateway, Upstream};

/// Sections of the file, by the structs that hold their keys. Flags of policies have no keys of their own.
const SECTIONS: [(&str, &str); 6] = [
    ("PolicyFlags", ""),
    ("LimitConfig", "limits."),
    ("CheckConfig", "checks."),
    ("HealthConfig", "health."),
    ("RetryConfig", "retry."),
    ("TlsConfig", "tls."),
];

fn keys() -> String {
    let command = Config::augment_args(Command::new("serve"));
    let section = |argument: &Arg| {
        let holds = |group: &&ArgGroup| group.get_args().any(|id| id == argument.get_id());
        let named = |group: &ArgGroup| SECTIONS.iter().find(|(name, _)| group.get_id() == *name);
        command.get_groups().filter(holds).find_map(named)
    };
    let mut table = "| key | flag | |\n|---|---|---|\n".to_owned();
    for argument in command.get_arguments() {
        let prefix = match section(argument) {
            Some(("PolicyFlags", _)) => continue,
            Some((_, prefix)) => prefix,
            None => "",
        };
        let (key, flag) = (argument.get_id(), argument.get_long().unwrap());
        let help = argument.get_help().unwrap().to_string();
        let help = help.replace("[default: ", "[").replace('|', "\\|");
        writeln!(table, "| `{prefix}{key}` | `--{flag}` | {} |", help.trim_end_matches('.')).unwrap();
    }
    table
}

/// The page of a gateway on which everything is switched on.
fn page() -> String {
    let (upstream, folder) = (Upstream::fine(), tempfile::tempdir().unwrap());
    let gateway = Gateway::with(&[upstream.address], |settings| {
        let path = folder.path().join("decisions.jsonl");
        settings.decision_log = Some(DecisionLogSettings { path, max_bytes: 1 << 20, salt: None });
    });
    gateway.admin("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").text()
}

fn metrics(page: &str) -> String {
    let mut table = "| metric | labels | |\n|---|---|---|\n".to_owned();
    let mut families: Vec<(&str, &str)> =
        page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
    families.sort_unstable();
    for (name, help) in families {
        let kind = page.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        let starts = ["{", "_bucket{"].map(|start| format!("{name}{start}"));
        let sample = page.lines().find_map(|line| starts.iter().find_map(|start| line.strip_prefix(start)));
        let labels = sample.and_then(|line| line.rsplit_once('}')).map_or("", |(labels, _)| labels);
        let labels = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
        let labels: Vec<&str> = labels.filter(|label| *label != "le").collect();
        writeln!(table, "| `{name}` ({kind}) | {} | {} |", labels.join(", "), help.trim_end_matches('.'))
            .unwrap();
    }
    table
}

fn errors() -> String {
    let mut table = "| code | status | |\n|---|---|---|\n".to_owned();
    for reason in Reason::ALL {
        let meaning = reason.meaning().trim_end_matches('.');
        writeln!(table, "| `{}` | {} | {meaning} |", reason.label(), reason.status()).unwrap();
    }
    table
}

#[test]
fn tables_are_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/serve.md");
    let mut text = fs::read_to_string(&path).unwrap();
    let write = env::var_os("EVENLOAD_WRITE_DOCS").is_some();
    for (name, table) in [("keys", keys()), ("metrics", metrics(&page())), ("errors", errors())] {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let start = text.find(&begin).expect(name) + begin.len();
        let stop = start + text[start..].find(&end).expect(name);
        if write {
            text.replace_range(start..stop, &table);
        } else {
            assert!(
                text[start..stop] == table,
                "{name} in docs/serve.md are not up to date; see the head of this test"
            );
        }
    }
    if write {
        fs::write(&path, text).unwrap();
    }
}

#[test]
fn every_metric_is_there_once() {
    let page = page();
    let names: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let different: BTreeSet<&&str> = names.iter().collect();
    assert!(names.len() > 30 && different.len() == names.len(), "{names:?}");
}
