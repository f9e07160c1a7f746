//! Who gets into a session: an agent with two of them, clients that dial and lose lanes, and hellos and welcomes that
//! are made up, changed, cut, played again or sent to the wrong one.
#![no_main]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use relay_protocol::Status;
use relay_protocol::hello::{Hello, Instance, MAX_LANES, Request, Secret, SessionId, Welcome};
use relay_protocol::session::{Config, Session};

const INSTANCE: Instance = Instance([3; 16]);
const SECRETS: [Secret; 2] = [Secret([9; 32]), Secret([10; 32])];

#[derive(Arbitrary, Debug)]
enum Op<'a> {
    /// A client says hello; the answer comes or is lost.
    Dial {
        client: bool,
        answered: bool,
    },
    /// A client says hello, which stays on its way.
    Say {
        client: bool,
    },
    /// One that was on its way arrives, and the answer comes or is lost.
    Arrive {
        which: u8,
        answered: bool,
    },
    /// A client gives one up that is on its way; it may arrive all the same.
    GiveUp {
        which: u8,
    },
    /// A hello that was said before, the client's own or the other's, with one byte changed and its end cut off.
    Again {
        hello: u8,
        at: u8,
        change: u8,
        cut: u8,
    },
    /// One that somebody makes up.
    Forge {
        client: bool,
        lane: u64,
        proof: [u8; 32],
        held: Vec<u64>,
        create: bool,
    },
    /// Any bytes where a hello should be.
    Noise(&'a [u8]),
    /// A client gets an answer that nobody gave.
    Answer {
        client: bool,
        late: u8,
        bytes: &'a [u8],
    },
    /// A client begins a stream.
    Open {
        client: bool,
    },
    Lose {
        client: bool,
        lane: u8,
    },
    Pass {
        milliseconds: u16,
    },
}

struct World {
    now: Instant,
    clients: [Session; 2],
    agents: Vec<Session>,
    /// Every hello that a client made, as it was sent.
    said: Vec<Vec<u8>>,
    /// Of these, which had no answer yet: an answer that is worth something once.
    fresh: BTreeSet<usize>,
    /// Hellos on their way: whose, for which lane, and where among those said.
    on_their_way: Vec<(usize, u64, usize)>,
}

fn id(client: usize) -> SessionId {
    SessionId([client as u8 + 1; 16])
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let session =
            |client: usize| Session::client(Config::client(), id(client), SECRETS[client].clone(), now);
        let clients = [session(0), session(1)];
        Self {
            now,
            clients,
            agents: Vec::new(),
            said: Vec::new(),
            fresh: BTreeSet::new(),
            on_their_way: Vec::new(),
        }
    }

    /// What the agent's registry does with bytes that should be a hello.
    fn hello(&mut self, bytes: &[u8]) -> Option<Welcome> {
        let (hello, _) = Hello::decode(bytes).ok()??;
        // As one of the clients said it, all but the parts that mean nothing for who may join.
        let genuine = self.said.iter().enumerate().find_map(|(index, said)| {
            let (said, _) = Hello::decode(said).ok()??;
            let same =
                said.session == hello.session && said.lane == hello.lane && said.request == hello.request;
            same.then_some(index)
        });
        let known = self.agents.iter_mut().find(|agent| agent.id() == hello.session);
        let answer = match (known, &hello.request) {
            (Some(agent), _) => {
                let before: Vec<u64> = agent.lanes().collect();
                let answer = agent.join(&hello, self.now);
                match &hello.request {
                    _ if answer.is_err() => {
                        assert!(agent.lanes().eq(before), "a refusal leaves the lanes as they are");
                    }
                    Request::Join { .. } => {
                        let genuine = genuine.expect("nobody else gets in");
                        assert!(self.fresh.remove(&genuine), "a hello that is played again gets in");
                    }
                    // Who has seen the secret cross is in as long as there is no stream.
                    Request::Create { secret } => {
                        assert!(*secret == SECRETS[usize::from(hello.session != id(0))])
                    }
                }
                answer
            }
            (None, Request::Join { .. }) => Err(Welcome::refusal(Status::AgentLost, INSTANCE)),
            (None, Request::Create { .. }) => {
                if genuine.is_none() {
                    // Somebody's own session, of no interest here.
                    return None;
                }
                match Session::agent(Config::agent(), &hello, INSTANCE, self.now) {
                    Ok((agent, welcome)) => {
                        self.agents.push(agent);
                        Ok(welcome)
                    }
                    Err(refusal) => Err(refusal),
                }
            }
        };
        let welcome = match answer {
            Ok(welcome) => welcome,
            Err(refusal) => {
                assert_eq!(refusal.status, Status::AgentLost, "all are refused alike");
                refusal
            }
        };
        assert_eq!(Welcome::decode(&welcome.encode()), Ok(Some((welcome.clone(), welcome.encode().len()))));
        Some(welcome)
    }

    /// A hello of a client that has room for one more lane: whose, for which lane, and where among those said.
    fn say(&mut self, client: usize) -> Option<(usize, u64, usize)> {
        let session = &mut self.clients[client];
        if session.lanes().count() + session.lanes_awaited() >= MAX_LANES {
            return None;
        }
        let (lane, hello) = session.next_hello();
        let index = self.said.len();
        if let Request::Join { .. } = hello.request {
            self.fresh.insert(index);
        }
        self.said.push(hello.encode());
        Some((client, lane, index))
    }

    fn arrive(&mut self, (client, lane, index): (usize, u64, usize), answered: bool) {
        let answer = self.hello(&self.said[index].clone());
        match answer.filter(|_| answered) {
            Some(welcome) => drop(self.clients[client].welcomed(lane, &welcome, self.now)),
            None => self.clients[client].give_up(lane),
        }
    }

    fn act(&mut self, op: Op<'_>) {
        match op {
            Op::Dial { client, answered } => {
                if let Some(said) = self.say(client.into()) {
                    self.arrive(said, answered);
                }
            }
            Op::Say { client } => {
                let said = self.say(client.into());
                self.on_their_way.extend(said);
            }
            Op::Arrive { which, answered } => {
                let Some(index) = usize::from(which).checked_rem(self.on_their_way.len()) else { return };
                let said = self.on_their_way.swap_remove(index);
                self.arrive(said, answered);
            }
            Op::GiveUp { which } => {
                let Some(index) = usize::from(which).checked_rem(self.on_their_way.len()) else { return };
                let (client, lane, _) = self.on_their_way[index];
                self.clients[client].give_up(lane);
            }
            Op::Again { hello, at, change, cut } => {
                let Some(index) = usize::from(hello).checked_rem(self.said.len()) else { return };
                let mut bytes = self.said[index].clone();
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= change;
                bytes.truncate(bytes.len() - usize::from(cut) % bytes.len());
                self.hello(&bytes);
            }
            Op::Forge { client, lane, proof, mut held, create } => {
                held.truncate(16);
                let request = match create {
                    true => Request::Create { secret: Secret(proof) },
                    false => Request::Join { proof, held },
                };
                let session = id(client.into());
                let lane = lane >> 2;
                let forged =
                    Hello { request, session, lane, versions: (1, 1), features: 0, initial_credit: 2_048 };
                self.hello(&forged.encode());
            }
            Op::Noise(bytes) => drop(self.hello(bytes)),
            Op::Answer { client, late, bytes } => {
                let client = &mut self.clients[usize::from(client)];
                let Ok(Some((welcome, _))) = Welcome::decode(bytes) else { return };
                let lanes = client.lanes().count();
                // Never one that the client waits for: that would be its agent.
                assert!(!client.welcomed(u64::MAX - u64::from(late), &welcome, self.now));
                assert_eq!(client.lanes().count(), lanes);
            }
            Op::Open { client } => drop(self.clients[usize::from(client)].open()),
            Op::Lose { client, lane } => {
                let client = usize::from(client);
                let lanes: Vec<u64> = self.clients[client].lanes().collect();
                let Some(index) = usize::from(lane).checked_rem(lanes.len()) else { return };
                self.clients[client].lane_lost(lanes[index], self.now);
            }
            Op::Pass { milliseconds } => {
                self.now += Duration::from_millis(milliseconds.into());
                self.clients.iter_mut().chain(&mut self.agents).for_each(|end| end.handle_timeout(self.now));
                self.agents.retain(|agent| agent.ended().is_none());
            }
        }
        for end in self.clients.iter_mut().chain(&mut self.agents) {
            while end.poll_event().is_some() {}
            assert!(end.lanes().count() <= MAX_LANES);
        }
    }
}

fuzz_target!(|ops: Vec<Op<'_>>| {
    let mut world = World::new();
    ops.into_iter().for_each(|op| world.act(op));
});
