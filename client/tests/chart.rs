//! The Helm chart makes what `kubectl relay agent install` makes. Its expressions are few, and filled in here with its
//! own default values.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use kubectl_relay::{
    agent::found::NAMESPACE,
    shared::{
        args::WantedArgs,
        objects::{RECORD, Settings, all},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("../../manifests/chart/templates/agent.yaml");
const VALUES: &str = include_str!("../../manifests/chart/values.yaml");
const CHART: &str = include_str!("../../manifests/chart/Chart.yaml");

/// What Helm makes of the chart with its own values, and with these subjects.
fn rendered(subjects: &Value) -> Vec<Value> {
    let values: Value = serde_yaml::from_str(VALUES).unwrap();
    assert_eq!(values["subjects"], json!([]));
    let (before, rest) = TEMPLATE.split_once("{{- if .Values.subjects }}\n").unwrap();
    let (binding, after) = rest.split_once("{{- end }}\n---\n").unwrap();
    let binding = if *subjects == json!([]) { String::new() } else { format!("{binding}---\n") };
    let mut args = vec![json!("--shared")];
    args.extend(values["args"].as_array().unwrap().iter().cloned());
    let mut text = format!("{before}{binding}{after}");
    for (expression, value) in [
        (".Values.subjects | toJson", subjects.to_string()),
        (".Release.Service", "kubectl-relay".to_owned()),
        (".Release.Namespace", NAMESPACE.to_owned()),
        (".Values.replicas", values["replicas"].to_string()),
        (".Values.image | quote", values["image"].to_string()),
        (".Values.resources | toJson", values["resources"].to_string()),
        ("concat (list \"--shared\") .Values.args | toJson", json!(args).to_string()),
    ] {
        text = text.replace(&format!("{{{{ {expression} }}}}"), &value);
    }
    assert!(!text.contains("{{"), "{text}");
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

#[test]
fn the_chart_makes_what_install_makes() {
    let objects = all(NAMESPACE, &Settings::new(&WantedArgs::default()).unwrap()).unwrap();
    let mut installed: Vec<_> = objects.into_iter().map(|object| object.value).collect();
    assert_eq!(installed.remove(0)["kind"], "Namespace");
    let deployment = installed.last_mut().unwrap();
    // What an upgrade by the plugin would need; Helm has a record of its own.
    let metadata = deployment["metadata"].as_object_mut().unwrap();
    assert!(metadata.remove("annotations").unwrap().get(RECORD).is_some());
    assert_eq!(rendered(&json!([])), installed);
}

#[test]
fn the_charts_subjects_may_use_it_as_those_of_install_may() {
    let wanted = WantedArgs { user_groups: vec!["developers".into()], ..WantedArgs::default() };
    let objects = all(NAMESPACE, &Settings::new(&wanted).unwrap()).unwrap();
    let binding = |list: Vec<Value>| list.into_iter().find(|object| object["kind"] == "RoleBinding").unwrap();
    let installed = binding(objects.into_iter().map(|object| object.value).collect());
    let subjects = installed["subjects"].clone();
    let of_chart = binding(rendered(&subjects));
    for field in ["apiVersion", "roleRef", "subjects"] {
        assert_eq!(of_chart[field], installed[field], "{field}");
    }
    for field in ["name", "namespace"] {
        assert_eq!(of_chart["metadata"][field], installed["metadata"][field], "{field}");
    }
}

#[test]
fn the_chart_is_of_this_version() {
    let chart: Value = serde_yaml::from_str(CHART).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
