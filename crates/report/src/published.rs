//! The published comparison of routing policies that evenload's demo and simulator are laid beside.
//!
//! Source: KubeAI documentation, "Benchmarking Prefix Aware Load Balancing": eight replicas of vLLM serving Llama
//! 3.1 8B Instruct FP8, one L4 GPU each; 8,000 requests of multi-turn ShareGPT conversations; four settings of
//! concurrency and request rate, three policies each. What the page calls "Kubernetes Service, Round Robin" is a
//! random choice for each connection, and is named `random` here; its "Least Load" is `least_requests`.

use crate::{PolicyFigures, Spread};

/// Where the figures come from.
pub const PUBLISHED_SOURCE: &str = "KubeAI documentation, Benchmarking Prefix Aware Load Balancing";
/// Requests in every run.
const REQUESTS: u64 = 8_000;
/// Prompt tokens in every run.
const INPUT_TOKENS: u64 = 6_656_338;
/// Output tokens in every run.
const OUTPUT_TOKENS: u64 = 608_447;

/// One run of the page.
#[derive(Clone, Debug)]
pub struct Published {
    /// `--max-concurrency`
    pub concurrency: u32,
    /// `--request-rate`
    pub request_rate: f64,
    /// What the page prints.
    pub figures: PolicyFigures,
}

/// The twelve runs of the page, in its order.
pub fn published() -> Vec<Published> {
    ROWS.iter().map(Published::from).collect()
}

/// The page's figures for `policy` at `concurrency`.
pub fn published_figures(policy: &str, concurrency: u32) -> Option<PolicyFigures> {
    ROWS.iter()
        .find(|row| row.policy == policy && row.concurrency == concurrency)
        .map(|row| Published::from(row).figures)
}

struct Row {
    policy: &'static str,
    concurrency: u32,
    request_rate: f64,
    duration_s: f64,
    total_tokens_per_s: f64,
    ttft_ms: Spread,
    tpot_ms: Spread,
    itl_ms: Spread,
}

#[rustfmt::skip]
const ROWS: [Row; 12] = [
    row("random", 800, 800.0, 159.98, 45_409.81, [1319.77, 601.29, 7438.41], [189.29, 184.76, 486.16], [173.06, 94.60, 715.66]),
    row("least_requests", 800, 800.0, 158.39, 45_866.16, [817.18, 494.28, 5551.81], [191.44, 183.18, 520.48], [176.03, 124.55, 691.97]),
    row("prefix_hash", 800, 800.0, 104.67, 69_407.79, [280.20, 239.80, 1260.53], [86.55, 91.13, 139.47], [85.78, 77.35, 272.04]),
    row("random", 1600, 200.0, 157.07, 46_250.51, [10_365.29, 10_068.73, 22_283.86], [216.53, 207.58, 607.73], [197.37, 90.35, 749.96]),
    row("least_requests", 1600, 200.0, 153.02, 47_476.29, [10_579.01, 11_501.96, 15_514.10], [212.39, 202.98, 613.06], [193.34, 92.65, 747.65]),
    row("prefix_hash", 1600, 200.0, 110.00, 66_043.15, [196.13, 184.29, 492.33], [78.51, 81.50, 117.36], [79.20, 70.36, 249.71]),
    row("random", 3200, 200.0, 156.36, 46_460.74, [27_183.41, 31_260.66, 51_797.57], [214.63, 205.61, 629.95], [195.30, 88.07, 742.53]),
    row("least_requests", 3200, 200.0, 152.43, 47_658.74, [24_147.86, 25_580.61, 46_021.48], [211.98, 201.97, 598.14], [192.94, 93.29, 721.71]),
    row("prefix_hash", 3200, 200.0, 111.37, 65_233.60, [213.92, 188.53, 838.35], [78.73, 82.17, 122.60], [78.49, 70.32, 242.44]),
    row("random", 8000, 800.0, 156.20, 46_510.40, [48_587.55, 48_682.53, 101_940.11], [215.24, 206.65, 566.10], [196.77, 87.08, 751.68]),
    row("least_requests", 8000, 800.0, 152.59, 47_609.83, [39_163.80, 40_140.70, 78_489.26], [214.09, 205.62, 623.61], [194.44, 90.36, 725.95]),
    row("prefix_hash", 8000, 800.0, 107.89, 67_333.71, [237.06, 219.27, 619.65], [79.99, 81.76, 124.28], [79.90, 71.31, 303.14]),
];

#[allow(clippy::too_many_arguments, reason = "one argument a column of the table above")]
const fn row(
    policy: &'static str,
    concurrency: u32,
    request_rate: f64,
    duration_s: f64,
    total_tokens_per_s: f64,
    ttft_ms: [f64; 3],
    tpot_ms: [f64; 3],
    itl_ms: [f64; 3],
) -> Row {
    let (ttft_ms, tpot_ms, itl_ms) = (spread(ttft_ms), spread(tpot_ms), spread(itl_ms));
    Row { policy, concurrency, request_rate, duration_s, total_tokens_per_s, ttft_ms, tpot_ms, itl_ms }
}

const fn spread([mean, median, p99]: [f64; 3]) -> Spread {
    Spread { mean, median, p99 }
}

impl From<&Row> for Published {
    fn from(row: &Row) -> Self {
        Self {
            concurrency: row.concurrency,
            request_rate: row.request_rate,
            figures: PolicyFigures {
                policy: row.policy.to_owned(),
                duration_s: row.duration_s,
                requests: REQUESTS,
                failed: 0,
                input_tokens: INPUT_TOKENS,
                output_tokens: OUTPUT_TOKENS,
                total_tokens_per_s: row.total_tokens_per_s,
                ttft_ms: row.ttft_ms,
                itl_ms: row.itl_ms,
                tpot_ms: row.tpot_ms,
                prefix_hit_ratio: None,
                schedule_lag_ms: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vllm_bench::Block;

    /// Most figures of the page are printed twice, as a rate and as a duration.
    #[test]
    fn rates_agree_with_durations() {
        for run in published() {
            let figures = run.figures;
            let tokens = (figures.input_tokens + figures.output_tokens) as f64;
            let deviation = tokens / figures.duration_s / figures.total_tokens_per_s - 1.0;
            assert!(deviation.abs() < 1e-4, "{} {}: {deviation}", figures.policy, run.concurrency);
            assert!(figures.ttft_ms.p99 > figures.ttft_ms.median && figures.itl_ms.p99 > figures.itl_ms.mean);
        }
    }

    /// The renderer gives the page's own block, character by character.
    #[test]
    fn the_blocks_layout_is_that_of_the_page() {
        let figures = published_figures("random", 8000).unwrap();
        let section = |name: &str, spread: Spread| {
            [("Mean", spread.mean), ("Median", spread.median), ("P99", spread.p99)]
                .map(|(figure, value)| (format!("{figure} {name} (ms):"), value))
                .to_vec()
        };
        let block = Block {
            rows: vec![
                ("Successful requests:", figures.requests.to_string()),
                ("Benchmark duration (s):", format!("{:.2}", figures.duration_s)),
                ("Total input tokens:", figures.input_tokens.to_string()),
                ("Total generated tokens:", figures.output_tokens.to_string()),
                ("Request throughput (req/s):", "51.22".to_owned()),
                ("Output token throughput (tok/s):", "3895.38".to_owned()),
                ("Total Token throughput (tok/s):", format!("{:.2}", figures.total_tokens_per_s)),
            ],
            sections: vec![
                ("Time to First Token", section("TTFT", figures.ttft_ms)),
                ("Time per Output Token (excl. 1st token)", section("TPOT", figures.tpot_ms)),
                ("Inter-token Latency", section("ITL", figures.itl_ms)),
            ],
        };
        let page = "\
============ Serving Benchmark Result ============
Successful requests:                     8000      
Benchmark duration (s):                  156.20    
Total input tokens:                      6656338   
Total generated tokens:                  608447    
Request throughput (req/s):              51.22     
Output token throughput (tok/s):         3895.38   
Total Token throughput (tok/s):          46510.40  
---------------Time to First Token----------------
Mean TTFT (ms):                          48587.55  
Median TTFT (ms):                        48682.53  
P99 TTFT (ms):                           101940.11 
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          215.24    
Median TPOT (ms):                        206.65    
P99 TPOT (ms):                           566.10    
---------------Inter-token Latency----------------
Mean ITL (ms):                           196.77    
Median ITL (ms):                         87.08     
P99 ITL (ms):                            751.68    
==================================================
";
        assert_eq!(block.render(), page);
    }
}
