//! Turns: the tasks of one session share a thread of their own, so that the system divides the processor among sessions.
//! On one thread for all, a session that keeps it busy would have everybody wait whenever the system takes the thread's
//! turn away; and what belongs to somebody who has little to do would be looked at after everything else.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Nothing here is deep; what isn't touched takes no memory.
const STACK: usize = 512 << 10;
/// Sockets and timers that one look at the system may bring, so that the list of them stays small.
const EVENTS: usize = 128;

/// Where tasks are spawned that belong together. Clones spawn in the same place.
#[derive(Clone, Default)]
pub struct Turns(Option<Arc<Group>>);

struct Group {
    runtime: Handle,
    tasks: TaskTracker,
}

impl Turns {
    /// Every task belongs to the runtime that it is spawned in.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Tasks on a new thread that is theirs. It ends with the last of them, after [`Turns::close`].
    ///
    /// # Errors
    /// The system gives no thread, or no files for its sockets.
    pub fn together() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().max_io_events_per_tick(EVENTS).build()?;
        let group = Group { runtime: runtime.handle().clone(), tasks: TaskTracker::new() };
        let tasks = group.tasks.clone();
        let thread = std::thread::Builder::new().name("session".into()).stack_size(STACK);
        thread.spawn(move || runtime.block_on(tasks.wait()))?;
        Ok(Self(Some(Arc::new(group))))
    }

    /// Runs `work` to its end. Where the thread has ended it is dropped.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match &self.0 {
            Some(group) => drop(group.tasks.spawn_on(work, &group.runtime)),
            None => drop(tokio::spawn(work)),
        }
    }

    /// Runs `work` here and waits for its end. Where the thread has ended it is dropped.
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

    /// Makes a socket of another runtime one of this place; to be called in a task that is run here. Else whoever
    /// accepted it would be woken for all that it brings.
    ///
    /// # Errors
    /// The system does not take it.
    pub fn adopt(&self, socket: TcpStream) -> io::Result<TcpStream> {
        match &self.0 {
            Some(_) => TcpStream::from_std(socket.into_std()?),
            None => Ok(socket),
        }
    }

    /// Lets the tasks that there are come to their end, and the thread with them.
    pub fn close(&self) {
        if let Some(group) = &self.0 {
            group.tasks.close();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.tasks.close();
    }
}

/// Lets others go first, once.
pub(crate) async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut paused, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn one_that_is_always_busy_does_not_hold_others_up() {
        let (greedy, modest) = (Turns::together().unwrap(), Turns::together().unwrap());
        let served = Arc::new(AtomicBool::new(false));
        let (over, end) = oneshot::channel();
        let until = served.clone();
        greedy.spawn(async move {
            // Never waits: on one thread nobody else would come to anything before its end.
            while !until.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            let _ = over.send(());
        });
        modest.run(async move { served.store(true, Ordering::Relaxed) }).await;
        end.await.unwrap();
    }

    #[tokio::test]
    async fn tasks_of_a_place_are_on_its_thread_and_sockets_too() {
        let turns = Turns::together().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (send, threads) = oneshot::channel();
        let (mut client, accepted) =
            tokio::join!(async { TcpStream::connect(address).await.unwrap() }, listener.accept());
        let (socket, _) = accepted.unwrap();
        let place = turns.clone();
        turns.spawn(async move {
            let mut socket = place.adopt(socket).unwrap();
            let before = thread::current().id();
            let byte = socket.read_u8().await.unwrap();
            let _ = send.send((byte, before, thread::current().id()));
        });
        // Whoever blocks this runtime does not matter to the other.
        client.write_u8(7).await.unwrap();
        let (byte, before, after) = threads.await.unwrap();
        assert_eq!((byte, before), (7, after));
        assert_ne!(after, thread::current().id());
    }

    #[tokio::test]
    async fn the_thread_ends_with_its_last_task_and_takes_nothing_after_it() {
        let turns = Turns::together().unwrap();
        let (send, receive) = oneshot::channel::<()>();
        let (held, gone) = oneshot::channel::<()>();
        turns.spawn(async move {
            let _ = receive.await;
            drop(held);
        });
        turns.close();
        send.send(()).unwrap();
        gone.await.unwrap_err();
        // What comes too late is dropped, sooner or later.
        loop {
            let (held, gone) = oneshot::channel::<&str>();
            turns.run(async move { assert_eq!(held.send("run"), Ok(())) }).await;
            if gone.await.is_err() {
                break;
            }
        }
    }
}
