//! The programs at the two ends of a stream: what they do, and what they may see.

use std::ops::Range;
use std::time::{Duration, Instant};

use relay_protocol::Status;
use relay_protocol::session::{Read, Session, StreamKey};

use super::content::{STATUS, TAG, content, first_difference};
use super::network::Side;
use super::rng::Rng;

/// When a program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    AtOnce,
    /// After the end of what the peer writes.
    AfterEnd,
    /// As much as it has read.
    Echo,
}

/// How a program ends its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Finish,
    /// Not before the peer has finished.
    FinishAfterEnd,
    Reset(Status),
    /// Lets go of the stream without a word.
    Drop,
}

/// One program.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Bytes to write, besides the tag or the status.
    pub(crate) amount: u64,
    pub(crate) start: Start,
    pub(crate) ending: Ending,
    pub(crate) write: Range<u64>,
    pub(crate) read: Range<u64>,
    /// Chance, in percent, to pause before an operation, and for how long at most.
    pub(crate) think: (u64, Duration),
    /// Reads nothing before.
    pub(crate) reads_from: Duration,
    /// Gives up after it has read this much.
    pub(crate) quits: Option<(u64, Ending)>,
    /// Holds the stream until it has seen its own reset.
    pub(crate) lingers: bool,
}

impl Script {
    /// Writes `amount` bytes in large pieces, reads everything, finishes.
    pub(crate) fn plain(amount: u64) -> Self {
        Self {
            amount,
            start: Start::AtOnce,
            ending: Ending::Finish,
            write: 1..20_000,
            read: 1..20_000,
            think: (0, Duration::from_millis(1)),
            reads_from: Duration::ZERO,
            quits: None,
            lingers: false,
        }
    }

    pub(crate) fn echo() -> Self {
        Self { start: Start::Echo, ..Self::plain(0) }
    }
}

/// Both programs of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) opens_at: Duration,
    pub(crate) client: Script,
    /// `Err`: the dial fails with this status.
    pub(crate) agent: Result<Script, Status>,
}

/// How a stream looked to a program in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    End,
    Reset(Status),
}

/// What one program did and saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) written: u64,
    pub(crate) finished: bool,
    /// Its own reset, and how much it had written then.
    pub(crate) reset: Option<Status>,
    pub(crate) read: u64,
    pub(crate) saw: Option<Sight>,
    pub(crate) done: bool,
    pub(crate) last_read: Duration,
}

/// What a program waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Again,
    Sleep(Duration),
    Blocked,
    Done,
}

/// A program at work.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) key: StreamKey,
    /// The stream's number; the agent's program learns it from the first bytes.
    pub(crate) number: Option<usize>,
    tag: Vec<u8>,
    side: Side,
    rng: Rng,
    pub(crate) read_blocked: bool,
    pub(crate) write_blocked: bool,
    write_failed: bool,
    pub(crate) asleep: bool,
}

impl Program {
    pub(crate) fn new(side: Side, key: StreamKey, number: Option<usize>, rng: Rng) -> Self {
        Self {
            key,
            number,
            tag: Vec::new(),
            side,
            rng,
            read_blocked: false,
            write_blocked: false,
            write_failed: false,
            asleep: false,
        }
    }

    /// One operation.
    pub(crate) fn step(
        &mut self,
        session: &mut Session,
        (now, clock): (Duration, Instant),
        plans: &[Plan],
        records: &mut [[Record; 2]],
    ) -> Next {
        let Some(number) = self.number else { return self.learn(session, clock, records) };
        let (side, me) = (self.side, self.side.index());
        let script = match (&plans[number].agent, side) {
            (_, Side::Client) => &plans[number].client,
            (Ok(script), Side::Agent) => script,
            (Err(status), Side::Agent) => {
                records[number][me].reset = Some(*status);
                session.reset(self.key, *status);
                return self.done(session, number, records);
            }
        };
        let record = records[number][me].clone();
        if record.saw.is_some_and(|saw| saw != Sight::End) || (record.finished && record.saw.is_some()) {
            return self.done(session, number, records);
        }
        if script.think.0 > 0 && self.rng.chance(script.think.0) {
            return Next::Sleep(self.rng.duration(Duration::from_micros(1)..script.think.1));
        }
        if let Some((_, ending)) = script.quits.filter(|(after, _)| record.read >= *after)
            && record.reset.is_none()
            && !self.write_failed
        {
            return self.end(session, clock, ending, script.lingers, number, records);
        }
        let head = if side == Side::Client { TAG } else { STATUS };
        let saw_end = record.saw.is_some();
        let goal = match script.start {
            _ if record.written < head => head,
            Start::AtOnce => head + script.amount,
            Start::AfterEnd if saw_end => head + script.amount,
            Start::AfterEnd => head,
            Start::Echo => head + record.read.saturating_sub(if side == Side::Client { STATUS } else { TAG }),
        };
        let open = !record.finished && record.reset.is_none() && !self.write_failed;
        let all = record.written == goal && (script.start == Start::AtOnce || saw_end);
        let may_end = all && (saw_end || script.ending != Ending::FinishAfterEnd);
        if open && may_end && record.written >= head {
            return self.end(session, clock, script.ending, script.lingers, number, records);
        }
        // After the end, only a reset is left to be read.
        let reset = self.write_failed || record.reset.is_some();
        let reads = !self.read_blocked && (!saw_end || reset) && (reset || now >= script.reads_from);
        let writes = open && !self.write_blocked && record.written < goal;
        let waits = !saw_end && now < script.reads_from;
        let record = &mut records[number][me];
        if writes && (!reads || self.rng.chance(50)) {
            let size = self.rng.in_range(script.write.clone()).min(goal - record.written);
            let data = content(number, side, record.written, size as usize);
            match session.write(self.key, &data) {
                Ok(0) => self.write_blocked = true,
                Ok(len) => record.written += len as u64,
                Err(_) => self.write_failed = true,
            }
            return Next::Again;
        }
        if reads {
            let max = self.rng.in_range(script.read.clone()) as usize;
            let read = session.read(clock, self.key, max);
            let [client, agent] = &mut records[number];
            let (mine, theirs) = if side == Side::Client { (client, agent) } else { (agent, client) };
            mine.last_read = now;
            self.check(number, read, mine, theirs, session.ended());
            return Next::Again;
        }
        if waits { Next::Sleep(script.reads_from - now) } else { Next::Blocked }
    }

    /// `lost`: with which status the session ended, and its streams with it.
    fn check(&mut self, number: usize, read: Read, mine: &mut Record, theirs: &Record, lost: Option<Status>) {
        let side = self.side;
        match read {
            Read::Data(data) => {
                assert!(mine.reset.is_none(), "stream {number}: {side:?} reads after its own reset");
                let wrong = first_difference(number, side.other(), mine.read, &data);
                assert_eq!(wrong, None, "stream {number}: {side:?} read a wrong byte (offset)");
                mine.read += data.len() as u64;
                assert!(mine.read <= theirs.written, "stream {number}: more read than written");
            }
            Read::Blocked => self.read_blocked = true,
            Read::End => {
                assert!(theirs.finished, "stream {number}: {side:?} saw an end that was none");
                assert_eq!(mine.read, theirs.written, "stream {number}: {side:?} saw the end too early");
                mine.saw = Some(Sight::End);
            }
            Read::Reset(status) if lost == Some(status) => mine.saw = Some(Sight::Reset(status)),
            Read::Reset(status) => {
                if mine.reset.is_none() {
                    assert_eq!(theirs.reset, Some(status), "stream {number}: {side:?} saw a strange reset");
                    if status == Status::ResetByPeer {
                        assert_eq!(
                            mine.read, theirs.written,
                            "stream {number}: a reset came before its bytes"
                        );
                    }
                } else {
                    assert!(
                        mine.reset == Some(status) || theirs.reset == Some(status),
                        "stream {number}: strange"
                    );
                }
                mine.saw = Some(Sight::Reset(status));
            }
        }
    }

    /// Reads the tag, which tells the agent's program what it is.
    fn learn(&mut self, session: &mut Session, clock: Instant, records: &mut [[Record; 2]]) -> Next {
        match session.read(clock, self.key, TAG as usize - self.tag.len()) {
            Read::Data(data) => self.tag.extend_from_slice(&data),
            Read::Blocked => {
                self.read_blocked = true;
                return Next::Blocked;
            }
            Read::End => panic!("a stream ended within its tag"),
            Read::Reset(_) => {
                session.release(self.key);
                return Next::Done;
            }
        }
        if let Ok(tag) = <[u8; 8]>::try_from(&self.tag[..]) {
            let number = u64::from_be_bytes(tag) as usize;
            self.number = Some(number);
            records[number][self.side.index()].read = TAG;
        }
        Next::Again
    }

    fn end(
        &mut self,
        session: &mut Session,
        clock: Instant,
        ending: Ending,
        lingers: bool,
        number: usize,
        records: &mut [[Record; 2]],
    ) -> Next {
        let record = &mut records[number][self.side.index()];
        match ending {
            Ending::Finish | Ending::FinishAfterEnd => {
                session.finish_riding(clock, self.key);
                record.finished = true;
                Next::Again
            }
            // Too late: the peer was first.
            Ending::Reset(_) if session.reset_status(self.key).is_some() => {
                self.write_failed = true;
                Next::Again
            }
            Ending::Reset(status) => {
                record.reset = Some(status);
                session.reset(self.key, status);
                if lingers { Next::Again } else { self.done(session, number, records) }
            }
            Ending::Drop => {
                record.reset = Some(Status::Aborted);
                self.done(session, number, records)
            }
        }
    }

    fn done(&mut self, session: &mut Session, number: usize, records: &mut [[Record; 2]]) -> Next {
        session.release(self.key);
        records[number][self.side.index()].done = true;
        Next::Done
    }
}
