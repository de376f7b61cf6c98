//! From when until when a key may sign.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::authority::Refused;

/// The day this release was made, 2026-11-22 00:00 UTC, in seconds since 1970. A clock that shows an earlier time is
/// wrong, and what it would sign would be wrong with it (SPEC: product contract §6).
pub const RELEASE_DATE: Duration = Duration::from_secs(1_795_305_600);

/// The life of one key, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Life {
    /// When something that is issued now ends, and whether that is sooner than wanted: never after the key itself.
    ///
    /// The clock decides at each signature anew, so that signing goes on by itself once the clock is right.
    pub(super) fn clamp(&self, issued: SystemTime, wanted: SystemTime) -> Result<(SystemTime, bool), Refused> {
        if is_before_release(issued) {
            return Err(Refused::OutsideLife("it shows a time before this release was made (2026-11-22)".to_owned()));
        }
        if issued < self.not_before {
            return Err(Refused::OutsideLife("the authority's life has not begun".to_owned()));
        }
        if issued >= self.not_after {
            return Err(Refused::OutsideLife("the authority's life is over".to_owned()));
        }
        let end = whole_seconds(wanted.min(self.not_after));
        if end <= issued {
            return Err(Refused::OutsideLife("nothing is left between the issue and the end".to_owned()));
        }
        Ok((end, wanted > self.not_after))
    }
}

/// Whether a clock that shows `now` must be wrong.
pub(super) fn is_before_release(now: SystemTime) -> bool {
    now.duration_since(UNIX_EPOCH).is_ok_and(|since| since < RELEASE_DATE) || now < UNIX_EPOCH
}

/// Certificates and tokens know no fractions; rounded down, so that nothing lives longer than was meant.
pub(super) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
