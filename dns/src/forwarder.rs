//! One query's way to an answer: asked over UDP, again over another way, at last over TCP; within the time after which
//! resolvers ask again.

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_proto::rr::Name;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use crate::{
    line::Line,
    message::{Query, Rcode, rcode},
    search::{Search, Short},
    upstream::Upstream,
};

/// When the second and the third way are tried, after the first: a lost datagram costs one second.
const AGAIN: [Duration; 2] = [Duration::from_millis(1000), Duration::from_millis(2500)];
/// Sooner than the five seconds after which most resolvers give up.
const GIVE_UP: Duration = Duration::from_millis(4500);
/// A way on which nothing at all comes back for so long is replaced: the name server behind it may be gone.
const PATIENCE: Duration = Duration::from_millis(1000);

const NXDOMAIN: u8 = 3;

/// How a query came, and so how large its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// Passes queries on.
pub struct Forwarder<U> {
    upstream: U,
    search: Option<Search>,
    /// Each opened when it is needed: two for datagrams, two for connections.
    ways: [Mutex<Option<Arc<Line>>>; 4],
}

/// Places in [`Forwarder::ways`].
const UDP: [usize; 2] = [0, 1];
const TCP: [usize; 2] = [2, 3];

/// What comes of looking for full names.
enum Found {
    /// There is none of them.
    Nothing,
    /// Whether there is one is not known.
    Unknown,
    /// The answer about one.
    Name(Bytes),
}

type Attempt<'a> = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send + 'a>>;

impl<U: Upstream> Forwarder<U> {
    /// Passes on to `upstream`, and completes short names where there is a search list.
    pub fn new(upstream: U, search: Option<Search>) -> Self {
        Self { upstream, search, ways: Default::default() }
    }

    /// The answer to a query; that nobody answered is one too.
    pub async fn answer(&self, query: &Query, came: Came) -> Bytes {
        let deadline = Instant::now() + GIVE_UP;
        let short = self.search.as_ref().and_then(|search| Short::read(query, search));
        let answer = match short {
            Some(short) => self.searched(query, &short, came, deadline).await,
            None => self.passed_on(query, came, deadline).await,
        };
        let answer = answer.unwrap_or_else(|| query.fail(Rcode::ServFail));
        match came {
            Came::Udp => query.fitted(answer),
            Came::Tcp => answer,
        }
    }

    /// The answer about the first that there is of a short name's full names and itself; nothing when that is not
    /// known.
    async fn searched(&self, query: &Query, short: &Short, came: Came, deadline: Instant) -> Option<Bytes> {
        match self.found(short, short.first(), came, deadline).await {
            Found::Nothing => {}
            Found::Unknown => return None,
            Found::Name(answer) => return Some(answer),
        }
        let as_it_is = self.passed_on(query, came, deadline).await?;
        if rcode(&as_it_is) != NXDOMAIN {
            return Some(as_it_is);
        }
        match self.found(short, short.instead(), came, deadline).await {
            Found::Nothing => Some(as_it_is),
            Found::Unknown => None,
            Found::Name(answer) => Some(answer),
        }
    }

    async fn found(
        &self,
        short: &Short,
        queries: impl Iterator<Item = (&Name, Query)>,
        came: Came,
        deadline: Instant,
    ) -> Found {
        for (name, full) in queries {
            let Some(answer) = self.passed_on(&full, came, deadline).await else { return Found::Unknown };
            match rcode(&answer) {
                NXDOMAIN => {}
                0 => return short.answer(name, &answer).map_or(Found::Unknown, Found::Name),
                _ => return Found::Unknown,
            }
        }
        Found::Nothing
    }

    /// What the name server says; nothing when it says nothing in time.
    async fn passed_on(&self, query: &Query, came: Came, deadline: Instant) -> Option<Bytes> {
        let ways = match came {
            Came::Udp => [UDP[0], UDP[1], TCP[0]],
            Came::Tcp => [TCP[0], TCP[1], TCP[0]],
        };
        let began = Instant::now();
        let mut untried = ways.into_iter().zip([Duration::ZERO, AGAIN[0], AGAIN[1]]);
        let mut attempts: FuturesUnordered<Attempt<'_>> = FuturesUnordered::new();
        let (first, _) = untried.next()?;
        attempts.push(Box::pin(self.ask(first, query)));
        let mut next = untried.next();
        loop {
            let until = next.map_or(deadline, |(_, after)| deadline.min(began + after));
            tokio::select! {
                Some(answer) = attempts.next() => match answer {
                    Ok(answer) => return Some(answer),
                    Err(error) => {
                        tracing::debug!(%error, "a query is not passed on");
                        let (way, _) = next.take()?;
                        attempts.push(Box::pin(self.ask(way, query)));
                        next = untried.next();
                    }
                },
                () = sleep_until(until) => {
                    if Instant::now() >= deadline {
                        return None;
                    }
                    if let Some((way, _)) = next.take() {
                        attempts.push(Box::pin(self.ask(way, query)));
                        next = untried.next();
                    }
                }
            }
        }
    }

    async fn ask(&self, way: usize, query: &Query) -> io::Result<Bytes> {
        self.line(way).await?.ask(query.clone()).await
    }

    /// The line of a way, opened anew if it is of no use any more. Whoever comes meanwhile waits for the same.
    async fn line(&self, way: usize) -> io::Result<Arc<Line>> {
        let mut place = self.ways[way].lock().await;
        if let Some(line) = place.as_ref().filter(|line| !line.is_useless(PATIENCE)) {
            return Ok(Arc::clone(line));
        }
        *place = None;
        let line = if UDP.contains(&way) {
            Line::over_datagrams(self.upstream.datagrams().await?)
        } else {
            Line::over_stream(self.upstream.stream().await?)
        };
        Ok(Arc::clone(place.insert(Arc::new(line))))
    }
}

#[cfg(test)]
mod tests;
