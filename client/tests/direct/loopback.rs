//! Ports that the agent finds refused at their pod's address.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use kubectl_relay::agent::supervisor::Current;
use relay_protocol::Status;
use relay_tunnel::{Agent, AgentConfig, ClientConfig, Incoming, Session, State};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{Forward, SOON, in_memory::InMemory, is_reset, node::Server, read_to_end};

/// A forward by an agent that is refused everywhere, and how often it was.
async fn refused_everywhere(server: &Server) -> (Forward, Arc<AtomicUsize>) {
    let (agent, mut incoming) = Agent::new(&AgentConfig::default()).unwrap();
    let refused = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&refused);
    tokio::spawn(async move {
        while let Some(incoming) = incoming.recv().await {
            if let Incoming::Stream(stream) = incoming {
                count.fetch_add(1, Ordering::Relaxed);
                stream.reset(Status::Refused);
            }
        }
    });
    let (session, mut state) = Session::start(&ClientConfig::default(), InMemory(agent));
    timeout(SOON, state.wait_for(|state| matches!(state, State::Ready))).await.unwrap().unwrap();
    let forward = Forward::start(server).await;
    forward.current.send_replace(Current::Session { session, ready: true });
    (forward, refused)
}

#[tokio::test]
async fn it_is_reached_with_every_byte_and_remembered() {
    let mut server = Server::start("a", true).await;
    let (forward, refused) = refused_everywhere(&server).await;
    // More than the agent gets before its answer.
    let said: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
    for round in 1..=3 {
        let mut socket = forward.connect().await;
        socket.write_all(&said).await.unwrap();
        let mut forwarded = server.next_open().await;
        assert!(forwarded.receive(said.len()).await == said, "round {round}");
        forwarded.send(b"reply").await;
        forwarded.finish().await;
        assert_eq!(read_to_end(&mut socket).await, b"reply");
    }
    assert_eq!(refused.load(Ordering::Relaxed), 1, "later connections go there at once");
    let said = forward.stderr.text();
    assert_eq!(
        said.matches("note: deploy/web: port 80 answers on its pod's loopback only").count(),
        1,
        "{said}"
    );
}

#[tokio::test]
async fn a_port_that_answers_nowhere_is_tried_at_the_pods_address_again() {
    let mut server = Server::start("a", true).await;
    let (forward, refused) = refused_everywhere(&server).await;
    let mut socket = forward.connect().await;
    let mut forwarded = server.next_open().await;
    forwarded.end_data().await;
    forwarded.complain("dial tcp4 127.0.0.1:80: connect: connection refused").await;
    is_reset(&mut socket).await;
    forward.says("nothing listens on port 80 in pod web").await;
    // A program that tries again at once does not make port-forwards at the same rate.
    is_reset(&mut forward.connect().await).await;
    forward.says("10.0.0.66:80 refuses the connection").await;
    assert_eq!(refused.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn without_the_right_to_port_forward_both_reasons_are_said() {
    let server = Server::start("a", true).await;
    server.forbids.store(true, Ordering::Relaxed);
    let (forward, _) = refused_everywhere(&server).await;
    is_reset(&mut forward.connect().await).await;
    forward
        .says("10.0.0.66:80 refuses the connection, and the pod's loopback was not tried: not allowed to")
        .await;
    forward.says("resources: [pods/portforward], verbs: [create]").await;
}
