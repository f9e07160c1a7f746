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
}

impl Pool {
    /// A pool of `limit` bytes, all free.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { limit, used: AtomicUsize::new(0) }))
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
        self.0.used.try_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

/// What one session holds of a pool; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    pool: Pool,
    held: usize,
}

impl Share {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, held: 0 }
    }

    pub(crate) fn try_reserve(&mut self, bytes: usize) -> bool {
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
        self.pool.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn free(&self) -> usize {
        self.pool.free()
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
}
