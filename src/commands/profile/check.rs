//! Which flags do not go together, beyond what their definitions say.

use report::Threshold;

use super::{
    Arguments,
    flags::{ArrivalPattern, Bust, EndpointType, ExportLevel, InputFlags},
    search,
};

impl Arguments {
    /// Says what is wrong with the flags, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        let (endpoint, input, load) = (&self.endpoint, &self.input, &self.load);
        if endpoint.endpoint_type == EndpointType::Raw && input.input_file.is_none() {
            return Err("--endpoint-type raw sends the bodies of a file: give --input-file".to_owned());
        }
        if endpoint.per_chunk_usage && !endpoint.streaming {
            return Err("--per-chunk-usage needs --streaming".to_owned());
        }
        if endpoint.model_names.iter().any(String::is_empty) {
            return Err("--model: a name is empty".to_owned());
        }
        if endpoint.url.iter().any(|url| url.trim().is_empty()) {
            return Err("--url: a URL is empty".to_owned());
        }
        if let Some(flag) = made_only(input).filter(|_| !input.is_synthetic()) {
            return Err(format!("{flag} is for made prompts, not for --input-file"));
        }
        if let Some(flag) = file_only(input).filter(|_| input.is_synthetic()) {
            return Err(format!("{flag} is for --input-file"));
        }
        let scheduled =
            Some("--fixed-schedule").filter(|_| load.fixed_schedule).or_else(|| load.schedule_flag());
        if let Some(flag) = scheduled.filter(|_| input.is_synthetic()) {
            return Err(format!("{flag} needs a trace: give --input-file"));
        }
        let window = (load.fixed_schedule_start_offset, load.fixed_schedule_end_offset);
        if let (Some(start), Some(end)) = window
            && start > end
        {
            return Err(format!(
                "--fixed-schedule-start-offset {start} is after --fixed-schedule-end-offset {end}"
            ));
        }
        if !(1e-6..=1e6).contains(&input.synthesis_speedup_ratio) {
            let ratio = input.synthesis_speedup_ratio;
            return Err(format!("--synthesis-speedup-ratio {ratio}: give a number from 1e-6 to 1e6"));
        }
        let burst = load.arrival_pattern == Some(ArrivalPattern::ConcurrencyBurst);
        if burst && load.concurrency.is_empty() {
            return Err("--arrival-pattern concurrency-burst needs --concurrency".to_owned());
        }
        if burst && !(load.request_rate.is_empty() && load.request_rate_series.is_none()) {
            return Err(
                "--arrival-pattern concurrency-burst has no rate: leave --request-rate out".to_owned()
            );
        }
        let paced = !load.request_rate.is_empty() || load.request_rate_series.is_some();
        if load.arrival_smoothness.is_some() && !paced {
            return Err("--arrival-smoothness needs --request-rate".to_owned());
        }
        if load.arrival_pattern.is_some() && !burst && !paced {
            return Err("--arrival-pattern needs --request-rate".to_owned());
        }
        if self.load.warm_up.is_wanted() && load.warm_up.warmup_request_count == Some(0) {
            return Err(
                "--warmup-request-count 0 asks for no warm-up, the other warm-up flags for one".to_owned()
            );
        }
        let warm_up_only = warm_up_only(self)
            .filter(|_| !load.warm_up.is_wanted() && load.warm_up.warmup_request_count.is_none());
        if let Some(flag) = warm_up_only {
            return Err(format!(
                "{flag} needs --warmup-request-count, --warmup-duration or --num-warmup-sessions"
            ));
        }
        if load.warm_up.warmup_grace_period.0.is_some() && load.warm_up.warmup_duration.is_none() {
            return Err(
                "--warmup-grace-period counts from the end of --warmup-duration: give that too, or leave \
                        it out to wait for all answers"
                    .to_owned(),
            );
        }
        if let Some(limit) = self.own.fail_if.iter().find(|limit| limit.needs_stream() && !endpoint.streams())
        {
            return Err(format!(
                "--fail-if {limit:?}: this is measured only with --streaming",
                limit = limit.to_string()
            ));
        }
        let undefined = |limit: &&Threshold| limit.needs_goodput() && self.output.slos().is_empty();
        if let Some(limit) = self.own.fail_if.iter().find(undefined) {
            return Err(format!("--fail-if \"{limit}\": say with --goodput which answers are good"));
        }
        if self.output.slos().iter().any(|slo| slo.needs_stream()) && !endpoint.streams() {
            return Err(
                "--goodput: first-token and inter-token times are measured only with --streaming".to_owned()
            );
        }
        if self.output.export_http_trace && self.output.export_level == ExportLevel::Summary {
            return Err(
                "--export-http-trace writes into the lines of requests: leave --export-level summary out"
                    .to_owned(),
            );
        }
        if input.prompt_batch_size > 1 && endpoint.endpoint_type != EndpointType::Embeddings {
            return Err(
                "--prompt-batch-size is for --endpoint-type embeddings: others take one prompt a request"
                    .to_owned(),
            );
        }
        if input.prompt_batch_size > 1 && input.conversation_turn_mean != [1.0] {
            return Err("--prompt-batch-size sends texts without turns: leave --conversation-turn-mean out"
                .to_owned());
        }
        if input.cache_bust != Bust::None && endpoint.endpoint_type == EndpointType::Embeddings {
            return Err(
                "--cache-bust is for prompts that are answered: leave it out for embeddings".to_owned()
            );
        }
        search::plan(self)?;
        if self.runs.convergence_metric.is_some() && self.runs.num_profile_runs < 2 {
            return Err("--convergence-metric ends repetitions: give --num-profile-runs too".to_owned());
        }
        for (flag, factor) in [
            ("--conversation-turn-delay-ratio", input.conversation_turn_delay_ratio),
            ("--conversation-turn-stddev", input.conversation_turn_stddev),
        ] {
            if !(0.0..=1e6).contains(&factor) {
                return Err(format!("{flag} {factor}: give a number from 0 to 1e6"));
            }
        }
        Ok(())
    }
}

/// The first flag that only made prompts heed.
fn made_only(input: &InputFlags) -> Option<&'static str> {
    let flags = [
        ("--isl", !input.isl.is_empty()),
        ("--isl-stddev", input.isl_stddev != [0.0]),
        ("--osl-stddev", input.osl_stddev != [0.0]),
        ("--seq-dist", input.seq_dist.is_some()),
        ("--num-dataset-entries", input.num_dataset_entries.is_some()),
        ("--conversation-turn-mean", input.conversation_turn_mean != [1.0]),
        ("--conversation-turn-stddev", input.conversation_turn_stddev != 0.0),
        ("--conversation-turn-delay-mean", !input.conversation_turn_delay_mean.is_zero()),
        ("--conversation-turn-delay-stddev", !input.conversation_turn_delay_stddev.is_zero()),
        ("--prompt-batch-size", input.prompt_batch_size != 1),
        ("--prompt-prefix-pool-size", input.prompt_prefix_pool_size > 0),
        ("--shared-system-prompt-length", input.shared_system_prompt_length > 0),
        ("--user-context-prompt-length", input.user_context_prompt_length > 0),
    ];
    flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
}

/// The first flag that only files heed.
fn file_only(input: &InputFlags) -> Option<&'static str> {
    let flags = [
        ("--ignore-trace-delays", input.ignore_trace_delays),
        ("--isl-block-size", input.isl_block_size.is_some()),
        ("--synthesis-speedup-ratio", input.synthesis_speedup_ratio != 1.0),
        ("--synthesis-prefix-len-multiplier", input.synthesis_prefix_len_multiplier != 1.0),
        ("--synthesis-prefix-root-multiplier", input.synthesis_prefix_root_multiplier != 1),
        ("--synthesis-prompt-len-multiplier", input.synthesis_prompt_len_multiplier != 1.0),
        ("--synthesis-output-len-multiplier", input.synthesis_output_len_multiplier != 1.0),
        ("--synthesis-max-isl", input.synthesis_max_isl.is_some()),
        ("--synthesis-max-osl", input.synthesis_max_osl.is_some()),
    ];
    flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
}

/// The first flag that only a warm-up heeds.
fn warm_up_only(arguments: &Arguments) -> Option<&'static str> {
    let own = &arguments.load.warm_up;
    let flags = [
        ("--warmup-concurrency", own.warmup_concurrency.is_some()),
        ("--warmup-prefill-concurrency", own.warmup_prefill_concurrency.is_some()),
        ("--warmup-request-rate", own.warmup_request_rate.is_some()),
        ("--warmup-arrival-pattern", own.warmup_arrival_pattern.is_some()),
        ("--warmup-grace-period", own.warmup_grace_period.0.is_some()),
        ("--warmup-concurrency-ramp-duration", own.warmup_concurrency_ramp_duration.is_some()),
        (
            "--warmup-prefill-concurrency-ramp-duration",
            own.warmup_prefill_concurrency_ramp_duration.is_some(),
        ),
        ("--warmup-request-rate-ramp-duration", own.warmup_request_rate_ramp_duration.is_some()),
    ];
    flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
}
