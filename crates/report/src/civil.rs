//! Dates for files and headings, in UTC: there is no time zone database here.

use std::time::{SystemTime, UNIX_EPOCH};

/// `20250212-101500`, in UTC: for names of files.
pub fn compact_time(time: SystemTime) -> String {
    Civil::utc(time).compact()
}

/// `2025-02-12T10:15:00.000000Z`.
pub fn iso_time(time: SystemTime) -> String {
    Civil::utc(time).iso() + "Z"
}

/// A moment of the calendar.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    pub(crate) month: i64,
    pub(crate) day: i64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
    pub(crate) microsecond: u32,
}

impl Civil {
    /// The moment `time` in UTC; times before 1970 count as 1970.
    pub(crate) fn utc(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        // Days are counted from 0000-03-01, so that a leap day is the last of its year; 400 years repeat exactly.
        let days = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            microsecond: since.subsec_micros(),
        }
    }

    /// `20250212-101500`
    pub(crate) fn compact(self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
    }

    /// `2025-02-12T10:15:00.000000`
    pub(crate) fn iso(self) -> String {
        let Self { year, month, day, hour, minute, second, microsecond } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{microsecond:06}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_days() {
        let compact = |seconds| Civil::utc(UNIX_EPOCH + Duration::from_secs(seconds)).compact();
        assert_eq!(compact(0), "19700101-000000");
        assert_eq!(compact(951_782_399), "20000228-235959");
        assert_eq!(compact(951_782_400), "20000229-000000");
        assert_eq!(compact(951_868_800), "20000301-000000");
        assert_eq!(compact(1_739_355_300), "20250212-101500");
        assert_eq!(compact(4_107_542_400), "21000301-000000", "2100 is no leap year");
    }

    #[test]
    fn fractions_have_six_digits() {
        let time = UNIX_EPOCH + Duration::from_nanos(1_739_355_300_000_123_999);
        assert_eq!(Civil::utc(time).iso(), "2025-02-12T10:15:00.000123");
    }
}
