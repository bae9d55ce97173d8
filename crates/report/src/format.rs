//! Numbers as people read them: three significant digits, thousands apart, one unit.

/// `value` with about three significant digits, thousands set apart by a comma: `69,408`, `1,320`, `86.6`, `0.25`.
pub(crate) fn human(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        size if !size.is_finite() || size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let whole = text.split('.').next().unwrap_or(&text).trim_start_matches('-').len();
    let mut grouped = String::with_capacity(text.len() + whole / 3);
    let sign = usize::from(text.starts_with('-'));
    for (index, letter) in text.chars().enumerate() {
        let place = index.saturating_sub(sign);
        if value.is_finite()
            && place > 0
            && index > sign
            && place < whole
            && (whole - place).is_multiple_of(3)
        {
            grouped.push(',');
        }
        grouped.push(letter);
    }
    grouped
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
        assert_eq!((times(1.409), times(164.2)), ("1.41x".to_owned(), "164x".to_owned()));
    }
}
