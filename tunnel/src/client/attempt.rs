//! One lane's way into the session: its dial, its hello, and the agent's welcome.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use relay_protocol::hello::{Hello, Welcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{ATTEMPT, DialError, Dialer};
use crate::lane::{Joined, LaneIo, ReadBuffer};
use crate::shared::Shared;

/// A lane that the agent has welcomed, ready to run.
pub(super) struct Welcomed<Io: LaneIo> {
    pub(super) lane: Joined,
    pub(super) read: Io::Read,
    pub(super) write: Io::Write,
    pub(super) buffer: ReadBuffer,
}

/// An attempt under way: a lane's dial and hello.
pub(super) type Attempt<Io> = Pin<Box<dyn Future<Output = Result<Welcomed<Io>, DialError>> + Send>>;

/// Gives an attempt up when it takes too long.
async fn in_time<T>(attempt: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
    let late =
        |_| Err(DialError::passing(format!("no answer from the agent within {} s", ATTEMPT.as_secs())));
    timeout(ATTEMPT, attempt).await.unwrap_or_else(late)
}

pub(super) async fn connect<D: Dialer>(
    shared: Arc<Shared>,
    dialer: Arc<D>,
) -> Result<Welcomed<D::Io>, DialError> {
    in_time(async {
        let io = dialer.dial().await?;
        say_hello(io, Greeting::next(&shared)).await
    })
    .await
}

/// A lane beside others, unless there are enough by the time it is dialled.
pub(super) async fn connect_extra<D: Dialer>(
    shared: Arc<Shared>,
    dialer: Arc<D>,
) -> Result<Option<Welcomed<D::Io>>, DialError> {
    in_time(async {
        let io = dialer.dial().await?;
        match Greeting::if_wanted(&shared) {
            Some(greeting) => say_hello(io, greeting).await.map(Some),
            None => Ok(None),
        }
    })
    .await
}

/// A hello that is to be said, or waits for its welcome; given up with this.
struct Greeting {
    shared: Arc<Shared>,
    lane: u64,
    hello: Hello,
}

impl Greeting {
    fn next(shared: &Arc<Shared>) -> Self {
        let (lane, hello) = shared.with(|state, _| state.session.next_hello());
        Self { shared: shared.clone(), lane, hello }
    }

    fn if_wanted(shared: &Arc<Shared>) -> Option<Self> {
        let next =
            shared.with(|state, now| state.session.wants_lane(now).then(|| state.session.next_hello()));
        next.map(|(lane, hello)| Self { shared: shared.clone(), lane, hello })
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        self.shared.with(|state, _| state.session.give_up(self.lane));
    }
}

async fn say_hello<Io: LaneIo>(io: Io, greeting: Greeting) -> Result<Welcomed<Io>, DialError> {
    let (mut read, mut write) = io.into_halves();
    let Greeting { shared, lane, hello } = &greeting;
    let written = async {
        write.write_all(&hello.encode()).await?;
        write.flush().await
    };
    written
        .await
        .map_err(|error| DialError::passing(format!("the connection to the agent broke: {error}")))?;
    let mut bytes = Vec::with_capacity(256);
    let (welcome, len) = loop {
        match Welcome::decode(&bytes) {
            Ok(Some(decoded)) => break decoded,
            Ok(None) => {}
            Err(error) => {
                return Err(DialError::passing(format!("the agent does not answer as one: {error}")));
            }
        }
        match read.read_buf(&mut bytes).await {
            Ok(0) => return Err(DialError::passing("the agent closed the connection".to_owned())),
            Ok(_) => {}
            Err(error) => {
                return Err(DialError::passing(format!("the connection to the agent broke: {error}")));
            }
        }
    };
    if shared.with(|state, now| state.session.welcomed(*lane, &welcome, now)) {
        let lane = Joined::new(shared.clone(), *lane);
        Ok(Welcomed { lane, read, write, buffer: ReadBuffer::new(&bytes[len..]) })
    } else {
        Err(DialError::passing(format!("the agent refused the session: {}", welcome.status)))
    }
}
