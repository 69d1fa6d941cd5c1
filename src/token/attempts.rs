//! Who fetches, who waits and who makes do with what there is: the rules of [`super::key_cache`] as values
//! alone, without a lock, a clock or a network, so that a test can try every order of events.

use std::time::Duration;

use crate::clock::Timestamp;

/// How the last attempt to fetch left things. One value, so that nobody sees that an attempt has ended
/// and not yet what it brought.
#[derive(Clone, Debug)]
pub(super) struct Attempted<K> {
    /// Attempts ended, good or not.
    pub count: u64,
    pub ended: Timestamp,
    /// The last good ones.
    pub keys: Option<K>,
}

impl<K: Clone> Attempted<K> {
    /// How many attempts have ended.
    pub fn count(last: Option<&Attempted<K>>) -> u64 {
        last.map_or(0, |last| last.count)
    }

    /// Whether one who finds `last` may cause an attempt, or has to rest.
    pub fn is_due(last: Option<&Attempted<K>>, rest: Duration, now: Timestamp) -> bool {
        // a clock that was set back must not hold off fetches until it has caught up
        last.is_none_or(|last| now < last.ended || now >= last.ended.plus(rest))
    }

    /// Whether the attempt of one who had counted `seen` is still wanted, now that no other is under way.
    pub fn is_wanted(last: Option<&Attempted<K>>, seen: u64) -> bool {
        Attempted::count(last) == seen
    }

    /// After one more attempt.
    pub fn after(last: Option<&Attempted<K>>, fetched: Option<K>, ended: Timestamp) -> Attempted<K> {
        let count = Attempted::count(last) + 1;
        Attempted { count, ended, keys: fetched.or_else(|| last?.keys.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const REST: u64 = 10;

    /// Two requests and the background refresh, at the steps between which others may run; the lock around
    /// an attempt is the only thing that is taken for granted.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Step {
        Start,
        /// Has looked, and will cause an attempt, or wait for one, from this count on.
        Due(u64),
        /// Holds the lock, and fetches.
        Fetching,
        /// Has waited, having counted so many before.
        Waited(u64),
        Done,
    }

    #[derive(Clone, Debug)]
    struct State {
        now_s: u64,
        held: Option<Attempted<u64>>,
        tasks: [Step; 3],
        seen: [u64; 3],
    }

    const REFRESH: usize = 2;

    impl State {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_seconds(i64::try_from(self.now_s).unwrap())
        }

        fn fetching(&self) -> usize {
            self.tasks.iter().filter(|task| **task == Step::Fetching).count()
        }

        fn with(&self, task: usize, step: Step) -> State {
            let mut next = self.clone();
            next.tasks[task] = step;
            next
        }

        /// Every state that may come next.
        fn next(&self) -> Vec<State> {
            let mut found: Vec<State> = (0..self.tasks.len()).flat_map(|task| self.steps_of(task)).collect();
            for later in [1, REST] {
                if self.now_s + later <= 1 + 2 * REST {
                    found.push(State { now_s: self.now_s + later, ..self.clone() });
                }
            }
            found
        }

        fn steps_of(&self, task: usize) -> Vec<State> {
            let last = self.held.as_ref();
            match self.tasks[task] {
                Step::Start => {
                    let rest = Duration::from_secs(if task == REFRESH { 0 } else { REST });
                    let seen = Attempted::count(last);
                    let due = task == REFRESH || Attempted::is_due(last, rest, self.now());
                    let mut next = self.with(task, if due { Step::Due(seen) } else { Step::Done });
                    next.seen[task] = seen;
                    vec![next]
                }
                // the lock
                Step::Due(_) if self.fetching() > 0 => Vec::new(),
                Step::Due(seen) if Attempted::is_wanted(last, seen) => {
                    if let Some(last) = last.filter(|_| task != REFRESH) {
                        assert!(self.now() >= last.ended.plus(Duration::from_secs(REST)), "{self:?}");
                    }
                    vec![self.with(task, Step::Fetching)]
                }
                Step::Due(seen) => vec![self.with(task, Step::Waited(seen))],
                Step::Fetching => [None, Some(Attempted::count(last) + 1)]
                    .map(|fetched| {
                        let mut next = self.with(task, Step::Waited(self.seen[task]));
                        next.held = Some(Attempted::after(last, fetched, self.now()));
                        next
                    })
                    .into(),
                Step::Waited(seen) => {
                    assert!(Attempted::count(last) > seen, "waited for nothing: {self:?}");
                    vec![self.with(task, Step::Done)]
                }
                Step::Done => Vec::new(),
            }
        }
    }

    #[test]
    fn in_every_order_of_events_fetches_are_single_flight_and_rested() {
        let start = State { now_s: 0, held: None, tasks: [Step::Start; 3], seen: [0; 3] };
        let (mut seen, mut open, mut ends) = (HashSet::new(), vec![start], 0);
        while let Some(state) = open.pop() {
            if !seen.insert(format!("{state:?}")) {
                continue;
            }
            assert!(state.fetching() <= 1);
            let next = state.next();
            for after in &next {
                let keys = |state: &State| state.held.as_ref().and_then(|held| held.keys);
                assert!(keys(after) >= keys(&state), "keys were lost: {state:?} {after:?}");
                let counts = [&state, after].map(|state| Attempted::count(state.held.as_ref()));
                assert!(counts[1] - counts[0] <= 1);
            }
            let stuck = state.tasks.iter().all(|task| matches!(task, Step::Due(_) | Step::Done));
            let waits = state.tasks.iter().any(|task| matches!(task, Step::Due(_)));
            let moves = (0..3).any(|task| !state.steps_of(task).is_empty());
            assert!(!(stuck && waits) || moves, "all wait: {state:?}");
            ends += usize::from(state.tasks == [Step::Done; 3]);
            open.extend(next);
        }
        assert!(seen.len() > 1000 && ends > 50, "{} states, {ends} ends", seen.len());
    }
}
