//! Durations as text. Fractions of a second are dropped.

use std::time::Duration;

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// All hours, minutes and seconds, in the form in which the configuration takes them: `1h30m`.
#[must_use]
pub fn exact(duration: Duration) -> String {
    let [_, hours_to_seconds @ ..] = UNITS;
    let parts: String = counts(duration, &hours_to_seconds).filter(|(count, _)| *count > 0).map(part).collect();
    if parts.is_empty() { "0s".to_owned() } else { parts }
}

/// The two largest units, for a screen: `3h 12m`.
#[must_use]
pub fn rounded(duration: Duration) -> String {
    let smaller = |(count, unit): &(u64, char)| *count == 0 && *unit != 's';
    counts(duration, &UNITS).skip_while(smaller).take(2).map(part).collect::<Vec<_>>().join(" ")
}

/// How many of each unit, which are given from the largest to the smallest.
fn counts(duration: Duration, units: &[(char, u64)]) -> impl Iterator<Item = (u64, char)> {
    let mut rest = duration.as_secs();
    units.iter().map(move |(unit, seconds)| {
        let count = rest / seconds;
        rest %= seconds;
        (count, *unit)
    })
}

fn part((count, unit): (u64, char)) -> String {
    format!("{count}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_exactly_or_in_its_two_largest_units() {
        for (seconds, in_full, on_a_screen) in [
            (0, "0s", "0s"),
            (59, "59s", "59s"),
            (60, "1m", "1m 0s"),
            (3599, "59m59s", "59m 59s"),
            (3600, "1h", "1h 0m"),
            (5401, "1h30m1s", "1h 30m"),
            (86_399, "23h59m59s", "23h 59m"),
            (86_400 * 7, "168h", "7d 0h"),
        ] {
            let duration = Duration::from_millis(seconds * 1000 + 999);
            assert_eq!((exact(duration), rounded(duration)), (in_full.to_owned(), on_a_screen.to_owned()));
        }
    }
}
