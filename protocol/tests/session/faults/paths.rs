//! What happens to the connections under a session that goes on.

use std::time::Duration;

use super::{MS, SECOND, a_time, configs, paths, plans, rates, slowest_echo, stream, survive, talk, world};
use crate::schedules::{a_sleep, for_seeds, nothing_is_left};
use crate::simulator::network::{Path, Side};
use crate::simulator::program::Script;
use crate::simulator::rng::Rng;
use crate::simulator::{Fault, World};

#[test]
fn an_api_server_that_restarts_costs_no_stream() {
    for_seeds("api_server", 1_000, |seed| {
        let mut rng = Rng::new(seed);
        let mut world = world(seed, &mut rng);
        let mut at = Duration::ZERO;
        for _ in 0..rng.in_range(1..6) {
            at += a_time(&mut rng, 1..10_000);
            let away = a_time(&mut rng, 0..20_000);
            world.strike_at(at, Fault::Refuse(away));
            world.strike_at(at, Fault::KillAll);
            at += away;
        }
        world.plan_all(plans(&mut rng, at + SECOND));
        survive(&mut world, at);
        if seed.is_multiple_of(10) {
            nothing_is_left(&mut world);
        }
    });
}

#[test]
fn bytes_flow_a_few_round_trips_after_the_api_server_is_back() {
    for_seeds("few_round_trips", 50, |seed| {
        let mut rng = Rng::new(seed);
        let path = Path { delay: a_time(&mut rng, 1..100), ..Path::good() };
        let (client, agent) = configs(&mut rng);
        let mut world = World::with(seed, client, agent, path.clone());
        let talk = world.plan(talk(30_000));
        world.run_for(2 * SECOND);
        let away = a_time(&mut rng, 100..30_000);
        world.strike(Fault::Refuse(away));
        world.strike(Fault::KillAll);
        world.run_for(away);
        let (back, before) = (world.now, world.records[talk][0].read);
        // A refused dial is repeated within 200 ms; then hello and welcome, then the bytes there and back.
        let limit = back + 200 * MS + 5 * path.delay + 50 * MS;
        world.run_until(limit, |world| world.records[talk][0].read > before);
        survive(&mut world, back);
    });
}

#[test]
fn a_silent_cut_that_is_shorter_than_the_session_costs_no_stream() {
    for_seeds("silent_cut", 1_000, |seed| {
        let mut rng = Rng::new(seed);
        let mut world = world(seed, &mut rng);
        let (at, cut) = (a_time(&mut rng, 1..5_000), a_time(&mut rng, 100..90_000));
        world.strike_at(at, Fault::NoDials(cut));
        world.strike_at(at, Fault::CutAll);
        world.plan_all(plans(&mut rng, at + cut));
        survive(&mut world, at + cut);
    });
}

#[test]
fn resets_of_the_path_again_and_again_do_not_stop_a_transfer() {
    for_seeds("again_and_again", 300, |seed| {
        let mut rng = Rng::new(seed);
        let mut world = world(seed, &mut rng);
        let every = a_time(&mut rng, 500..3_000);
        (1..30).for_each(|count| world.strike_at(every * count, Fault::KillAll));
        // Long enough for some of them.
        world.plan(stream(Duration::ZERO, rng.magnitude(1..1 << 20), rng.magnitude(1..1 << 20)));
        world.plan_all(plans(&mut rng, every * 30));
        survive(&mut world, every * 30);
    });
}

#[test]
fn the_loss_of_one_of_two_lanes_costs_no_more_than_learning_of_it() {
    for_seeds("one_of_two_lanes", 100, |seed| {
        let mut rng = Rng::new(seed);
        let path = Path { delay: a_time(&mut rng, 1..100), ..Path::good() };
        let (client, agent) = configs(&mut rng);
        let client = relay_protocol::session::Config { lanes: client.lanes.max(2), ..client };
        let mut world = World::with(seed, client, agent, path.clone());
        let talk = world.plan(talk(40_000));
        world.run_until(20 * SECOND, |world| {
            world
                .ends
                .iter_mut()
                .all(|end| end.session.as_ref().is_some_and(|session| session.lanes().count() >= 2))
        });
        world.run_for(a_time(&mut rng, 1..1_000));
        world.strike(Fault::Kill);
        let end = world.now + 2 * SECOND;
        let slowest =
            slowest_echo(&mut world, talk, end + SECOND, |world| world.now >= end || world.all_done());
        // Each end learns of it within three delays; what was lost goes out then, and comes back. No timer has a part
        // in it: the shortest would take three seconds. The rest is the programs' own.
        let most = 8 * path.delay + 80 * MS;
        assert!(slowest <= most, "an echo took {slowest:?} with a delay of {:?}", path.delay);
        survive(&mut world, end);
    });
}

#[test]
fn either_end_may_sleep() {
    for_seeds("may_sleep", 1_000, |seed| {
        let mut rng = Rng::new(seed);
        let mut world = world(seed, &mut rng);
        let mut at = Duration::ZERO;
        for _ in 0..rng.in_range(1..4) {
            at += a_time(&mut rng, 1..5_000);
            world.strike_at(at, a_sleep(&mut rng));
            // Connections may or may not have lived through it.
            if rng.chance(50) {
                let cut = rng.pick(&[0, 1]);
                world.strike_at(at, if cut == 0 { Fault::CutAll } else { Fault::KillAll });
            }
        }
        world.plan_all(plans(&mut rng, at + SECOND));
        survive(&mut world, at + 400 * SECOND);
    });
}

#[test]
fn a_laptop_that_wakes_has_its_bytes_within_round_trips() {
    for_seeds("that_wakes", 30, |seed| {
        let mut rng = Rng::new(seed);
        let path = Path { delay: a_time(&mut rng, 1..100), ..Path::good() };
        let (client, agent) = configs(&mut rng);
        let mut world = World::with(seed, client, agent, path.clone());
        let talk = world.plan(talk(30_000));
        world.run_for(2 * SECOND);
        let sleep = a_time(&mut rng, 20_000..1_000_000);
        world.strike(Fault::CutAll);
        world.strike(Fault::Sleep(Side::Client, sleep, true));
        world.run_for(sleep);
        let before = world.records[talk][0].read;
        // Hello and welcome, then the bytes there and back. The old lanes, which are dead, are not waited for.
        let limit = world.now + 100 * MS + 6 * path.delay + 4 * SECOND;
        world.run_until(limit, |world| world.records[talk][0].read > before + 100);
        let now = world.now;
        survive(&mut world, now);
    });
}

/// One hour with an open stream and nothing to say, behind something that kills what is idle for `limit`.
fn an_idle_hour(seed: u64, ping: Option<Duration>, limit: Duration, silent: bool) -> usize {
    let mut rng = Rng::new(seed);
    let (mut client, mut agent) = configs(&mut rng);
    // Its own life is not what is tried here.
    (client.ping, agent.ping) = (ping, ping.map(|ping| ping * 3 / 2));
    let mut world = World::new(seed, client, agent, rates(&mut rng), paths(rng.fork()));
    world.kills_idle = Some((limit, silent));
    let mut plan = stream(Duration::ZERO, 10_000, 20_000);
    // Half of it at once, and half after an hour.
    plan.agent = Ok(Script { reads_from: 3_600 * SECOND, ..Script::plain(20_000) });
    world.plan(plan);
    world.plan(stream(3_600 * SECOND, 1_000, 1_000));
    world.run_for(120 * SECOND);
    let dials = world.dials;
    world.run_for(3_400 * SECOND);
    let idle = world.dials - dials;
    survive(&mut world, 3_600 * SECOND);
    idle
}

#[test]
fn pings_keep_lanes_from_what_kills_idle_ones() {
    for_seeds("kills_idle", 20, |seed| {
        let limit = Duration::from_secs(60);
        let dials = an_idle_hour(seed, Some(5 * SECOND), limit, seed.is_multiple_of(2));
        assert_eq!(dials, 0, "it had to dial again");
    });
}

#[test]
fn without_pings_it_dials_again_and_goes_on() {
    for_seeds("without_pings", 20, |seed| {
        let dials = an_idle_hour(seed, None, 60 * SECOND, false);
        assert!(dials >= 50, "only {dials} dials behind what kills a lane a minute");
        // What kills without a word is found when there is something to say.
        assert_eq!(an_idle_hour(seed, None, 60 * SECOND, true), 0);
    });
}
