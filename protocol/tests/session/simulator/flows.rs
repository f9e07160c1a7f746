//! The programs at the two ends of flows: the client's send numbered datagrams, the agent's send them back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_protocol::Status;
use relay_protocol::session::{FlowKey, OpenError, Session};

use super::content::{TAG, content};
use super::network::Side;
use super::rng::Rng;

/// A flow that a client's program uses.
#[derive(Clone, Debug)]
pub(crate) struct FlowPlan {
    pub(crate) opens_at: Duration,
    pub(crate) datagrams: u64,
    pub(crate) size: u64,
    pub(crate) every: Duration,
}

#[derive(Debug)]
struct Sender {
    number: usize,
    key: FlowKey,
    sent: u64,
    next: Duration,
    came_back: BTreeSet<u64>,
}

/// All flows of one end.
#[derive(Debug)]
pub(crate) struct Flows {
    side: Side,
    pub(crate) plans: Vec<FlowPlan>,
    started: usize,
    senders: Vec<Sender>,
    echoes: BTreeMap<FlowKey, BTreeSet<u64>>,
    /// Nothing is sent back.
    pub(crate) mute: bool,
    pub(crate) sent: u64,
    pub(crate) returned: u64,
    pub(crate) echoed: u64,
}

impl Flows {
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            plans: Vec::new(),
            started: 0,
            senders: Vec::new(),
            echoes: BTreeMap::new(),
            mute: false,
            sent: 0,
            returned: 0,
            echoed: 0,
        }
    }

    fn datagram(number: usize, seq: u64, len: u64) -> Bytes {
        let mut data = seq.to_be_bytes().to_vec();
        if len > 0 {
            data.extend_from_slice(&content(number, Side::Client, TAG + seq, len as usize));
        }
        Bytes::from(data)
    }

    /// The number of a datagram that is intact.
    fn verify(number: usize, data: &[u8]) -> u64 {
        let seq = u64::from_be_bytes(data[..8].try_into().expect("eight bytes"));
        assert_eq!(
            data,
            Self::datagram(number, seq, data.len() as u64 - 8),
            "flow {number}: not what was sent"
        );
        seq
    }

    /// When a program wants to run again.
    pub(crate) fn next(&self) -> Option<Duration> {
        let opens = self.plans.get(self.started).map(|plan| plan.opens_at);
        self.senders.iter().map(|sender| sender.next).chain(opens).min()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.started == self.plans.len() && self.senders.is_empty() && self.echoes.is_empty()
    }

    pub(crate) fn run(
        &mut self,
        session: &mut Session,
        now: Duration,
        clock: Instant,
        rng: &mut Rng,
    ) -> bool {
        let mut busy = false;
        while let Some(plan) = self.plans.get(self.started).filter(|plan| plan.opens_at <= now) {
            let header = Bytes::from((self.started as u64).to_be_bytes().to_vec());
            match session.open_flow(clock, header) {
                Ok(key) => {
                    let number = self.started;
                    let sender = Sender { number, key, sent: 0, next: now, came_back: BTreeSet::new() };
                    self.senders.push(sender);
                    self.started += 1;
                    busy = true;
                }
                Err(OpenError::Wait) => {
                    self.plans[self.started].opens_at = now + plan.every.max(Duration::from_millis(1));
                }
                Err(_) => self.started += 1,
            }
        }
        for index in (0..self.senders.len()).rev() {
            let sender = &mut self.senders[index];
            if sender.next > now {
                continue;
            }
            busy = true;
            let plan = &self.plans[sender.number];
            let size = rng.below(plan.size + 1);
            if sender.sent == plan.datagrams {
                session.close_flow(sender.key, Status::Ok);
                self.senders.swap_remove(index);
                continue;
            }
            let data = Self::datagram(sender.number, sender.sent, size);
            if session.send_datagram(clock, sender.key, data).is_err() {
                session.close_flow(sender.key, Status::Ok);
                self.senders.swap_remove(index);
                continue;
            }
            sender.sent += 1;
            self.sent += 1;
            sender.next = now + rng.duration(Duration::from_micros(1)..plan.every * 2);
        }
        busy
    }

    pub(crate) fn event(&mut self, session: &mut Session, key: FlowKey, opened: bool, clock: Instant) {
        if self.side == Side::Agent {
            if opened {
                self.echoes.insert(key, BTreeSet::new());
            }
            self.echo(session, key, clock);
        } else {
            let Some(sender) = self.senders.iter_mut().find(|sender| sender.key == key) else { return };
            while let Ok(Some(data)) = session.receive_datagram(key) {
                let seq = Self::verify(sender.number, &data);
                assert!(seq < sender.sent);
                assert!(sender.came_back.insert(seq), "a datagram came back twice");
                self.returned += 1;
            }
        }
    }

    fn echo(&mut self, session: &mut Session, key: FlowKey, clock: Instant) {
        let Some(seen) = self.echoes.get_mut(&key) else { return };
        let Some(header) = session.flow_header(key) else { return };
        let number = u64::from_be_bytes(header[..].try_into().expect("eight bytes")) as usize;
        loop {
            match session.receive_datagram(key) {
                Ok(Some(data)) => {
                    let seq = Self::verify(number, &data);
                    assert!(seen.insert(seq), "a datagram arrived twice");
                    self.echoed += 1;
                    if !self.mute {
                        // A flow that has just been closed says so at the next turn.
                        let _ = session.send_datagram(clock, key, data);
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    session.close_flow(key, Status::Ok);
                    self.echoes.remove(&key);
                    return;
                }
            }
        }
    }
}
