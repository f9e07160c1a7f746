//! What ends a session: its streams are reset with the reason, at once, and the next one carries what comes then.

use std::time::Duration;

use relay_protocol::Status;
use relay_protocol::pool::Pool;
use relay_protocol::session::Config;

use super::{SECOND, a_time, configs, endless, paths, plans, rates, stream};
use crate::schedules::{PATIENCE, a_path, a_sleep, for_seeds};
use crate::simulator::Fault;
use crate::simulator::network::Side;
use crate::simulator::program::{Script, Sight};
use crate::simulator::rng::Rng;
use crate::simulator::town::{PathsOf, Town};

fn paths_of(mut rng: Rng) -> PathsOf {
    Box::new(move || paths(rng.fork()))
}

/// One client and its agent.
fn town(seed: u64, rng: &mut Rng, change: impl Fn(&mut Config)) -> Town {
    let (mut client, mut agent) = configs(rng);
    change(&mut client);
    change(&mut agent);
    let mut town = Town::new(seed * 1_000, agent);
    town.add(client, rates(rng), paths_of(rng.fork()));
    town
}

/// Every stream that was open in a session that ended was reset with it, unless it was through.
fn resets_say(town: &Town, world: usize, status: Status) {
    let world = &town.worlds[world];
    let mut seen = 0;
    for (number, [client, agent]) in world.records.iter().enumerate() {
        if let Some(Sight::Reset(saw)) = client.saw {
            let own = client.reset == Some(saw) || agent.reset == Some(saw);
            assert!(own || saw == status, "stream {number} was reset with {saw}");
            seen += u64::from(!own);
        }
    }
    // The one that nobody ends.
    assert!(seen > 0, "no stream was reset with the session");
}

#[test]
fn streams_of_an_agent_that_is_lost_are_reset_and_the_next_session_works() {
    for_seeds("agent_that_is_lost", 1_000, |seed| {
        let mut rng = Rng::new(seed);
        let mut town = town(seed, &mut rng, |_| {});
        let mut at = SECOND;
        town.worlds[0].plan(endless());
        at += a_time(&mut rng, 1..5_000);
        town.worlds[0].plan_all(plans(&mut rng, at * 2));
        town.worlds[0].plan(stream(at + 20 * SECOND, 10_000, 10_000));
        if rng.chance(50) {
            town.worlds[0].strike_at(at, Fault::Refuse(a_time(&mut rng, 1..5_000)));
        }
        town.worlds[0].strike_at(at, Fault::Restart);
        town.run_until(at + PATIENCE, Town::all_done);
        assert_eq!(town.worlds[0].ends[0].ended.as_ref().map(|(status, _)| *status), Some(Status::AgentLost));
        resets_say(&town, 0, Status::AgentLost);
        assert_eq!(town.sessions(0).len(), 2, "one session is lost, the next one lives");
        super::nothing_is_missing(&town.worlds[1]);
    });
}

#[test]
fn a_cut_that_outlasts_the_session_resets_its_streams_and_the_next_works_soon() {
    for_seeds("outlasts", 1_000, |seed| {
        let mut rng = Rng::new(seed);
        let life = a_time(&mut rng, 5_000..30_000);
        let mut town = town(seed, &mut rng, |config| (config.life, config.idle_life) = (life, life));
        let at = a_time(&mut rng, 1_000..5_000);
        // Neither end knows of the cut before it has pinged and waited.
        let heals = at + life + a_time(&mut rng, 30_000..90_000);
        town.worlds[0].plan(endless());
        town.worlds[0].plan_all(plans(&mut rng, at));
        town.worlds[0].plan(stream(heals, 1_000, 1_000));
        town.worlds[0].strike_at(at, Fault::NoDials(heals - at));
        town.worlds[0].strike_at(at, Fault::CutAll);
        town.run_until(heals, |town| town.worlds[0].is_over());
        resets_say(&town, 0, Status::AgentLost);
        // The last dial into the cut may have just begun, and 3 s pass before it is given up.
        town.run_until(heals + 15 * SECOND, Town::all_done);
        let last = town.worlds.last().expect("the first, at least");
        super::nothing_is_missing(last);
        assert!(town.sessions(0).len() > 1 && last.records[0][0].saw == Some(Sight::End));
    });
}

#[test]
fn a_draining_agent_finishes_what_is_open_and_begins_nothing() {
    for_seeds("draining_agent", 1_000, |seed| {
        let mut rng = Rng::new(seed);
        let mut town = town(seed, &mut rng, |_| {});
        let at = a_time(&mut rng, 500..3_000);
        let grace = a_time(&mut rng, 1..30_000);
        town.worlds[0].plan_all(plans(&mut rng, at * 3));
        let through = rng.chance(50);
        let open = if through { stream(Duration::ZERO, 1_000, 1_000) } else { endless() };
        let open = town.worlds[0].plan(open);
        town.worlds[0].plan(stream(at + 2 * SECOND, 5_000, 5_000));
        town.worlds[0].strike_at(at, Fault::Drain(grace));
        let cut = rng.chance(30);
        if cut {
            town.worlds[0].strike_at(at + a_time(&mut rng, 0..1_000), Fault::Kill);
        }
        town.run_until(at + grace + PATIENCE, Town::all_done);
        let sight = town.worlds[0].records[open][0].saw;
        let reset = |status| Some(Sight::Reset(status));
        if cut {
            // A lane that is lost while the agent listens no more, and its DRAIN or GOODBYE with it.
            assert!(
                [Some(Sight::End), reset(Status::ShuttingDown), reset(Status::AgentLost)].contains(&sight)
            );
        } else {
            let wanted = if through { Some(Sight::End) } else { reset(Status::ShuttingDown) };
            assert_eq!(sight, wanted, "what can end within the grace does, and the rest is told why not");
            assert_eq!(town.sessions(0).len(), 2, "what came later is in a session of its own");
        }
        town.worlds[1..].iter().for_each(super::nothing_is_missing);
    });
}

#[test]
fn either_end_may_say_goodbye_at_any_time() {
    for_seeds("say_goodbye", 1_000, |seed| {
        let mut rng = Rng::new(seed);
        let mut town = town(seed, &mut rng, |config| config.life = 60 * SECOND);
        let at = a_time(&mut rng, 1..4_000);
        town.worlds[0].plan_all(plans(&mut rng, at * 2));
        let side = rng.pick(&Side::BOTH);
        if rng.chance(30) {
            let fault = if rng.chance(50) { Fault::KillAll } else { Fault::CutAll };
            town.worlds[0].strike_at(at + a_time(&mut rng, 0..200), fault);
        }
        town.worlds[0].strike_at(at, Fault::Goodbye(side));
        town.run_until(at + PATIENCE, Town::all_done);
        // Whichever way the word went, both ends come to an end by themselves; or both live on, where the client had
        // not been welcomed yet.
        town.run_until(at + 2 * PATIENCE, |town| {
            let is_over = |index: usize| {
                let session = town.worlds[0].ends[index].session.as_ref();
                session.is_none_or(|session| session.ended().is_some())
            };
            is_over(0) == is_over(1)
        });
    });
}

#[test]
fn sessions_that_share_their_pools_wait_for_each_other_but_not_for_ever() {
    for_seeds("share_their_pools", 300, |seed| {
        let mut rng = Rng::new(seed);
        let agent = Config {
            receive_pool: Pool::new(20 << 20),
            send_pool: Pool::new(2 << 20),
            idle_life: PATIENCE,
            initial_credit: rng.magnitude(2_048..16_384),
            ..Config::agent()
        };
        let mut town = Town::new(seed * 1_000, agent);
        let until = 5 * SECOND;
        let pool = Pool::new(rng.magnitude(65_536..4 << 20) as usize);
        for household in 0..rng.in_range(2..5) as usize {
            let mut faulty = rng.fork();
            let paths: PathsOf = Box::new(move || {
                let mut rng = faulty.fork();
                Box::new(move |_, _| a_path(&mut rng, false).into())
            });
            let mut client = configs(&mut rng).0;
            // As one client's sessions do, of which one is draining.
            client.send_pool = pool.clone();
            client.ping = Some(5 * SECOND).filter(|_| rng.chance(70));
            let world = town.add(client, rates(&mut rng), paths);
            assert_eq!(world, household);
            town.worlds[world].plan_all(plans(&mut rng, until));
            for _ in 0..rng.in_range(0..20) {
                let plan =
                    stream(a_time(&mut rng, 0..5_000), rng.magnitude(1..200_000), rng.magnitude(1..200_000));
                town.worlds[world].plan(plan);
            }
            for _ in 0..rng.below(4) {
                let at = a_time(&mut rng, 1..5_000);
                let fault = match rng.below(4) {
                    0 => Fault::Kill,
                    1 => Fault::KillAll,
                    2 => Fault::Refuse(a_time(&mut rng, 1..5_000)),
                    _ => a_sleep(&mut rng),
                };
                town.worlds[world].strike_at(at, fault);
            }
        }
        town.run_until(until + PATIENCE, Town::all_done);
        town.worlds.iter().for_each(super::nothing_is_missing);
    });
}

#[test]
fn a_stuck_stream_of_a_draining_session_does_not_hold_up_the_next_one() {
    for_seeds("stuck_stream", 50, |seed| {
        let mut rng = Rng::new(seed);
        let pool = Pool::new(1 << 20);
        let mut town = town(seed, &mut rng, |config| config.receive_pool = config.receive_pool.clone());
        town.worlds[0].ends[0].config.receive_pool = pool.clone();
        let mut stuck = stream(Duration::ZERO, 0, 8 << 20);
        stuck.client = Script { reads_from: 100 * SECOND, ..Script::plain(0) };
        town.worlds[0].plan(stuck);
        // By then the DRAIN has come, however slow the path.
        town.worlds[0].plan(stream(15 * SECOND, 20_000, 20_000));
        town.worlds[0].strike_at(2 * SECOND, Fault::Drain(30 * SECOND));
        town.run_until(40 * SECOND, |town| {
            town.sessions(0).len() == 2 && town.worlds[1].streams_done() && !town.worlds[1].plans.is_empty()
        });
        super::nothing_is_missing(&town.worlds[1]);
    });
}
