//! Sections of `data` for recorded sessions, and those that are known and not implemented: they are read, so that a
//! misspelt key in them is found, and then refused by name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{data::LengthOr, schema::section};

section! {
    /// Recorded calls.
    OtelReplay {
        /// Ask for one model, whatever was recorded.
        use_static_model: bool = false;
        /// That model.
        static_model_name: String = String::new();
        /// Models to ask for, by the recorded ones (others: the server's).
        model_mapping: Option<BTreeMap<String, String>> = None;
        /// Length of an answer that was not recorded.
        default_max_tokens: u32 = 1000;
        /// Has no effect: no tool is forced, and answers are as long as recorded.
        override_tool_call_max_tokens: bool = true;
        /// `force_recorded` or `as_recorded`. Tools are offered and none is forced, either way.
        tool_choice_mode: String = "force_recorded".to_owned();
        /// Not implemented.
        inject_random_session_id: bool = false;
        /// Play the sessions again until there are so many.
        duplicate_sessions_target: Option<u32> = None;
        /// Longest pause before a call, in milliseconds.
        max_wait_ms: u64 = 15_000;
        /// Has no effect: a call waits for the one before it, which ends by `load.request_timeout`.
        predecessor_wait_timeout_sec: f64 = 3600.0;
        /// Make calls again that failed when they were recorded.
        include_errors: bool = true;
        /// Leave out files that cannot be used, and say so.
        skip_invalid_files: bool = false;
        /// Not implemented, but for `none`.
        bad_tool_call_handling: String = "none".to_owned();
        /// The folder of the recordings, a `.json` file a session. This or `trace_files` is required.
        trace_directory: Option<String> = None;
        /// The files of the recordings.
        trace_files: Option<Vec<String>> = None;
        /// Not implemented: nothing is fetched.
        hf_dataset_path: Option<String> = None;
        /// Not implemented: Python is not run.
        filter: Option<String> = None;
        /// Send all messages as recorded, never the server's own answers.
        disable_output_substitution: bool = false;
        /// Not implemented.
        attribute_to_header_map: Option<BTreeMap<String, String>> = None;
        /// Not implemented.
        attribute_to_label_map: Option<BTreeMap<String, String>> = None;
    }
}

section! {
    /// Recorded agents.
    WekaReplay {
        /// Ask for one model, whatever was recorded.
        use_static_model: bool = false;
        /// That model.
        static_model_name: String = String::new();
        /// Models to ask for, by the recorded ones (others: the server's).
        model_mapping: Option<BTreeMap<String, String>> = None;
        /// Has no effect: all lengths are recorded.
        default_max_tokens: u32 = 1000;
        /// Has no effect: no tool is forced, and answers are as long as recorded.
        override_tool_call_max_tokens: bool = true;
        /// `force_recorded` or `as_recorded`. Tools are offered and none is forced, either way.
        tool_choice_mode: String = "force_recorded".to_owned();
        /// Not implemented.
        inject_random_session_id: bool = false;
        /// Play the sessions again until there are so many.
        duplicate_sessions_target: Option<u32> = None;
        /// Longest pause before a call, in milliseconds.
        max_wait_ms: u64 = 15_000;
        /// Has no effect: a call waits for the one before it, which ends by `load.request_timeout`.
        predecessor_wait_timeout_sec: f64 = 3600.0;
        /// Has no effect: failed calls are not marked.
        include_errors: bool = true;
        /// Leave out files that cannot be used, and say so.
        skip_invalid_files: bool = false;
        /// Not implemented, but for `none`.
        bad_tool_call_handling: String = "none".to_owned();
        /// The folder of the recordings, a `.json` file a session. This or `trace_files` is required.
        trace_directory: Option<String> = None;
        /// The files of the recordings.
        trace_files: Option<Vec<String>> = None;
        /// Not implemented: nothing is fetched.
        hf_dataset_path: Option<String> = None;
        /// Not implemented: Python is not run.
        filter: Option<String> = None;
        /// Longest pause between calls, in seconds.
        trace_idle_gap_cap_seconds: f64 = 60.0;
        /// Make no pauses.
        ignore_trace_delays: bool = false;
        /// Pause for the recorded think times only.
        use_think_time_only: bool = false;
        /// Tokens of a block where the file does not say.
        default_block_size: u32 = 64;
        /// Sessions at most.
        num_dataset_entries: u32 = 100;
        /// Has no effect: texts are made as they are needed.
        datagen_workers: Option<u32> = None;
    }
}

section! {
    /// Made-up agents.
    SyntheticAgentic {
        /// Not implemented.
        use_static_model: bool = false;
        /// Not implemented.
        static_model_name: String = String::new();
        /// Not implemented.
        model_mapping: Option<BTreeMap<String, String>> = None;
        /// Not implemented.
        default_max_tokens: u32 = 1000;
        /// Not implemented.
        override_tool_call_max_tokens: bool = true;
        /// Not implemented.
        tool_choice_mode: String = "force_recorded".to_owned();
        /// Not implemented.
        inject_random_session_id: bool = false;
        /// Not implemented.
        duplicate_sessions_target: Option<u32> = None;
        /// Not implemented.
        max_wait_ms: u64 = 15_000;
        /// Not implemented.
        predecessor_wait_timeout_sec: f64 = 3600.0;
        /// Not implemented.
        include_errors: bool = true;
        /// Not implemented.
        skip_invalid_files: bool = false;
        /// Not implemented.
        bad_tool_call_handling: String = "none".to_owned();
        /// Not implemented.
        num_sessions: Option<u32> = None;
        /// Not implemented.
        input_tokens_per_turn: Option<LengthOr> = None;
        /// Not implemented.
        output_tokens_per_turn: Option<LengthOr> = None;
        /// Not implemented.
        turns_per_session: Option<LengthOr> = None;
        /// Not implemented.
        fanout_probability: f64 = 0.0;
        /// Not implemented.
        theme_mix: Option<Value> = None;
        /// Not implemented.
        seed: u64 = 42;
        /// Not implemented.
        shared_system_prompt_len: u32 = 1000;
        /// Not implemented.
        tool_loop_depth: Option<LengthOr> = None;
        /// Not implemented.
        sub_agents_per_spawn: Option<LengthOr> = None;
        /// Not implemented.
        max_depth: u32 = 2;
        /// Not implemented.
        max_events_per_session: u32 = 64;
        /// Not implemented.
        tool_catalog_size_per_agent: Option<LengthOr> = None;
        /// Not implemented.
        parallel_tool_calls_per_step: Option<LengthOr> = None;
        /// Not implemented.
        tool_call_latency_sec: Option<LengthOr> = None;
        /// Not implemented.
        user_think_time_sec: Option<LengthOr> = None;
        /// Not implemented.
        max_model_len: Option<u32> = None;
        /// Not implemented.
        context_compaction: Option<Value> = None;
    }
}

section! {
    /// Pictures.
    VisionArena {
        /// Not implemented.
        hf_dataset_name: String = "lmarena-ai/VisionArena-Chat".to_owned();
        /// Not implemented.
        hf_split: String = "train".to_owned();
        /// Not implemented.
        hf_data_files: Option<Value> = None;
        /// Not implemented.
        num_rows: u32 = 1000;
        /// Not implemented.
        max_images_per_request: u32 = 1;
        /// Not implemented.
        insertion_point: f64 = 0.0;
    }
}
