//! How many streams there may be: in all, and of one session.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use relay_protocol::hello::SessionId;

/// The streams' places. Direct streams, which have no session, are counted together.
#[derive(Debug)]
pub struct Places {
    each: usize,
    total: usize,
    /// No session takes more than it leaves to others.
    fair: bool,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<Option<SessionId>, usize>,
}

/// A stream's place, as long as it is held.
#[derive(Debug)]
pub struct Place<'a>(&'a Places, Option<SessionId>);

impl Places {
    /// At most `total` streams at a time, and `each` of one session. With `fair`, one session has no more of them than
    /// are left: alone it gets half, and where several want all they can have, each gets the same.
    pub fn new(each: usize, total: usize, fair: bool) -> Self {
        Self { each, total, fair, taken: Mutex::default() }
    }

    /// A place, where there is one.
    pub fn take(&self, session: Option<SessionId>) -> Option<Place<'_>> {
        let mut taken = self.taken();
        let left = self.total.saturating_sub(taken.all);
        let own = taken.by.get(&session).copied().unwrap_or_default();
        if left == 0 || own >= self.each || (self.fair && own >= left) {
            return None;
        }
        taken.all += 1;
        taken.by.insert(session, own + 1);
        Some(Place(self, session))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing done under the lock can leave the counts half changed.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.0.taken();
        taken.all -= 1;
        if let Some(own) = taken.by.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                taken.by.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<SessionId> = Some(SessionId([1; 16]));
    const B: Option<SessionId> = Some(SessionId([2; 16]));

    fn fill<'a>(places: &'a Places, who: Option<SessionId>) -> Vec<Place<'a>> {
        std::iter::from_fn(|| places.take(who)).collect()
    }

    #[test]
    fn a_session_has_its_number_and_all_have_theirs() {
        let places = Places::new(3, 5, false);
        let (a, b) = (fill(&places, A), fill(&places, B));
        assert_eq!((a.len(), b.len(), fill(&places, None).len()), (3, 2, 0));
        drop(a);
        assert_eq!(fill(&places, B).len(), 1);
        drop(b);
        assert!(places.taken().by.is_empty());
    }

    #[test]
    fn a_greedy_session_leaves_as_many_as_it_has() {
        let places = Places::new(1_000, 100, true);
        let a = fill(&places, A);
        assert_eq!(a.len(), 50);
        let b = fill(&places, B);
        assert_eq!(b.len(), 25);
        assert!(places.take(A).is_none());
        assert!(places.take(None).is_some(), "somebody new always finds one");
    }
}
