//! How values are written on the command line.

use std::time::Duration;

use clap::ValueEnum as _;
use report::aiperf::Slo;
use serde_json::{Map, Value};
use workload::{DatasetKind, MAX_SECONDS, SequenceLengths};

use super::{Grace, RangeRatio, Recipe, SloList};

fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("not a number".to_owned()),
    }
}

/// A time, if it is not so long that no clock can add it.
fn time(seconds: f64) -> Option<Duration> {
    (0.0..=MAX_SECONDS).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// Zero or more seconds.
pub(crate) fn fraction_seconds(text: &str) -> Result<Duration, String> {
    time(number(text)?).ok_or_else(|| format!("give a number of seconds from 0 to {MAX_SECONDS:e}"))
}

/// More than zero seconds.
pub(crate) fn positive_seconds(text: &str) -> Result<Duration, String> {
    match fraction_seconds(text)? {
        Duration::ZERO => Err("give a number of seconds above 0".to_owned()),
        seconds => Ok(seconds),
    }
}

/// Zero or more milliseconds.
pub(crate) fn milliseconds(text: &str) -> Result<Duration, String> {
    let most = MAX_SECONDS * 1e3;
    time(number(text)? / 1e3).ok_or_else(|| format!("give a number of milliseconds from 0 to {most:e}"))
}

/// Seconds, or `inf`.
pub(crate) fn grace(text: &str) -> Result<Grace, String> {
    if text.eq_ignore_ascii_case("inf") {
        Ok(Grace(None))
    } else {
        fraction_seconds(text).map(|time| Grace(Some(time)))
    }
}

/// A rate or another factor above zero.
pub(crate) fn positive_rate(text: &str) -> Result<f64, String> {
    number(text)
        .ok()
        .filter(|rate| *rate > 0.0 && *rate <= 1e9)
        .ok_or_else(|| "give a number above 0, at most 1e9".to_owned())
}

/// A number of requests or sessions.
pub(crate) fn positive_count(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "give a whole number of at least 1".to_owned())
}

/// A number of turns.
pub(crate) fn turns(text: &str) -> Result<f64, String> {
    number(text).ok().filter(|turns| *turns >= 1.0).ok_or_else(|| "give a number of at least 1".to_owned())
}

/// 0 to 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    number(text)
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "give a share from 0 to 1".to_owned())
}

/// Above 0, to 1.
pub(crate) fn open_share(text: &str) -> Result<f64, String> {
    share(text).ok().filter(|share| *share > 0.0).ok_or_else(|| "give a share above 0, at most 1".to_owned())
}

/// Where the words of made prompts come from.
pub(crate) fn prompt_corpus(text: &str) -> Result<(), String> {
    match text {
        "random" => Ok(()),
        "sonnet" | "coding" => Err(format!(
            "not supported: made prompts are random words, not {text}; a text file can be sent with `evenload bench --dataset-name sonnet --dataset-path FILE`, prompts of your own with --input-file"
        )),
        _ => Err("random is the only one".to_owned()),
    }
}

/// A search by its name.
pub(crate) fn recipe(text: &str) -> Result<Recipe, String> {
    let name = text.replace('_', "-");
    match (Recipe::from_str(&name, false), name.as_str()) {
        (Ok(recipe), _) => Ok(recipe),
        (_, "prefill-ttft-curve") => {
            Err("not supported: lists do it, such as --concurrency 1 --isl 256,1024,4096".to_owned())
        }
        (_, "decode-itl-curve") => {
            Err("not supported: lists do it, such as --concurrency 1,8,64 --osl 64,256,1024".to_owned())
        }
        (_, "pareto-sweep") => {
            Err("not supported: lists do it, such as --isl 128,2048 --osl 512,128 --sweep-type zip"
                .to_owned())
        }
        _ => {
            let names = Recipe::value_variants().iter().map(ToString::to_string).collect::<Vec<_>>();
            Err(format!("choose from {}", names.join(", ")))
        }
    }
}

/// How a search goes on.
pub(crate) fn search_style(text: &str) -> Result<(), String> {
    match text {
        "monotonic" => Ok(()),
        "grid" => Err("not supported: a list does it, such as --concurrency 1,4,16,64".to_owned()),
        "smooth_isotonic" | "bo" | "optuna" => {
            Err("not supported: monotonic needs the fewest runs where more load is never faster".to_owned())
        }
        _ => Err("monotonic is the only one".to_owned()),
    }
}

/// 0 to 100, as a share.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let percent = number(text).ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.map(|percent| percent / 100.0).ok_or_else(|| "give a percentage from 0 to 100".to_owned())
}

/// `KEY:VALUE`, several set apart by commas, or a JSON object. A value is JSON where it can be read as such, else text;
/// `.5` and `5.` are numbers too, and `True`, `False` and `None` are Python's.
pub(crate) fn extra_inputs(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let value = |(key, text): (&str, &str)| {
        let value = serde_json::from_str(text).unwrap_or_else(|_| match text.to_ascii_lowercase().as_str() {
            "true" => true.into(),
            "false" => false.into(),
            "none" | "null" => Value::Null,
            _ => decimal(text).map_or_else(|| text.into(), Value::from),
        });
        (key.to_owned(), value)
    };
    Ok(pairs(text, "KEY:VALUE")?.into_iter().map(value).collect())
}

/// Digits with a point among them, which JSON wants digits on both sides of.
fn decimal(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && digits.contains('.');
    plain.then(|| number(text).ok()).flatten()
}

/// Names and values, set apart by colons, the pairs by commas.
fn pairs<'a>(text: &'a str, form: &str) -> Result<Vec<(&'a str, &'a str)>, String> {
    let pair = |text: &'a str| {
        let (name, value) = text.split_once(':').ok_or_else(|| {
            format!("{text:?} is not {form}; commas set such pairs apart, and a value with a comma needs a JSON object")
        })?;
        Ok((name.trim(), value.trim()))
    };
    text.split(',').map(pair).collect()
}

/// `NAME:VALUE`, several set apart by commas, or a JSON object of texts.
pub(crate) fn header(text: &str) -> Result<Vec<(String, String)>, String> {
    if text.trim_start().starts_with('{') {
        let headers: std::collections::BTreeMap<String, String> =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        return Ok(headers.into_iter().collect());
    }
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Ok(pairs(text, "NAME:VALUE")?.into_iter().map(owned).collect())
}

pub(crate) fn dataset_kind(text: &str) -> Result<DatasetKind, String> {
    DatasetKind::from_name(text)
        .ok_or_else(|| format!("choose from {}", DatasetKind::ALL.map(DatasetKind::name).join(", ")))
}

pub(crate) fn sequence_lengths(text: &str) -> Result<SequenceLengths, String> {
    SequenceLengths::parse(text).map_err(|error| error.to_string())
}

/// A number, or an object of two.
pub(crate) fn range_ratio(text: &str) -> Result<RangeRatio, String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Both {
        input: f64,
        output: f64,
    }
    if text.trim_start().starts_with('{') {
        let Both { input, output } = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return Ok(RangeRatio { input, output });
    }
    number(text).map(|ratio| RangeRatio { input: ratio, output: ratio })
}

pub(crate) fn slos(text: &str) -> Result<SloList, String> {
    Slo::parse_list(text).map(SloList).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inputs_are_json_where_they_can_be() {
        let read = |text| Value::Object(extra_inputs(text).unwrap());
        assert_eq!(read("temperature:0.5"), json!({"temperature": 0.5}));
        assert_eq!(read("ignore_eos:true"), json!({"ignore_eos": true}));
        assert_eq!(read("ignore_eos:True"), json!({"ignore_eos": true}));
        assert_eq!(read("stop:a:b"), json!({"stop": "a:b"}));
        assert_eq!(read(r#"{"a": [1], "b": {}}"#), json!({"a": [1], "b": {}}));
        assert_eq!(read("a:1,b: 2 ,c:x"), json!({"a": 1, "b": 2, "c": "x"}));
        assert_eq!(
            read("a:.5,b:-.5,c:5.,d:1.2.3,e:none"),
            json!({"a": 0.5, "b": -0.5, "c": 5.0, "d": "1.2.3", "e": null})
        );
        assert!(extra_inputs("temperature").is_err() && extra_inputs("{").is_err());
        assert!(extra_inputs("stop:[1,2]").unwrap_err().contains("\"2]\" is not KEY:VALUE"));
    }

    #[test]
    fn searches_that_are_not_there_say_what_is() {
        assert_eq!(recipe("max_goodput_under_slo"), Ok(Recipe::MaxGoodputUnderSlo));
        assert!(recipe("pareto-sweep").unwrap_err().contains("--sweep-type zip"));
        assert!(recipe("best").unwrap_err().contains("concurrency-ramp"));
        assert!(search_style("bo").unwrap_err().contains("monotonic") && search_style("monotonic").is_ok());
        assert!(
            prompt_corpus("sonnet").unwrap_err().contains("random words") && prompt_corpus("random").is_ok()
        );
        assert!(open_share("0").is_err() && open_share("1") == Ok(1.0));
    }

    #[test]
    fn headers_may_hold_colons() {
        assert_eq!(header("X-A: b:c").unwrap(), [("X-A".to_owned(), "b:c".to_owned())]);
        assert_eq!(header(r#"{"A": "1"}"#).unwrap(), [("A".to_owned(), "1".to_owned())]);
        let several = [("A", "b"), ("C", "d:e")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(header("A:b, C:d:e").unwrap(), several);
        assert!(header("X-A").is_err() && header("A:b,c").is_err());
    }

    #[test]
    fn times_and_shares_have_their_ranges() {
        assert_eq!(grace("inf"), Ok(Grace(None)));
        assert_eq!(grace("1.5"), Ok(Grace(Some(Duration::from_millis(1500)))));
        for seconds in ["1.8446744e19", "1e11", "1e300"] {
            assert_eq!(fraction_seconds(seconds), Err("give a number of seconds from 0 to 1e10".to_owned()));
            assert!(
                positive_seconds(seconds).is_err()
                    && grace(seconds).is_err()
                    && milliseconds("1e14").is_err()
            );
        }
        assert!(
            fraction_seconds("1e10").is_ok()
                && milliseconds("1e13").is_ok()
                && positive_rate("1e300").is_err()
        );
        assert!(grace("-1").is_err() && positive_seconds("0").is_err() && fraction_seconds("nan").is_err());
        assert_eq!((share("0.5"), percent("50")), (Ok(0.5), Ok(0.5)));
        assert!(share("1.1").is_err() && percent("101").is_err() && positive_rate("0").is_err());
        assert_eq!(range_ratio("0.25"), Ok(RangeRatio { input: 0.25, output: 0.25 }));
        assert_eq!(range_ratio(r#"{"input":0.1,"output":0.2}"#), Ok(RangeRatio { input: 0.1, output: 0.2 }));
    }
}
