//! What one connection does is no harm to another: stuck readers, floods of opens, flows without answers, ends that
//! come while the path is away.

use std::time::Duration;

use super::{MS, SECOND, a_time, configs, nothing_is_missing, slowest_echo, stream, survive, talk, world};
use crate::schedules::{PATIENCE, for_seeds};
use crate::simulator::flows::FlowPlan;
use crate::simulator::network::Path;
use crate::simulator::program::{Ending, Script, Sight, Start};
use crate::simulator::rng::Rng;
use crate::simulator::{Fault, World};
use relay_protocol::Status;

/// How long some transfers take that begin after ten seconds, beside this many readers that are stuck by then.
fn beside_stuck_readers(seed: u64, stuck: u64) -> Duration {
    let mut rng = Rng::new(seed);
    let path = Path { delay: a_time(&mut rng, 1..50), rate: None, ..Path::good() };
    let (mut client, agent) = configs(&mut rng);
    client.max_window = 1 << 20;
    let mut world = World::with(seed, client, agent, path);
    let others: Vec<usize> = (0..rng.in_range(1..8))
        .map(|_| world.plan(stream(10 * SECOND, rng.magnitude(1..400_000), rng.magnitude(100_000..800_000))))
        .collect();
    for _ in 0..stuck {
        let mut plan = stream(Duration::ZERO, 100, 64 << 20);
        plan.client.reads_from = 100 * SECOND;
        world.plan(plan);
    }
    world.run_until(90 * SECOND, |world| others.iter().all(|&number| world.records[number][0].done));
    world.now - 10 * SECOND
}

#[test]
fn stuck_readers_take_nothing_from_the_speed_of_others() {
    for_seeds("stuck_readers", 100, |seed| {
        let alone = beside_stuck_readers(seed, 0);
        let beside = beside_stuck_readers(seed, 1 + seed % 8);
        // Apart from how the turns of the programs happen to fall.
        let most = alone.mul_f64(1.1) + 150 * MS;
        assert!(beside <= most, "{beside:?} beside stuck readers, {alone:?} without");
    });
}

#[test]
fn a_flood_of_opens_leaves_an_open_connection_responsive() {
    for_seeds("flood_of_opens", 8, |seed| {
        let mut rng = Rng::new(seed);
        let path = Path { delay: a_time(&mut rng, 1..50), ..Path::good() };
        let (client, agent) = configs(&mut rng);
        let mut world = World::with(seed, client, agent, path.clone());
        let talk = world.plan(talk(100_000));
        for _ in 0..1_000 {
            world.plan(stream(2 * SECOND + a_time(&mut rng, 0..1_000), rng.below(500), rng.below(500)));
        }
        world.run_for(2 * SECOND);
        let slowest = slowest_echo(&mut world, talk, 20 * SECOND, |world| world.now >= 5 * SECOND);
        assert!(slowest <= 4 * path.delay + 100 * MS, "an echo took {slowest:?}");
        survive(&mut world, 5 * SECOND);
    });
}

#[test]
fn flows_that_get_no_answer_cost_others_nothing() {
    for_seeds("no_answer", 100, |seed| {
        let mut rng = Rng::new(seed);
        let mut world = world(seed, &mut rng);
        world.ends[1].flows.mute = true;
        for _ in 0..20 {
            let opens_at = a_time(&mut rng, 0..2_000);
            let plan = FlowPlan { opens_at, datagrams: 20, size: rng.magnitude(1..1_400), every: 10 * MS };
            world.ends[0].flows.plans.push(plan);
        }
        world.ends[0].flows.plans.sort_by_key(|plan| plan.opens_at);
        let number = world.plan(stream(SECOND, 50_000, 50_000));
        if rng.chance(50) {
            world.strike_at(SECOND + a_time(&mut rng, 0..1_000), Fault::KillAll);
        }
        survive(&mut world, 2 * SECOND);
        assert_eq!(world.ends[0].flows.returned, 0);
        assert_eq!(world.records[number][0].saw, Some(Sight::End));
    });
}

#[test]
fn ends_and_resets_that_happen_during_a_cut_arrive_as_what_they_are() {
    for_seeds("during_a_cut", 1_000, |seed| {
        let mut rng = Rng::new(seed);
        let mut world = world(seed, &mut rng);
        let cut = a_time(&mut rng, 1_000..20_000);
        world.strike_at(2 * SECOND, Fault::NoDials(cut));
        world.strike_at(2 * SECOND, if rng.chance(50) { Fault::CutAll } else { Fault::KillAll });
        let during = |rng: &mut Rng| 2 * SECOND + rng.duration(MS..cut);
        // Ended at the client while the path is away; the reply comes after that.
        let mut half = stream(Duration::ZERO, 20_000, rng.magnitude(1..100_000));
        half.client.think = (10, 500 * MS);
        half.agent = Ok(Script { start: Start::AfterEnd, ..half.agent.unwrap_or_else(|_| Script::plain(0)) });
        let half = world.plan(half);
        // Reset by either end while the path is away.
        let mut resets = Vec::new();
        for client in [true, false] {
            for status in [Status::ResetByPeer, Status::Aborted] {
                let mut plan = stream(Duration::ZERO, 100, 100);
                let ends = Script {
                    reads_from: during(&mut rng),
                    ending: Ending::FinishAfterEnd,
                    quits: Some((9, Ending::Reset(status))),
                    ..Script::plain(100)
                };
                let waits = Script { ending: Ending::FinishAfterEnd, ..Script::plain(100) };
                (plan.client, plan.agent) = if client { (ends, Ok(waits)) } else { (waits, Ok(ends)) };
                resets.push((world.plan(plan), usize::from(client), status));
            }
        }
        survive(&mut world, 2 * SECOND + cut);
        nothing_is_missing(&world);
        assert_eq!(world.records[half].each_ref().map(|record| record.saw), [Some(Sight::End); 2]);
        for (number, other, status) in resets {
            let record = &world.records[number][other];
            assert_eq!(record.saw, Some(Sight::Reset(status)), "stream {number}");
        }
        assert!(world.now <= 2 * SECOND + cut + PATIENCE);
    });
}
