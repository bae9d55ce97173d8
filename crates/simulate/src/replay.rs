//! A balancer's recorded traffic again: what would another policy have done with it?
//!
//! The requests come at the times at which they came, with the blocks that they had, and their answers have the
//! lengths that they had. Requests without an answer are left out, and so are answers without output tokens
//! (embeddings). What an answer leaves in a cache is not in the log; it is taken from the first later prompt that goes on
//! where the answer ended.
//!
//! What stays as it was though another policy would have changed it: when clients came back. The fleet begins with
//! empty caches, or with those that a first pass leaves. Lengths of prompts are the balancer's estimates, which the
//! blocks follow; a profile that was fitted to the engine's own counts is off by as much as these differ.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use protocol::{COMPLETE, Decision, Endpoint};
use report::Distribution;
use serde::Serialize;
use workload::{Dataset, Entry, MAX_PROMPT_TOKENS, Prompt, Request, Seen, Turn};

/// Later arrivals are mistakes, in milliseconds since 1970: the year 2286.
const LATEST_MS: f64 = 1e13;

/// How some editors begin a file.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A decision log in memory.
#[derive(Clone, Debug, Default)]
pub struct DecisionLog {
    /// In order of arrival.
    decisions: Vec<Decision<'static>>,
    /// Where each of them stands in its file, from 1.
    lines: Vec<usize>,
    /// Requests without an answer.
    skipped: usize,
    /// Answers without output.
    without_output: usize,
    /// Lines that are no decisions: one was cut off where a process or its machine died.
    unreadable_lines: usize,
}

/// What happened, as the log has it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Recorded {
    /// Requests with an answer.
    pub requests: usize,
    /// Requests without one, which are left out.
    pub skipped: usize,
    /// Answers without output tokens, such as embeddings, which are left out too.
    pub without_output: usize,
    /// Lines that are no decisions.
    pub unreadable_lines: usize,
    /// Replicas that answered.
    pub replicas: usize,
    /// The policy, or several.
    pub policy: String,
    /// First arrival to last byte.
    pub duration_s: f64,
    /// Prompt and output tokens; unknown of a log in which no time passes.
    pub total_tokens_per_s: Option<f64>,
    /// Mean time to first token, of streamed answers.
    pub mean_ttft_ms: Option<f64>,
    /// Its 99th percentile.
    pub p99_ttft_ms: Option<f64>,
    /// Mean time per output token after the first, of streamed answers.
    pub mean_tpot_ms: Option<f64>,
    /// Share of prompt tokens that caches held, of answers that said.
    pub prefix_hit_ratio: Option<f64>,
    /// Requests of the busiest replica over the mean.
    pub imbalance: f64,
}

/// Why a decision log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The first line of a file without decisions, or one that cannot be.
    #[error("{path}:{line}: not a decision: {reason}; `serve --decision-log` writes them")]
    Line {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to repeat.
    #[error("no request in the log has an answer")]
    Empty,
}

impl DecisionLog {
    /// Reads files of one log, in any order. Lines that are no decisions are counted, unless a file has no others.
    pub fn read<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Result<Self, ReplayError> {
        let read = |path: &Path| {
            let name = path.display().to_string();
            match fs::read(path) {
                Ok(bytes) => Ok((name, bytes)),
                Err(source) => Err(ReplayError::File { path: name, source }),
            }
        };
        Self::parse(paths.into_iter().map(read))
    }

    /// The same from what the files hold.
    pub(crate) fn parse(
        files: impl IntoIterator<Item = Result<(String, Vec<u8>), ReplayError>>,
    ) -> Result<Self, ReplayError> {
        let mut log = Self::default();
        let mut answered: Vec<(usize, Decision<'static>)> = Vec::new();
        for file in files {
            let (name, bytes) = file?;
            let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
            let wrong = |line, reason| ReplayError::Line { path: name.clone(), line, reason };
            let (mut found, mut unreadable) = (false, None);
            for (line, text) in (1..).zip(text.split(|byte| *byte == b'\n')) {
                if text.trim_ascii().is_empty() {
                    continue;
                }
                match serde_json::from_slice(text) {
                    Ok(decision) => {
                        found = true;
                        let Some(decision) = log.take(decision) else { continue };
                        if !is_possible(&decision) {
                            let reason = format!(
                                "its timestamp must be from 0 to {LATEST_MS} ms, its lengths at most {MAX_PROMPT_TOKENS} tokens"
                            );
                            return Err(wrong(line, reason));
                        }
                        answered.push((line, decision));
                    }
                    Err(error) => {
                        log.unreadable_lines += 1;
                        unreadable.get_or_insert((line, error.to_string()));
                    }
                }
            }
            if let Some((line, reason)) = unreadable.filter(|_| !found) {
                return Err(wrong(line, reason));
            }
        }
        answered.sort_by(|(_, left), (_, right)| left.timestamp.total_cmp(&right.timestamp));
        (log.lines, log.decisions) = answered.into_iter().unzip();
        if log.decisions.is_empty() { Err(ReplayError::Empty) } else { Ok(log) }
    }

    /// Counts what is left out.
    fn take(&mut self, decision: Decision<'static>) -> Option<Decision<'static>> {
        if decision.outcome != COMPLETE || decision.status != 200 || decision.replica.is_none() {
            self.skipped += 1;
        } else if decision.output_length == 0 {
            self.without_output += 1;
        } else {
            return Some(decision);
        }
        None
    }

    /// Requests with an answer, in the order of their arrivals, with the lines that they stand in.
    pub(crate) fn decisions(&self) -> impl Iterator<Item = (usize, &Decision<'static>)> {
        self.lines.iter().copied().zip(&self.decisions)
    }

    /// Replicas that answered.
    pub fn replicas(&self) -> usize {
        self.replica_names().len()
    }

    fn replica_names(&self) -> BTreeSet<&str> {
        self.decisions.iter().filter_map(|decision| decision.replica.as_deref()).collect()
    }

    /// Models that did not go to every replica, with the places of those that they went to in the order of the replicas'
    /// names. The log does not tell whether others could have served them.
    pub fn served(&self) -> BTreeMap<String, BTreeSet<usize>> {
        let places: HashMap<&str, usize> = self.replica_names().into_iter().zip(0..).collect();
        let mut served: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for decision in &self.decisions {
            let Some(place) = decision.replica.as_deref().and_then(|name| places.get(name)) else { continue };
            // Without a model a request is for whatever an engine has.
            if decision.model.is_empty() {
                continue;
            }
            match served.get_mut(&*decision.model) {
                Some(replicas) => _ = replicas.insert(*place),
                None => _ = served.insert(decision.model.to_string(), BTreeSet::from([*place])),
            }
        }
        if served.len() < 2 {
            return BTreeMap::new();
        }
        served.retain(|_, replicas| replicas.len() < places.len());
        served
    }

    /// The traffic, for [`Traffic::Dataset`](crate::Traffic::Dataset).
    pub fn dataset(&self) -> Dataset {
        let endings = self.answer_blocks();
        let first = self.decisions.first().map_or(0.0, |decision| decision.timestamp);
        let entries = self.decisions.iter().zip(endings).map(|(decision, ending)| {
            let ids: Vec<u64> = decision.hash_ids.iter().copied().chain(ending).collect();
            let prompt = Prompt::Blocks {
                ids: ids.into(),
                with_answer: true,
                block_tokens: decision.block_tokens,
                tokens: decision.input_length.max(1),
                tail: 0,
            };
            let mut request = Request::new(Endpoint::Completions, Arc::from(&*decision.model), prompt);
            request.output_tokens = Some(decision.output_length);
            let Decision { prefix_key, session_key, max_tokens, .. } = *decision;
            request.seen = Some(Seen { prefix_key, session_key, max_tokens });
            let at = Duration::try_from_secs_f64((decision.timestamp - first) / 1e3).unwrap_or_default();
            Entry { at: Some(at), turns: vec![Turn::from(request)] }
        });
        Dataset { entries: entries.collect() }
    }

    /// The blocks of each answer, as far as a later prompt tells: one that begins with this prompt, came after this
    /// answer, and is longer.
    pub(crate) fn answer_blocks(&self) -> Vec<Vec<u64>> {
        let mut endings = vec![Vec::new(); self.decisions.len()];
        // Prompts without an ending, by their last block.
        let mut open: HashMap<u64, Vec<usize>> = HashMap::new();
        for (place, decision) in self.decisions.iter().enumerate() {
            let ids = &*decision.hash_ids;
            for (at, id) in ids.iter().enumerate().take(ids.len().saturating_sub(1)) {
                let Some(waiting) = open.get_mut(id) else { continue };
                waiting.retain(|earlier| {
                    let before = &self.decisions[*earlier];
                    let follows = before.hash_ids.len() == at + 1
                        && before.timestamp + before.duration_ms <= decision.timestamp;
                    if follows {
                        let tokens = before.input_length.saturating_add(before.output_length);
                        let end = ((tokens / before.block_tokens.max(1)) as usize).clamp(at + 1, ids.len());
                        endings[*earlier] = ids[at + 1..end].to_vec();
                    }
                    !follows
                });
            }
            if let Some(last) = ids.last() {
                open.entry(*last).or_default().push(place);
            }
        }
        endings
    }

    /// What happened.
    pub fn recorded(&self) -> Recorded {
        let first = self.decisions.first().map_or(0.0, |decision| decision.timestamp);
        let ends = self.decisions.iter().map(|decision| decision.timestamp + decision.duration_ms);
        let duration_s = (ends.fold(first, f64::max) - first) / 1e3;
        let mut ttfts = Distribution::default();
        let known = self.decisions.iter().filter_map(|decision| decision.ttft_ms);
        known.for_each(|ttft| ttfts.record((ttft * 1e6).max(0.0) as u64));
        let tpots: Vec<f64> = self.decisions.iter().filter_map(tpot_ms).collect();
        let mut per_replica: HashMap<&str, usize> = HashMap::new();
        let mut policies: Vec<&str> = Vec::new();
        let (mut cached, mut prompts, mut tokens) = (0_u64, 0_u64, 0_u64);
        for decision in &self.decisions {
            *per_replica.entry(decision.replica.as_deref().unwrap_or_default()).or_default() += 1;
            if !policies.contains(&&*decision.policy) {
                policies.push(&decision.policy);
            }
            let prompt = decision.prompt_tokens.unwrap_or(decision.input_length);
            tokens += u64::from(prompt) + u64::from(decision.output_length);
            if let Some(tokens) = decision.cached_tokens {
                cached += u64::from(tokens);
                prompts += u64::from(prompt);
            }
        }
        let most = per_replica.values().copied().max().unwrap_or_default();
        let requests = self.decisions.len();
        Recorded {
            requests,
            skipped: self.skipped,
            without_output: self.without_output,
            unreadable_lines: self.unreadable_lines,
            replicas: self.replicas(),
            policy: policies.join(", "),
            duration_s,
            total_tokens_per_s: (duration_s > 0.0).then(|| tokens as f64 / duration_s),
            mean_ttft_ms: ttfts.mean().map(|ttft| ttft / 1e6),
            p99_ttft_ms: ttfts.percentile(99.0).map(|ttft| ttft / 1e6),
            mean_tpot_ms: mean(&tpots),
            prefix_hit_ratio: (prompts > 0).then(|| cached as f64 / prompts as f64),
            imbalance: (most * per_replica.len()) as f64 / requests.max(1) as f64,
        }
    }
}

/// What no balancer can have seen would take a simulation for ever, or all memory.
fn is_possible(decision: &Decision<'_>) -> bool {
    (0.0..=LATEST_MS).contains(&decision.timestamp)
        && decision.input_length.max(decision.output_length) <= MAX_PROMPT_TOKENS
}

fn tpot_ms(decision: &Decision<'_>) -> Option<f64> {
    let between = decision.output_length.checked_sub(1).filter(|tokens| *tokens > 0)?;
    Some((decision.duration_ms - decision.ttft_ms?) / f64::from(between))
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(timestamp: f64, hash_ids: &[u64], output_length: u32) -> Decision<'static> {
        Decision {
            timestamp,
            input_length: hash_ids.len() as u32 * 16 + 5,
            output_length,
            hash_ids: hash_ids.to_vec().into(),
            block_tokens: 16,
            policy: "prefix_aware".into(),
            replica: Some("http://a".into()),
            outcome: COMPLETE.into(),
            status: 200,
            ttft_ms: Some(20.0),
            duration_ms: 100.0,
            cached_tokens: Some(16),
            ..Decision::default()
        }
    }

    fn written(decisions: &[Decision<'_>], rest: &str) -> Result<DecisionLog, ReplayError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let lines = decisions.iter().map(|decision| serde_json::to_string(decision).unwrap() + "\n");
        fs::write(&path, lines.collect::<String>() + rest).unwrap();
        DecisionLog::read([path.as_path()])
    }

    #[test]
    fn an_answer_has_the_blocks_of_the_prompt_that_goes_on_from_it() {
        let log = written(
            &[
                decision(1000.0, &[1, 2], 30),
                decision(1050.0, &[1, 2, 9, 9], 1), // while the first one is being answered
                decision(2000.0, &[1, 2, 3, 4, 5], 40),
                decision(3000.0, &[7], 10),
            ],
            "",
        );
        let ids: Vec<Vec<u64>> = log
            .unwrap()
            .dataset()
            .entries
            .iter()
            .map(|entry| match &entry.turns[0].request.prompt {
                Prompt::Blocks { ids, .. } => ids.to_vec(),
                _ => panic!("not blocks"),
            })
            .collect();
        // 37 + 30 tokens are four full blocks.
        assert_eq!(ids, [vec![1, 2, 3, 4], vec![1, 2, 9, 9], vec![1, 2, 3, 4, 5], vec![7]]);
    }

    #[test]
    fn policies_see_what_the_balancer_saw() {
        let keys = |prefix_key, session_key, max_tokens| Decision {
            prefix_key,
            session_key,
            max_tokens,
            ..decision(1.0, &[1, 2, 3], 5)
        };
        let log = written(&[keys(Some(7), Some(8), Some(9)), keys(None, None, None)], "").unwrap();
        let mut seen = log.dataset().entries.into_iter().map(|entry| entry.turns[0].request.seen.unwrap());
        let expected = Seen { prefix_key: Some(7), session_key: Some(8), max_tokens: Some(9) };
        assert_eq!((seen.next(), seen.next()), (Some(expected), Some(Seen::default())));
    }

    #[test]
    fn what_was_recorded_is_summed_up() {
        let failed = Decision { outcome: "client_gone".into(), ..decision(1.0, &[1], 5) };
        let other = Decision { replica: Some("http://b".into()), ..decision(1500.0, &[1, 2], 9) };
        let embedding = decision(1200.0, &[4], 0);
        let too_long =
            Decision { outcome: "bad_request".into(), status: 400, ..decision(1.0, &[1], 4_000_000_000) };
        let log = written(
            &[decision(2000.0, &[3], 5), failed, other, embedding, too_long, decision(1000.0, &[1], 5)],
            "{\"cut",
        )
        .unwrap();
        let recorded = log.recorded();
        assert_eq!((recorded.requests, recorded.skipped, recorded.replicas), (3, 2, 2));
        assert_eq!((recorded.without_output, recorded.unreadable_lines), (1, 1));
        assert!((recorded.duration_s - 1.1).abs() < 1e-9);
        assert_eq!(recorded.mean_ttft_ms, Some(20.0));
        assert_eq!(recorded.mean_tpot_ms, Some((20.0 + 20.0 + 10.0) / 3.0));
        assert!((recorded.prefix_hit_ratio.unwrap() - 48.0 / 79.0).abs() < 1e-9);
        assert!((recorded.imbalance - 4.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_log_in_which_no_time_passes_has_no_rate() {
        let log = written(&[Decision { duration_ms: 0.0, ..decision(1.0, &[1], 5) }], "").unwrap();
        assert_eq!(log.recorded().total_tokens_per_s, None);
    }

    #[test]
    fn models_are_known_by_the_replicas_that_they_went_to() {
        let of = |model: &'static str, replica: &'static str| Decision {
            model: model.into(),
            replica: Some(replica.into()),
            ..decision(1.0, &[1], 5)
        };
        let served = |decisions: &[Decision<'_>]| {
            written(decisions, "").unwrap().served().into_iter().collect::<Vec<_>>()
        };
        let all = [of("base", "b"), of("support", "b"), of("base", "a"), of("legal", "c"), of("base", "c")];
        let expected =
            [("legal".to_owned(), BTreeSet::from([2])), ("support".to_owned(), BTreeSet::from([1]))];
        assert_eq!(served(&all), expected);
        assert_eq!(served(&[of("base", "a"), of("base", "b")]), []);
        assert_eq!(served(&[of("base", "a"), of("base", "b"), of("", "a")]), [], "any model will do");
    }

    #[test]
    fn the_99th_percentile_is_that_of_every_report() {
        let with_ttft = |number: u32| Decision { ttft_ms: Some(f64::from(number)), ..decision(1.0, &[1], 5) };
        let log = written(&(1..=10).map(with_ttft).collect::<Vec<_>>(), "").unwrap();
        let p99 = log.recorded().p99_ttft_ms.unwrap();
        assert!((p99 - 9.91).abs() < 0.01, "between the two largest of ten: {p99}");
    }

    #[test]
    fn a_log_that_was_cut_or_edited_is_read_on() {
        let line = serde_json::to_string(&decision(1.0, &[1], 5)).unwrap();
        let text = format!("\n{}{line}\r\n\n{line}\n\u{0}\u{0}\n", &line[..40]);
        let log = written(&[decision(1.0, &[1], 5)], &text).unwrap();
        let recorded = log.recorded();
        assert_eq!((recorded.requests, recorded.unreadable_lines), (2, 2));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edited.jsonl");
        fs::write(&path, [BYTE_ORDER_MARK, line.as_bytes(), b"\n{\"model\": \"\xe4"].concat()).unwrap();
        let recorded = DecisionLog::read([path.as_path()]).unwrap().recorded();
        assert_eq!((recorded.requests, recorded.unreadable_lines), (1, 1));
    }

    #[test]
    fn a_file_without_decisions_is_refused_with_its_first_line() {
        let error = written(&[], "\n{\"x\": 1}\n{\"y\": 1}\n").unwrap_err().to_string();
        assert!(error.contains("decisions.jsonl:2: not a decision"), "{error}");
        for impossible in
            [decision(1e25, &[1], 5), decision(-1.0, &[1], 5), decision(1.0, &[1], 4_000_000_000)]
        {
            let error = written(&[decision(1.0, &[1], 5), impossible], "").unwrap_err().to_string();
            assert!(error.contains("decisions.jsonl:2: not a decision: its timestamp must"), "{error}");
        }
        assert!(matches!(written(&[], ""), Err(ReplayError::Empty)));
    }
}
