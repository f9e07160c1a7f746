use std::{
    collections::VecDeque,
    sync::{
        Mutex as StdMutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, rdata::A},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};

use super::*;
use crate::{message::tests::a_query, upstream::Datagrams};

/// What a way to the name server does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Answers: every name that ends in `.local.` has an address.
    Answers,
    /// Says nothing.
    Silent,
    /// Is closed when something is asked.
    Closes,
    /// Is not to be had.
    Refused,
}

#[derive(Default)]
struct Script {
    udp: StdMutex<VecDeque<Way>>,
    tcp: StdMutex<VecDeque<Way>>,
    opened: AtomicUsize,
    asked: StdMutex<Vec<String>>,
}

/// A name server whose ways behave as scripted, and answer when the script is over.
#[derive(Clone, Default)]
struct Scripted(Arc<Script>);

impl Scripted {
    fn new(udp: &[Way], tcp: &[Way]) -> Self {
        let script = Self::default();
        script.0.udp.lock().unwrap().extend(udp);
        script.0.tcp.lock().unwrap().extend(tcp);
        script
    }

    fn opens(&self, ways: &StdMutex<VecDeque<Way>>) -> io::Result<Way> {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        match ways.lock().unwrap().pop_front().unwrap_or(Way::Answers) {
            Way::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
            way => Ok(way),
        }
    }

    fn answered(&self, query: &[u8]) -> Vec<u8> {
        let mut message = Message::from_vec(query).unwrap();
        let name = message.queries[0].name().clone();
        self.0.asked.lock().unwrap().push(name.to_ascii());
        message.metadata.message_type = MessageType::Response;
        let text = name.to_ascii();
        if text.starts_with("broken.") {
            message.metadata.response_code = ResponseCode::ServFail;
        } else if text.ends_with("default.svc.cluster.local.") {
            message.metadata.response_code = ResponseCode::NXDomain;
        } else if text.ends_with(".local.") {
            message.add_answer(Record::from_rdata(name, 30, RData::A(A::new(10, 0, 0, 1))));
        } else {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        message.to_vec().unwrap()
    }
}

struct Datagram {
    way: Way,
    server: Scripted,
    answers: (mpsc::UnboundedSender<Bytes>, mpsc::UnboundedReceiver<Bytes>),
}

impl Datagrams for Datagram {
    fn send(&mut self, message: Bytes) -> io::Result<()> {
        match self.way {
            Way::Closes => return Err(io::ErrorKind::BrokenPipe.into()),
            Way::Answers => self.answers.0.send(self.server.answered(&message).into()).unwrap(),
            _ => {}
        }
        Ok(())
    }

    async fn recv(&mut self) -> io::Result<Bytes> {
        Ok(self.answers.1.recv().await.unwrap())
    }
}

impl Upstream for Scripted {
    type Datagrams = Datagram;
    type Stream = DuplexStream;

    async fn datagrams(&self) -> io::Result<Datagram> {
        let way = self.opens(&self.0.udp)?;
        Ok(Datagram { way, server: self.clone(), answers: mpsc::unbounded_channel() })
    }

    async fn stream(&self) -> io::Result<DuplexStream> {
        let way = self.opens(&self.0.tcp)?;
        // Small, so that every message comes in pieces.
        let (near, mut far) = duplex(8);
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok(length) = far.read_u16().await {
                let mut message = vec![0; length.into()];
                far.read_exact(&mut message).await.unwrap();
                match way {
                    Way::Closes => return,
                    Way::Answers => {
                        let answer = server.answered(&message);
                        far.write_u16(answer.len() as u16).await.unwrap();
                        far.write_all(&answer).await.unwrap();
                    }
                    _ => {}
                }
            }
        });
        Ok(near)
    }
}

fn search() -> Search {
    Search::new(&["default".into(), "dev".into()], "cluster.local").unwrap()
}

async fn answer(forwarder: &Forwarder<Scripted>, name: &str, came: Came) -> (Message, Duration) {
    let began = Instant::now();
    let answer = forwarder.answer(&a_query(name, 7), came).await;
    (Message::from_vec(&answer).unwrap(), began.elapsed())
}

const FULL: &str = "web.x.svc.cluster.local.";

#[tokio::test(start_paused = true)]
async fn one_way_carries_many_queries() {
    let server = Scripted::default();
    let forwarder = Forwarder::new(server.clone(), None);
    let names: Vec<String> = (0..1000).map(|number| format!("{number}.local.")).collect();
    let all = names.iter().map(|name| answer(&forwarder, name, Came::Udp));
    let answers = futures_util::future::join_all(all).await;
    for (name, (message, took)) in names.iter().zip(answers) {
        assert_eq!(message.answers[0].name.to_ascii(), *name);
        assert_eq!((message.metadata.id, took), (7, Duration::ZERO));
    }
    assert_eq!(server.0.opened.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_way_loses_is_asked_again_on_others() {
    use Way::{Closes, Refused, Silent};
    let second = Duration::from_millis;
    let cases: [(&[Way], &[Way], u64); 6] = [
        (&[Silent], &[], 1000),
        (&[Silent, Silent], &[], 2500),
        (&[Closes], &[], 0),
        (&[Refused], &[], 0),
        (&[Refused, Closes], &[], 0),
        (&[Silent, Refused], &[], 1000),
    ];
    for (udp, tcp, took) in cases {
        let forwarder = Forwarder::new(Scripted::new(udp, tcp), None);
        let (message, waited) = answer(&forwarder, FULL, Came::Udp).await;
        assert_eq!(message.answers.len(), 1, "{udp:?}");
        assert!(waited >= second(took) && waited < second(took + 10), "{udp:?}: {waited:?}");
        // The next one goes by a way that works.
        let (_, waited) = answer(&forwarder, FULL, Came::Udp).await;
        assert!(waited < second(10), "{udp:?}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_closed_meanwhile_costs_nothing() {
    let forwarder = Forwarder::new(Scripted::new(&[], &[Way::Closes]), None);
    let (message, waited) = answer(&forwarder, FULL, Came::Tcp).await;
    assert_eq!((message.answers.len(), waited), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn nothing_heard_in_time_is_a_failure_of_the_server() {
    for ways in [[Way::Silent; 3], [Way::Refused; 3], [Way::Closes; 3]] {
        for came in [Came::Udp, Came::Tcp] {
            let forwarder = Forwarder::new(Scripted::new(&ways, &ways), None);
            let (message, waited) = answer(&forwarder, FULL, came).await;
            assert_eq!(message.metadata.response_code, ResponseCode::ServFail, "{ways:?}");
            assert!(waited <= GIVE_UP, "{waited:?}");
            assert_eq!(message.queries[0].name().to_ascii(), FULL);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_name_is_the_first_full_one_that_there_is() {
    let server = Scripted::default();
    let forwarder = Forwarder::new(server.clone(), Some(search()));
    let (message, _) = answer(&forwarder, "web.", Came::Udp).await;
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert_eq!(message.queries[0].name().to_ascii(), "web.");
    assert_eq!(message.answers.len(), 2);
    let asked = server.0.asked.lock().unwrap().clone();
    assert_eq!(asked, ["web.default.svc.cluster.local.", "web.dev.svc.cluster.local."]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_nowhere_is_told_to_be_nowhere() {
    let server = Scripted::default();
    let search = Search::new(&["default".into()], "cluster.local").unwrap();
    let forwarder = Forwarder::new(server.clone(), Some(search));
    let (message, _) = answer(&forwarder, "no-such.", Came::Udp).await;
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(*server.0.asked.lock().unwrap(), ["no-such.default.svc.cluster.local.", "no-such."]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_while_searching_is_no_proof_that_a_name_is_nowhere() {
    let forwarder = Forwarder::new(Scripted::default(), Some(search()));
    let (message, _) = answer(&forwarder, "broken.", Came::Udp).await;
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(message.queries[0].name().to_ascii(), "broken.");
}

#[tokio::test(start_paused = true)]
async fn a_public_name_comes_before_a_pods() {
    let server = Scripted::default();
    let forwarder = Forwarder::new(server.clone(), Some(search()));
    let (message, _) = answer(&forwarder, "printer.local.", Came::Udp).await;
    assert_eq!(message.answers.len(), 1);
    assert_eq!(*server.0.asked.lock().unwrap(), ["printer.local."]);
}
