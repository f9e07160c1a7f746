//! Limits in time on a machine that has others to serve.

use std::time::Duration;

const TRIES: usize = 3;

/// How long something took, and how long it may.
#[derive(Debug)]
pub struct Took {
    what: String,
    time: Duration,
    limit: Duration,
}

impl Took {
    /// Such as "new connections worked", and the time until then.
    pub fn new(what: impl Into<String>, time: Duration, limit: Duration) -> Self {
        Self { what: what.into(), time, limit }
    }
}

/// What a cluster and other tests do just then delays one try, what is wrong delays each: of three tries one is in time
/// with all that it has to do.
pub fn in_time<const N: usize>(mut once: impl FnMut() -> [Took; N]) {
    for _ in 0..TRIES {
        let all = once();
        for Took { what, time, limit } in &all {
            println!("{what} after {time:?}, of {limit:?} that it may take");
        }
        if all.iter().all(|took| took.time < took.limit) {
            return;
        }
    }
    panic!("too late, {TRIES} times");
}
