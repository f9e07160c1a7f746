//! Several sessions at a time, over pools that they share: those of one client one after the other, each made when
//! the one before takes no more streams, and those of other clients of the same agent.

use std::time::{Duration, Instant};

use relay_protocol::session::Config;

use super::program::Plan;
use super::{Paths, World};

/// What the pipes of a session are like.
pub(crate) type PathsOf = Box<dyn FnMut() -> Paths>;

/// A client: one session after the other.
struct Household {
    client: Config,
    paths: PathsOf,
    shared: [u64; 2],
    /// Where its sessions are, oldest first.
    worlds: Vec<usize>,
}

/// All of them.
pub(crate) struct Town {
    pub(crate) now: Duration,
    base: Instant,
    seed: u64,
    agent: Config,
    households: Vec<Household>,
    pub(crate) worlds: Vec<World>,
}

impl Town {
    pub(crate) fn new(seed: u64, agent: Config) -> Self {
        Self {
            now: Duration::ZERO,
            base: Instant::now(),
            seed,
            agent,
            households: Vec::new(),
            worlds: Vec::new(),
        }
    }

    /// One more client; where its first session is.
    pub(crate) fn add(&mut self, client: Config, shared: [u64; 2], paths: PathsOf) -> usize {
        self.households.push(Household { client, paths, shared, worlds: Vec::new() });
        self.begin(self.households.len() - 1)
    }

    fn begin(&mut self, household: usize) -> usize {
        self.seed += 1;
        let home = &mut self.households[household];
        let paths = (home.paths)();
        let (client, agent) = (home.client.clone(), self.agent.clone());
        let mut world = World::beginning(self.now, self.base, self.seed, client, agent, home.shared, paths);
        world.ends[0].has_heir = true;
        if let Some(&last) = home.worlds.last() {
            world.inherit(&self.worlds[last]);
        }
        self.worlds.push(world);
        home.worlds.push(self.worlds.len() - 1);
        self.worlds.len() - 1
    }

    /// The sessions of a client, oldest first.
    pub(crate) fn sessions(&self, household: usize) -> &[usize] {
        &self.households[household].worlds
    }

    /// Runs until `done`, which must be before `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        loop {
            self.settle();
            if done(self) {
                return;
            }
            let next = self.worlds.iter().map(World::next).min().unwrap_or(Duration::MAX);
            let state = || self.worlds.iter().map(World::describe).collect::<Vec<_>>().join("\n");
            assert!(next <= limit, "not done at {limit:?}:\n{}", state());
            self.now = next;
            self.worlds.iter_mut().for_each(|world| world.advance(next));
        }
    }

    fn settle(&mut self) {
        loop {
            let mut busy = false;
            for world in &mut self.worlds {
                busy |= world.settle();
            }
            busy |= self.succeed();
            if !busy {
                return;
            }
        }
    }

    /// Makes the next session of each client whose present one takes no more streams, where any are left to open.
    fn succeed(&mut self) -> bool {
        let mut any = false;
        for household in 0..self.households.len() {
            let Some(&last) = self.households[household].worlds.last() else { continue };
            let Some(plans) = self.worlds[last].bequest().filter(|plans: &Vec<Plan>| !plans.is_empty())
            else {
                continue;
            };
            any = true;
            let next = self.begin(household);
            for plan in plans {
                self.worlds[next].plan(plan);
            }
        }
        any
    }

    /// Each session is over, or has nothing more to do.
    pub(crate) fn all_done(&mut self) -> bool {
        self.worlds.iter_mut().all(|world| world.is_over() || world.all_done())
    }
}
