//! How long is waited for a request. hyper begins to wait for a head when the last answer is over, and has one time for
//! silence and for a head that comes slowly; here a client may be silent for long, but not slow.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

use crate::{Limits, socket::Heard};

/// A timer for nothing but the wait for a head; when it ends is decided here.
pub(super) struct HeadTimer {
    heard: Heard,
    header_time: Duration,
    idle_time: Duration,
}

impl HeadTimer {
    pub(super) fn new(heard: Heard, limits: &Limits) -> Self {
        Self { heard, header_time: limits.header_time, idle_time: limits.idle_time }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait {
            sleep: Box::pin(tokio::time::sleep(self.idle_time)),
            silent_at: Some(self.heard.get()),
            heard: self.heard.clone(),
            header_time: self.header_time,
        })
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(Duration::ZERO)
    }
}

/// The wait for one head. hyper looks at it whenever it has read something.
struct Wait {
    sleep: Pin<Box<tokio::time::Sleep>>,
    /// What had been heard when the wait began; `None` once more has been.
    silent_at: Option<u64>,
    heard: Heard,
    header_time: Duration,
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.silent_at.is_some_and(|before| before != self.heard.get()) {
            self.silent_at = None;
            let end = tokio::time::Instant::now() + self.header_time;
            self.sleep.as_mut().reset(end);
        }
        self.sleep.as_mut().poll(cx)
    }
}
