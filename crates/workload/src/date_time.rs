//! Times as traces write them.

/// Nanoseconds since 1970 of `2023-11-16 18:17:03.9799600+02:00`; without an offset, in UTC.
pub(crate) fn nanoseconds(text: &str) -> Option<i128> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let time = time.trim().trim_end_matches(['Z', 'z']);
    let (time, offset_s) = match time.rfind(['+', '-']) {
        None => (time, 0),
        Some(place) => (time[..place].trim(), offset(&time[place..])?),
    };
    let mut time = time.splitn(3, ':');
    let (hour, minute): (i64, i64) = (time.next()?.parse().ok()?, time.next()?.parse().ok()?);
    let (second, fraction) = time.next().map(|second| second.split_once('.').unwrap_or((second, "0")))?;
    let second: i64 = second.parse().ok()?;
    let sound = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && fraction.bytes().all(|digit| digit.is_ascii_digit());
    if !sound {
        return None;
    }
    let fraction: i128 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds = day_number(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset_s;
    Some(i128::from(seconds) * 1_000_000_000 + fraction)
}

/// Seconds east of Greenwich of `+02:00`, `+0200` or `+02`.
fn offset(text: &str) -> Option<i64> {
    let (sign, digits) = text.split_at(1);
    let digits: String = digits.chars().filter(|letter| *letter != ':').collect();
    let number: i64 = digits.parse().ok()?;
    let seconds = match digits.len() {
        2 => number * 3600,
        4 => number / 100 * 3600 + number % 100 * 60,
        _ => return None,
    };
    Some(if sign == "-" { -seconds } else { seconds })
}

/// Days since 1970.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_1970_in_utc() {
        assert_eq!(nanoseconds("1970-01-01 00:00:00"), Some(0));
        assert_eq!(nanoseconds("1969-12-31 23:59:59.5"), Some(-500_000_000));
        assert_eq!(nanoseconds("2000-03-01 00:00:00"), Some(951_868_800_000_000_000));
        assert_eq!(nanoseconds("1970-01-01 02:00:00+02:00"), Some(0));
        assert_eq!(nanoseconds("9223372036854775807-01-01 00:00:00"), None);
    }
}
