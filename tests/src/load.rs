//! Traffic that goes on while something is broken, and what it saw: every byte is checked, every gap is known.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use relay_workload::Pattern;

use crate::traffic::{connect, download_watched, echo_once, upload, wait_until};

/// Between two messages of one echo connection.
const PACE: Duration = Duration::from_millis(50);
/// What of an answer may still have been under way when a fault began.
const IN_FLIGHT: Duration = Duration::from_millis(500);
/// A transfer has begun when this much has arrived.
const BEGUN: u64 = 4 << 20;

struct Exchange {
    connection: usize,
    begun: Instant,
    ended: Instant,
}

/// Connections that each ask and wait for the answer, again and again.
pub struct Echoes {
    count: usize,
    stop: Arc<AtomicBool>,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Echoes {
    /// Opens so many connections, and waits until each works.
    pub fn start(address: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let exchanges = Arc::new(Mutex::new(Vec::new()));
        let asks = |connection| {
            let (stop, exchanges) = (stop.clone(), exchanges.clone());
            thread::spawn(move || ask(address, connection, &stop, &exchanges))
        };
        let threads = (0..count).map(asks).collect();
        let echoes = Self { count, stop, exchanges, threads };
        let since = Instant::now();
        echoes.wait(since, "every echo connection works");
        echoes
    }

    /// When the first connection got an answer after a fault that began at `fault`, waiting for it where it has to.
    pub fn first_answer(&self, fault: Instant) -> Instant {
        let ended = |exchange: &Exchange| (exchange.ended > fault + IN_FLIGHT).then_some(exchange.ended);
        wait_until("an answer after the fault", Duration::from_secs(120), || {
            self.check();
            self.with(|exchanges| exchanges.iter().any(|exchange| ended(exchange).is_some()))
        });
        self.with(|exchanges| exchanges.iter().filter_map(ended).min().expect("one was waited for"))
    }

    /// Waits until every connection has asked and been answered since `since`; gives when the last of them was.
    pub fn all_answered(&self, since: Instant) -> Instant {
        self.wait(since, "every echo connection goes on");
        let first = |connection| {
            let of_it = |exchange: &&Exchange| exchange.connection == connection && exchange.begun >= since;
            self.with(|exchanges| exchanges.iter().find(of_it).expect("one was waited for").ended)
        };
        (0..self.count).map(first).max().expect("at least one connection")
    }

    fn wait(&self, since: Instant, what: &str) {
        wait_until(what, Duration::from_secs(120), || {
            self.check();
            self.with(|exchanges| {
                let mut answered = vec![false; self.count];
                for exchange in exchanges.iter().filter(|exchange| exchange.begun >= since) {
                    answered[exchange.connection] = true;
                }
                answered.into_iter().all(|answered| answered)
            })
        });
    }

    /// The longest that anybody waited for an answer so far.
    pub fn longest_gap(&self) -> Duration {
        self.longest_gap_of(|_| true)
    }

    /// The longest that anybody waited for an answer that came after `since`.
    pub fn longest_gap_since(&self, since: Instant) -> Duration {
        self.longest_gap_of(|exchange| exchange.ended > since)
    }

    fn longest_gap_of(&self, counts: impl Fn(&Exchange) -> bool) -> Duration {
        let took = |exchange: &Exchange| counts(exchange).then(|| exchange.ended - exchange.begun);
        self.with(|exchanges| exchanges.iter().filter_map(took).max().unwrap_or_default())
    }

    /// Ends all, none of which may have failed; gives how many answers came.
    pub fn finish(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("an echo thread").expect("an echo connection goes on");
        }
        self.with(Vec::len)
    }

    fn check(&self) {
        // A thread ends before it is asked to only by an error.
        assert!(
            !self.threads.iter().any(JoinHandle::is_finished),
            "an echo connection has ended in the middle"
        );
    }

    fn with<T>(&self, look: impl FnOnce(&Vec<Exchange>) -> T) -> T {
        look(&self.exchanges.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn ask(
    address: SocketAddr,
    connection: usize,
    stop: &AtomicBool,
    exchanges: &Mutex<Vec<Exchange>>,
) -> io::Result<()> {
    let mut stream = connect(address);
    let mut pattern = Pattern::at(connection as u64);
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // From one byte to more than a segment.
        let message = pattern.take(1 + (round * 397) % 2000);
        let begun = Instant::now();
        let asked = echo_once(&mut stream, &message);
        if let Err(error) = asked {
            eprintln!("echo connection {connection}, after {:?}: {error}", begun.elapsed());
            return Err(error);
        }
        let exchange = Exchange { connection, begun, ended: Instant::now() };
        exchanges.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
        thread::sleep(PACE);
    }
    Ok(())
}

/// An upload and a download, each begun anew when it is done, so that a fault always finds one in the middle.
pub struct Transfers {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    up: JoinHandle<io::Result<u64>>,
    down: JoinHandle<io::Result<u64>>,
}

impl Transfers {
    /// Begins both, and waits until bytes come.
    pub fn start(sink: SocketAddr, source: SocketAddr, len: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let (stop_up, stop_down, watched) = (stop.clone(), stop.clone(), arrived.clone());
        let up = thread::spawn(move || again_and_again(&stop_up, || upload(sink, len)));
        let down =
            thread::spawn(move || again_and_again(&stop_down, || download_watched(source, len, &watched)));
        let transfers = Self { stop, arrived, up, down };
        wait_until("the transfers are under way", Duration::from_secs(60), || {
            transfers.arrived.load(Ordering::Relaxed) > BEGUN.min(len / 2) || transfers.down.is_finished()
        });
        transfers
    }

    /// Lets those that have begun end, with every byte right; gives how many there were each way.
    pub fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let up = self.up.join().expect("the uploading thread").expect("every upload is whole");
        let down = self.down.join().expect("the downloading thread").expect("every download is whole");
        (up, down)
    }
}

fn again_and_again(stop: &AtomicBool, mut once: impl FnMut() -> io::Result<()>) -> io::Result<u64> {
    let mut count = 0;
    loop {
        once().inspect_err(|error| eprintln!("transfer {count}: {error}"))?;
        count += 1;
        if stop.load(Ordering::Relaxed) {
            return Ok(count);
        }
    }
}
