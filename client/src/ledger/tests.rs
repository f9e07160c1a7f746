use std::net::SocketAddr;

use relay_protocol::{Status, header::Protocol};

use super::*;
use crate::output::{EndedBy, Output, RelayState};

fn about(target: &str) -> About {
    About {
        name: None,
        group: None,
        context: Some("one".into()),
        namespace: "dev".into(),
        target: target.into(),
        remote_port: 80,
        protocol: Protocol::Tcp,
    }
}

fn one() -> (Ledger, Arc<AgentAccount>, Arc<ForwardAccount>) {
    let ledger = Ledger::new();
    let agent = ledger.add_agent(Some("one"), "dev");
    let forward = ledger.add_forward(about("svc/web"), &agent);
    (ledger, agent, forward)
}

fn only(ledger: &Ledger) -> ForwardSnapshot {
    let mut forwards = ledger.snapshot().forwards;
    assert_eq!(forwards.len(), 1);
    forwards.remove(0)
}

fn lost() -> RelayState {
    RelayState::Reconnecting { since: Timestamp::UNIX_EPOCH, reason: "no route".into() }
}

#[test]
fn a_forward_is_ready_when_it_and_its_agent_are() {
    let (ledger, agent, forward) = one();
    assert_eq!(only(&ledger).state, ForwardState::Starting);
    let local: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    forward.starting(vec![local]);
    forward.ready();
    assert_eq!((only(&ledger).state, only(&ledger).local), (ForwardState::Starting, vec![local]));
    agent.told(&RelayState::Ready { down: None });
    assert_eq!(only(&ledger).state, ForwardState::Ready);
    agent.told(&lost());
    let now = only(&ledger);
    assert_eq!((now.state, now.reason.as_deref()), (ForwardState::Reconnecting, Some("no route")));
    agent.told(&RelayState::Ready { down: None });
    assert_eq!((only(&ledger).state, only(&ledger).reason), (ForwardState::Ready, None));
}

#[test]
fn what_its_owner_stopped_or_what_failed_is_not_ready_again_with_the_agent() {
    let (ledger, agent, forward) = one();
    forward.ready();
    forward.stopped();
    agent.told(&RelayState::Ready { down: None });
    assert_eq!((only(&ledger).state, only(&ledger).local), (ForwardState::Stopped, vec![]));
    forward.failed("pod web-0 is gone");
    agent.told(&lost());
    let now = only(&ledger);
    assert_eq!((now.state, now.reason.as_deref()), (ForwardState::Failed, Some("pod web-0 is gone")));
    assert_eq!(now.last_error.unwrap().message, "pod web-0 is gone");
}

#[test]
fn bytes_count_while_a_connection_is_open() {
    let (ledger, _, forward) = one();
    let (first, second) = (forward.begin(), forward.begin());
    first.moved(3, 5);
    first.moved(3, 9);
    second.sent(10);
    second.received(1);
    second.sent(10);
    let now = only(&ledger);
    assert_eq!(now.connections, Connections { open: 2, total: 2, failed: 0 });
    assert_eq!(now.bytes, Bytes { sent: 23, received: 10 });
    first.ended(Status::Ok, EndedBy::Remote);
    // A task that is given up.
    drop(second);
    assert_eq!(only(&ledger).connections, Connections { open: 0, total: 2, failed: 0 });
    assert_eq!(only(&ledger).bytes, Bytes { sent: 23, received: 10 });
}

#[test]
fn a_failure_is_none_of_the_local_programs() {
    let (ledger, _, forward) = one();
    forward.begin().ended(Status::ResetByPeer, EndedBy::Local);
    assert_eq!((only(&ledger).connections.failed, only(&ledger).last_error), (0, None));
    forward.begin().ended(Status::Refused, EndedBy::Remote);
    assert_eq!(only(&ledger).connections, Connections { open: 0, total: 2, failed: 1 });
    assert_eq!(only(&ledger).last_error.unwrap().message, Status::Refused.to_string());
}

#[test]
fn forwards_come_and_go_and_no_number_comes_back() {
    let (ledger, agent, forward) = one();
    let second = ledger.add_forward(about("svc/db"), &agent);
    assert!(ledger.remove_forward(forward.id()) && !ledger.remove_forward(forward.id()));
    let third = ledger.add_forward(about("svc/web"), &agent);
    let ids: Vec<u64> = ledger.snapshot().forwards.iter().map(|forward| forward.id).collect();
    assert_eq!(ids, [second.id(), third.id()]);
    assert!(third.id() > second.id() && ledger.forward(forward.id()).is_none());
    // What was removed may still end its connections.
    forward.begin().ended(Status::Ok, EndedBy::Remote);
    assert!(ledger.remove_agent(agent.id()) && ledger.snapshot().agents.is_empty());
}

#[test]
fn whoever_waits_is_told_of_every_change_but_of_numbers() {
    let (ledger, agent, forward) = one();
    let mut changes = ledger.changes();
    let mut changed = |what: &str, is_change: bool| {
        assert_eq!(changes.has_changed().unwrap(), is_change, "{what}");
        changes.mark_unchanged();
    };
    changed("nothing", false);
    forward.begin().moved(1, 1);
    changed("bytes", false);
    forward.ready();
    changed("ready", true);
    agent.told(&lost());
    changed("the agent", true);
    forward.trouble("x");
    changed("trouble", true);
    ledger.remove_forward(forward.id());
    changed("removed", true);
}

#[test]
fn what_is_told_on_the_terminal_is_in_the_ledger() {
    let (ledger, agent, _) = one();
    let nowhere = || Box::new(std::io::sink());
    let output = Output::to(false, 0, nowhere(), nowhere()).about_agent(Arc::clone(&agent));
    let output = output.about_context("one");
    output.state(&lost());
    let before = ledger.snapshot().agents.remove(0);
    assert_eq!((before.state, before.reason.as_deref()), (AgentState::Reconnecting, Some("no route")));
    output.agent(AgentName { namespace: "tools".into(), pod: "agent-0".into(), origin: AgentOrigin::Shared });
    let named = ledger.snapshot().agents.remove(0);
    assert_eq!((named.namespace.as_str(), named.pod.as_deref()), ("tools", Some("agent-0")));
    output.without_agent();
    let without = ledger.snapshot().agents.remove(0);
    assert_eq!((without.pod, without.source), (None, Some(AgentOrigin::None)));
}

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    let (ledger, agent, forward) = one();
    forward.starting(vec!["[::1]:8080".parse().unwrap()]);
    forward.begin().ended(Status::Refused, EndedBy::Remote);
    agent.is(AgentName { namespace: "dev".into(), pod: "a".into(), origin: AgentOrigin::Embedded });
    let snapshot = ledger.snapshot();
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["version"], 1);
    assert_eq!(value["forwards"][0]["remotePort"], 80);
    assert_eq!(value["forwards"][0]["connections"]["failed"], 1);
    for state in ForwardState::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
    for state in AgentState::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
}
