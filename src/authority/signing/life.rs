//! From when until when a key may sign.

use std::fmt;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use time::OffsetDateTime;

use crate::authority::order::Refused;
use crate::time::date::rfc3339;

/// The day this release was made, 00:00 UTC, in seconds since 1970. A clock that shows an earlier time is
/// wrong, and what it would sign would be wrong with it (SPEC: product contract §6).
pub const RELEASE_DATE: Duration = Duration::from_secs(1_795_305_600);

/// How far an authority's beginning lies back (SPEC: product contract §6).
pub(in crate::authority) const AUTHORITY_BACKDATE: Duration = Duration::from_secs(48 * 60 * 60);

/// Where a moment lies in the life of an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// The clock shows a time before this release was made: it is wrong.
    BeforeRelease,
    /// The life begins later, although it was dated back by 48 h: the clock is wrong, or was when the authority was made.
    NotYetValid {
        /// When.
        begins: SystemTime,
    },
    /// It signs.
    Valid,
    /// It signs, and its end is near: a quarter of its life is left or less, or it has cut an SVID short.
    Ending {
        /// When it ends.
        ends: SystemTime,
    },
    /// It signs no more.
    Over {
        /// Since when.
        since: SystemTime,
    },
}

impl Validity {
    /// The one of two that an operator has to know of first.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |validity: &Self| match validity {
            Self::Valid => 0,
            Self::Ending { .. } => 1,
            Self::Over { .. } => 2,
            Self::NotYetValid { .. } => 3,
            Self::BeforeRelease => 4,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: &SystemTime| rfc3339(*time);
        match self {
            Self::BeforeRelease => write!(f, "the clock shows a time before this release was made ({})", release_day()),
            Self::NotYetValid { begins } => {
                write!(f, "the authority is not yet valid: its life begins at {}", date(begins))
            }
            Self::Valid => f.write_str("the authority is valid"),
            Self::Ending { ends } => write!(f, "the authority ends at {}", date(ends)),
            Self::Over { since } => write!(f, "the authority's life has been over since {}", date(since)),
        }
    }
}

/// The life of one key, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::authority) struct Life {
    pub(in crate::authority) not_before: SystemTime,
    pub(in crate::authority) not_after: SystemTime,
}

impl Life {
    /// When something that is issued now ends, and whether that is sooner than wanted: never after the key itself.
    ///
    /// The clock decides at each signature anew, so that signing goes on by itself once the clock is right.
    pub(in crate::authority) fn clamp(
        &self,
        issued: SystemTime,
        wanted: SystemTime,
    ) -> Result<(SystemTime, bool), Refused> {
        match self.validity(issued) {
            Validity::Valid | Validity::Ending { .. } => {}
            outside => return Err(Refused::OutsideLife(outside.to_string())),
        }
        let end = whole_seconds(wanted.min(self.not_after));
        if end <= issued {
            return Err(Refused::OutsideLife("nothing is left between the issue and the end".to_owned()));
        }
        Ok((end, wanted > self.not_after))
    }

    /// Where `now` lies in the life of a key that was made 48 h after its beginning.
    pub(in crate::authority) fn validity(&self, now: SystemTime) -> Validity {
        self.validity_of_made(self.not_before + AUTHORITY_BACKDATE, now)
    }

    /// Where `now` lies in the life of a key that was `made` then.
    pub(in crate::authority) fn validity_of_made(&self, made: SystemTime, now: SystemTime) -> Validity {
        if is_before_release(now) {
            return Validity::BeforeRelease;
        }
        if now < self.not_before {
            return Validity::NotYetValid { begins: self.not_before };
        }
        let Some(left) = self.not_after.duration_since(now).ok().filter(|left| !left.is_zero()) else {
            return Validity::Over { since: self.not_after };
        };
        let whole = self.not_after.duration_since(made).unwrap_or_default();
        if left <= whole / 4 { Validity::Ending { ends: self.not_after } } else { Validity::Valid }
    }
}

/// The release's date, `YYYY-MM-DD`.
pub(in crate::authority) fn release_day() -> impl fmt::Display {
    (OffsetDateTime::UNIX_EPOCH + RELEASE_DATE).date()
}

/// Whether a clock that shows `now` must be wrong.
pub(in crate::authority) fn is_before_release(now: SystemTime) -> bool {
    now.duration_since(UNIX_EPOCH).is_ok_and(|since| since < RELEASE_DATE) || now < UNIX_EPOCH
}

/// Certificates and tokens know no fractions; rounded down, so that nothing lives longer than was meant.
pub(in crate::authority) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// Seconds since 1970; none before.
pub(in crate::authority) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn each_moment_of_a_life_has_its_name() {
        let made = UNIX_EPOCH + RELEASE_DATE + 100 * HOUR;
        for ttl in [HOUR, 168 * HOUR] {
            let (begins, ends) = (made - AUTHORITY_BACKDATE, made + ttl);
            let life = Life { not_before: begins, not_after: ends };
            for (now, validity) in [
                (UNIX_EPOCH, Validity::BeforeRelease),
                (UNIX_EPOCH + RELEASE_DATE, Validity::NotYetValid { begins }),
                (begins - SECOND, Validity::NotYetValid { begins }),
                (begins, Validity::Valid),
                (made, Validity::Valid),
                (ends - ttl / 4 - SECOND, Validity::Valid),
                (ends - ttl / 4, Validity::Ending { ends }),
                (ends - SECOND, Validity::Ending { ends }),
                (ends, Validity::Over { since: ends }),
                (ends + 1000 * ttl, Validity::Over { since: ends }),
            ] {
                assert_eq!(life.validity(now), validity, "{ttl:?}");
            }
        }
    }
}
