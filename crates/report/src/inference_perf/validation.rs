//! `validation.json`: what is wrong with the reports, by their own figures and by the verdict.

use std::collections::BTreeMap;

use super::Collector;
use crate::{Assessment, Object, Severity};

/// Something that a reader of a report should know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// It makes the figures wrong, not only doubtful.
    pub is_error: bool,
    /// What is the matter.
    pub message: String,
}

/// The content of the file. `reports` holds the name and the figures of each report.
pub fn validation(assessment: &Assessment, more: &[Finding], reports: &[(String, &Collector)]) -> Object {
    let verdict = assessment.warnings.iter().filter(|warning| warning.severity() != Severity::Note);
    let mut global: Vec<Finding> = verdict
        .map(|warning| Finding {
            check: warning.kind().to_owned(),
            is_error: warning.severity() == Severity::Invalid,
            message: warning.to_string(),
        })
        .collect();
    global.extend_from_slice(more);
    let mut all = Object::default();
    all.nest("global", findings(&global, None));
    let reports: BTreeMap<&str, Vec<Finding>> =
        reports.iter().map(|(name, collected)| (name.as_str(), check(collected))).collect();
    let mut each = Object::default();
    for (name, found) in reports {
        each.nest(name, findings(&found, Some(name)));
    }
    all.nest("reports", each);
    all
}

/// Whether a report agrees with itself.
fn check(collected: &Collector) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut require = |holds: bool, check: &str, message: String| {
        if !holds {
            found.push(Finding { check: check.to_owned(), is_error: true, message });
        }
    };
    let (count, answered, failed) = (collected.count, collected.answered, collected.failed);
    let cut_off = collected.cut_off;
    require(
        answered + failed + cut_off == count,
        "count",
        format!("{answered} answered, {failed} failed and {cut_off} cut off of {count} requests"),
    );
    let latencies = collected.latency.request.count();
    require(latencies == answered, "request_latency", format!("{latencies} latencies of {answered} answers"));
    let cached = collected.cached_tokens;
    let input = collected.input.sum();
    require(u128::from(cached) <= input, "prompt_tokens", format!("{cached} cached tokens of {input}"));
    found
}

fn findings(found: &[Finding], report: Option<&str>) -> Object {
    let list = |errors: bool| {
        found.iter().filter(move |finding| finding.is_error == errors).map(move |finding| {
            let mut object = Object::default();
            object.set("check", &finding.check);
            object.set("severity", if finding.is_error { "error" } else { "warning" });
            object.set("message", &finding.message);
            object.set("report", report);
            object
        })
    };
    let mut object = Object::default();
    object.nest_all("warnings", list(false));
    object.nest_all("errors", list(true));
    object
}
