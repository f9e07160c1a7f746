//! A session shared by its lanes, streams, flows and timer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use relay_protocol::Status;
use relay_protocol::session::{Event, FlowKey, Session, StreamKey};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::turns::Turns;

/// What the owner of a session wants to know of its events.
pub(crate) enum Notice {
    Opened(StreamKey),
    FlowOpened(FlowKey),
    Drain(Duration),
    Ended(Status, String),
}

#[derive(Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
    reset: Option<Waker>,
}

/// How the tasks of one lane are reached.
struct LaneHandle {
    id: u64,
    work: Arc<Notify>,
    over: CancellationToken,
}

pub(crate) struct State {
    pub(crate) session: Session,
    streams: Vec<Wakers>,
    flows: Vec<Option<Waker>>,
    openers: Vec<Waker>,
    lanes: Vec<LaneHandle>,
    notices: Vec<Notice>,
    /// What the timer sleeps until.
    armed: Option<Instant>,
}

impl State {
    pub(crate) fn wait_readable(&mut self, key: StreamKey, waker: &Waker) {
        let slot = slot(&mut self.streams, key.index());
        set(&mut slot.read, waker);
    }

    pub(crate) fn wait_writable(&mut self, key: StreamKey, waker: &Waker) {
        let slot = slot(&mut self.streams, key.index());
        set(&mut slot.write, waker);
    }

    pub(crate) fn wait_reset(&mut self, key: StreamKey, waker: &Waker) {
        let slot = slot(&mut self.streams, key.index());
        set(&mut slot.reset, waker);
    }

    pub(crate) fn wait_datagram(&mut self, key: FlowKey, waker: &Waker) {
        set(slot(&mut self.flows, key.index()), waker);
    }

    pub(crate) fn wait_open(&mut self, waker: &Waker) {
        if !self.openers.iter().any(|known| known.will_wake(waker)) {
            self.openers.push(waker.clone());
        }
    }
}

fn slot<T: Default>(table: &mut Vec<T>, index: usize) -> &mut T {
    if table.len() <= index {
        table.resize_with(index + 1, T::default);
    }
    &mut table[index]
}

fn set(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(known) => known.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

pub(crate) struct Shared {
    state: Mutex<State>,
    /// The timer has to look again: something falls due earlier than it sleeps.
    timer: Notify,
    /// There are notices, or the number of lanes changed.
    owner: Notify,
    /// The last stream has gone.
    idle: Notify,
    /// Ends the timer and all lanes.
    pub(crate) stop: CancellationToken,
    /// Where what belongs to the session is run.
    pub(crate) turns: Turns,
}

impl Shared {
    pub(crate) fn new(session: Session, turns: Turns) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                session,
                streams: Vec::new(),
                flows: Vec::new(),
                openers: Vec::new(),
                lanes: Vec::new(),
                notices: Vec::new(),
                armed: None,
            }),
            timer: Notify::new(),
            owner: Notify::new(),
            idle: Notify::new(),
            stop: CancellationToken::new(),
            turns,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not take every stream with it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on the session, then wakes whoever has something to do because of it.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut State, std::time::Instant) -> R) -> R {
        let now = Instant::now();
        let mut wake: Vec<Waker> = Vec::new();
        let (mut owner, mut timer) = (false, false);
        let mut guard = self.lock();
        let result = f(&mut guard, now.into_std());
        let state = &mut *guard;
        while let Some(event) = state.session.poll_event() {
            match event {
                Event::Readable(key) => wake.extend(slot(&mut state.streams, key.index()).read.take()),
                Event::Writable(key) => wake.extend(slot(&mut state.streams, key.index()).write.take()),
                Event::Reset(key) => wake.extend(slot(&mut state.streams, key.index()).reset.take()),
                Event::FlowReadable(key) => wake.extend(slot(&mut state.flows, key.index()).take()),
                Event::CanOpen => wake.append(&mut state.openers),
                Event::LaneOver(id, _) => {
                    if let Some(lane) = state.lanes.iter().find(|lane| lane.id == id) {
                        lane.over.cancel();
                    }
                    owner = true;
                }
                Event::WantsLane => owner = true,
                Event::Opened(key) => state.notices.push(Notice::Opened(key)),
                Event::FlowOpened(key) => state.notices.push(Notice::FlowOpened(key)),
                Event::Drain(grace) => state.notices.push(Notice::Drain(grace)),
                Event::Ended(status, text) => {
                    state.notices.push(Notice::Ended(status, text));
                }
            }
        }
        owner |= !state.notices.is_empty();
        for lane in &state.lanes {
            // Of a session that has ended, a writer also looks whether it may leave.
            if state.session.has_work(lane.id, now.into_std()) || state.session.is_done_with(lane.id) {
                lane.work.notify_one();
            }
        }
        let next = state.session.poll_timeout().map(Instant::from_std);
        if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
            state.armed = next;
            timer = true;
        }
        let idle = state.session.stats().streams == 0;
        drop(guard);
        if idle {
            self.idle.notify_waiters();
        }
        wake.into_iter().for_each(Waker::wake);
        if owner {
            self.owner.notify_one();
        }
        if timer {
            self.timer.notify_one();
        }
        result
    }

    /// Looks at the session without changing it.
    pub(crate) fn peek<R>(&self, f: impl FnOnce(&Session) -> R) -> R {
        f(&self.lock().session)
    }

    /// Resolves when the session has no streams.
    pub(crate) async fn idle(&self) {
        loop {
            // Made before the look, so that no change falls between the two.
            let changed = self.idle.notified();
            if self.peek(|session| session.ended().is_some() || session.stats().streams == 0) {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when there may be notices or a lane has ended.
    pub(crate) async fn attention(&self) {
        self.owner.notified().await;
    }

    pub(crate) fn call_attention(&self) {
        self.owner.notify_one();
    }

    pub(crate) fn take_notices(&self) -> Vec<Notice> {
        std::mem::take(&mut self.lock().notices)
    }

    /// Makes a lane known: what wakes its writer, and what ends it.
    pub(crate) fn register_lane(&self, id: u64) -> (Arc<Notify>, CancellationToken) {
        let (work, over) = (Arc::new(Notify::new()), self.stop.child_token());
        let mut state = self.lock();
        state.lanes.push(LaneHandle { id, work: work.clone(), over: over.clone() });
        if !state.session.lanes().any(|lane| lane == id) {
            // It was over before it began.
            over.cancel();
        }
        (work, over)
    }

    pub(crate) fn has_lanes(&self) -> bool {
        !self.lock().lanes.is_empty()
    }

    pub(crate) fn forget_lane(&self, id: u64) {
        self.lock().lanes.retain(|lane| lane.id != id);
    }

    /// Calls the session when something falls due; runs until the session is stopped.
    pub(crate) async fn run_timer(self: Arc<Self>) {
        loop {
            let armed = self.lock().armed;
            let sleep = async {
                match armed {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.timer.notified() => continue,
                () = sleep => {}
            }
            self.with(|state, now| {
                state.armed = None;
                state.session.handle_timeout(now);
            });
        }
    }
}
