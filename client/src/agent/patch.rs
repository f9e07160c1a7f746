//! Strategic merge patches of a pod template, as `kubectl patch` applies them: objects merge, some lists merge by a
//! key, the others are replaced; `$patch`, `$retainKeys` and `$deleteFromPrimitiveList` direct it.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

/// A patch that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// Neither JSON nor YAML.
    #[error("the patch is neither JSON nor YAML: {0}")]
    Syntax(#[from] serde_yaml::Error),
    /// Something else than an object.
    #[error("the patch is no object with \"metadata\" or \"spec\"")]
    NotAnObject,
    /// A field that a pod template does not have.
    #[error("the patch has \"{0}\" at its top, which is no part of a pod template")]
    UnknownField(String),
    /// A list element without the key that the list merges by.
    #[error("an element of \"{list}\" in the patch has no \"{key}\"")]
    NoMergeKey {
        /// The list's field.
        list: String,
        /// The key.
        key: &'static str,
    },
    /// An unknown directive.
    #[error("the patch has the unknown directive $patch: {0}")]
    Directive(String),
    /// The patched template is no pod template.
    #[error("the patch makes the agent's pod template invalid: {0}")]
    Invalid(#[from] serde_json::Error),
}

impl PatchError {
    /// What to type instead.
    pub fn hint(&self) -> String {
        match self {
            Self::NoMergeKey { key, .. } => format!("say which element is meant with its \"{key}\""),
            Self::Directive(_) => "$patch is one of replace, merge and delete".into(),
            _ => "a patch looks like {\"metadata\":{\"labels\":{\"team\":\"a\"}},\"spec\":{\"nodeSelector\":{\"zone\":\"b\"}}}; \
                  the agent's container is named \"agent\""
                .into(),
        }
    }
}

/// Lists that merge by a key, with that key (from the field tags of the core API).
const MERGE_KEYS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("ephemeralContainers", "name"),
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumes", "name"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("imagePullSecrets", "name"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
    ("resourceClaims", "name"),
    ("schedulingGates", "name"),
    ("ownerReferences", "uid"),
];

/// Reads a patch from JSON or YAML text.
///
/// # Errors
/// See [`PatchError`].
pub fn parse(text: &str) -> Result<Value, PatchError> {
    let patch: Value = serde_yaml::from_str(text)?;
    let Value::Object(fields) = &patch else { return Err(PatchError::NotAnObject) };
    if let Some(field) = fields.keys().find(|key| !matches!(key.as_str(), "metadata" | "spec")) {
        return Err(PatchError::UnknownField(field.clone()));
    }
    Ok(patch)
}

/// Applies `patch` to `template` and checks that a pod template comes out.
///
/// # Errors
/// See [`PatchError`].
pub fn apply(template: Value, patch: &Value) -> Result<Value, PatchError> {
    let mut patched = template;
    merge(&mut patched, patch)?;
    serde_json::from_value::<PodTemplateSpec>(patched.clone())?;
    Ok(patched)
}

fn merge(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match directive(changes)? {
        Directive::Merge => {}
        Directive::Replace => {
            *target = without_directives(patch);
            return Ok(());
        }
        Directive::Delete => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return Ok(()) };
    if let Some(Value::Array(keep)) = changes.get("$retainKeys") {
        fields.retain(|key, _| keep.iter().any(|kept| kept.as_str() == Some(key)));
    }
    for (key, change) in changes {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            delete_primitives(fields.get_mut(list), change);
            continue;
        }
        // `$setElementOrder/…` only sorts; the order of the lists it can name has no meaning for a pod.
        if key.starts_with('$') {
            continue;
        }
        merge_field(fields, key, change)?;
    }
    Ok(())
}

fn merge_field(fields: &mut Map<String, Value>, key: &str, change: &Value) -> Result<(), PatchError> {
    match change {
        Value::Null => {
            fields.remove(key);
            Ok(())
        }
        Value::Object(_) => merge(fields.entry(key).or_insert(Value::Null), change),
        Value::Array(elements) => {
            let merge_key = MERGE_KEYS.iter().find(|(list, _)| *list == key).map(|(_, by)| *by);
            let current = fields.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            match (merge_key, current) {
                (Some(by), Value::Array(current)) => merge_list(key, by, current, elements),
                (_, current) => {
                    *current = Value::Array(elements.iter().map(without_directives).collect());
                    Ok(())
                }
            }
        }
        scalar => {
            fields.insert(key.to_owned(), scalar.clone());
            Ok(())
        }
    }
}

fn merge_list(
    list: &str,
    by: &'static str,
    current: &mut Vec<Value>,
    elements: &[Value],
) -> Result<(), PatchError> {
    // An element that holds nothing but `$patch: replace` replaces the list by the other elements.
    let is_bare_replace = |element: &Value| {
        element.as_object().is_some_and(|fields| fields.len() == 1)
            && element.get("$patch").and_then(Value::as_str) == Some("replace")
    };
    if elements.iter().any(is_bare_replace) {
        current.clear();
    }
    for element in elements.iter().filter(|element| !is_bare_replace(element)) {
        let Some(id) = element.get(by) else {
            return Err(PatchError::NoMergeKey { list: list.into(), key: by });
        };
        let place = current.iter().position(|existing| existing.get(by) == Some(id));
        let delete = element.get("$patch").and_then(Value::as_str) == Some("delete");
        match (place, delete) {
            (Some(place), true) => {
                current.remove(place);
            }
            (None, true) => {}
            (Some(place), false) => merge(&mut current[place], element)?,
            (None, false) => {
                let mut fresh = Value::Object(Map::new());
                merge(&mut fresh, element)?;
                current.push(fresh);
            }
        }
    }
    Ok(())
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(fields: &Map<String, Value>) -> Result<Directive, PatchError> {
    match fields.get("$patch") {
        None => Ok(Directive::Merge),
        Some(Value::String(word)) if word == "merge" => Ok(Directive::Merge),
        Some(Value::String(word)) if word == "replace" => Ok(Directive::Replace),
        Some(Value::String(word)) if word == "delete" => Ok(Directive::Delete),
        Some(other) => Err(PatchError::Directive(other.to_string())),
    }
}

fn delete_primitives(list: Option<&mut Value>, gone: &Value) {
    if let (Some(Value::Array(list)), Value::Array(gone)) = (list, gone) {
        list.retain(|element| !gone.contains(element));
    }
}

fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(key, _)| !key.starts_with('$'))
                .map(|(key, value)| (key.clone(), without_directives(value)))
                .collect(),
        ),
        Value::Array(elements) => Value::Array(elements.iter().map(without_directives).collect()),
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn template() -> Value {
        json!({
            "metadata": {"labels": {"app": "agent"}},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "agent", "image": "a:1", "env": [{"name": "A", "value": "1"}], "args": ["x"]}],
                "tolerations": [{"key": "old", "operator": "Exists"}],
            }
        })
    }

    fn patched(patch: &str) -> Value {
        apply(template(), &parse(patch).unwrap()).unwrap()
    }

    #[test]
    fn containers_merge_by_name_and_keep_what_is_not_named() {
        let result = patched(
            r#"{"spec":{"containers":[{"name":"agent","env":[{"name":"B","value":"2"}]},{"name":"side","image":"s"}]}}"#,
        );
        assert_eq!(
            result["spec"]["containers"],
            json!([
                {"name": "agent", "image": "a:1", "args": ["x"],
                 "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
                {"name": "side", "image": "s"}
            ])
        );
    }

    #[test]
    fn lists_without_a_merge_key_are_replaced() {
        let result = patched("spec:\n  tolerations:\n  - {key: new, operator: Exists}\n");
        assert_eq!(result["spec"]["tolerations"], json!([{"key": "new", "operator": "Exists"}]));
    }

    #[test]
    fn null_takes_a_field_away() {
        let result = patched(r#"{"metadata":{"labels":{"app":null,"team":"a"}}}"#);
        assert_eq!(result["metadata"]["labels"], json!({"team": "a"}));
    }

    #[test]
    fn directives_delete_and_replace() {
        let result = patched(
            r#"{"metadata":{"labels":{"$patch":"replace","x":"y"}},
                "spec":{"containers":[{"name":"agent","env":[{"name":"A","$patch":"delete"}]}]}}"#,
        );
        assert_eq!(result["metadata"]["labels"], json!({"x": "y"}));
        assert_eq!(result["spec"]["containers"][0]["env"], json!([]));
        let result = patched(r#"{"spec":{"containers":[{"$patch":"replace"},{"name":"only","image":"o"}]}}"#);
        assert_eq!(result["spec"]["containers"], json!([{"name": "only", "image": "o"}]));
    }

    #[test]
    fn retained_keys_are_all_that_stays() {
        let result = patched(r#"{"spec":{"$retainKeys":["containers","dnsPolicy"],"dnsPolicy":"Default"}}"#);
        let keys: Vec<_> = result["spec"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["containers", "dnsPolicy"]);
    }

    #[test]
    fn a_patch_that_is_none_is_refused_with_its_reason() {
        let cases = [
            ("[1]", "the patch is no object with \"metadata\" or \"spec\""),
            ("", "the patch is no object with \"metadata\" or \"spec\""),
            (
                "{\"template\":{}}",
                "the patch has \"template\" at its top, which is no part of a pod template",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
        assert!(matches!(parse("{\"spec\":"), Err(PatchError::Syntax(_))));
    }

    #[test]
    fn a_patch_that_breaks_the_template_is_refused_with_its_reason() {
        let broken = |text: &str| apply(template(), &parse(text).unwrap()).unwrap_err().to_string();
        assert_eq!(
            broken(r#"{"spec":{"containers":[{"image":"x"}]}}"#),
            "an element of \"containers\" in the patch has no \"name\""
        );
        assert_eq!(
            broken(r#"{"spec":{"$patch":"move"}}"#),
            "the patch has the unknown directive $patch: \"move\""
        );
        assert!(
            broken(r#"{"spec":{"hostNetwork":"maybe"}}"#)
                .starts_with("the patch makes the agent's pod template invalid: ")
        );
    }

    proptest! {
        #[test]
        fn no_patch_text_panics(text in ".{0,60}") {
            if let Ok(patch) = parse(&text) {
                let _ = apply(template(), &patch);
            }
        }

        #[test]
        fn applying_a_patch_twice_changes_nothing_more(key in "[a-z]{1,5}", value in "[a-z]{0,5}") {
            let patch = json!({"metadata": {"labels": {key.clone(): value}},
                "spec": {"containers": [{"name": "agent", "env": [{"name": key, "value": "v"}]}]}});
            let once = apply(template(), &patch).unwrap();
            prop_assert_eq!(apply(once.clone(), &patch).unwrap(), once);
        }
    }
}
