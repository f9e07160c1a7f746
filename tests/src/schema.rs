//! The schema of `-o json`, which every event of every test must fit.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

use crate::repository;

static EVENTS: LazyLock<Validator> = LazyLock::new(|| {
    let text = std::fs::read_to_string(repository("docs/events.schema.json")).unwrap();
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).expect("a schema")
});

/// Panics where an event is not as docs/events.schema.json says.
pub(crate) fn check(event: &Value) {
    if let Err(error) = EVENTS.validate(event) {
        panic!("{event} is no event: {error}");
    }
}
