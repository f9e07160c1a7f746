//! What the session makes of a path, in virtual time: it fills it, leaves its buffers empty, and lets nobody wait
//! behind a lane that is held up.

use std::collections::VecDeque;
use std::time::Duration;

use relay_protocol::session::Config;

use crate::faults::{stream, talk};
use crate::schedules::for_seeds;
use crate::simulator::network::{Path, Side};
use crate::simulator::program::Script;
use crate::simulator::{NewPipe, World};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The agent's direction of a pipe.
const DOWN: usize = Side::Agent as usize;

/// A far path: this delay one way, and a buffer that holds far more than is good.
fn far(delay: Duration, rate: Option<u64>) -> Path {
    Path { delay, rate, queue: 4 << 20, segment: 1_400, ..Path::good() }
}

fn download(bytes: u64) -> crate::simulator::program::Plan {
    let mut plan = stream(Duration::ZERO, 10, bytes);
    plan.client = Script { read: 1..400_000, ..plan.client };
    plan.agent = Ok(Script { write: 100_000..400_000, ..Script::plain(bytes) });
    plan
}

fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

/// Downloads over a bottleneck that all lanes share: the share of its rate that is used, and the bytes that wait in
/// front of it in the middle, as time.
fn downloads(seed: u64, delay: Duration, rate: u64, streams: u64) -> (f64, Duration) {
    let paths = Box::new(move |_: &mut _, _| NewPipe::from(far(delay, None)));
    let mut world = World::new(seed, Config::client(), Config::agent(), [rate; 2], paths);
    let time = 8 * SECOND;
    for _ in 0..streams {
        world.plan(download(2 * rate * time.as_secs() / streams));
    }
    world.run_for(2 * SECOND);
    let delivered = |world: &World| world.pipes.iter().map(|pipe| pipe.ways[DOWN].delivered).sum::<u64>();
    let before = delivered(&world);
    let mut waiting = Vec::new();
    while world.now < time {
        world.run_for(7 * MS);
        let bytes: usize = world.pipes.iter().map(|pipe| pipe.ways[DOWN].queue.len()).sum();
        waiting.push(Duration::from_secs_f64(bytes as f64 / rate as f64));
    }
    let used = (delivered(&world) - before) as f64 / (rate as f64 * (world.now - 2 * SECOND).as_secs_f64());
    (used, percentile(&mut waiting, 0.5))
}

#[test]
fn a_bottleneck_is_filled_and_its_buffer_is_not() {
    for_seeds("bottleneck", 2, |seed| {
        for (delay, rate) in [(10 * MS, 6 << 20), (40 * MS, 6 << 20), (10 * MS, 40 << 20)] {
            for streams in [1, 8] {
                let (used, waiting) = downloads(seed, delay, rate, streams);
                println!("{streams} x {delay:?} {rate}: {used:.3} {waiting:?}");
                assert!(used >= 0.95, "{streams} streams use {used:.2} of {rate} bytes/s, one way {delay:?}");
                assert!(
                    waiting <= 15 * MS,
                    "{waiting:?} in the buffer: {streams} of {rate}, one way {delay:?}"
                );
            }
        }
    });
}

/// The most that leaves within a millisecond in the steady state of a download over a bottleneck, as time at its rate.
fn burst_of_a_download(seed: u64, delay: Duration, rate: u64) -> Duration {
    let paths = Box::new(move |_: &mut _, _| NewPipe::from(far(delay, None)));
    let mut world = World::new(seed, Config::client(), Config::agent(), [rate; 2], paths);
    let time = 6 * SECOND;
    world.plan(download(2 * rate * time.as_secs()));
    world.run_for(2 * SECOND);
    let sent = |world: &World| -> u64 {
        let ways = world.pipes.iter().map(|pipe| &pipe.ways[DOWN]);
        ways.map(|way| (way.queue.len() + way.travelling) as u64 + way.delivered).sum()
    };
    let mut most = 0;
    while world.now < time {
        let before = sent(&world);
        world.run_for(MS);
        most = most.max(sent(&world) - before);
    }
    Duration::from_secs_f64(most as f64 / rate as f64)
}

#[test]
fn bulk_is_spread_over_the_round_trip() {
    for_seeds("bursts", 2, |seed| {
        for (delay, rate) in [(10 * MS, 6 << 20), (40 * MS, 6 << 20), (10 * MS, 40 << 20)] {
            let burst = burst_of_a_download(seed, delay, rate);
            println!("{delay:?} {rate}: {burst:?}");
            assert!(burst <= 8 * MS, "{burst:?} leave at once: {rate} bytes/s, one way {delay:?}");
        }
    });
}

/// The share that downloads use of four lanes that carry `rate` each, and lose one segment in a hundred.
fn lossy_downloads(seed: u64, rate: u64, streams: u64) -> f64 {
    let path = Path { loss: 10, stall: 220 * MS, ..far(10 * MS, Some(rate)) };
    // However many lanes it would have.
    let client = Config { lanes: 4, ..Config::client() };
    let mut world = World::with(seed, client, Config::agent(), path);
    let time = 12 * SECOND;
    for _ in 0..streams {
        world.plan(download(16 * rate * time.as_secs() / streams));
    }
    world.run_for(4 * SECOND);
    let delivered = |world: &World| world.pipes.iter().map(|pipe| pipe.ways[DOWN].delivered).sum::<u64>();
    let (before, since) = (delivered(&world), world.now);
    world.run_for(time - 4 * SECOND);
    println!("{} lanes", world.pipes.len());
    (delivered(&world) - before) as f64 / (4.0 * rate as f64 * (world.now - since).as_secs_f64())
}

#[test]
fn lanes_that_lose_segments_are_used() {
    for_seeds("lossy", 2, |seed| {
        for streams in [1, 8] {
            let used = lossy_downloads(seed, 768 << 10, streams);
            println!("{streams} over lossy lanes: {used:.3}");
            assert!(used >= 0.7, "{streams} streams use {used:.2}");
        }
    });
}

/// How many lanes a client has after some seconds of an upload, over paths of `rate` each that lose as many of a thousand
/// segments.
fn lanes_of_an_upload(seed: u64, rate: u64, segment: usize, loss: u64) -> usize {
    let path = Path { loss, stall: 60 * MS, segment, ..far(10 * MS, Some(rate)) };
    let client = Config { lanes: 4, ..Config::client() };
    let mut world = World::with(seed, client, Config::agent(), path);
    let time = 8 * SECOND;
    let mut plan = stream(Duration::ZERO, 8 * rate * time.as_secs(), 10);
    plan.client.write = 100_000..400_000;
    world.plan(plan);
    world.run_for(time);
    world.client().lanes().count()
}

#[test]
fn lanes_that_hold_much_are_not_doubled_for_a_stall_now_and_then() {
    for_seeds("stalls", 2, |seed| {
        assert_eq!(lanes_of_an_upload(seed, 24 << 20, 64 * 1024, 1), 5);
        assert_eq!(lanes_of_an_upload(seed, 768 << 10, 1_400, 10), 9, "each holds little");
    });
}

/// How long small writes take to arrive, one way, over lanes that lose three segments in a hundred, or one beside a download:
/// that holds up what follows on the lane.
fn small_writes(seed: u64, lanes: usize, beside_a_download: bool) -> Vec<Duration> {
    let loss = if beside_a_download { 10 } else { 30 };
    let path = Path { loss, stall: 220 * MS, ..far(10 * MS, Some(10 << 20)) };
    let client = Config { lanes, ..Config::client() };
    let mut world = World::with(seed, client, Config::agent(), path);
    let mut plan = talk(200_000);
    plan.client = Script { think: (80, 60 * MS), write: 10..100, ..plan.client };
    let number = world.plan(plan);
    if beside_a_download {
        world.plan(download(1 << 30));
    }
    world.run_for(5 * SECOND);
    let (mut seen, mut sent) = (world.records[number][0].written, VecDeque::new());
    let mut times = Vec::new();
    world.run_until(161 * SECOND, |world| {
        let [client, agent] = &world.records[number];
        if client.written > seen {
            seen = client.written;
            sent.push_back((world.now, seen));
        }
        while let Some(&(at, _)) = sent.front().filter(|&&(_, written)| written <= agent.read) {
            times.push(world.now - at);
            sent.pop_front();
        }
        world.now >= 160 * SECOND
    });
    assert!(times.len() > 500);
    times
}

#[test]
fn a_small_write_does_not_wait_behind_a_lost_segment() {
    for_seeds("lost_segment", 2, |seed| {
        let p99 = |lanes, beside| percentile(&mut small_writes(seed, lanes, beside), 0.99);
        let (one, several, beside) = (p99(1, false), p99(4, false), p99(4, true));
        println!("one way p99: one lane {one:?}, several {several:?}, beside a download {beside:?}");
        // A PING behind what is late has TCP repair the loss long before its timer.
        assert!(one <= 90 * MS, "one lane: {one:?}");
        assert!(several <= 60 * MS, "{several:?}");
        assert!(beside <= 70 * MS, "{beside:?} beside a download");
    });
}
