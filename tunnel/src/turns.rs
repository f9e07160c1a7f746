//! Turns: the tasks of one session share one place in the runtime's queue, so that a session with thousands of busy
//! streams gets as much of the agent's thread as one with a single stream.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::coop;

/// How long a turn lasts; the task that is being polled at its end may finish its poll. Others wait for as many turns
/// as there are busy sessions.
const TURN: Duration = Duration::from_micros(100);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where tasks are spawned that belong together. Clones spawn in the same place.
#[derive(Clone, Default)]
pub struct Turns(Option<Arc<Group>>);

#[derive(Default)]
struct Group(Mutex<State>);

#[derive(Default)]
struct State {
    tasks: HashMap<u64, Arc<Task>>,
    /// Woken, in order; each at most once.
    ready: VecDeque<Arc<Task>>,
    next: u64,
    /// The runtime's task that polls them. `None` while it does.
    driver: Option<Waker>,
    closed: bool,
    /// Nobody polls any more.
    over: bool,
}

struct Task {
    id: u64,
    group: Weak<Group>,
    /// Is among the ready.
    queued: AtomicBool,
    work: Mutex<Option<Work>>,
}

impl Turns {
    /// Every task has its own place in the runtime's queue.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Tasks that take turns, as one, with everything else in this runtime. They run until [`Turns::close`].
    pub fn together() -> Self {
        let group = Arc::new(Group::default());
        tokio::spawn(Driver(group.clone()));
        Self(Some(group))
    }

    /// Runs `work` to its end.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Some(group) = &self.0 else {
            tokio::spawn(work);
            return;
        };
        let mut state = group.state();
        if state.over {
            return;
        }
        let id = state.next;
        state.next += 1;
        let task = Arc::new(Task {
            id,
            group: Arc::downgrade(group),
            queued: AtomicBool::new(false),
            work: Mutex::new(Some(Box::pin(work))),
        });
        state.tasks.insert(id, task.clone());
        drop(state);
        task.wake();
    }

    /// Runs `work` here and waits for its end. Where nobody polls any more it is dropped.
    pub async fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        if self.0.is_none() {
            return work.await;
        }
        let (done, end) = oneshot::channel::<()>();
        self.spawn(async move {
            work.await;
            drop(done);
        });
        // The sender is only ever dropped.
        let _ = end.await;
    }

    /// Lets the tasks that there are come to their end, and takes no others after that.
    pub fn close(&self) {
        if let Some(group) = &self.0 {
            let driver = {
                let mut state = group.state();
                state.closed = true;
                state.driver.take()
            };
            driver.into_iter().for_each(Waker::wake);
        }
    }
}

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing done under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let Some(group) = self.group.upgrade() else { return };
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let driver = {
            let mut state = group.state();
            state.ready.push_back(self);
            state.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
    }
}

struct Driver(Arc<Group>);

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let began = Instant::now();
        loop {
            let task = {
                let mut state = self.0.state();
                match state.ready.pop_front() {
                    Some(task) => task,
                    None if state.closed && state.tasks.is_empty() => return Poll::Ready(()),
                    None => {
                        state.driver = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                }
            };
            // What wakes it from here on wakes it again.
            task.queued.store(false, Ordering::Release);
            self.poll_one(&task);
            if began.elapsed() >= TURN || !coop::has_budget_remaining() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl Driver {
    fn poll_one(&self, task: &Arc<Task>) {
        let waker = Waker::from(task.clone());
        let mut work = task.work.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over =
            work.as_mut().is_none_or(|work| work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        if is_over {
            *work = None;
            self.0.state().tasks.remove(&task.id);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let (tasks, ready) = {
            let mut state = self.0.state();
            state.over = true;
            (std::mem::take(&mut state.tasks), std::mem::take(&mut state.ready))
        };
        drop(ready);
        // A task may be held by what wakes it, and that by the task.
        for task in tasks.into_values() {
            let work = task.work.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(work);
        }
    }
}

/// Lets others go first, once.
pub(crate) async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// Tasks that are always busy, each for a fifth of a turn.
    fn flood(turns: &Turns, tasks: usize) -> Arc<AtomicUsize> {
        let polls = Arc::new(AtomicUsize::new(0));
        for _ in 0..tasks {
            let polls = polls.clone();
            turns.spawn(async move {
                loop {
                    let began = Instant::now();
                    while began.elapsed() < TURN / 5 {}
                    polls.fetch_add(1, Ordering::Relaxed);
                    pause().await;
                }
            });
        }
        polls
    }

    #[tokio::test]
    async fn a_thousand_busy_tasks_of_one_hold_others_up_for_a_turn() {
        let (greedy, modest) = (Turns::together(), Turns::together());
        let polls = flood(&greedy, 1_000);
        modest
            .run(async {
                for _ in 0..100 {
                    pause().await;
                }
            })
            .await;
        // Each with a place of its own, they would have been polled 100,000 times.
        let polls = polls.load(Ordering::Relaxed);
        assert!((1..2_000).contains(&polls), "{polls}");
    }

    #[tokio::test]
    async fn what_waits_is_woken_and_ends() {
        let turns = Turns::together();
        let (send, mut receive) = mpsc::channel::<u32>(1);
        let (result, sum) = oneshot::channel();
        turns.spawn(async move {
            let mut sum = 0;
            while let Some(number) = receive.recv().await {
                sum += number;
            }
            result.send(sum).unwrap();
        });
        for number in 0..1_000 {
            send.send(number).await.unwrap();
        }
        turns.close();
        drop(send);
        assert_eq!(sum.await.unwrap(), 499_500);
    }

    #[tokio::test]
    async fn after_its_end_nothing_is_kept() {
        let turns = Turns::together();
        turns.run(async {}).await;
        turns.close();
        let group = turns.0.clone().unwrap();
        while !group.state().over {
            tokio::task::yield_now().await;
        }
        let (held, gone) = oneshot::channel::<()>();
        turns.spawn(async move { drop(held) });
        gone.await.unwrap_err();
        assert!(group.state().tasks.is_empty());
    }

    #[test]
    fn what_is_left_when_the_runtime_ends_is_dropped() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (held, mut gone) = oneshot::channel::<()>();
        let turns = runtime.block_on(async {
            let turns = Turns::together();
            let group = turns.0.clone().unwrap();
            turns.spawn(async move {
                // Whatever would wake it is the task's own.
                let (_send, receive) = oneshot::channel::<()>();
                let _ = receive.await;
                drop((held, group));
            });
            turns.run(async {}).await;
            turns
        });
        assert!(gone.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop(runtime);
        assert_eq!(gone.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        drop(turns);
    }
}
