use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use jsonschema::Validator;
use relay_protocol::{Status, header::Protocol};
use serde_json::{Value, json};

use super::super::{EndedBy, ForwardLine, Output, RelayState, connection::tests::ended, tests::captured};

const SCHEMA: &str = include_str!("../../../../docs/events.schema.json");

fn schema() -> (Value, Validator) {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    (schema, validator)
}

/// Everything that an output tells, one event of each kind and state at least.
fn tell_everything(output: &Output) {
    let local = "127.0.0.1:8080".parse().unwrap();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        output.forwarding(&ForwardLine { local, remote: 80, protocol, target: "svc/web".into() });
    }
    output.proxying(local);
    output.answering(local);
    output.metrics("[::1]:9100".parse().unwrap());
    let (since, reason) = (Timestamp::now(), "no route".to_owned());
    for state in [
        RelayState::Connecting,
        RelayState::Ready { down: None },
        RelayState::Reconnecting { since, reason: reason.clone() },
        RelayState::Ready { down: Some(Duration::from_micros(1_234_567)) },
        RelayState::Draining,
        RelayState::Unreachable { since, reason: reason.clone() },
        RelayState::AgentLost { since, reason },
    ] {
        output.state(&state);
    }
    output.stream_ended("svc/web", Status::Refused, EndedBy::Remote, 0, 0);
    for status in Status::ALL {
        output.connection(&ended(status));
    }
    output.note("n");
    output.warning("w", None);
    output.error("e", Some("h"));
}

#[test]
fn every_event_is_as_the_schema_says_and_the_schema_says_no_more() {
    let (schema, validator) = schema();
    let (output, out, _) = captured(true);
    let output = output.log_connections();
    tell_everything(&output);
    tell_everything(&output.about_context("one"));
    let (mut events, mut states) = (BTreeSet::new(), BTreeSet::new());
    for line in out.text().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if let Err(error) = validator.validate(&event) {
            panic!("{line}: {error}");
        }
        events.insert(event["event"].as_str().unwrap().to_owned());
        states.extend(event.get("state").map(|state| state.as_str().unwrap().to_owned()));
    }
    let known = schema["allOf"].as_array().unwrap().iter();
    let known = known.map(|rule| rule["if"]["properties"]["event"]["const"].as_str().unwrap().to_owned());
    assert_eq!(events, known.collect());
    let known = schema["$defs"]["state"]["properties"]["state"]["enum"].as_array().unwrap();
    assert_eq!(states, known.iter().map(|state| state.as_str().unwrap().to_owned()).collect());
}

#[test]
fn the_schema_refuses_what_is_no_event() {
    let (_, validator) = schema();
    let now = "2030-01-01T12:00:00Z";
    let taken = json!({"time": now, "event": "state", "state": "reconnecting", "since": now, "reason": "r"});
    assert!(validator.is_valid(&taken));
    assert!(validator.is_valid(&json!({"time": now, "event": "of a later version", "x": 1})));
    for refused in [
        json!({"event": "note", "message": "no time"}),
        json!({"time": "yesterday", "event": "note", "message": "m"}),
        json!({"time": now, "event": "note"}),
        json!({"time": now, "event": "state", "state": "asleep"}),
        json!({"time": now, "event": "state", "state": "reconnecting"}),
        json!({"time": now, "event": "state", "state": "ready", "reason": "r"}),
        json!({"time": now, "event": "dns", "address": "::1", "port": 0}),
        json!({"time": now, "event": "forwarding", "address": "::1", "port": 1}),
        json!({"time": now, "event": "stream", "target": "x", "status": 7, "reason": "r", "sent": 0, "received": 0}),
    ] {
        assert!(!validator.is_valid(&refused), "{refused}");
    }
}
