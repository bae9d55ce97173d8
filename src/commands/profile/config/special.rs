//! The keys that need more than a line: models, limits of good requests, kinds of phases, mixtures of lengths, sweeps.

use serde_json::{Value, json};

use super::{
    keys::Meaning,
    settings::{Setting, Settings, camel, each, meaning, refused, truth, unknown},
    tree::{Content, Entry, Node, Problem},
};

/// What a sweep may call by its last name: where it stands.
const SWEPT: [&str; 3] = ["benchmark.profiling", "benchmark.dataset.prompts", "benchmark.dataset"];

impl Settings {
    pub(super) fn special(&mut self, path: &str, line: u64, node: &Node) -> Result<(), Problem> {
        let wrong = |wanted: &str| Problem::new(line, format!("{path}: {wanted}"));
        let word = node.text().unwrap_or_default();
        match path {
            "benchmark.model" => self.models(path, line, node)?,
            "benchmark.slos" => {
                let slos = node.map().ok_or_else(|| wrong("metrics and their limits are wanted"))?;
                let slos = slos.iter().map(|entry| Some(format!("{}:{}", entry.key, entry.node.text()?)));
                let slos: Option<Vec<String>> = slos.collect();
                let slos = slos.ok_or_else(|| wrong("a number for each metric is wanted"))?;
                self.set(path, line, "goodput", vec![slos.join(" ")]);
            }
            "benchmark.endpoint.resetKvCache" => self.switched(path, line, "reset-kv-cache", node)?,
            "benchmark.endpoint.serverProfiler" => self.switched(path, line, "server-profiler", node)?,
            "benchmark.dataset.type" => {
                if !["synthetic", "file", "public"].contains(&word.as_str()) {
                    return Err(wrong("synthetic, file or public is wanted"));
                }
            }
            "benchmark.dataset.prompts.sequenceDistribution" => {
                let entries = match &node.content {
                    Content::List(entries) => entries.iter().map(share).collect::<Option<Vec<Value>>>(),
                    _ => None,
                };
                let pairs = entries.ok_or_else(|| wrong("a list of isl, osl and probability is wanted, lengths being numbers or mean and stddev"))?;
                self.set(path, line, "seq-dist", vec![json!({ "pairs": pairs }).to_string()]);
            }
            "benchmark.profiling.rate" => {
                let flag = if self.user_centric { "user-centric-rate" } else { "request-rate" };
                self.apply(path, line, Meaning::Value(flag), node)?;
            }
            "benchmark.profiling.type" => match word.as_str() {
                "concurrency" | "user_centric" => self.not_scheduled(path, line),
                "constant" | "poisson" | "gamma" => {
                    self.not_scheduled(path, line);
                    self.set(path, line, "arrival-pattern", vec![word]);
                }
                "fixed_schedule" => {
                    self.set(path, line, "fixed-schedule", Vec::new());
                    if self.from_first {
                        self.set(path, line, "fixed-schedule-auto-offset", Vec::new());
                    }
                }
                _ => {
                    return Err(wrong(
                        "concurrency, constant, poisson, gamma, user_centric or fixed_schedule is wanted",
                    ));
                }
            },
            "benchmark.warmup.type" => match word.as_str() {
                "concurrency" => {
                    self.set(path, line, "warmup-arrival-pattern", vec!["concurrency-burst".to_owned()])
                }
                "constant" | "poisson" | "gamma" => {
                    self.set(path, line, "warmup-arrival-pattern", vec![word])
                }
                "user_centric" | "fixed_schedule" => {
                    return Err(refused(path, line, "a warm-up is concurrency, constant, poisson or gamma"));
                }
                _ => return Err(wrong("concurrency, constant, poisson or gamma is wanted")),
            },
            "benchmark.profiling.autoOffset" => {
                if truth(node).ok_or_else(|| wrong("true or false is wanted"))? {
                    self.set(path, line, "fixed-schedule-auto-offset", Vec::new());
                }
            }
            "benchmark.artifacts.records" => {
                let raw = self.all.iter().any(|setting| setting.flag == "export-level");
                if node.is_nothing() && !raw {
                    self.set(path, line, "export-level", vec!["summary".to_owned()]);
                } else if !node.is_nothing() {
                    self.apply(path, line, Meaning::Given(&["jsonl"]), node)?;
                }
            }
            "benchmark.artifacts.raw" => {
                if truth(node).ok_or_else(|| wrong("true or false is wanted"))? {
                    self.set(path, line, "export-level", vec!["raw".to_owned()]);
                }
            }
            "benchmark.serverMetrics" => {
                let settings = Self::part(path, line, node)?;
                if node.get("enabled").and_then(truth) == Some(false) {
                    self.set(path, line, "no-server-metrics", Vec::new());
                } else {
                    settings.into_iter().for_each(|own| self.set(&own.key, own.line, own.flag, own.values));
                }
            }
            "benchmark.gpuTelemetry" => {
                Self::part(path, line, node)?;
                // Refused later, unless the command line says --no-gpu-telemetry.
                if node.get("enabled").and_then(truth) != Some(false) {
                    self.set(path, line, "gpu-telemetry", Vec::new());
                }
            }
            "sweep.type" => match word.as_str() {
                "grid" | "zip" => self.set(path, line, "sweep-type", vec![word]),
                _ => {
                    return Err(refused(
                        path,
                        line,
                        "grid and zip are there; --search-recipe searches for a limit",
                    ));
                }
            },
            "sweep.parameters" => {
                let lists = node.map().ok_or_else(|| wrong("names and lists are wanted"))?;
                lists.iter().try_for_each(|list| self.swept(list))?;
            }
            _ => return Err(unknown(path, line)),
        }
        Ok(())
    }

    /// The flags of a part that may be switched off, all its keys looked at.
    fn part(path: &str, line: u64, node: &Node) -> Result<Vec<Setting>, Problem> {
        let entries =
            node.map().ok_or_else(|| Problem::new(line, format!("{path}: keys and values are wanted")))?;
        let mut part = Self::default();
        entries.iter().try_for_each(|entry| part.entry(path, entry))?;
        Ok(part.all)
    }

    /// A trace with times is replayed by them unless told otherwise.
    fn not_scheduled(&mut self, path: &str, line: u64) {
        if self.from_file {
            self.set(path, line, "no-fixed-schedule", Vec::new());
        }
    }

    /// `true`, or an object of its settings.
    fn switched(&mut self, path: &str, line: u64, flag: &'static str, node: &Node) -> Result<(), Problem> {
        match (&node.content, truth(node)) {
            (Content::Map(entries), _) => {
                self.set(path, line, flag, Vec::new());
                entries.iter().try_for_each(|entry| self.entry(path, entry))
            }
            (_, Some(true)) => {
                self.set(path, line, flag, Vec::new());
                Ok(())
            }
            (_, Some(false)) => Ok(()),
            _ => Err(Problem::new(line, format!("{path}: true, false or keys are wanted"))),
        }
    }

    /// A name, a list of names, or `items` with names and a `strategy`.
    fn models(&mut self, path: &str, line: u64, node: &Node) -> Result<(), Problem> {
        let wrong =
            |line: u64| Problem::new(line, format!("{path}: a name, names, or items with names are wanted"));
        let Some(entries) = node.map() else {
            let names = each(node, Node::text).ok_or_else(|| wrong(line))?;
            self.set(path, line, "model-names", names);
            return Ok(());
        };
        for entry in entries {
            match entry.key.as_str() {
                "strategy" => {
                    self.apply(path, entry.line, Meaning::Value("model-selection-strategy"), &entry.node)?;
                }
                "items" => {
                    let Content::List(items) = &entry.node.content else { return Err(wrong(entry.line)) };
                    let mut names = Vec::new();
                    for item in items {
                        if let Some(other) =
                            item.map().unwrap_or_default().iter().find(|entry| entry.key != "name")
                        {
                            let path = format!("{path}.items.{}", other.key);
                            return Err(refused(
                                &path,
                                other.line,
                                "models are told apart by their names only, and have equal shares",
                            ));
                        }
                        names.push(item.get("name").unwrap_or(item).text().ok_or_else(|| wrong(item.line))?);
                    }
                    self.set(path, entry.line, "model-names", names);
                }
                other => return Err(unknown(&format!("{path}.{other}"), entry.line)),
            }
        }
        Ok(())
    }

    pub(super) fn length(
        &mut self,
        path: &str,
        line: u64,
        flags: (&'static str, Option<&'static str>),
        node: &Node,
    ) -> Result<(), Problem> {
        let wrong = |line, said: &str| Problem::new(line, format!("{path}: {said}"));
        let (mean, spread) = flags;
        let Some(entries) = node.map() else {
            let values = each(node, Node::text).ok_or_else(|| wrong(line, "a number is wanted"))?;
            self.set(path, line, mean, values);
            return Ok(());
        };
        for entry in entries {
            let value = entry.node.text();
            let flag = match (entry.key.as_str(), spread) {
                ("mean" | "value", _) => mean,
                ("stddev", Some(spread)) => spread,
                ("type", _) if ["fixed", "normal"].contains(&value.as_deref().unwrap_or_default()) => {
                    continue;
                }
                (other, _) => {
                    return Err(refused(
                        &format!("{path}.{other}"),
                        entry.line,
                        "lengths are fixed, normal (mean and stddev) or a sequenceDistribution",
                    ));
                }
            };
            let value = value.ok_or_else(|| wrong(entry.line, "a number is wanted"))?;
            self.set(path, entry.line, flag, vec![value]);
        }
        Ok(())
    }

    /// A list of values, by the last name of its key or by all of them.
    fn swept(&mut self, list: &Entry) -> Result<(), Problem> {
        let mut parts = list.key.split('.').filter(|part| *part != "benchmark").map(camel);
        let mut path = vec!["benchmark".to_owned()];
        match (parts.next(), parts.clone().next()) {
            // The name of the data set or of the phase is left out.
            (Some(head), Some(_)) if head == "datasets" => {
                parts.next();
                path.push("dataset".to_owned());
            }
            (Some(head), Some(_)) if head == "phases" => path.extend(parts.next()),
            (head, _) => path.extend(head),
        }
        let path = path.into_iter().chain(parts).collect::<Vec<_>>().join(".");
        let name = path.trim_start_matches("benchmark.");
        let places = std::iter::once(path.clone()).chain(SWEPT.iter().map(|above| format!("{above}.{name}")));
        let sweepable = |path: &String| {
            matches!(meaning(path), Some(Meaning::Value(_) | Meaning::Seconds(_) | Meaning::Length(..)))
                || path == "benchmark.profiling.rate"
        };
        let Some(place) = places.into_iter().find(sweepable) else {
            return Err(refused(
                &format!("sweep.parameters.{}", list.key),
                list.line,
                "lists are possible for what a flag takes as a list",
            ));
        };
        if !matches!(&list.node.content, Content::List(values) if !values.is_empty()) {
            return Err(Problem::new(list.line, format!("sweep.parameters.{}: a list is wanted", list.key)));
        }
        self.walk(&place, list.line, &list.node)
    }
}

/// An entry of a distribution of lengths, as `--seq-dist` takes it.
fn share(node: &Node) -> Option<Value> {
    let mut share = serde_json::Map::new();
    for entry in node.map()? {
        let (mean, spread, probability) = match camel(&entry.key).as_str() {
            "isl" => ("isl", "isl_stddev", false),
            "osl" => ("osl", "osl_stddev", false),
            "islStddev" => ("isl_stddev", "", false),
            "oslStddev" => ("osl_stddev", "", false),
            "probability" => ("prob", "", true),
            _ => return None,
        };
        match &entry.node.content {
            Content::Map(_) if probability || spread.is_empty() => return None,
            Content::Map(parts) => {
                for part in parts {
                    let key = match part.key.as_str() {
                        "mean" | "value" => mean,
                        "stddev" => spread,
                        _ => return None,
                    };
                    share.insert(key.to_owned(), part.node.json());
                }
            }
            _ => {
                share.insert(mean.to_owned(), entry.node.json());
            }
        }
    }
    Some(Value::Object(share))
}
