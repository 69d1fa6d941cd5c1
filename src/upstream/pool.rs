//! One core's way to an upstream: a [`Slot`] for each of its addresses, and the choice among them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::UpstreamError;
use super::balance::{Candidate, choose};
use super::discovery::{Member, Upstream};
use super::settings::UpstreamSettings;
use super::slot::Slot;

/// How often unused and closed connections are cleared away.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// A core's pools, one for each upstream it has sent to.
#[derive(Default)]
pub struct Pools {
    by_upstream: RefCell<HashMap<*const Upstream, Rc<Pool>>>,
}

/// One core's way to an [`Upstream`]. Lives inside a `LocalRuntime`.
pub struct Pool {
    pub(super) upstream: Arc<Upstream>,
    slots: RefCell<Rc<Slots>>,
    random: RefCell<fastrand::Rng>,
}

/// The core's slots for one published list of endpoints, in its order.
#[derive(Default)]
struct Slots {
    members: Arc<Vec<Member>>,
    each: Vec<Rc<Slot>>,
}

impl Pools {
    /// The pool for `upstream`, made when first asked for.
    pub fn of(&self, upstream: &Arc<Upstream>) -> Rc<Pool> {
        let mut pools = self.by_upstream.borrow_mut();
        // The pool keeps its upstream alive, so no other can come to stand at the same address.
        Rc::clone(pools.entry(Arc::as_ptr(upstream)).or_insert_with(|| Pool::new(Arc::clone(upstream))))
    }

    /// Lets go of pools whose upstream is not among `current`; requests in flight end in peace.
    pub fn retain(&self, current: &[Arc<Upstream>]) {
        self.by_upstream
            .borrow_mut()
            .retain(|_, pool| current.iter().any(|kept| Arc::ptr_eq(kept, &pool.upstream)));
    }
}

impl Pool {
    /// Must be called inside a `LocalRuntime` (or `LocalSet`).
    pub fn new(upstream: Arc<Upstream>) -> Rc<Pool> {
        let pool =
            Rc::new(Pool { upstream, slots: RefCell::default(), random: RefCell::new(fastrand::Rng::new()) });
        let weak = Rc::downgrade(&pool);
        spawn_local(async move {
            while let Some(pool) = weak.upgrade() {
                pool.sweep();
                drop(pool);
                sleep(SWEEP_PERIOD).await;
            }
        });
        pool
    }

    pub(super) fn settings(&self) -> &UpstreamSettings {
        self.upstream.settings()
    }

    /// An address that is not among `tried`; `None` if all are.
    pub(super) async fn choose(&self, tried: &[Rc<Slot>]) -> Result<Option<Rc<Slot>>, UpstreamError> {
        let slots = self.slots().await?;
        let candidates = slots.each.iter().zip(slots.members.iter()).enumerate();
        let untried = candidates.filter(|(_, (slot, _))| !tried.iter().any(|other| Rc::ptr_eq(slot, other)));
        let seen = untried.map(|(index, (slot, member))| Candidate {
            index,
            share: member.share,
            load: slot.load(),
            ejected: slot.endpoint.is_ejected(),
        });
        let chosen = choose(seen, &mut self.random.borrow_mut());
        Ok(chosen.and_then(|index| slots.each.get(index)).map(Rc::clone))
    }

    /// The slots for the endpoints of this moment; an address that left takes its idle connections along.
    async fn slots(&self) -> Result<Rc<Slots>, UpstreamError> {
        let known = Rc::clone(&self.slots.borrow());
        if !known.each.is_empty() && self.upstream.is_current(&known.members) {
            return Ok(known);
        }
        let members = self.upstream.members().await?;
        let slot_of = |member: &Member| {
            let old = known.each.iter().find(|slot| Arc::ptr_eq(&slot.endpoint, &member.endpoint));
            old.map_or_else(|| Slot::new(&member.endpoint, &self.upstream), Rc::clone)
        };
        let slots = Rc::new(Slots { each: members.iter().map(slot_of).collect(), members });
        self.slots.replace(Rc::clone(&slots));
        Ok(slots)
    }

    fn sweep(&self) {
        let unused_max = self.settings().limits.pooled_idle_timeout;
        self.slots.borrow().each.iter().for_each(|slot| slot.sweep(unused_max));
    }
}
