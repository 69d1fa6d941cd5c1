//! Which address a request goes to: two drawn by weight, the one with less to do for its weight.
//!
//! Ejected addresses are left out while there is another; if all are ejected they are used all the
//! same. Ejection is a guess about health and guards nothing: better a request that may fail than
//! one that must.

use smallvec::SmallVec;

/// An address as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Where it stands in the caller's list.
    pub index: usize,
    /// Its share of the requests; not 0.
    pub share: u64,
    /// Requests in flight to it from this core.
    pub load: u64,
    pub ejected: bool,
}

/// The index of the chosen one; `None` if there are no candidates.
pub(super) fn choose(
    candidates: impl Iterator<Item = Candidate>,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    let mut pool: SmallVec<[Candidate; 8]> = candidates.collect();
    if pool.iter().any(|candidate| !candidate.ejected) {
        pool.retain(|candidate| !candidate.ejected);
    }
    let one = draw(&mut pool, random)?;
    let Some(other) = draw(&mut pool, random) else { return Some(one.index) };
    // load / share compared crosswise; a tie goes to the first drawn, so that idle servers get their shares.
    let (one_load, other_load) = (one.load * other.share, other.load * one.share);
    Some(if one_load <= other_load { one.index } else { other.index })
}

/// Takes one out, each with a chance in proportion to its share.
fn draw(pool: &mut SmallVec<[Candidate; 8]>, random: &mut fastrand::Rng) -> Option<Candidate> {
    let total: u64 = pool.iter().map(|candidate| candidate.share).sum();
    if total == 0 {
        return None;
    }
    let mut ticket = random.u64(..total);
    let at = pool.iter().position(|candidate| {
        let wins = ticket < candidate.share;
        ticket = ticket.saturating_sub(candidate.share);
        wins
    })?;
    Some(pool.swap_remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(of: &[(u64, u64, bool)]) -> Vec<Candidate> {
        of.iter()
            .enumerate()
            .map(|(index, &(share, load, ejected))| Candidate { index, share, load, ejected })
            .collect()
    }

    fn picks(of: &[(u64, u64, bool)], times: usize) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut seen = vec![0; of.len()];
        for _ in 0..times {
            seen[choose(candidates(of).into_iter(), &mut random).unwrap()] += 1;
        }
        seen
    }

    #[test]
    fn idle_servers_get_their_shares() {
        let seen = picks(&[(3, 0, false), (1, 0, false)], 4000);
        assert!((2850..=3150).contains(&seen[0]), "{seen:?}");
    }

    #[test]
    fn of_two_the_one_with_less_to_do_for_its_weight_is_taken() {
        assert_eq!(picks(&[(1, 5, false), (1, 4, false)], 100), [0, 100]);
        assert_eq!(picks(&[(3, 5, false), (1, 2, false)], 100), [100, 0]);
        let seen = picks(&[(1, 9, false), (1, 0, false), (1, 0, false), (1, 0, false)], 1000);
        assert_eq!(seen[0], 0, "the busiest never wins a comparison");
    }

    #[test]
    fn ejected_servers_are_used_only_if_all_are() {
        assert_eq!(picks(&[(9, 0, true), (1, 50, false)], 100), [0, 100]);
        assert!(picks(&[(1, 0, true), (1, 0, true)], 100).iter().all(|&n| n > 20));
        assert_eq!(choose(std::iter::empty(), &mut fastrand::Rng::with_seed(1)), None);
    }
}
