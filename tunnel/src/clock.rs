//! Notices that the machine slept.

use std::time::Duration;

use tokio::time::Instant;

/// How much later than expected a tick must be to mean sleep.
const LATE: Duration = Duration::from_secs(3);

/// Compares two readings of the clocks a tick apart.
pub(crate) struct SleepWatch {
    tick: Duration,
    running: Instant,
    boot: Option<Duration>,
}

impl SleepWatch {
    pub(crate) fn new(tick: Duration) -> Self {
        Self { tick, running: Instant::now(), boot: boot_clock() }
    }

    /// To be called once a tick: true where the machine or this process stood still in between.
    pub(crate) fn slept(&mut self) -> bool {
        let (running, boot) = (Instant::now(), boot_clock());
        let passed = running.duration_since(self.running);
        // The boot clock counts suspension, which the running clock does not.
        let suspended = boot
            .zip(self.boot)
            .map_or(Duration::ZERO, |(new, old)| new.saturating_sub(old))
            .saturating_sub(passed);
        (self.running, self.boot) = (running, boot);
        passed > self.tick + LATE || suspended > LATE
    }
}

#[cfg(target_os = "linux")]
fn boot_clock() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// Elsewhere the running clock alone has to tell.
#[cfg(not(target_os = "linux"))]
fn boot_clock() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_late_tick_means_sleep_and_a_punctual_one_does_not() {
        let tick = Duration::from_secs(1);
        let mut watch = SleepWatch::new(tick);
        tokio::time::advance(tick * 2).await;
        assert!(!watch.slept());
        tokio::time::advance(tick * 90).await;
        assert!(watch.slept());
        tokio::time::advance(tick).await;
        assert!(!watch.slept());
    }
}
