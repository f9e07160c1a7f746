//! Each fault that people meet, in virtual time: many random schedules of each, and what it may cost.
//!
//! `paths` holds what happens to the connections, `sessions` what ends a session, `neighbours` what one stream may do
//! to others.

mod neighbours;
mod paths;
mod sessions;

use std::time::Duration;

use relay_protocol::session::Config;

use crate::schedules::{PATIENCE, a_path, a_plan, ms};
use crate::simulator::program::{Ending, Plan, Script, Sight};
use crate::simulator::rng::Rng;
use crate::simulator::{Paths, World};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The usual settings with this many lanes; sessions that nobody is to lose live long enough.
fn configs(rng: &mut Rng) -> (Config, Config) {
    let (mut client, mut agent) = (Config::client(), Config::agent());
    client.lanes = rng.in_range(1..6) as usize;
    (client.idle_life, agent.idle_life) = (PATIENCE, PATIENCE);
    (client, agent)
}

/// Pipes that are each unlike the others, and without fault.
fn paths(mut rng: Rng) -> Paths {
    Box::new(move |_, _| a_path(&mut rng, false).into())
}

/// A bottleneck both ways.
fn rates(rng: &mut Rng) -> [u64; 2] {
    [rng.magnitude(200_000..50 << 20), rng.magnitude(200_000..50 << 20)]
}

fn world(seed: u64, rng: &mut Rng) -> World {
    let (client, agent) = configs(rng);
    World::new(seed, client, agent, rates(rng), paths(rng.fork()))
}

/// A few streams of every kind, opened before `until`.
fn plans(rng: &mut Rng, until: Duration) -> Vec<Plan> {
    (0..rng.in_range(1..8)).map(|_| a_plan(rng, 60_000, until)).collect()
}

pub(crate) fn stream(opens_at: Duration, up: u64, down: u64) -> Plan {
    Plan { opens_at, client: Script::plain(up), agent: Ok(Script::plain(down)) }
}

/// A connection that nobody ends: either program waits for the other.
fn endless() -> Plan {
    let mut plan = stream(Duration::ZERO, 1_000, 1_000);
    plan.client.ending = Ending::FinishAfterEnd;
    plan.agent = Ok(Script { ending: Ending::FinishAfterEnd, ..Script::plain(1_000) });
    plan
}

/// A program that sends a little every few milliseconds, and gets it back.
pub(crate) fn talk(amount: u64) -> Plan {
    let mut talk = stream(Duration::ZERO, amount, 0);
    talk.client.think = (50, 4 * MS);
    talk.client.write = 1..30;
    talk.agent = Ok(Script::echo());
    talk
}

/// What no program reset has arrived whole, and what one reset is no clean end for the other unless that had it all.
fn nothing_is_missing(world: &World) {
    for (number, [client, agent]) in world.records.iter().enumerate() {
        for (mine, theirs) in [(client, agent), (agent, client)] {
            if mine.reset.is_none() && theirs.reset.is_none() {
                assert_eq!(mine.saw, Some(Sight::End), "stream {number}: {mine:?}");
                assert_eq!(mine.read, theirs.written, "stream {number}: not all of it arrived");
            }
        }
    }
}

/// Runs to the end of everything with the session alive.
fn survive(world: &mut World, from: Duration) {
    world.run_until(from + PATIENCE, |world| {
        for end in &world.ends {
            assert_eq!(end.ended, None, "{:?}: the session ended", end.side);
        }
        world.all_done()
    });
    nothing_is_missing(world);
}

/// The longest that a byte of a talk took to come back, looked at until `done`.
fn slowest_echo(
    world: &mut World,
    talk: usize,
    limit: Duration,
    mut done: impl FnMut(&mut World) -> bool,
) -> Duration {
    let mut sent = std::collections::VecDeque::new();
    let mut slowest = Duration::ZERO;
    world.run_until(limit, |world| {
        let record = &world.records[talk][0];
        if sent.back().is_none_or(|&(_, written)| written < record.written) {
            sent.push_back((world.now, record.written));
        }
        // The agent's status byte takes the place of the client's tag, which is not sent back.
        while let Some(&(at, _)) = sent.front().filter(|&&(_, written)| written < record.read + 8) {
            slowest = slowest.max(world.now - at);
            sent.pop_front();
        }
        if let Some(&(at, _)) = sent.front() {
            slowest = slowest.max(world.now - at);
        }
        done(world)
    });
    slowest
}

/// A time from `range`, in milliseconds.
fn a_time(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    ms(rng.in_range(range))
}
