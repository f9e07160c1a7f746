//! Hello and welcome: who may create, who may join, and what an overtaken dial leaves behind.

use std::time::Duration;

use relay_protocol::Status;
use relay_protocol::hello::{Hello, Request, Secret, SessionId, Welcome};
use relay_protocol::session::{Config, Event, Session};

use crate::pair::{INSTANCE, Pair};
use crate::simulator::network::Side::Agent;

fn refused(pair: &mut Pair, hello: &Hello) -> bool {
    let lanes: Vec<u64> = pair.agent.lanes().collect();
    let answer = pair.agent.join(hello, pair.now);
    assert!(pair.agent.lanes().eq(lanes), "a refusal leaves the lanes as they are");
    answer == Err(Welcome::refusal(Status::AgentLost, INSTANCE))
}

#[test]
fn wrong_proof_old_number_and_another_session_are_refused_alike() {
    let mut pair = Pair::new();
    let (lane, hello) = pair.client.next_hello();
    let Request::Join { proof, held } = hello.request.clone() else { panic!("a join") };

    let mut wrong = proof;
    wrong[31] ^= 1;
    let request = Request::Join { proof: wrong, held: held.clone() };
    assert!(refused(&mut pair, &Hello { request, ..hello.clone() }), "a wrong proof");
    assert!(refused(&mut pair, &Hello { lane: lane + 1, ..hello.clone() }), "a proof for another lane");
    let request = Request::Join { proof, held: vec![] };
    assert!(refused(&mut pair, &Hello { request, ..hello.clone() }), "a proof for other lanes held");
    let other = Secret([2; 32]).proof(SessionId([9; 16]), INSTANCE, lane, &held);
    let request = Request::Join { proof: other, held };
    assert!(refused(&mut pair, &Hello { request, ..hello.clone() }), "a proof for another session");

    assert!(pair.agent.join(&hello, pair.now).is_ok(), "none of this spoils the real one");
    assert!(refused(&mut pair, &hello), "a hello that is played again");
}

#[test]
fn create_may_be_repeated_while_there_is_no_stream() {
    let now = std::time::Instant::now();
    let mut client = Session::client(Config::client(), SessionId([1; 16]), Secret([2; 32]), now);
    let (_, first) = client.next_hello();
    let (mut agent, lost) = Session::agent(Config::agent(), &first, INSTANCE, now).expect("a welcome");
    let (second, again) = client.next_hello();
    let welcome = agent.join(&again, now).expect("a welcome");
    assert!(!client.welcomed(first.lane, &lost, now), "the first has been given up");
    assert!(client.welcomed(second, &welcome, now));
    assert!(agent.lanes().eq([second]) && client.lanes().eq([second]));
    assert_eq!(agent.poll_event(), Some(Event::LaneOver(first.lane, false)));
}

#[test]
fn create_is_refused_with_another_secret_or_once_there_are_streams() {
    let mut pair = Pair::new();
    let create = |secret: u8| Hello {
        request: Request::Create { secret: Secret([secret; 32]) },
        session: SessionId([1; 16]),
        lane: 9,
        versions: (1, 1),
        features: 0,
        initial_credit: 2_048,
    };
    assert!(refused(&mut pair, &create(3)));
    pair.open("x");
    pair.exchange();
    assert!(refused(&mut pair, &create(2)));
}

#[test]
fn a_join_without_its_session_is_refused_as_lost() {
    let mut pair = Pair::new();
    let (_, hello) = pair.client.next_hello();
    let answer = Session::agent(Config::agent(), &hello, INSTANCE, pair.now);
    assert_eq!(answer.err().map(|welcome| welcome.status), Some(Status::AgentLost));
}

#[test]
fn a_client_waits_for_its_first_welcome_as_long_as_its_owner_does() {
    let mut now = std::time::Instant::now();
    let mut client = Session::client(Config::client(), SessionId([1; 16]), Secret([2; 32]), now);
    assert_eq!(client.poll_timeout(), None, "it ends by itself at no time");
    now += Duration::from_secs(3_600);
    client.handle_timeout(now);
    assert_eq!(client.ended(), None);
    let (lane, hello) = client.next_hello();
    let (_, welcome) = Session::agent(Config::agent(), &hello, INSTANCE, now).expect("a welcome");
    assert!(client.welcomed(lane, &welcome, now));
    client.lane_lost(lane, now);
    now += Config::client().idle_life;
    client.handle_timeout(now);
    assert_eq!(client.ended(), Some(Status::AgentLost), "what was welcomed once is lost in the end");
}

#[test]
fn a_refusal_ends_the_session_only_when_no_lane_is_left() {
    let mut pair = Pair::new();
    let (lane, _) = pair.client.next_hello();
    let refusal = Welcome::refusal(Status::AgentLost, INSTANCE);
    assert!(!pair.client.welcomed(lane, &refusal, pair.now));
    assert_eq!(pair.client.ended(), None);
    pair.client.lane_lost(1, pair.now);
    let (lane, _) = pair.client.next_hello();
    assert!(!pair.client.welcomed(lane, &refusal, pair.now));
    assert_eq!(pair.client.ended(), Some(Status::AgentLost));
}

#[test]
fn a_lane_that_the_hello_does_not_list_is_over_at_once() {
    let mut pair = Pair::new();
    let key = pair.open("x");
    pair.exchange();
    let agent = pair.accepted();
    pair.write(Agent, agent, "on its way when the lane died");
    pair.take(Agent, 1);
    pair.client.lane_lost(1, pair.now);
    let lane = pair.add_lane();
    assert!(pair.agent.lanes().eq([lane]));
    assert!(pair.events(Agent).contains(&Event::LaneOver(1, false)));
    pair.exchange();
    assert_eq!(pair.read(crate::simulator::network::Side::Client, key).0, "on its way when the lane died");
}

#[test]
fn of_hellos_said_at_the_same_time_any_may_come_first() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut pair = Pair::new();
        let key = pair.open("x");
        pair.exchange();
        let agent = pair.accepted();
        let hellos: Vec<(u64, Hello)> = (0..3).map(|_| pair.client.next_hello()).collect();
        for (place, index) in order.into_iter().enumerate() {
            let (lane, hello) = &hellos[index];
            let welcome = pair.agent.join(hello, pair.now).expect("a welcome");
            assert!(pair.client.welcomed(*lane, &welcome, pair.now));
            assert!(refused(&mut pair, hello), "a hello that is played again, in order {order:?}");
            assert_eq!(pair.client.lanes_awaited(), 2 - place);
        }
        assert_eq!(pair.agent.lanes().count(), 4, "none is closed by another, in order {order:?}");
        assert_eq!(pair.client.lanes().count(), 4);
        pair.write(Agent, agent, "goes on");
        pair.exchange();
        assert_eq!(pair.read(crate::simulator::network::Side::Client, key).0, "goes on");
    }
}

#[test]
fn a_hello_that_was_given_up_is_refused_once_a_newer_has_come() {
    let mut pair = Pair::new();
    let (given_up, late) = pair.client.next_hello();
    let (awaited, waits) = pair.client.next_hello();
    pair.client.give_up(given_up);
    let newest = pair.add_lane();
    assert!(refused(&mut pair, &late), "the newest does not list it");
    let lost = Welcome { status: Status::Ok, ..Welcome::refusal(Status::Ok, INSTANCE) };
    assert!(!pair.client.welcomed(given_up, &lost, pair.now), "nobody waits for it");
    assert!(pair.agent.join(&waits, pair.now).is_ok(), "it lists this one");
    assert!(pair.agent.lanes().eq([1, newest, awaited]));
}

#[test]
fn a_hello_that_is_late_closes_nothing() {
    let mut pair = Pair::new();
    let (lane, late) = pair.client.next_hello();
    pair.client.lane_lost(1, pair.now);
    let newest = pair.add_lane();
    assert!(pair.agent.lanes().eq([newest]));
    assert!(pair.agent.join(&late, pair.now).is_ok(), "it lists the first lane, and not the newest");
    assert!(pair.agent.lanes().eq([newest, lane]));
    // Its own place was that of one lane, for one time.
    pair.agent.lane_lost(lane, pair.now);
    assert!(refused(&mut pair, &late));
}

#[test]
fn lanes_never_exceed_what_a_hello_can_list() {
    let mut pair = Pair::with(Config { lanes: 16, ..Config::client() }, Config::agent());
    let mut lanes = 1;
    for _ in 0..40 {
        pair.client.woke(pair.now);
        if pair.client.wants_lane(pair.now) {
            pair.add_lane();
            lanes += 1;
        }
    }
    assert!(lanes <= 16, "{lanes} lanes");
    let (_, hello) = pair.client.next_hello();
    assert!(Hello::decode(&hello.encode()).is_ok());
}

#[test]
fn waking_from_sleep_wants_a_new_lane_at_once() {
    let mut pair = Pair::new();
    pair.open("x");
    pair.exchange();
    assert!(!pair.client.wants_lane(pair.now));
    pair.now += Duration::from_secs(3_600);
    pair.client.woke(pair.now);
    assert!(pair.client.wants_lane(pair.now));
    pair.pass(Duration::from_millis(1));
    assert!(pair.client.lanes().eq([1]), "silence during sleep means nothing");
    pair.add_lane();
    assert!(!pair.client.wants_lane(pair.now));
}
