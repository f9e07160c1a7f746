//! What is too much is refused with its status, and leaves others alone.

use std::time::Duration;

use relay_protocol::Protocol::Tcp;
use relay_protocol::Status;
use relay_server::settings::{Limits, Settings};
use relay_tunnel::{Session, TunnelStream};
use tokio::io::AsyncReadExt;

use crate::observe::scrape;
use crate::session::{client, to};
use crate::support::*;

async fn agent(settings: Settings) -> Running {
    Running::with(Settings { shared: true, ..settings }, Limits::default(), names(0, &[])).await
}

async fn open(session: &Session, port: u16) -> Result<TunnelStream, Status> {
    let stream = session.open(to(Tcp, "127.0.0.1", port)).await.unwrap();
    stream.opened().await.map(|()| stream)
}

#[tokio::test]
async fn one_session_too_many_is_refused_until_another_ends() {
    let agent = agent(Settings { max_sessions: 2, ..local() }).await;
    let port = echo().await.port();
    let (one, two) = (client(&agent), client(&agent));
    let _streams = [open(&one, port).await.unwrap(), open(&two, port).await.unwrap()];
    let refused = client(&agent).open(to(Tcp, "127.0.0.1", port)).await.unwrap_err();
    assert_eq!(refused, Status::TooManyStreams);
    assert_eq!(scrape(&agent).await["relay_agent_refused_total{what=\"session\"}"], 1.0);
    two.close(Duration::from_secs(5)).await;
    open(&client(&agent), port).await.unwrap();
}

#[tokio::test]
async fn a_stream_beyond_its_sessions_number_is_refused_and_the_others_go_on() {
    let agent = agent(Settings { max_streams: Some(2), ..local() }).await;
    let port = echo().await.port();
    let (one, two) = (client(&agent), client(&agent));
    let mut streams = vec![open(&one, port).await.unwrap(), open(&one, port).await.unwrap()];
    assert_eq!(open(&one, port).await.unwrap_err(), Status::TooManyStreams);
    open(&two, port).await.unwrap();
    assert_eq!(scrape(&agent).await["relay_agent_refused_total{what=\"stream\"}"], 1.0);
    drop(streams.pop());
    // The agent hears of the end a moment later.
    while let Err(status) = open(&one, port).await {
        assert_eq!(status, Status::TooManyStreams);
    }
}

#[tokio::test]
async fn a_greedy_session_leaves_places_to_others() {
    let agent = agent(Settings { max_streams_total: Some(8), ..local() }).await;
    let port = echo().await.port();
    let (greedy, modest) = (client(&agent), client(&agent));
    let mut streams = Vec::new();
    let refused = loop {
        match open(&greedy, port).await {
            Ok(stream) => streams.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!((streams.len(), refused), (4, Status::TooManyStreams));
    let _one = open(&modest, port).await.unwrap();
    let _two = open(&modest, port).await.unwrap();
    // Direct streams count too.
    let mut direct = agent.open(Tcp, "127.0.0.1", port).await;
    assert_eq!(direct.read_u8().await.unwrap(), OK);
    let mut last = agent.open(Tcp, "127.0.0.1", port).await;
    assert_eq!(last.read_u8().await.unwrap(), Status::TooManyStreams.as_u8());
}
