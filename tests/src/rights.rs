//! The Role that the documentation offers, and variations of it.

use serde_json::{Value, json};

use crate::kubectl::kubectl;

/// The rules of the documented Role.
pub fn documented_rules() -> Vec<Value> {
    let path = crate::repository("manifests/role.yaml");
    let file = kubectl(&["create", "--dry-run=client", "-o", "json", "-f", path.to_str().unwrap()]);
    let mut documents = serde_json::Deserializer::from_str(&file).into_iter::<Value>().map(Result::unwrap);
    let role = documents.find(|document| document["kind"] == "Role").expect("a Role in the file");
    role["rules"].as_array().expect("a Role has rules").clone()
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
