//! Lines of the log about what a stranger may make happen a thousand times a second: one now and then,
//! with the number of those left out.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// From one line to the next.
const PERIOD: Duration = Duration::from_secs(10);

/// One kind of line, on one core.
#[derive(Debug, Default)]
pub struct Seldom {
    next: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

impl Seldom {
    /// How many lines were left out before this one; `None` if it is to be left out too.
    pub fn due(&self) -> Option<u64> {
        let now = Instant::now();
        if self.next.get().is_some_and(|next| now < next) {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.next.set(Some(now + PERIOD));
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_period_says_how_many_were_left_out() {
        let seldom = Seldom::default();
        let said: Vec<_> = (0..1000).map(|_| seldom.due()).collect();
        assert_eq!(said[0], Some(0));
        assert!(said[1..].iter().all(Option::is_none));
        tokio::time::advance(PERIOD).await;
        assert_eq!((seldom.due(), seldom.due()), (Some(999), None));
    }
}
