//! Situations that people meet, with the whole network around them.

use std::time::Duration;

use relay_protocol::pool::Pool;
use relay_protocol::session::Config;

use crate::simulator::flows::FlowPlan;
use crate::simulator::network::{Path, Side};
use crate::simulator::program::{Plan, Script};
use crate::simulator::{Fault, NewPipe, World};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn stream(up: u64, down: u64) -> Plan {
    Plan { opens_at: Duration::ZERO, client: Script::plain(up), agent: Ok(Script::plain(down)) }
}

fn at(mut plan: Plan, opens_at: Duration) -> Plan {
    plan.opens_at = opens_at;
    plan
}

#[test]
fn many_megabytes_both_ways() {
    let mut world = World::good(1);
    world.plan(stream(20 << 20, 20 << 20));
    world.run_until(10 * SECOND, World::all_done);
    assert_eq!(world.client().stats().bytes_resent, 0);
}

#[test]
fn all_lanes_lost_in_the_middle_and_nothing_is_missing() {
    let mut world = World::good(2);
    for _ in 0..20 {
        world.plan(stream(1 << 20, 1 << 20));
    }
    for second in 0..5 {
        world.strike_at(second * SECOND / 4 + 100 * MS, Fault::KillAll);
    }
    world.run_until(30 * SECOND, World::all_done);
    assert!(world.dials >= 5);
}

#[test]
fn a_hello_or_welcome_that_dies_at_any_byte_is_repeated() {
    for side in Side::BOTH {
        for bytes in 0..200 {
            let mut first = true;
            let paths = move |_: &mut _, _| NewPipe {
                path: Path::good(),
                dies_after: std::mem::take(&mut first).then_some((side, bytes)),
            };
            let mut world = World::new(3, Config::client(), Config::agent(), [1 << 20; 2], Box::new(paths));
            world.plan(stream(500, 500));
            world.run_until(30 * SECOND, World::all_done);
        }
    }
}

#[test]
fn a_silent_cut_is_noticed_and_survived() {
    let mut world = World::good(4);
    world.plan(stream(30 << 20, 30 << 20));
    world.strike_at(300 * MS, Fault::CutAll);
    world.run_until(20 * SECOND, World::all_done);
}

#[test]
fn the_second_lane_takes_over_without_a_pause() {
    let mut world = World::good(5);
    let mut talk = stream(200_000, 0);
    talk.client.think = (60, 20 * MS);
    talk.client.write = 1..100;
    talk.agent = Ok(Script::echo());
    let talk = world.plan(talk);
    world.run_until(20 * SECOND, |world| world.client().lanes().count() >= 2);
    let before = world.records[talk][0].read;
    world.strike(Fault::Kill);
    let struck = world.now;
    world.run_until(struck + 150 * MS, |world| world.records[talk][0].read > before + 100);
    assert!(world.client().is_connected());
}

#[test]
fn a_thousand_busy_streams_and_a_path_that_is_cut_stay_within_their_memory() {
    let agent =
        Config { receive_pool: Pool::new(24 << 20), send_pool: Pool::new(4 << 20), ..Config::agent() };
    let client =
        Config { receive_pool: Pool::new(16 << 20), send_pool: Pool::new(4 << 20), ..Config::client() };
    let mut world = World::with(6, client, agent, Path::good());
    for _ in 0..1_000 {
        world.plan(stream(40_000, 40_000));
    }
    world.strike_at(SECOND, Fault::CutAll);
    // The budgets are checked at every turn.
    world.run_until(60 * SECOND, World::all_done);
}

#[test]
fn behind_a_cut_a_thousand_busy_streams_stop_reading_their_sockets() {
    let (mut client, mut agent) = (Config::client(), Config::agent());
    for config in [&mut client, &mut agent] {
        config.send_pool = Pool::new(4 << 20);
        config.receive_pool = Pool::new(32 << 20);
    }
    let mut world = World::with(15, client, agent, Path::good());
    for _ in 0..1_000 {
        world.plan(stream(1 << 20, 1 << 20));
    }
    world.run_for(3 * SECOND);
    world.strike(Fault::CutAll);
    world.strike(Fault::NoDials(60 * SECOND));
    let written = |world: &World, side: Side| -> u64 {
        world.records.iter().map(|record| record[side.index()].written).sum()
    };
    world.run_for(5 * SECOND);
    let before = Side::BOTH.map(|side| written(&world, side));
    world.run_for(30 * SECOND);
    assert_eq!(
        Side::BOTH.map(|side| written(&world, side)),
        before,
        "nothing more is taken from the programs"
    );
    for end in &world.ends {
        let stats = end.session.as_ref().expect("a session").stats();
        assert!(stats.send_held > 3 << 20, "the pool was tried: {stats:?}");
        let waiting = end.programs.values().filter(|program| program.write_blocked).count();
        let done = world.records.iter().filter(|record| record[end.side.index()].written > 1 << 20).count();
        assert!(done < 10, "{done} were done before");
        assert_eq!(waiting + done, end.programs.len(), "each other program waits");
    }
}

#[test]
fn a_reader_that_is_stuck_slows_nobody_and_holds_a_bounded_part() {
    let mut world = World::good(7);
    let mut stuck = stream(0, 64 << 20);
    stuck.client.reads_from = 60 * SECOND;
    world.plan(stuck);
    let quick = world.plan(at(stream(1_000, 8 << 20), SECOND));
    world.run_until(4 * SECOND, |world| world.records[quick][0].done);
    assert!(world.client().stats().receive_reserved <= 17 << 20);
}

#[test]
fn small_writes_do_not_wait_behind_bulk() {
    // A bottleneck of 2 MB/s with the lane's cap queued on it is a second of waiting.
    let path = Path { rate: None, queue: 256 * 1024, ..Path::good() };
    let paths = move |_: &mut _, _| path.clone().into();
    let mut world = World::new(8, Config::client(), Config::agent(), [2 << 20; 2], Box::new(paths));
    world.plan(stream(30 << 20, 0));
    world.run_until(5 * SECOND, |world| world.client().lanes().count() >= 2);
    world.run_for(SECOND);
    let start = world.now;
    let small = world.plan(at(stream(10, 10), start));
    world.run_until(start + 500 * MS, |world| world.records[small][0].done && world.records[small][1].done);
}

#[test]
fn a_thousand_streams_in_turn_leave_nothing() {
    let mut world = World::good(9);
    for n in 0..1_000u32 {
        world.plan(at(stream(100, 100), n * 5 * MS));
    }
    world.run_until(20 * SECOND, World::all_done);
    let floor = world.agent().stats().receive_reserved;
    assert_eq!(floor, 128 * 16 * 1024, "what is reserved ahead goes back to where it began");
    assert_eq!(world.client().stats().receive_reserved, 0);
}

#[test]
fn what_is_reserved_for_many_streams_is_given_back_when_they_are_over() {
    let mut world = World::good(10);
    for _ in 0..1_500 {
        world.plan(stream(100, 100));
    }
    world.run_until(60 * SECOND, World::all_done);
    // What was promised is not withdrawn, only not promised again.
    for n in 0..2_500u32 {
        world.plan(at(stream(1, 1), world.now + n * 2 * MS));
    }
    world.run_until(90 * SECOND, World::all_done);
    let floor = world.agent().stats().receive_reserved;
    assert!(floor <= 4 << 20, "{floor} bytes stay reserved");
}

#[test]
fn one_byte_reads_and_tiny_queues_deliver_all_the_same() {
    let path = Path { queue: 8, segment: 3, read: 1, rate: Some(10 << 20), ..Path::good() };
    let path = Path { delay: 100 * MS / 1_000, ..path };
    let mut world = World::with(11, Config::client(), Config::agent(), path);
    world.plan(stream(3_000, 3_000));
    world.run_until(60 * SECOND, World::all_done);
}

#[test]
fn a_laptop_that_slept_goes_on_where_it_was() {
    let mut world = World::good(12);
    world.plan(stream(30 << 20, 30 << 20));
    world.strike_at(200 * MS, Fault::Sleep(Side::Client, 1_200 * SECOND, true));
    world.run_until(1_230 * SECOND, World::all_done);
}

#[test]
fn datagrams_of_every_size_arrive_whole() {
    let mut world = World::good(13);
    for size in [0, 1, 1_472, 8_000, 65_000] {
        let plan = FlowPlan { opens_at: Duration::ZERO, datagrams: 50, size, every: 5 * MS };
        world.ends[0].flows.plans.push(plan);
    }
    world.run_until(10 * SECOND, World::all_done);
    let flows = &world.ends[0].flows;
    // Those under way when the program closed its flow may be missing.
    assert!(flows.returned >= flows.sent - 30, "{} of {}", flows.returned, flows.sent);
    assert_eq!(world.ends[1].flows.echoed, flows.sent);
}

#[test]
fn an_idle_session_hardly_ever_wakes() {
    let mut world = World::good(14);
    world.plan(stream(1 << 20, 1 << 20));
    world.run_until(10 * SECOND, World::all_done);
    world.run_for(120 * SECOND);
    let before: u64 = world.ends.iter().map(|end| end.wakeups).sum();
    world.run_for(60 * SECOND);
    let wakeups = world.ends.iter().map(|end| end.wakeups).sum::<u64>() - before;
    assert!(wakeups <= 4 * 12, "{wakeups} wake-ups in a minute");
}

#[test]
fn a_path_that_is_slower_than_a_batch_in_three_seconds_still_makes_progress() {
    let path = Path { rate: Some(12_000), queue: 8_000, segment: 1_000, ..Path::good() };
    let mut world = World::with(16, Config::client(), Config::agent(), path);
    world.plan(stream(0, 200_000));
    world.run_until(60 * SECOND, World::all_done);
}
