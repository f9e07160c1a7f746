//! From the threads that move bytes to one that may have to wait: what does not fit is not taken.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

/// The end that never waits.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Gone once it is closed.
    sender: Mutex<Option<SyncSender<(usize, T)>>>,
    /// The sizes of all that waits.
    waiting: Arc<AtomicUsize>,
    most: usize,
}

/// The end that may.
pub(super) struct Outlet<T> {
    receiver: Receiver<(usize, T)>,
    waiting: Arc<AtomicUsize>,
}

/// For at most so many things, of at most so many bytes together.
pub(super) fn queue<T>(things: usize, most: usize) -> (Queue<T>, Outlet<T>) {
    let (sender, receiver) = sync_channel(things);
    let waiting = Arc::new(AtomicUsize::new(0));
    let queue = Queue { sender: Mutex::new(Some(sender)), waiting: Arc::clone(&waiting), most };
    (queue, Outlet { receiver, waiting })
}

impl<T> Queue<T> {
    /// Takes something of so many bytes; false where there is no room.
    pub(super) fn push(&self, size: usize, make: impl FnOnce() -> T) -> bool {
        if self.waiting.load(Ordering::Relaxed) + size > self.most {
            return false;
        }
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = &*sender else { return false };
        self.waiting.fetch_add(size, Ordering::Relaxed);
        let taken = sender.try_send((size, make())).is_ok();
        if !taken {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
        }
        taken
    }

    /// Takes nothing more; what waits is still to be had.
    pub(super) fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Closes it and waits for its reader's end, which `ended` tells of once; false where that takes too long.
    pub(super) async fn ends_within(
        &self,
        limit: Duration,
        ended: &Mutex<Option<oneshot::Receiver<()>>>,
    ) -> bool {
        self.close();
        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ended {
            Some(ended) => timeout(limit, ended).await.is_ok(),
            None => true,
        }
    }
}

impl<T> Outlet<T> {
    /// The next thing, after `idle` where it has to be waited for. `None` once the queue is closed and empty.
    pub(super) fn next(&mut self, idle: impl FnOnce()) -> Option<T> {
        let (size, thing) = match self.receiver.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {
                idle();
                self.receiver.recv().ok()?
            }
        };
        self.waiting.fetch_sub(size, Ordering::Relaxed);
        Some(thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_taken_and_room_comes_back() {
        let (queue, mut outlet) = queue(3, 100);
        assert!(queue.push(60, || 1) && queue.push(40, || 2));
        assert!(!queue.push(1, || 3), "too many bytes");
        assert_eq!(outlet.next(|| panic!("nothing to wait for")), Some(1));
        assert!(queue.push(20, || 3) && queue.push(0, || 4));
        assert!(!queue.push(0, || 5), "too many things");
        queue.close();
        assert!(!queue.push(0, || 6));
        let rest: Vec<i32> = std::iter::from_fn(|| outlet.next(|| ())).collect();
        assert_eq!(rest, [2, 3, 4]);
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0);
    }
}
