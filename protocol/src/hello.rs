//! Hello and welcome: what opens a lane, and who may.
//!
//! Both are `RLY`, a version byte, a length of two bytes, and as many bytes of type-length-values, types and lengths
//! as varints. Unknown types are ignored. `WIRE.md` lists the types.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::cursor::Cursor;
use crate::{Status, varint};

/// What every hello and welcome begins with.
pub const MAGIC: [u8; 3] = *b"RLY";
/// The version of the session that this crate speaks.
pub const VERSION: u8 = 1;
/// Bytes ahead of the values.
const FIXED: usize = 6;
/// The longest hello or welcome, in bytes.
pub const MAX_LEN: usize = 1024;
/// The most lanes a session holds; a hello that lists more is malformed.
pub const MAX_LANES: usize = 16;

const KIND: u64 = 1;
const SESSION: u64 = 2;
const SECRET: u64 = 3;
const LANE: u64 = 4;
const PROOF: u64 = 5;
const HELD: u64 = 6;
const LEAST_VERSION: u64 = 7;
const GREATEST_VERSION: u64 = 8;
const FEATURES: u64 = 9;
const INITIAL_CREDIT: u64 = 10;
const STATUS: u64 = 11;
const INSTANCE: u64 = 12;
const MAX_STREAMS: u64 = 13;

/// Names a session. Not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

/// Names one run of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instance(pub [u8; 16]);

/// What proves the right to join a session. It crosses the wire once, when the session is created.
#[derive(Clone)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    /// Takes the same time wherever the two differ.
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
    }
}

impl Eq for Secret {}

impl Secret {
    fn mac(&self, session: SessionId, instance: Instance, lane: u64, held: &[u64]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(&session.0);
        mac.update(&instance.0);
        mac.update(&lane.to_be_bytes());
        for lane in held {
            mac.update(&lane.to_be_bytes());
        }
        Some(mac)
    }

    /// HMAC-SHA256 over session id, agent instance, lane number and the lanes still held, each lane in eight bytes.
    pub fn proof(&self, session: SessionId, instance: Instance, lane: u64, held: &[u64]) -> [u8; 32] {
        // HMAC takes a key of any length, so there is always a code.
        self.mac(session, instance, lane, held)
            .map(|mac| mac.finalize().into_bytes().into())
            .unwrap_or_default()
    }

    /// Whether `proof` is the one for these values, in constant time.
    pub fn verify(
        &self,
        session: SessionId,
        instance: Instance,
        lane: u64,
        held: &[u64],
        proof: &[u8; 32],
    ) -> bool {
        self.mac(session, instance, lane, held).is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }
}

/// What a hello asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new session.
    Create {
        /// Proves later joins.
        secret: Secret,
    },
    /// One more lane of a session that the agent has welcomed before.
    Join {
        /// [`Secret::proof`].
        proof: [u8; 32],
        /// The lanes that the client still holds; the agent closes all others.
        held: Vec<u64>,
    },
}

/// The client's first bytes on a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Create or join.
    pub request: Request,
    /// The session.
    pub session: SessionId,
    /// Number of this lane, above every one seen before in the session.
    pub lane: u64,
    /// Least and greatest session version that the client speaks.
    pub versions: (u8, u8),
    /// Bits for what the client can do beyond version 1. None is defined.
    pub features: u64,
    /// Credit with which each stream starts towards the client, in bytes.
    pub initial_credit: u64,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// [`Status::Ok`], or why not. Unknown session and wrong proof are the same status.
    pub status: Status,
    /// Least and greatest session version that the agent speaks.
    pub versions: (u8, u8),
    /// Features that both have.
    pub features: u64,
    /// Which run of the agent this is.
    pub instance: Instance,
    /// Credit with which each stream starts towards the agent, in bytes.
    pub initial_credit: u64,
    /// How many streams the client may begin in all, for now.
    pub max_streams: u64,
}

/// Why bytes are not a hello or welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first bytes are not `RLY`.
    #[error("not a relay session")]
    NotASession,
    /// Longer than [`MAX_LEN`].
    #[error("hello of {0} bytes is longer than {MAX_LEN}")]
    TooLong(usize),
    /// A value of the wrong length, or one that must be there and isn't.
    #[error("hello does not parse (value {0})")]
    BadValue(u64),
    /// The two ends have no version in common.
    #[error("session versions {0} to {1} are not spoken here")]
    Version(u8, u8),
}

/// The values between the fixed bytes, by type; a type that comes twice keeps its first value.
struct Values<'a>(Cursor<'a>);

impl<'a> Values<'a> {
    fn find(&self, wanted: u64) -> Result<Option<&'a [u8]>, HelloError> {
        let mut cursor = self.0;
        while !cursor.0.is_empty() {
            let kind = cursor.varint().ok_or(HelloError::BadValue(0))?;
            let len = cursor
                .varint()
                .and_then(|len| usize::try_from(len).ok())
                .ok_or(HelloError::BadValue(kind))?;
            let value = cursor.bytes(len).ok_or(HelloError::BadValue(kind))?;
            if kind == wanted {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn need(&self, kind: u64) -> Result<&'a [u8], HelloError> {
        self.find(kind)?.ok_or(HelloError::BadValue(kind))
    }

    fn array<const N: usize>(&self, kind: u64) -> Result<[u8; N], HelloError> {
        self.need(kind)?.try_into().map_err(|_| HelloError::BadValue(kind))
    }

    fn number(&self, kind: u64) -> Result<u64, HelloError> {
        let value = self.need(kind)?;
        match varint::get(value) {
            Some((number, len)) if len == value.len() => Ok(number),
            _ => Err(HelloError::BadValue(kind)),
        }
    }

    fn number_or(&self, kind: u64, default: u64) -> Result<u64, HelloError> {
        if self.find(kind)?.is_some() { self.number(kind) } else { Ok(default) }
    }

    fn byte(&self, kind: u64) -> Result<u8, HelloError> {
        self.array::<1>(kind).map(|[byte]| byte)
    }
}

fn put(out: &mut Vec<u8>, kind: u64, value: &[u8]) {
    varint::put(out, kind);
    varint::put(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_number(out: &mut Vec<u8>, kind: u64, value: u64) {
    varint::put(out, kind);
    varint::put(out, varint::len(value) as u64);
    varint::put(out, value);
}

fn finish(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIXED + body.len());
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// The values and the whole length, once all bytes are there.
fn open(bytes: &[u8]) -> Result<Option<(Values<'_>, usize)>, HelloError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(HelloError::NotASession);
    }
    let mut cursor = Cursor(bytes);
    let (Some(_), Some(_), Some(len)) = (cursor.bytes(MAGIC.len()), cursor.u8(), cursor.u16()) else {
        return Ok(None);
    };
    let len = FIXED + usize::from(len);
    if len > MAX_LEN {
        return Err(HelloError::TooLong(len));
    }
    Ok(bytes.get(FIXED..len).map(|body| (Values(Cursor(body)), len)))
}

/// The version that both ends speak.
fn common_version((least, greatest): (u8, u8)) -> Result<(), HelloError> {
    if (least..=greatest).contains(&VERSION) { Ok(()) } else { Err(HelloError::Version(least, greatest)) }
}

impl Hello {
    /// The whole hello.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put(&mut body, LEAST_VERSION, &[self.versions.0]);
        put(&mut body, GREATEST_VERSION, &[self.versions.1]);
        put_number(&mut body, FEATURES, self.features);
        put(&mut body, SESSION, &self.session.0);
        put_number(&mut body, LANE, self.lane);
        put_number(&mut body, INITIAL_CREDIT, self.initial_credit);
        match &self.request {
            Request::Create { secret } => {
                put(&mut body, KIND, &[0]);
                put(&mut body, SECRET, &secret.0);
            }
            Request::Join { proof, held } => {
                put(&mut body, KIND, &[1]);
                put(&mut body, PROOF, proof);
                let held: Vec<u8> = held.iter().flat_map(|lane| lane.to_be_bytes()).collect();
                put(&mut body, HELD, &held);
            }
        }
        finish(&body)
    }

    /// Reads a hello from the front of `bytes`: the hello and its length, or `None` where bytes are missing.
    ///
    /// # Errors
    /// [`HelloError`] as soon as no more bytes could make it a hello.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HelloError> {
        let Some((values, len)) = open(bytes)? else { return Ok(None) };
        let versions = (values.byte(LEAST_VERSION)?, values.byte(GREATEST_VERSION)?);
        common_version(versions)?;
        let request = match values.byte(KIND)? {
            0 => Request::Create { secret: Secret(values.array(SECRET)?) },
            1 => {
                let (held, rest) = values.need(HELD)?.as_chunks::<8>();
                if !rest.is_empty() || held.len() > MAX_LANES {
                    return Err(HelloError::BadValue(HELD));
                }
                let held = held.iter().map(|lane| u64::from_be_bytes(*lane)).collect();
                Request::Join { proof: values.array(PROOF)?, held }
            }
            _ => return Err(HelloError::BadValue(KIND)),
        };
        let hello = Self {
            request,
            session: SessionId(values.array(SESSION)?),
            lane: values.number(LANE)?,
            versions,
            features: values.number_or(FEATURES, 0)?,
            initial_credit: values.number(INITIAL_CREDIT)?,
        };
        Ok(Some((hello, len)))
    }
}

impl Welcome {
    /// A refusal.
    pub fn refusal(status: Status, instance: Instance) -> Self {
        Self {
            status,
            versions: (VERSION, VERSION),
            features: 0,
            instance,
            initial_credit: 0,
            max_streams: 0,
        }
    }

    /// The whole welcome.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put(&mut body, LEAST_VERSION, &[self.versions.0]);
        put(&mut body, GREATEST_VERSION, &[self.versions.1]);
        put_number(&mut body, FEATURES, self.features);
        put(&mut body, STATUS, &[self.status.as_u8()]);
        put(&mut body, INSTANCE, &self.instance.0);
        put_number(&mut body, INITIAL_CREDIT, self.initial_credit);
        put_number(&mut body, MAX_STREAMS, self.max_streams);
        finish(&body)
    }

    /// Reads a welcome from the front of `bytes`: the welcome and its length, or `None` where bytes are missing.
    ///
    /// # Errors
    /// [`HelloError`] as soon as no more bytes could make it a welcome.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HelloError> {
        let Some((values, len)) = open(bytes)? else { return Ok(None) };
        let versions = (values.byte(LEAST_VERSION)?, values.byte(GREATEST_VERSION)?);
        let status = Status::from_u8(values.byte(STATUS)?);
        if status == Status::Ok {
            common_version(versions)?;
        }
        let welcome = Self {
            status,
            versions,
            features: values.number_or(FEATURES, 0)?,
            instance: Instance(values.array(INSTANCE)?),
            initial_credit: values.number(INITIAL_CREDIT)?,
            max_streams: values.number(MAX_STREAMS)?,
        };
        Ok(Some((welcome, len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hellos() -> impl Strategy<Value = Hello> {
        let request = prop_oneof![
            any::<[u8; 32]>().prop_map(|secret| Request::Create { secret: Secret(secret) }),
            (any::<[u8; 32]>(), proptest::collection::vec(any::<u64>(), 0..=MAX_LANES))
                .prop_map(|(proof, held)| Request::Join { proof, held }),
        ];
        (request, any::<[u8; 16]>(), 0..varint::MAX, 0..varint::MAX, 0..varint::MAX).prop_map(
            |(request, session, lane, features, initial_credit)| Hello {
                request,
                session: SessionId(session),
                lane,
                versions: (1, 3),
                features,
                initial_credit,
            },
        )
    }

    proptest! {
        #[test]
        fn hello_round_trip(hello in hellos()) {
            let out = hello.encode();
            prop_assert!(out.len() <= MAX_LEN);
            for cut in 0..out.len() {
                prop_assert_eq!(Hello::decode(&out[..cut]), Ok(None));
            }
            prop_assert_eq!(Hello::decode(&out), Ok(Some((hello, out.len()))));
        }

        #[test]
        fn welcome_round_trip(code in 1u8..16, numbers in any::<[u32; 3]>(), instance in any::<[u8; 16]>()) {
            let welcome = Welcome {
                status: Status::from_u8(code),
                versions: (1, 1),
                features: numbers[0].into(),
                instance: Instance(instance),
                initial_credit: numbers[1].into(),
                max_streams: numbers[2].into(),
            };
            let out = welcome.encode();
            for cut in 0..out.len() {
                prop_assert_eq!(Welcome::decode(&out[..cut]), Ok(None));
            }
            prop_assert_eq!(Welcome::decode(&out), Ok(Some((welcome, out.len()))));
        }

        #[test]
        fn any_bytes_give_an_answer(tail in proptest::collection::vec(any::<u8>(), 0..300), real in any::<bool>()) {
            let mut bytes = if real { vec![b'R', b'L', b'Y', 1, 0, tail.len() as u8] } else { Vec::new() };
            bytes.extend(tail);
            let _ = Hello::decode(&bytes);
            let _ = Welcome::decode(&bytes);
        }
    }

    #[test]
    fn a_proof_holds_for_its_values_only() {
        let (secret, other) = (Secret([7; 32]), Secret([8; 32]));
        let (session, instance) = (SessionId([1; 16]), Instance([2; 16]));
        let proof = secret.proof(session, instance, 5, &[3, 4]);
        assert!(secret.verify(session, instance, 5, &[3, 4], &proof));
        assert!(!other.verify(session, instance, 5, &[3, 4], &proof));
        assert!(!secret.verify(SessionId([9; 16]), instance, 5, &[3, 4], &proof));
        assert!(!secret.verify(session, Instance([9; 16]), 5, &[3, 4], &proof));
        assert!(!secret.verify(session, instance, 6, &[3, 4], &proof));
        assert!(!secret.verify(session, instance, 5, &[3], &proof));
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret([7; 32])), "Secret(…)");
    }

    #[test]
    fn no_common_version_is_said_with_the_range() {
        let mut hello = Hello {
            request: Request::Create { secret: Secret([0; 32]) },
            session: SessionId([0; 16]),
            lane: 1,
            versions: (2, 4),
            features: 0,
            initial_credit: 2048,
        };
        assert_eq!(Hello::decode(&hello.encode()), Err(HelloError::Version(2, 4)));
        hello.versions = (1, 1);
        assert!(Hello::decode(&hello.encode()).unwrap().is_some());
        let refusal = Welcome::refusal(Status::UnknownVersion, Instance([0; 16]));
        assert_eq!(Welcome::decode(&refusal.encode()).unwrap().unwrap().0, refusal);
    }
}
