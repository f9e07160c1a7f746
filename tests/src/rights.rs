//! The Role that the documentation offers, and variations of it.

use serde_json::{Value, json};

use crate::kubectl::kubectl;

/// The rules of the documented Role.
pub fn documented_rules() -> Vec<Value> {
    documented_rules_of("manifests/role.yaml")
}

/// The rules of the Role in a file of the repository.
pub fn documented_rules_of(manifest: &str) -> Vec<Value> {
    let path = crate::repository(manifest);
    let file = kubectl(&["create", "--dry-run=client", "-o", "json", "-f", path.to_str().unwrap()]);
    let mut documents = serde_json::Deserializer::from_str(&file).into_iter::<Value>().map(Result::unwrap);
    let role = documents.find(|document| document["kind"] == "Role").expect("a Role in the file");
    role["rules"].as_array().expect("a Role has rules").clone()
}

/// The documented Role's rules, as JSON, without one verb on a resource.
pub fn without(verb: &str, resource: &str) -> String {
    let mut rules = documented_rules();
    let mut taken = 0;
    for rule in &mut rules {
        if rule["resources"].as_array().is_some_and(|list| list.iter().any(|item| item == resource)) {
            let verbs = rule["verbs"].as_array_mut().expect("a rule has verbs");
            let before = verbs.len();
            verbs.retain(|item| item != verb);
            taken += before - verbs.len();
        }
    }
    assert!(taken > 0, "the documented Role has no {verb} on {resource}");
    rules.retain(|rule| rule["verbs"].as_array().is_some_and(|verbs| !verbs.is_empty()));
    json!(rules).to_string()
}

/// The documented Role's rules, as JSON, with other verbs on a resource.
pub fn with_verbs(resource: &str, verbs: &[&str]) -> String {
    let mut rules = documented_rules();
    let concerned = |rule: &&mut Value| {
        rule["resources"].as_array().is_some_and(|list| list.iter().any(|item| item == resource))
    };
    for rule in rules.iter_mut().filter(concerned) {
        rule["verbs"] = json!(verbs);
    }
    json!(rules).to_string()
}
