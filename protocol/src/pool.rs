//! Memory budgets shared by all sessions of a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes of which parts can be reserved. Clones share it.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    used: AtomicUsize,
    /// What is reserved here is reserved there as well.
    whole: Option<Pool>,
}

impl Pool {
    /// A pool of `limit` bytes, all free.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { limit, used: AtomicUsize::new(0), whole: None }))
    }

    /// At most `limit` bytes of this pool: a pool that is empty when either is.
    pub fn part(&self, limit: usize) -> Self {
        Self(Arc::new(Inner { limit, used: AtomicUsize::new(0), whole: Some(self.clone()) }))
    }

    /// Its size in bytes.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// How many bytes are reserved.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// How many bytes are left.
    pub fn free(&self) -> usize {
        self.0.limit.saturating_sub(self.used())
    }

    fn try_reserve(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|&used| used <= self.0.limit);
        if self.0.used.try_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return false;
        }
        let done = self.0.whole.as_ref().is_none_or(|whole| whole.try_reserve(bytes));
        if !done {
            self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        done
    }

    fn release(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.0.whole {
            whole.release(bytes);
        }
    }
}

/// What one session holds of a pool; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    pool: Pool,
    held: usize,
    /// It takes no more than it leaves: alone half of the pool, and where several want all they can have, each the same.
    fair: bool,
}

impl Share {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, held: 0, fair: false }
    }

    pub(crate) fn fair(pool: Pool) -> Self {
        Self { pool, held: 0, fair: true }
    }

    pub(crate) fn try_reserve(&mut self, bytes: usize) -> bool {
        !(self.fair && bytes > self.free()) && self.try_reserve_floor(bytes)
    }

    /// As [`Share::try_reserve`], for what everybody must have: fair or not.
    pub(crate) fn try_reserve_floor(&mut self, bytes: usize) -> bool {
        let done = self.pool.try_reserve(bytes);
        if done {
            self.held += bytes;
        }
        done
    }

    pub(crate) fn release(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.held);
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.pool.release(bytes);
    }

    /// How much more it may take.
    pub(crate) fn free(&self) -> usize {
        match self.fair {
            true => self.pool.free().saturating_sub(self.held) / 2,
            false => self.pool.free(),
        }
    }

    /// Of what it may take, the last that only little things may use.
    pub(crate) fn reserve(&self) -> usize {
        match self.fair {
            true => (self.limit() / 8).min((self.held + self.free()) / 4),
            false => self.limit() / 8,
        }
    }

    /// Whether there is so much that it can be given before it is needed.
    pub(crate) fn is_plenty(&self) -> bool {
        self.free() >= self.limit() / if self.fair { 8 } else { 2 }
    }

    pub(crate) fn limit(&self) -> usize {
        self.pool.limit()
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_never_overdrawn_and_gets_everything_back() {
        let pool = Pool::new(100);
        let (mut one, mut two) = (Share::new(pool.clone()), Share::new(pool.clone()));
        assert!(one.try_reserve(60));
        assert!(!two.try_reserve(41));
        assert!(two.try_reserve(40));
        assert_eq!(pool.free(), 0);
        one.release(10);
        assert_eq!((pool.used(), one.held()), (90, 50));
        drop((one, two));
        assert_eq!(pool.used(), 0);
    }

    /// Reserves byte by byte until there is no more.
    fn fill(share: &mut Share) -> usize {
        while share.try_reserve(1) {}
        share.held()
    }

    #[test]
    fn a_fair_share_leaves_as_much_as_it_takes() {
        let pool = Pool::new(1_200);
        let (mut one, mut two) = (Share::fair(pool.clone()), Share::fair(pool.clone()));
        assert_eq!(fill(&mut one), 600);
        assert!(!one.try_reserve(100), "at once no more than bit by bit");
        assert_eq!(fill(&mut two), 300);
        assert!(two.try_reserve_floor(300), "a floor is everybody's right");
        assert_eq!(pool.free(), 0);
        two.release(600);
        one.release(600);
        // Who begins anew meets as equals.
        for _ in 0..600 {
            one.try_reserve(1);
            two.try_reserve(1);
        }
        assert!(one.held().abs_diff(two.held()) <= 1, "{} and {}", one.held(), two.held());
        assert!(one.held() >= 399);
    }

    #[test]
    fn a_part_is_empty_when_the_whole_is() {
        let whole = Pool::new(100);
        let (mut one, mut two) = (Share::new(whole.part(60)), Share::new(whole.part(60)));
        assert!(!one.try_reserve(61));
        assert!(one.try_reserve(60));
        assert!(!two.try_reserve(41));
        assert!(two.try_reserve(40));
        assert_eq!(whole.used(), 100);
        drop(one);
        assert_eq!(whole.used(), 40);
        drop(two);
        assert_eq!(whole.used(), 0);
    }
}
