//! Instants as the store keeps them: microseconds since 1970-01-01T00:00:00Z.

use std::fmt;
use std::time::Duration;

use ::time::format_description::BorrowedFormatItem;
use ::time::format_description::well_known::Rfc3339;
use ::time::macros::format_description;
use ::time::{Date, OffsetDateTime};

const DAY: &[BorrowedFormatItem<'_>] =
    format_description!("[day padding:none] [month repr:long] [year]");
const ISO_DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
const MICROSECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
const MINUTE: &[BorrowedFormatItem<'_>] =
    format_description!("[day padding:none] [month repr:long] [year], [hour]:[minute] UTC");

const HOUR_MICROS: i64 = 60 * 60 * 1_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;

/// An instant in UTC, in whole microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The last second of the year 9999, which is the last that `google.protobuf.Timestamp` can be.
    pub const LAST: Self = Self(253_402_300_799_000_000);

    /// This instant and `duration` later; stops at the last representable instant.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// This instant and `duration` earlier; stops at the first representable instant.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// The day of UTC that it is on, counted from 1970-01-01.
    pub fn day(self) -> i64 {
        self.0.div_euclid(DAY_MICROS)
    }

    /// The beginning of a day of UTC that [`Self::day`] counted; stops at the last representable instant.
    pub fn of_day(day: i64) -> Self {
        Self(day.saturating_mul(DAY_MICROS))
    }

    /// The hour of UTC that it is in, counted from 1970-01-01T00:00:00Z.
    pub fn hour(self) -> i64 {
        self.0.div_euclid(HOUR_MICROS)
    }

    /// The beginning of an hour that [`Self::hour`] counted; stops at the last representable instant.
    pub fn of_hour(hour: i64) -> Self {
        Self(hour.saturating_mul(HOUR_MICROS))
    }

    /// Whole seconds and the nanoseconds beyond them, as `google.protobuf.Timestamp` counts.
    pub fn to_seconds_nanos(self) -> (i64, i32) {
        let nanos = self.0.rem_euclid(1_000_000) * 1_000;
        (self.0.div_euclid(1_000_000), nanos as i32)
    }

    /// The reverse of [`Self::to_seconds_nanos`]; `None` outside the years 1 to 9999, which is what
    /// `google.protobuf.Timestamp` can be. Nanoseconds below a microsecond are cut off.
    pub fn from_seconds_nanos(seconds: i64, nanos: i32) -> Option<Self> {
        /// 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z.
        const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
        if !SECONDS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
            return None;
        }
        let micros = seconds.checked_mul(1_000_000)?;
        Some(Self(micros.checked_add(i64::from(nanos / 1_000))?))
    }

    /// The beginning in UTC of a day such as `2027-01-31`; `None` for what is no day from 1970 to 9999.
    pub fn parse_day(text: &str) -> Option<Self> {
        let day =
            Date::parse(text, ISO_DAY).ok().filter(|day| (1970..=9999).contains(&day.year()))?;
        Some(Self(day.midnight().assume_utc().unix_timestamp() * 1_000_000))
    }

    /// `2027-01-03`.
    pub fn to_iso_day(self) -> String {
        self.format(ISO_DAY)
    }

    /// `2027-01-03T14:05:00.000000Z`: RFC 3339 in UTC, always with all six decimals.
    pub fn to_rfc_3339(self) -> String {
        self.format(MICROSECOND)
    }

    /// `3 January 2027`.
    pub fn to_day(self) -> String {
        self.format(DAY)
    }

    /// `3 January 2027, 14:05 UTC`.
    pub fn to_minute(self) -> String {
        self.format(MINUTE)
    }

    fn format(self, format: &[BorrowedFormatItem<'_>]) -> String {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .ok()
            .and_then(|time| time.format(format).ok())
            .unwrap_or_else(|| self.to_string())
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, to the second: what people read in a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1_000_000))
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} us after 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_read_as_people_write_them() {
        let at = Timestamp(1_798_985_100_000_000);
        assert_eq!(at.to_minute(), "3 January 2027, 14:05 UTC");
        assert_eq!(at.to_day(), "3 January 2027");
        assert_eq!(at.to_iso_day(), "2027-01-03");
        assert_eq!(Timestamp::of_day(at.day()).to_minute(), "3 January 2027, 00:00 UTC");
        assert_eq!(Timestamp::of_hour(at.hour()).to_minute(), "3 January 2027, 14:00 UTC");
        assert_eq!(at.to_rfc_3339(), "2027-01-03T14:05:00.000000Z");
        assert_eq!(Timestamp(-1).to_rfc_3339(), "1969-12-31T23:59:59.999999Z");
        assert_eq!((Timestamp(-1).day(), Timestamp(-1).hour()), (-1, -1));
        assert_eq!(
            at.plus(Duration::from_secs(86_400 * 20)).to_minute(),
            "23 January 2027, 14:05 UTC"
        );
    }
}
