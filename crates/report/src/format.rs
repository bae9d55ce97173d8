//! Numbers as people read them: three significant digits, thousands apart, one unit.

/// `value` with about three significant digits, thousands set apart by a comma: `69,408`, `1,320`, `86.6`, `0.25`.
pub(crate) fn human(value: f64) -> String {
    let decimals = match value.abs() {
        size if !size.is_finite() || size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    thousands(value, decimals)
}

/// `value` with `decimals` decimals, thousands set apart by a comma.
pub(crate) fn thousands(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let digits = text.trim_start_matches('-');
    let (whole, fraction) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    if !value.is_finite() {
        return text;
    }
    let mut grouped = text[..text.len() - digits.len()].to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

/// `1.41x`, or `12x` above ten.
pub(crate) fn times(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}x") } else { format!("{ratio:.2}x") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (69_407.79, "69,408"),
            (1_234_567.0, "1,234,567"),
            (-1234.5, "-1,234"),
            (-123.0, "-123"),
            (999.6, "1,000"),
            (100.0, "100"),
            (86.55, "86.5"),
            (1.234, "1.23"),
            (0.05, "0.050"),
            (0.0, "0"),
            (f64::INFINITY, "inf"),
        ];
        for (value, text) in cases {
            assert_eq!(human(value), text);
        }
        assert_eq!(thousands(-1_129.768, 2), "-1,129.77");
        assert_eq!((times(1.409), times(164.2)), ("1.41x".to_owned(), "164x".to_owned()));
    }
}
