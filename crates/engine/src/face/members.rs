//! The members of a request body, read as vLLM reads them: a number or a truth may also be given as text, and what is
//! neither is refused by name. An absent member and null are the same.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::{Value, value::RawValue};

use super::failure::Failure;

/// The members of an object; of a repeated one the last.
#[derive(Debug)]
pub(crate) struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    pub(crate) fn read(json: &'a [u8]) -> Result<Self, Failure> {
        serde_json::from_slice(json).map(Self).map_err(|error| Failure::bad_request(error.to_string()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A member as it stands in the body.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.get()).filter(|value| *value != "null")
    }

    /// A member that is an object.
    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Self>, Failure> {
        let read = |value: &'a str| serde_json::from_str(value).map(Self).ok();
        self.read_as(name, "dictionary", read)
    }

    pub(crate) fn text(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, Failure> {
        // Borrowed where it can be, which serde does not try for a `Cow`.
        let read = |value: &'a str| match serde_json::from_str(value) {
            Ok(text) => Some(Cow::Borrowed(text)),
            Err(_) => serde_json::from_str(value).map(Cow::Owned).ok(),
        };
        self.read_as(name, "string", read)
    }

    /// A text or a list of them.
    pub(crate) fn texts(&self, name: &'static str) -> Result<Vec<String>, Failure> {
        let read = |value: &str| {
            let one = serde_json::from_str(value).map(|text| vec![text]);
            one.or_else(|_| serde_json::from_str(value)).ok()
        };
        Ok(self.read_as(name, "string or list of strings", read)?.unwrap_or_default())
    }

    /// False if it is absent.
    pub(crate) fn truth(&self, name: &'static str) -> Result<bool, Failure> {
        let read = |value: &str| match serde_json::from_str(value).ok()? {
            Value::Bool(truth) => Some(truth),
            Value::Number(number) => truth_of(&number.to_string()),
            Value::String(text) => truth_of(&text.to_ascii_lowercase()),
            _ => None,
        };
        Ok(self.read_as(name, "boolean", read)?.unwrap_or_default())
    }

    pub(crate) fn integer(&self, name: &'static str) -> Result<Option<i64>, Failure> {
        let whole = |number: f64| (number.fract() == 0.0).then_some(number as i64);
        let read = |value: &str| match serde_json::from_str(value).ok()? {
            Value::Bool(truth) => Some(truth.into()),
            Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) => {
                let text = text.trim();
                text.parse().ok().or_else(|| whole(text.parse().ok()?))
            }
            _ => None,
        };
        self.read_as(name, "integer", read)
    }

    pub(crate) fn number(&self, name: &'static str) -> Result<Option<f64>, Failure> {
        let read = |value: &str| match serde_json::from_str(value).ok()? {
            Value::Bool(truth) => Some(u8::from(truth).into()),
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            _ => None,
        };
        self.read_as(name, "number", read)
    }

    fn read_as<T>(
        &self,
        name: &'static str,
        kind: &str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => {
                let message = format!("{name}: Input should be a valid {kind}");
                Err(Failure::bad_request(message).with_param(name))
            }
        }
    }
}

fn truth_of(text: &str) -> Option<bool> {
    match text {
        "true" | "yes" | "on" | "t" | "y" | "1" | "1.0" => Some(true),
        "false" | "no" | "off" | "f" | "n" | "0" | "0.0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `read` makes of a member with this value; none where it is refused by name.
    fn of<T>(value: &str, read: impl Fn(&Members<'_>) -> Result<T, Failure>) -> Option<T> {
        let body = format!(r#"{{"member": 0, "member": {value}}}"#);
        let read = read(&Members::read(body.as_bytes()).expect("an object"));
        if let Err(Failure::Status { status, param, .. }) = &read {
            assert_eq!((status.as_u16(), *param), (400, Some("member")), "{value}");
        }
        read.ok()
    }

    #[test]
    fn truths_are_read_as_vllm_reads_them() {
        for (value, truth) in [
            ("true", true),
            ("1", true),
            ("\"Yes\"", true),
            ("\"on\"", true),
            ("\"t\"", true),
            ("0.0", false),
            ("\"N\"", false),
            ("\"0\"", false),
            ("null", false),
        ] {
            assert_eq!(of(value, |members| members.truth("member")), Some(truth), "{value}");
        }
        for value in ["2", "\"x\"", "\"\"", "[]", "{}"] {
            assert_eq!(of(value, |members| members.truth("member")), None, "{value}");
        }
    }

    #[test]
    fn numbers_may_be_texts_and_integers_may_have_a_point() {
        for (value, integer) in [
            ("7", Some(7)),
            ("2.0", Some(2)),
            ("\" 2 \"", Some(2)),
            ("\"2.0\"", Some(2)),
            ("true", Some(1)),
            ("1e30", Some(i64::MAX)),
            ("null", None),
        ] {
            assert_eq!(of(value, |members| members.integer("member")), Some(integer), "{value}");
        }
        for value in ["2.5", "\"two\"", "\"nan\"", "[2]"] {
            assert_eq!(of(value, |members| members.integer("member")), None, "{value}");
        }
        assert_eq!(of("\"0.5\"", |members| members.number("member")), Some(Some(0.5)));
        assert_eq!(of("\"inf\"", |members| members.number("member")), None);
    }

    #[test]
    fn texts_and_objects_are_nothing_else() {
        assert_eq!(
            of("[\"a\", \"\\n\"]", |members| members.texts("member")).map(|texts| texts.len()),
            Some(2)
        );
        assert_eq!(of("\"a\"", |members| members.texts("member")), Some(vec!["a".to_owned()]));
        assert_eq!(of("[5]", |members| members.texts("member")), None);
        assert_eq!(of("5", |members| members.texts("member")), None);
        assert_eq!(of("5", |members| members.text("member").map(drop)), None);
        assert!(of("\"\\n\"", |members| members.text("member").map(drop)).is_some());
        assert_eq!(of("[]", |members| members.object("member").map(drop)), None);
    }
}
