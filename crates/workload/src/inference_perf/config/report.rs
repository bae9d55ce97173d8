//! `report`, `metrics`, `storage` and `circuit_breakers`: what comes of a run, and what ends it.

use std::collections::BTreeMap;

use super::schema::{section, words};

words! {
    /// Where the server's own figures come from.
    MetricsType {
        /// A Prometheus server.
        Prometheus = "prometheus",
        /// The same.
        Default = "default",
    }
}

words! {
    /// When a circuit breaker opens.
    TriggerType {
        /// Hits one after the other.
        Consecutive = "consecutive",
        /// A share of hits within a time.
        RateOverWindow = "rate_over_window",
    }
}

section! {
    /// Which reports are written.
    ReportConfig {
        /// Figures of requests.
        request_lifecycle: RequestLifecycle = RequestLifecycle::default();
        /// Figures of the server.
        prometheus: PrometheusReports = PrometheusReports::default();
        /// Figures of sessions.
        session_lifecycle: SessionLifecycle = SessionLifecycle::default();
        /// Limits that good requests keep.
        goodput: Option<Goodput> = None;
    }
}

section! {
    /// Figures of requests.
    RequestLifecycle {
        /// `summary_lifecycle_metrics.json`.
        summary: bool = true;
        /// `stage_N_lifecycle_metrics.json`.
        per_stage: bool = true;
        /// `per_request_lifecycle_metrics.json`.
        per_request: bool = false;
        /// What an entry of `per_request_lifecycle_metrics.json` holds.
        per_request_fields: PerRequestFields = PerRequestFields::default();
        /// `adapter_NAME_lifecycle_metrics.json`.
        per_adapter: bool = true;
        /// `adapter_NAME_stage_N_lifecycle_metrics.json`.
        per_adapter_stage: bool = false;
        /// Percentiles in all distributions.
        percentiles: Vec<f64> = vec![0.1, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9];
        /// Take the server's token counts. They are always taken where the server states them.
        use_server_output_tokens: bool = false;
        /// Different messages kept for each kind of failure.
        max_error_messages: u32 = 100;
    }
}

section! {
    /// What an entry holds.
    PerRequestFields {
        /// The request's body.
        request: bool = true;
        /// The answer's body.
        response: bool = true;
        /// Lengths and times.
        info: bool = true;
        /// The text of each event; without it, only their times.
        response_chunks: bool = true;
        /// Latencies.
        computed_metrics: bool = false;
    }
}

section! {
    /// Figures of the server.
    PrometheusReports {
        /// `summary_prometheus_metrics.json`.
        summary: bool = true;
        /// `stage_N_prometheus_metrics.json`.
        per_stage: bool = false;
    }
}

section! {
    /// Figures of sessions.
    SessionLifecycle {
        /// `summary_session_lifecycle_metrics.json`.
        summary: bool = true;
        /// `stage_N_session_lifecycle_metrics.json`.
        per_stage: bool = true;
        /// `per_session_lifecycle_metrics.json`.
        per_session: bool = false;
    }
}

section! {
    /// Limits that good requests keep.
    Goodput {
        /// Seconds, by ttft, tpot, itl, ntpot, request_latency.
        constraints: BTreeMap<String, f64> = BTreeMap::new();
    }
}

section! {
    /// Where the server's own figures come from.
    Metrics {
        /// Required.
        r#type: Option<MetricsType> = None;
        /// The Prometheus server (null: as without its `url`).
        prometheus: Option<PrometheusConfig> = None;
    }
}

section! {
    /// A Prometheus server.
    PrometheusConfig {
        /// How often it looks at the server under load, in seconds.
        scrape_interval: u64 = 15;
        /// Where it is (null: the servers' own `/metrics` pages are read during the run).
        url: Option<String> = None;
        /// Matchers for all series.
        filters: Vec<String> = Vec::new();
        /// Not implemented: Google's managed Prometheus.
        google_managed: bool = false;
    }
}

section! {
    /// Where reports go.
    Storage {
        /// A folder on this machine.
        local_storage: LocalStorage = LocalStorage::default();
        /// Not implemented.
        google_cloud_storage: Option<CloudStorage> = None;
        /// Not implemented.
        simple_storage_service: Option<S3Storage> = None;
    }
}

section! {
    /// A folder.
    LocalStorage {
        /// The folder; `{timestamp}` becomes the time of the start.
        path: String = "reports-{timestamp}".to_owned();
        /// Put before each file name.
        report_file_prefix: Option<String> = None;
    }
}

section! {
    /// Google's object storage.
    CloudStorage {
        /// Not implemented.
        path: String = "reports-{timestamp}".to_owned();
        /// Not implemented.
        report_file_prefix: Option<String> = None;
        /// Not implemented.
        bucket_name: String = String::new();
    }
}

section! {
    /// Object storage with Amazon's protocol.
    S3Storage {
        /// Not implemented.
        path: String = "reports-{timestamp}".to_owned();
        /// Not implemented.
        report_file_prefix: Option<String> = None;
        /// Not implemented.
        bucket_name: String = String::new();
        /// Not implemented.
        endpoint_url: Option<String> = None;
        /// Not implemented.
        region_name: Option<String> = None;
        /// Not implemented.
        addressing_style: String = "auto".to_owned();
    }
}

section! {
    /// Ends a run when requests go wrong.
    CircuitBreaker {
        /// `load.circuit_breakers` refers to it.
        name: String = String::new();
        /// Which requests are looked at, and which of them are hits.
        metrics: BreakerMetrics = BreakerMetrics::default();
        /// Any of them opens it.
        triggers: Vec<Trigger> = Vec::new();
    }
}

section! {
    /// Which requests are looked at.
    BreakerMetrics {
        /// JMESPath expressions on the entry of a request in `per_request_lifecycle_metrics.json`; a request that any of
        /// them holds for is looked at.
        matches: Vec<String> = Vec::new();
        /// JMESPath expressions; a request that any of them holds for is a hit. All are, if there is none.
        rules: Vec<String> = Vec::new();
    }
}

section! {
    /// When it opens.
    Trigger {
        /// Hits one after the other, or a share of them within a time.
        r#type: TriggerType = TriggerType::Consecutive;
        /// So many hits, or this share of hits (0 to 1).
        threshold: f64 = 0.0;
        /// The time, in seconds.
        window_sec: Option<f64> = None;
        /// Fewer requests within the time say nothing.
        min_samples: u64 = 0;
    }
}
