//! Random situations, thousands of them, each from its seed.
//!
//! `RELAY_SCHEDULES=20000` runs more; `RELAY_SEED=123` runs that one alone.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use relay_protocol::Status;
use relay_protocol::pool::Pool;
use relay_protocol::session::Config;

use crate::simulator::flows::FlowPlan;
use crate::simulator::network::{Path, Side};
use crate::simulator::program::{Ending, Plan, Script, Start};
use crate::simulator::rng::Rng;
use crate::simulator::{Fault, NewPipe, World};

/// How many run where nobody says otherwise.
const SCHEDULES: u64 = 1_500;
/// Everything must be over this long after the last fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_schedules_keep_every_promise() {
    if let Some(seed) = number("RELAY_SEED") {
        return run(seed);
    }
    let all = number("RELAY_SCHEDULES").unwrap_or(SCHEDULES);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seeds = |first| (first as u64..=all).step_by(threads);
    std::thread::scope(|scope| {
        for first in 1..=threads {
            scope.spawn(move || seeds(first).for_each(|seed| run_or_say("random", seed, run)));
        }
    });
}

/// Runs a test for `usual` seeds, or for those that the environment names.
pub(crate) fn for_seeds(test: &str, usual: u64, run: impl Fn(u64)) {
    if let Some(seed) = number("RELAY_SEED") {
        return run(seed);
    }
    let all = number("RELAY_SCHEDULES").unwrap_or(usual);
    (1..=all).for_each(|seed| run_or_say(test, seed, &run));
}

fn run_or_say(test: &str, seed: u64, run: impl Fn(u64)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
        eprintln!("to see it again: RELAY_SEED={seed} cargo test -p relay-protocol --test session {test}");
        resume_unwind(panic);
    }
}

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(crate) fn a_path(rng: &mut Rng, faulty: bool) -> Path {
    let tiny = faulty && rng.chance(10);
    Path {
        delay: ms(rng.magnitude(1..150)),
        jitter: if rng.chance(30) { ms(rng.magnitude(1..50)) } else { Duration::ZERO },
        rate: if rng.chance(50) { None } else { Some(rng.magnitude(100_000..50 << 20)) },
        queue: rng.magnitude(2_000..2 << 20) as usize,
        segment: if tiny { rng.magnitude(1..50) } else { rng.magnitude(500..30_000) } as usize,
        loss: if faulty && rng.chance(40) { rng.magnitude(1..50) } else { 0 },
        stall: ms(rng.magnitude(50..1500)),
        read: if tiny { rng.magnitude(1..8) } else { rng.magnitude(1..100_000) } as usize,
    }
}

fn paths(mut rng: Rng, faults_end: Duration) -> crate::simulator::Paths {
    let deadly = rng.chance(30);
    Box::new(move |_, now| {
        let faulty = now < faults_end;
        let path = a_path(&mut rng, faulty);
        let dies = faulty && deadly && rng.chance(60);
        let side = rng.pick(&Side::BOTH);
        NewPipe { path, dies_after: dies.then(|| (side, rng.magnitude(1..1 << 20))) }
    })
}

/// `busiest`: bytes of the direction that carries more. Who thinks about every byte of millions never ends.
fn a_script(rng: &mut Rng, amount: u64, busiest: u64) -> Script {
    let think = if rng.chance(30) { (rng.below(30), ms(rng.magnitude(1..300))) } else { (0, ms(1)) };
    Script {
        amount,
        start: Start::AtOnce,
        ending: Ending::Finish,
        write: 1..rng.magnitude(2..70_000).max(busiest / 500 + 2),
        read: 1..rng.magnitude(2..70_000).max(busiest / 500 + 2),
        think,
        reads_from: Duration::ZERO,
        quits: None,
        lingers: rng.chance(30),
    }
}

fn a_reset(rng: &mut Rng) -> Ending {
    match rng.below(4) {
        0 => Ending::Drop,
        1 => Ending::Reset(Status::Aborted),
        _ => Ending::Reset(Status::ResetByPeer),
    }
}

pub(crate) fn a_plan(rng: &mut Rng, largest: u64, until: Duration) -> Plan {
    let amount = |rng: &mut Rng| if rng.chance(20) { 0 } else { rng.magnitude(1..largest) };
    let (up, down) = (amount(rng), amount(rng));
    let busiest = up.max(down);
    let mut client = a_script(rng, up, busiest);
    let mut agent = Ok(a_script(rng, down, busiest));
    match rng.below(8) {
        0 => agent = Ok(Script { start: Start::Echo, ..a_script(rng, 0, busiest) }),
        1 => agent = Ok(Script { start: Start::AfterEnd, ..a_script(rng, down, busiest) }),
        2 => client.ending = Ending::FinishAfterEnd,
        3 => {
            agent =
                Err(rng.pick(&[Status::Refused, Status::NoSuchHost, Status::Unreachable, Status::Unknown]));
        }
        4 => client.ending = a_reset(rng),
        _ => {}
    }
    if let Ok(agent) = &mut agent {
        match rng.below(8) {
            0 if agent.start == Start::AtOnce => agent.ending = a_reset(rng),
            1 => agent.quits = Some((rng.below(up + 9), a_reset(rng))),
            2 => client.quits = Some((rng.below(down + 1), a_reset(rng))),
            3 => agent.reads_from = rng.duration(Duration::ZERO..until * 2),
            4 => client.reads_from = rng.duration(Duration::ZERO..until * 2),
            _ => {}
        }
    }
    Plan { opens_at: rng.duration(Duration::ZERO..until), client, agent }
}

pub(crate) fn configs(rng: &mut Rng) -> (Config, Config) {
    let (mut client, mut agent) = (Config::client(), Config::agent());
    client.lanes = rng.in_range(1..6) as usize;
    if rng.chance(30) {
        for config in [&mut client, &mut agent] {
            config.initial_credit = rng.magnitude(2_048..16_384);
            config.first_window = rng.magnitude(2_048..65_536);
            config.max_window = rng.magnitude(65_536..4 << 20);
            config.lane_cap = rng.magnitude(8_192..2 << 20);
            config.send_pool = Pool::new(rng.magnitude(65_536..4 << 20) as usize);
            config.max_streams = rng.magnitude(1..300);
            let floor = (config.max_streams * config.initial_credit) as usize;
            config.receive_pool = Pool::new(2 * floor + rng.magnitude(1..4 << 20) as usize);
        }
    }
    // Longer than anybody sleeps here: a session that ends for want of lanes has a test of its own.
    (client.idle_life, agent.idle_life) = (PATIENCE, PATIENCE);
    if rng.chance(10) {
        client.ping = None;
        agent.ping = None;
    }
    (client, agent)
}

/// Without pings, an end that only waits can't notice that its lanes are silent.
fn a_fault(rng: &mut Rng, pings: bool) -> Fault {
    match rng.below(12) {
        5..9 if !pings => Fault::KillAll,
        0..3 => Fault::Kill,
        3..5 => Fault::KillAll,
        5..7 => Fault::Cut,
        7 => Fault::CutAll,
        8 => Fault::CutOneWay(rng.pick(&Side::BOTH)),
        9 => a_sleep(rng),
        10 => Fault::Sleep(rng.pick(&Side::BOTH), ms(rng.magnitude(1..500)), false),
        _ => Fault::NoDials(ms(rng.magnitude(1..20_000))),
    }
}

/// The client is told when it wakes; nobody tells the agent.
pub(crate) fn a_sleep(rng: &mut Rng) -> Fault {
    let side = rng.pick(&Side::BOTH);
    Fault::Sleep(side, ms(rng.magnitude(1..100_000)), side == Side::Client)
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x5eed_0000);
    let (client, agent) = configs(&mut rng);
    let pings = client.ping.is_some();
    let active = ms(rng.magnitude(100..30_000));
    let faulty = rng.chance(75);
    let faults = if faulty { rng.magnitude(1..20) } else { 0 };
    let shared = [rng.magnitude(200_000..100 << 20), rng.magnitude(200_000..100 << 20)];
    let mut paths_end = active;
    let strikes: Vec<(Duration, Fault)> = (0..faults)
        .map(|_| (rng.duration(Duration::ZERO..active), a_fault(&mut rng, pings)))
        .inspect(|(at, fault)| {
            if let Fault::Sleep(_, time, _) | Fault::NoDials(time) = fault {
                paths_end = paths_end.max(*at + *time);
            }
        })
        .collect();
    let paths_end = if faulty { paths_end } else { Duration::ZERO };
    let at_a_time = agent.max_streams;
    let mut world = World::new(seed, client, agent, shared, paths(rng.fork(), paths_end));
    for (at, fault) in strikes {
        world.strike_at(at, fault);
    }
    let (streams, largest) = match rng.below(20) {
        0 => (1_000, 3_000),
        1..6 => (rng.in_range(10..100), 50_000),
        6..16 => (rng.in_range(1..10), 300_000),
        _ => (rng.in_range(1..3), 3 << 20),
    };
    // Those that must wait for each other take their time.
    for _ in 0..streams.min(at_a_time * 20) {
        let plan = a_plan(&mut rng, largest, active);
        world.plan(plan);
    }
    for _ in 0..rng.below(4) {
        let plan = FlowPlan {
            opens_at: rng.duration(Duration::ZERO..active),
            datagrams: rng.magnitude(1..100),
            size: rng.magnitude(1..60_000),
            every: ms(rng.magnitude(1..100)),
        };
        world.ends[0].flows.plans.push(plan);
    }
    world.ends[0].flows.plans.sort_by_key(|plan| plan.opens_at);
    // The longest that a program waits on purpose.
    let limit = active * 2 + paths_end + PATIENCE;
    world.run_until(limit, |world| {
        for end in &world.ends {
            assert_eq!(end.ended, None, "{:?}: the session ended", end.side);
        }
        world.all_done()
    });
    nothing_is_left(&mut world);
}

/// Once everything is over, both ends hold nothing, and almost never wake up.
pub(crate) fn nothing_is_left(world: &mut World) {
    world.run_for(Duration::from_secs(20));
    let clock = world.clock();
    for index in 0..2 {
        let Some(session) = &world.ends[index].session else { continue };
        let stats = session.stats();
        assert_eq!((stats.streams, stats.flows, stats.send_held), (0, 0, 0));
        assert_eq!(session.lanes_with_work(clock).count(), 0, "something stays queued");
        if index == 0 {
            assert_eq!(stats.receive_reserved, 0, "the client reserves nothing without streams");
        }
    }
    let before: u64 = world.ends.iter().map(|end| end.wakeups).sum();
    world.run_for(Duration::from_secs(60));
    let wakeups = world.ends.iter().map(|end| end.wakeups).sum::<u64>() - before;
    assert!(wakeups <= 60 * 10, "{wakeups} wake-ups in an idle minute");
}
