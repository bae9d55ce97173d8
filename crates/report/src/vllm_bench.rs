//! The console block, the JSON and the file name of vLLM's serving benchmark, in two generations.
//!
//! [`BenchFormat::Kubeai`] is the script of January 2025 that KubeAI changed for its published comparison,
//! [`BenchFormat::Vllm`] the `vllm bench serve` of today. The figures keep that tool's definitions: answered requests
//! only, percentiles as NumPy's, ITL pooled over all gaps, zero where there is nothing to average. Which events count
//! as chunks is the sender's to follow. One figure differs: an answer whose tokens all came in one event has no TPOT
//! here; the scripts average in a zero for it. Lists have one entry a request, in the order of the plan. What servers
//! tell of speculation is not in the file. Seconds count from the first send of an answered request, in milliseconds.
//!
//! What this side adds (lateness, in flight, verdict) stands after the block, so that whoever reads the block
//! finds it as it was.

mod details;
mod seconds;

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use self::details::Detail;
pub use self::{details::BenchDetails, seconds::BenchSeconds};
use crate::{Distribution, MILLISECOND, Metric, Object, Report, Summary, civil::Civil};

const WIDTH: usize = 50;

/// Whose format.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BenchFormat {
    /// `benchmark_serving.py` of January 2025, as KubeAI uses it.
    #[default]
    Kubeai,
    /// `vllm bench serve` of 2026.
    Vllm,
}

/// What the command line said, as far as the output repeats it.
#[derive(Clone, Debug)]
pub struct BenchRun {
    /// Whose format.
    pub format: BenchFormat,
    /// `--backend`
    pub backend: String,
    /// `--label`; the backend where there is none.
    pub label: Option<String>,
    /// `--model`
    pub model: String,
    /// `--tokenizer`; absent where lengths are not counted by one.
    pub tokenizer: Option<String>,
    /// `--best-of`
    pub best_of: u32,
    /// `--num-prompts`
    pub num_prompts: u64,
    /// `--request-rate`; `None` is infinite.
    pub request_rate: Option<f64>,
    /// `--ramp-up-strategy`, `--ramp-up-start-rps` and `--ramp-up-end-rps`
    pub ramp_up: Option<(&'static str, u32, u32)>,
    /// `--burstiness`
    pub burstiness: f64,
    /// `--max-concurrency`
    pub max_concurrency: Option<u32>,
    /// `--metadata`
    pub metadata: Vec<(String, String)>,
    /// `--percentile-metrics`; see [`bench_metric`].
    pub percentile_metrics: Vec<Metric>,
    /// `--metric-percentiles`
    pub percentiles: Vec<f64>,
    /// `--save-detailed`: vLLM leaves most lists out without it; KubeAI's script always writes them.
    pub save_detailed: bool,
    /// Whether `--goodput` was given.
    pub goodput: bool,
    /// When the run ended.
    pub date: SystemTime,
    /// When each rate of a ramp was reached.
    pub rate_changes: Vec<(u32, SystemTime)>,
    /// The start of the run, on the clock of its records, if requests wait for their slots from then on: all of them,
    /// where no rate says when they are due.
    pub all_due_at: Option<Duration>,
}

/// The figures of one console block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    /// Labels with printed values.
    pub(crate) rows: Vec<(&'static str, String)>,
    /// A heading, and labels with values in milliseconds.
    pub(crate) sections: Vec<(&'static str, Vec<(String, f64)>)>,
}

struct Names {
    metric: Metric,
    key: &'static str,
    short: &'static str,
    heading: &'static str,
}

const NAMES: [Names; 6] = [
    Names { metric: Metric::Ttft, key: "ttft", short: "TTFT", heading: "Time to First Token" },
    Names {
        metric: Metric::Tpot,
        key: "tpot",
        short: "TPOT",
        heading: "Time per Output Token (excl. 1st token)",
    },
    Names { metric: Metric::Gap, key: "itl", short: "ITL", heading: "Inter-token Latency" },
    Names { metric: Metric::E2e, key: "e2el", short: "E2EL", heading: "End-to-end Latency" },
    Names {
        metric: Metric::ScheduleLag,
        key: "client_queue_time",
        short: "Client Queue Time",
        heading: "Client-side Queueing",
    },
    Names {
        metric: Metric::E2eFromSchedule,
        key: "e2el_including_client_queue",
        short: "E2EL incl. Client Queue",
        heading: "Queue-inclusive End-to-end Latency",
    },
];

/// The metric that `--percentile-metrics` and `--goodput` call `key`.
pub fn bench_metric(key: &str) -> Option<Metric> {
    NAMES.iter().find(|names| names.key == key).map(|names| names.metric)
}

// === impl BenchRun ===

impl BenchRun {
    /// The three lines before the run.
    pub fn preamble(&self) -> String {
        let process = if self.burstiness == 1.0 { "Poisson process" } else { "Gamma distribution" };
        let concurrency = self.max_concurrency.map_or("None".to_owned(), |limit| limit.to_string());
        let traffic = match self.ramp_up {
            None => format!("Traffic request rate: {}", self.rate()),
            Some((strategy, start, end)) => format!(
                "Traffic ramp-up strategy: {strategy}.\n\
                 Will increase RPS from {start} to {end} RPS over the duration of the benchmark."
            ),
        };
        let burstiness = self.burstiness;
        format!(
            "{traffic}\nBurstiness factor: {burstiness:?} ({process})\nMaximum request concurrency: {concurrency}\n"
        )
    }

    /// The block printed at the end of the run.
    pub fn block(&self, report: &Report, seconds: &BenchSeconds) -> String {
        let summary = &report.total;
        let modern = self.format == BenchFormat::Vllm;
        let mut rows = vec![("Successful requests:", summary.answered().to_string())];
        if modern {
            rows.push(("Failed requests:", unanswered(summary).to_string()));
            if let Some(limit) = self.max_concurrency {
                rows.push(("Maximum request concurrency:", limit.to_string()));
            }
            if let Some(rate) = self.request_rate {
                rows.push(("Request rate configured (RPS):", decimal(rate)));
            }
        }
        rows.push(("Benchmark duration (s):", decimal(summary.duration_s())));
        rows.push(("Total input tokens:", summary.input_tokens().to_string()));
        rows.push(("Total generated tokens:", summary.output_tokens().to_string()));
        rows.push(("Request throughput (req/s):", decimal(summary.per_second(summary.answered()))));
        if self.goodput {
            rows.push(("Request goodput (req/s):", decimal(summary.per_second(summary.good))));
        }
        rows.push(("Output token throughput (tok/s):", decimal(summary.per_second(summary.output_tokens()))));
        if modern {
            rows.push(("Peak output token throughput (tok/s):", decimal(seconds.most_events())));
            rows.push(("Peak concurrent requests:", decimal(seconds.most_active() as f64)));
        }
        let total =
            if modern { "Total token throughput (tok/s):" } else { "Total Token throughput (tok/s):" };
        rows.push((total, decimal(summary.total_tokens_per_s())));
        let section = |names: &Names| self.section(names, &self.values(names.metric, summary, seconds));
        let sections = self.names().map(|names| (names.heading, section(names))).collect();
        Block { rows, sections }.render()
    }

    /// The object of the result file.
    pub fn json(&self, report: &Report, details: &BenchDetails, seconds: &BenchSeconds) -> Object {
        let mut object = self.configuration();
        let summary = &report.total;
        let modern = self.format == BenchFormat::Vllm;
        object.set("duration", summary.duration_s());
        object.set("completed", summary.answered());
        if modern {
            object.set("failed", unanswered(summary));
        }
        object.set("total_input_tokens", summary.input_tokens());
        object.set("total_output_tokens", summary.output_tokens());
        object.set("request_throughput", summary.per_second(summary.answered()));
        let goodput = self.goodput.then(|| summary.per_second(summary.good));
        object.set(if modern { "request_goodput" } else { "request_goodput:" }, goodput);
        object.set("output_throughput", summary.per_second(summary.output_tokens()));
        object.set("total_token_throughput", summary.total_tokens_per_s());
        self.add_lists(details, &mut object);
        if modern {
            object.set("max_output_tokens_per_s", seconds.most_events());
            object.set("max_concurrent_requests", seconds.most_active());
            object.set("rtfx", 0.0);
        }
        if !self.rate_changes.is_empty() {
            let change =
                |(rate, at): &(u32, SystemTime)| json!({ "rps": rate, "timestamp": Civil::utc(*at).iso() });
            object.set("rps_change_events", self.rate_changes.iter().map(change).collect::<Vec<_>>());
        }
        for names in self.names() {
            let values = self.values(names.metric, summary, seconds);
            let mut set = |figure: &str, value: Option<f64>| {
                object.set(format!("{figure}_{}_ms", names.key), value.unwrap_or(0.0) / MILLISECOND);
            };
            set("mean", values.mean());
            set("median", values.percentile(50.0));
            set("std", values.std());
            for &percent in &self.percentiles {
                set(&format!("p{percent}"), values.percentile(percent));
            }
        }
        object
    }

    /// The name of the result file.
    pub fn file_name(&self) -> String {
        let concurrency =
            self.max_concurrency.map_or_else(String::new, |limit| format!("-concurrency{limit}"));
        let model = self.model.rsplit('/').next().unwrap_or_default();
        let label = match self.format {
            BenchFormat::Kubeai => &self.backend,
            BenchFormat::Vllm => self.label.as_ref().unwrap_or(&self.backend),
        };
        let rate = match self.ramp_up {
            None => format!("{}qps", self.rate()),
            Some((strategy, start, end)) => format!("ramp-up-{strategy}-{start}qps-{end}qps"),
        };
        format!("{label}-{rate}{concurrency}-{model}-{}.json", Civil::utc(self.date).compact())
    }

    fn configuration(&self) -> Object {
        let mut object = Object::default();
        object.set("date", Civil::utc(self.date).compact());
        if self.format == BenchFormat::Vllm {
            object.set("endpoint_type", &self.backend);
        }
        object.set("backend", &self.backend);
        if self.format == BenchFormat::Vllm {
            object.set("label", &self.label);
        }
        object.set("model_id", &self.model);
        object.set("tokenizer_id", self.tokenizer.as_ref().unwrap_or(&self.model));
        if self.format == BenchFormat::Kubeai {
            object.set("best_of", self.best_of);
        }
        object.set("num_prompts", self.num_prompts);
        self.metadata.iter().for_each(|(key, value)| object.set(key, value));
        object.set("request_rate", self.request_rate.map_or(json!("inf"), |rate| json!(rate)));
        // JSON has no infinite numbers; an infinite shape is constant gaps.
        let burstiness = Some(self.burstiness).filter(|shape| shape.is_finite());
        object.set("burstiness", burstiness.map_or(json!("inf"), |shape| json!(shape)));
        object.set("max_concurrency", self.max_concurrency);
        if let Some((strategy, start, end)) = self.ramp_up {
            object.set("ramp_up_strategy", strategy);
            object.set("ramp_up_start_rps", start);
            object.set("ramp_up_end_rps", end);
        }
        object
    }

    fn add_lists(&self, details: &BenchDetails, object: &mut Object) {
        let mut details: Vec<&Detail> = details.0.iter().collect();
        details.sort_by_key(|detail| detail.order);
        let mut list = |key: &str, value: &dyn Fn(&Detail) -> Value| {
            object.set(key, details.iter().map(|detail| value(detail)).collect::<Vec<_>>());
        };
        let modern = self.format == BenchFormat::Vllm;
        let detailed = self.save_detailed || !modern;
        if detailed {
            list("input_lens", &|detail| json!(detail.input_tokens));
            list("output_lens", &|detail| json!(detail.output_tokens));
            list("ttfts", &|detail| json!(detail.ttft));
            list("itls", &|detail| json!(detail.gaps));
        }
        if modern {
            list("latencies", &|detail| json!(detail.latency));
            let waited = |detail: &Detail| {
                self.all_due_at.map_or(detail.queue, |due| (detail.start - due.as_secs_f64()).max(0.0))
            };
            list("queue_times", &|detail| json!(waited(detail)));
        }
        if modern && detailed {
            list("start_times", &|detail| json!(detail.start));
        }
        if detailed {
            list("generated_texts", &|detail| json!(detail.text));
            list("errors", &|detail| json!(detail.error));
        }
    }

    /// The figures to be shown: those of the client's queue only where there is one, as in the script.
    fn names(&self) -> impl Iterator<Item = &'static Names> {
        let queues = self.max_concurrency.is_some();
        let there = move |metric: Metric| match metric {
            Metric::ScheduleLag => queues,
            Metric::E2eFromSchedule => queues && self.request_rate.is_some(),
            _ => true,
        };
        let wanted = |names: &&Names| self.percentile_metrics.contains(&names.metric);
        NAMES.iter().filter(wanted).filter(move |names| there(names.metric))
    }

    fn values<'a>(
        &self,
        metric: Metric,
        summary: &'a Summary,
        seconds: &BenchSeconds,
    ) -> Cow<'a, Distribution> {
        match self.all_due_at.filter(|_| metric == Metric::ScheduleLag) {
            Some(due) => Cow::Owned(seconds.waited_since(due)),
            None => Cow::Borrowed(summary.of(metric)),
        }
    }

    fn section(&self, names: &Names, values: &Distribution) -> Vec<(String, f64)> {
        let mut rows = vec![
            (format!("Mean {} (ms):", names.short), values.mean()),
            (format!("Median {} (ms):", names.short), values.percentile(50.0)),
        ];
        for &percent in &self.percentiles {
            rows.push((format!("P{percent} {} (ms):", names.short), values.percentile(percent)));
        }
        rows.into_iter().map(|(label, value)| (label, value.unwrap_or(0.0) / MILLISECOND)).collect()
    }

    /// As Python prints it.
    fn rate(&self) -> String {
        self.request_rate.map_or("inf".to_owned(), |rate| format!("{rate:?}"))
    }
}

fn unanswered(summary: &Summary) -> u64 {
    summary.requests() - summary.answered()
}

fn decimal(value: f64) -> String {
    format!("{value:.2}")
}

// === impl Block ===

impl Block {
    /// Labels left in 40 columns, values left in 10, headings centred in rules of 50.
    pub(crate) fn render(&self) -> String {
        let row = |label: &str, value: &str| format!("{label:<40} {value:<10}\n");
        let mut text = format!("{:=^WIDTH$}\n", " Serving Benchmark Result ");
        self.rows.iter().for_each(|(label, value)| text += &row(label, value));
        for (heading, values) in &self.sections {
            text += &format!("{heading:-^WIDTH$}\n");
            values.iter().for_each(|(label, value)| text += &row(label, &decimal(*value)));
        }
        text + &"=".repeat(WIDTH) + "\n"
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::{
        Objective, Outcome, Record, Recorder, RunShape,
        sample::{failure, request},
    };

    fn run(format: BenchFormat) -> BenchRun {
        BenchRun {
            format,
            backend: "vllm".to_owned(),
            label: None,
            model: "org/llama".to_owned(),
            tokenizer: None,
            best_of: 1,
            num_prompts: 7,
            request_rate: Some(800.0),
            ramp_up: None,
            burstiness: 1.0,
            max_concurrency: Some(800),
            metadata: vec![("fleet".to_owned(), "8 x L4".to_owned())],
            percentile_metrics: vec![Metric::Ttft, Metric::Tpot, Metric::Gap],
            percentiles: vec![99.0],
            save_detailed: true,
            goodput: false,
            date: UNIX_EPOCH + Duration::from_secs(1_739_355_300),
            rate_changes: Vec::new(),
            all_due_at: None,
        }
    }

    /// TTFT 10, 20, .. 60 ms; gaps of 30 + 7 * index ms; 1 to 6 tokens; one failure.
    fn records() -> Vec<Record> {
        let mut records: Vec<Record> = (0..6)
            .map(|index| request(400 * index, 10 * (index + 1), 30 + 7 * index, index as u32 + 1))
            .chain([failure(100, 2500, Outcome::Status(503, "overloaded".to_owned()))])
            .collect();
        records.iter_mut().zip([3, 1, 0, 2, 5, 4, 6]).for_each(|(record, index)| record.index = index);
        records
    }

    fn report(objectives: Vec<Objective>) -> Report {
        let mut recorder = Recorder::new(RunShape::default(), objectives);
        records().iter().for_each(|record| recorder.push(record));
        recorder.report()
    }

    fn details() -> BenchDetails {
        let mut details = BenchDetails::default();
        records().iter().for_each(|record| details.push(record, format!("text {}", record.index)));
        details
    }

    fn seconds() -> BenchSeconds {
        let mut seconds = BenchSeconds::default();
        records().iter().for_each(|record| seconds.push(record));
        seconds
    }

    // The figures were worked out with NumPy from the same lists.
    #[test]
    fn the_block_of_the_old_script() {
        let expected = "\
============ Serving Benchmark Result ============
Successful requests:                     6         
Benchmark duration (s):                  2.60      
Total input tokens:                      600       
Total generated tokens:                  21        
Request throughput (req/s):              2.31      
Output token throughput (tok/s):         8.08      
Total Token throughput (tok/s):          238.85    
---------------Time to First Token----------------
Mean TTFT (ms):                          35.00     
Median TTFT (ms):                        35.00     
P99 TTFT (ms):                           59.50     
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          51.00     
Median TPOT (ms):                        51.00     
P99 TPOT (ms):                           64.72     
---------------Inter-token Latency----------------
Mean ITL (ms):                           55.67     
Median ITL (ms):                         58.00     
P99 ITL (ms):                            65.00     
==================================================
";
        assert_eq!(run(BenchFormat::Kubeai).block(&report(Vec::new()), &seconds()), expected);
    }

    #[test]
    fn the_block_of_today() {
        let mut run = run(BenchFormat::Vllm);
        run.goodput = true;
        run.percentile_metrics = vec![Metric::E2e];
        run.percentiles = vec![50.0, 99.9];
        // TPOT of a single token counts as good.
        let objective = Objective { metric: Metric::Tpot, limit: 44_000_000, good_without: true };
        let expected = "\
============ Serving Benchmark Result ============
Successful requests:                     6         
Failed requests:                         1         
Maximum request concurrency:             800       
Request rate configured (RPS):           800.00    
Benchmark duration (s):                  2.60      
Total input tokens:                      600       
Total generated tokens:                  21        
Request throughput (req/s):              2.31      
Request goodput (req/s):                 1.15      
Output token throughput (tok/s):         8.08      
Peak output token throughput (tok/s):    9.00      
Peak concurrent requests:                3.00      
Total token throughput (tok/s):          238.85    
----------------End-to-end Latency----------------
Mean E2EL (ms):                          174.17    
Median E2EL (ms):                        155.50    
P50 E2EL (ms):                           155.50    
P99.9 E2EL (ms):                         384.49    
==================================================
";
        assert_eq!(run.block(&report(vec![objective]), &seconds()), expected);
    }

    #[test]
    fn the_file_has_the_keys_of_the_old_script_in_its_order() {
        let run = run(BenchFormat::Kubeai);
        let json = run.json(&report(Vec::new()), &details(), &seconds());
        let keys: Vec<&str> = json.keys().collect();
        let expected = "date backend model_id tokenizer_id best_of num_prompts fleet request_rate burstiness \
            max_concurrency duration completed total_input_tokens total_output_tokens request_throughput \
            request_goodput: output_throughput total_token_throughput input_lens output_lens ttfts itls \
            generated_texts errors mean_ttft_ms median_ttft_ms std_ttft_ms p99_ttft_ms mean_tpot_ms \
            median_tpot_ms std_tpot_ms p99_tpot_ms mean_itl_ms median_itl_ms std_itl_ms p99_itl_ms";
        assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
        let text = serde_json::to_string(&json).unwrap();
        assert!(text.starts_with("{\"date\":\"20250212-101500\",\"backend\":\"vllm\""), "{text}");
        assert!(
            text.contains("\"ttfts\":[0.03,0.02,0.04,0.01,0.06,0.05,0.0]"),
            "in the plan's order: {text}"
        );
        assert!(text.contains("\"itls\":[[0.044,0.044],[0.037],[0.051,0.051,0.051],[],"), "{text}");
        assert!(text.contains("\"generated_texts\":[\"text 0\",\"text 1\","), "{text}");
        assert!(text.contains("\"text 5\",\"\"]"), "a failure has none: {text}");
        assert!(text.contains("\"errors\":[\"\",\"\",\"\",\"\",\"\",\"\",\"503: overloaded\"]"), "{text}");
        assert_eq!(json.get("std_ttft_ms"), Some(&json!(17.078_251_276_599_33)));
        assert_eq!(json.get("request_goodput:"), Some(&Value::Null));
    }

    #[test]
    fn todays_file_leaves_the_lists_out_unless_asked() {
        let mut run = run(BenchFormat::Vllm);
        run.save_detailed = false;
        run.request_rate = None;
        let json = run.json(&report(Vec::new()), &details(), &seconds());
        let has = |key: &str| json.get(key).is_some();
        assert!(has("latencies") && has("queue_times") && !has("ttfts") && !has("errors"));
        assert_eq!(json.get("request_rate"), Some(&json!("inf")));
        assert_eq!(
            (json.get("failed"), json.get("max_concurrent_requests")),
            (Some(&json!(1)), Some(&json!(3))),
            "three in the first second, though never at once"
        );
        assert_eq!(json.get("max_output_tokens_per_s"), Some(&json!(9.0)));
    }

    #[test]
    fn without_a_rate_requests_wait_from_the_start() {
        let mut run = run(BenchFormat::Vllm);
        run.percentile_metrics = vec![Metric::E2e, Metric::ScheduleLag, Metric::E2eFromSchedule];
        let keys = |run: &BenchRun| -> Vec<String> {
            let json = run.json(&report(Vec::new()), &details(), &seconds());
            json.keys().filter(|key| key.starts_with("mean")).map(ToOwned::to_owned).collect()
        };
        let all = ["mean_e2el_ms", "mean_client_queue_time_ms", "mean_e2el_including_client_queue_ms"];
        assert_eq!(keys(&run), all);
        run.request_rate = None;
        run.all_due_at = Some(Duration::ZERO);
        assert_eq!(keys(&run), all[..2], "a queue without a rate has no end-to-end latency of its own");
        let json = run.json(&report(Vec::new()), &details(), &seconds());
        // Sent every 400 ms, the failure at 100 ms.
        assert_eq!(json.get("mean_client_queue_time_ms"), Some(&json!(1000.0)));
        assert_eq!(json.get("queue_times"), Some(&json!([0.8, 0.4, 1.2, 0.0, 2.0, 1.6, 0.1])));
        run.max_concurrency = None;
        assert_eq!(keys(&run), all[..1]);
    }

    #[test]
    fn the_steps_of_a_ramp_are_in_the_file() {
        let mut run = run(BenchFormat::Vllm);
        run.rate_changes = vec![(2, run.date), (3, run.date + Duration::from_secs(5))];
        let json = run.json(&report(Vec::new()), &details(), &seconds());
        let steps = json.get("rps_change_events").unwrap();
        assert_eq!((&steps[1]["rps"], steps.as_array().unwrap().len()), (&json!(3), 2));
        assert!(steps[1]["timestamp"].as_str().unwrap().starts_with("2025-02-12T10:15:05"), "{steps}");
    }

    #[test]
    fn file_names_and_preamble_are_as_python_prints_them() {
        let mut run = run(BenchFormat::Kubeai);
        assert_eq!(run.file_name(), "vllm-800.0qps-concurrency800-llama-20250212-101500.json");
        assert_eq!(
            run.preamble(),
            "Traffic request rate: 800.0\nBurstiness factor: 1.0 (Poisson process)\nMaximum request concurrency: 800\n"
        );
        run.format = BenchFormat::Vllm;
        (run.label, run.request_rate, run.max_concurrency) = (Some("mine".to_owned()), None, None);
        assert_eq!(run.file_name(), "mine-infqps-llama-20250212-101500.json");
        assert!(run.preamble().contains("rate: inf\n") && run.preamble().ends_with("concurrency: None\n"));
        run.ramp_up = Some(("linear", 2, 9));
        assert_eq!(run.file_name(), "mine-ramp-up-linear-2qps-9qps-llama-20250212-101500.json");
        assert!(
            run.preamble()
                .starts_with("Traffic ramp-up strategy: linear.\nWill increase RPS from 2 to 9 RPS")
        );
    }
}
