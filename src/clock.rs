//! The only place that reads time.
//!
//! Everything that depends on time takes a [`Timestamp`] as an argument or holds a [`Clock`];
//! tests hold a manual one and move it. Timeouts of sockets are tokio's business, not this file's.
#![expect(clippy::disallowed_methods, reason = "this is where time is read")]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment in UTC, in whole milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Where the present moment comes from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
    Told(Arc<dyn Fn() -> Timestamp + Send + Sync>),
}

/// Measures how long something took, on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Timestamp {
    /// Earlier than every other moment.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
    /// Later than every other moment: "never ends".
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// From seconds since 1970-01-01T00:00:00Z, as tokens (RFC 7519 `NumericDate`) and
    /// certificates count; out-of-range values saturate.
    pub const fn from_unix_seconds(seconds: i64) -> Timestamp {
        Timestamp(seconds.saturating_mul(1000))
    }

    /// From milliseconds since 1970-01-01T00:00:00Z.
    pub const fn from_unix_ms(ms: i64) -> Timestamp {
        Timestamp(ms)
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// This moment moved into the future; saturates.
    #[must_use]
    pub fn plus(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(whole_ms(by)))
    }

    /// This moment moved into the past; saturates.
    #[must_use]
    pub fn minus(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(whole_ms(by)))
    }

    /// RFC 3339 in UTC with milliseconds, as `2027-01-01T00:00:00.000Z`; always ASCII.
    pub fn rfc3339(self) -> [u8; 24] {
        let at = match OffsetDateTime::from_unix_timestamp(self.unix_seconds()) {
            Ok(at) if (0..=9999).contains(&at.year()) => at,
            _ if self.0 > 0 => return *b"9999-12-31T23:59:59.999Z",
            _ => return *b"0000-01-01T00:00:00.000Z",
        };
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |place: Range<usize>, mut number: u32| {
            for digit in text[place].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        put(0..4, at.year().unsigned_abs());
        put(5..7, u8::from(at.month()).into());
        put(8..10, at.day().into());
        put(11..13, at.hour().into());
        put(14..16, at.minute().into());
        put(17..19, at.second().into());
        put(20..23, self.0.rem_euclid(1000) as u32);
        text
    }

    /// How much later this moment is than `earlier`; zero if it is not later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.rfc3339()).map_err(|_| fmt::Error)?)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = time::error::Parse;

    /// Reads RFC 3339 with any offset.
    fn from_str(text: &str) -> Result<Timestamp, Self::Err> {
        let at = OffsetDateTime::parse(text, &Rfc3339)?;
        Ok(Timestamp::from_system(at.into()))
    }
}

impl Timestamp {
    fn from_system(at: SystemTime) -> Timestamp {
        match at.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp(whole_ms(after)),
            Err(before) => Timestamp(-whole_ms(before.duration())),
        }
    }
}

fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands still at `start` until [`Clock::set`] or [`Clock::advance`] moves it;
    /// its clones move with it.
    pub fn manual(start: Timestamp) -> Clock {
        Clock(Source::Manual(Arc::new(AtomicI64::new(start.0))))
    }

    /// A clock that is told the time by `source`: for what a clock can do besides standing still.
    pub fn told_by(source: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        Clock(Source::Told(Arc::new(source)))
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::from_system(SystemTime::now()),
            Source::Manual(at) => Timestamp(at.load(Ordering::SeqCst)),
            Source::Told(source) => source(),
        }
    }

    /// Moves a manual clock; the system's clock is not ours to move, so there it does nothing.
    pub fn set(&self, to: Timestamp) {
        if let Source::Manual(at) = &self.0 {
            at.store(to.0, Ordering::SeqCst);
        }
    }

    /// Moves a manual clock forward; see [`Clock::set`].
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::System => "System",
            Source::Manual(_) => "Manual",
            Source::Told(_) => "Told",
        })
    }
}

impl Stopwatch {
    pub fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_as_rfc_3339_and_read_back() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_unix_ms(ms).to_string(), text);
            assert_eq!(text.parse::<Timestamp>(), Ok(Timestamp(ms)));
        }
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_manual_clock_moves_only_when_told_and_its_clones_with_it() {
        let clock = Clock::manual(Timestamp::from_unix_seconds(10));
        let clone = clock.clone();
        assert_eq!(clone.now().unix_seconds(), 10);
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clone.now(), Timestamp::from_unix_ms(11_500));
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.minus(Duration::MAX), Timestamp::MIN);
        assert_eq!(Timestamp::from_unix_seconds(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
    }
}
