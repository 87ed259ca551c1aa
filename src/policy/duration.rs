//! Durations as text, on one table of units: as settings have them (`45d`, `1h30m`), and in words for
//! people (`45 days`).
//!
//! A number without a unit is refused, since its meaning is ambiguous. Parts go from the larger unit to
//! the smaller, each at most once, so that one duration has one text. Not `humantime`: it has
//! months of 30.44 days, takes `1M` for one, and prints 45 days as `1month 14days 13h 26m 24s`.

use std::time::Duration;

struct Unit {
    symbol: &'static str,
    name: &'static str,
    micros: u64,
}

/// In falling order.
const UNITS: [Unit; 6] = [
    Unit { symbol: "d", name: "day", micros: 86_400_000_000 },
    Unit { symbol: "h", name: "hour", micros: 3_600_000_000 },
    Unit { symbol: "m", name: "minute", micros: 60_000_000 },
    Unit { symbol: "s", name: "second", micros: 1_000_000 },
    Unit { symbol: "ms", name: "millisecond", micros: 1_000 },
    MICROSECOND,
];

const MICROSECOND: Unit = Unit { symbol: "us", name: "microsecond", micros: 1 };

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Nothing was given.
    #[error("is empty; write a number and a unit, such as 45d, 7d, 90s or 500ms")]
    Empty,
    /// A number is missing where one must stand: at the start, or after a unit.
    #[error("has no whole number before `{0}`; write it such as 45d, 90s or 1h30m")]
    NoNumber(String),
    /// A number has no unit.
    #[error("has no unit after {0}; write {0}d, {0}h, {0}m, {0}s or {0}ms")]
    NoUnit(String),
    /// A unit that is none.
    #[error("`{0}` is not a unit; the units are d, h, m, s, ms and us")]
    UnknownUnit(String),
    /// A unit after a smaller or the same one.
    #[error("`{0}` comes too late; write larger units first and each once, such as 1h30m")]
    Order(String),
    /// More than the largest length that can be kept, some 584,000 years.
    #[error("is too long")]
    TooLong,
}

/// Reads a duration. Fits clap's `value_parser`.
///
/// # Errors
/// Says what is wrong, and how it is written instead.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    if text.is_empty() {
        return Err(InvalidDuration::Empty);
    }
    let mut rest = text;
    let mut micros = 0u64;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let (number, after) = split_at(rest, |c| !c.is_ascii_digit());
        if number.is_empty() {
            return Err(InvalidDuration::NoNumber(rest.to_owned()));
        }
        let (unit, after) = split_at(after, |c| c.is_ascii_digit());
        if unit.is_empty() {
            return Err(InvalidDuration::NoUnit(number.to_owned()));
        }
        let position = UNITS
            .iter()
            .position(|known| known.symbol == unit)
            .ok_or_else(|| InvalidDuration::UnknownUnit(unit.to_owned()))?;
        if position < next_unit {
            return Err(InvalidDuration::Order(format!("{number}{unit}")));
        }
        next_unit = position + 1;
        micros = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(UNITS[position].micros))
            .and_then(|part| micros.checked_add(part))
            .ok_or(InvalidDuration::TooLong)?;
        rest = after;
    }
    Ok(Duration::from_micros(micros))
}

fn split_at(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

/// Writes a duration so that [`parse`] reads it back: `45d`, `1h30m`, `0s`. What is below a
/// microsecond is cut off.
pub fn print(duration: Duration) -> String {
    let mut rest = duration.as_micros();
    let mut text = String::new();
    for unit in UNITS {
        let micros = u128::from(unit.micros);
        if rest >= micros {
            text.push_str(&(rest / micros).to_string());
            text.push_str(unit.symbol);
            rest %= micros;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// In words, in the largest unit that leaves no rest: `45 days`, `90 minutes`, `1 second`.
pub fn in_words(duration: Duration) -> String {
    words(duration, |micros, unit| micros.is_multiple_of(unit))
}

/// In words, in its largest unit, the rest cut off: `3 days`.
pub fn about(duration: Duration) -> String {
    words(duration, |_, _| true)
}

/// In the largest unit that fits into `duration` and that `fits` accepts, given both in microseconds.
fn words(duration: Duration, fits: impl Fn(u128, u128) -> bool) -> String {
    let micros = duration.as_micros();
    let found = UNITS.into_iter().find(|unit| {
        let unit = u128::from(unit.micros);
        micros >= unit && fits(micros, unit)
    });
    let unit = found.unwrap_or(MICROSECOND);
    let count = micros / u128::from(unit.micros);
    format!("{count} {}{}", unit.name, if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_as_written() {
        for (text, micros) in [
            ("45d", 45 * 86_400_000_000),
            ("7d", 7 * 86_400_000_000),
            ("90s", 90_000_000),
            ("500ms", 500_000),
            ("1h30m", 5_400_000_000),
            ("1d1h1m1s1ms1us", 90_061_001_001),
            ("0s", 0),
            ("007s", 7_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn errors_say_how_it_is_written() {
        for (text, message) in [
            ("", "is empty; write a number and a unit, such as 45d, 7d, 90s or 500ms"),
            ("10", "has no unit after 10; write 10d, 10h, 10m, 10s or 10ms"),
            ("1h30", "has no unit after 30; write 30d, 30h, 30m, 30s or 30ms"),
            ("s", "has no whole number before `s`; write it such as 45d, 90s or 1h30m"),
            ("-5s", "has no whole number before `-5s`; write it such as 45d, 90s or 1h30m"),
            ("1.5h", "`.` is not a unit; the units are d, h, m, s, ms and us"),
            ("5 s", "` s` is not a unit; the units are d, h, m, s, ms and us"),
            ("2w", "`w` is not a unit; the units are d, h, m, s, ms and us"),
            ("10S", "`S` is not a unit; the units are d, h, m, s, ms and us"),
            ("30m1h", "`1h` comes too late; write larger units first and each once, such as 1h30m"),
            ("1s1s", "`1s` comes too late; write larger units first and each once, such as 1h30m"),
            ("99999999999999999999d", "is too long"),
            ("999999999999999d", "is too long"),
        ] {
            assert_eq!(parse(text).map_err(|e| e.to_string()), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_print_in_their_largest_units() {
        for (seconds, text) in [(45 * 86_400, "45d"), (5_400, "1h30m"), (90, "1m30s"), (0, "0s")] {
            assert_eq!(print(Duration::from_secs(seconds)), text);
        }
        assert_eq!(print(Duration::from_millis(500)), "500ms");
        assert_eq!(print(Duration::from_nanos(999)), "0s");
    }

    #[test]
    fn durations_in_words_have_one_unit() {
        for (millis, exact, cut_off) in [
            (45 * 86_400_000, "45 days", "45 days"),
            (86_400_000, "1 day", "1 day"),
            (36 * 3_600_000, "36 hours", "1 day"),
            (90_000, "90 seconds", "1 minute"),
            (1, "1 millisecond", "1 millisecond"),
            (0, "0 microseconds", "0 microseconds"),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!((in_words(duration).as_str(), about(duration).as_str()), (exact, cut_off));
        }
    }

    proptest! {
        #[test]
        fn printed_durations_read_back(micros: u64) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse(&print(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
