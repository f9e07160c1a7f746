//! The agent's Job: what Pod Security "restricted" asks for, the user's settings, their patch, and last what the
//! agent cannot do without.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::{
    borrow::Borrowed,
    embedded::{Embedded, FILE},
    identity::{MANAGED_BY, NAME, OWNER_LABEL, Owner, STARTED_BY},
    patch::{self, PatchError},
};
use crate::cli::{
    duration::show_duration,
    settings::{AgentSettings, PodSettings, default_image},
};

/// The agent's port on its pod's loopback.
pub const AGENT_PORT: u16 = 9527;
/// The agent's container in its pod.
pub const CONTAINER: &str = "agent";
/// The volume with a carried agent's program.
pub const VOLUME: &str = "relay-agent";
/// The agent's program in its container.
pub(crate) const PROGRAM: &str = "/relay-server";
/// The agent's buffers are made for this much memory.
const MEMORY_LIMIT: &str = "128Mi";

/// Where the agent's program comes from.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// The agent's own image.
    Image,
    /// A ConfigMap with the Job's name, under somebody else's image.
    Carried(Embedded, &'a Borrowed),
}

/// The Job for one agent.
///
/// # Errors
/// When the user's patch does not fit.
pub fn job(
    name: &str,
    namespace: &str,
    settings: &AgentSettings,
    owner: &Owner,
    avoid: Option<&str>,
    program: Program<'_>,
) -> Result<Job, PatchError> {
    let mut template = default_template(&settings.pod, settings.drain_grace, program);
    let near = match program {
        Program::Image => None,
        Program::Carried(_, borrowed) => borrowed.node.as_deref(),
    };
    if let Some(affinity) = affinity(avoid, near) {
        template["spec"]["affinity"] = affinity;
    }
    if let Some(user_patch) = &settings.pod.patch {
        template = patch::apply(template, user_patch)?;
    }
    template = patch::apply(template, &required(settings, owner))?;
    template = patch::apply(template, &required_program(name, &settings.pod, program))?;
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels(owner),
            "annotations": {STARTED_BY: owner.shown},
        },
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 10,
            "template": template,
        }
    });
    Ok(serde_json::from_value(job)?)
}

/// Labels of everything that belongs to an agent.
pub(super) fn labels(owner: &Owner) -> BTreeMap<String, String> {
    [(MANAGED_BY.0, MANAGED_BY.1), (NAME.0, NAME.1), (OWNER_LABEL, owner.label.as_str())]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// What the user's patch may change.
pub(crate) fn default_template(settings: &PodSettings, drain_grace: Duration, program: Program<'_>) -> Value {
    let mut requests =
        BTreeMap::from([("cpu".to_owned(), "20m".to_owned()), ("memory".into(), "32Mi".into())]);
    requests.extend(settings.requests.clone());
    let mut limits =
        BTreeMap::from([("cpu".to_owned(), "1".to_owned()), ("memory".into(), MEMORY_LIMIT.into())]);
    limits.extend(settings.limits.clone());
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // The grace for streams, and a little for the agent's own end.
        "terminationGracePeriodSeconds": drain_grace.as_secs() + 5,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": CONTAINER,
            "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": requests, "limits": limits},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }],
    });
    let borrowed = match program {
        Program::Image => &[][..],
        Program::Carried(_, borrowed) => &borrowed.pull_secrets,
    };
    let pull_secrets: Vec<_> =
        settings.pull_secrets.iter().chain(borrowed).map(|name| json!({"name": name})).collect();
    if !pull_secrets.is_empty() {
        spec["imagePullSecrets"] = pull_secrets.into();
    }
    if !settings.node_selector.is_empty() {
        spec["nodeSelector"] = json!(settings.node_selector);
    }
    if !settings.tolerations.is_empty() {
        spec["tolerations"] = json!(settings.tolerations);
    }
    json!({
        "metadata": {
            "labels": {
                "sidecar.istio.io/inject": "false",
            },
            "annotations": {
                // A mesh's proxy in the agent's pod would stand between it and its targets, and never end.
                "sidecar.istio.io/inject": "false",
                "linkerd.io/inject": "disabled",
                "kuma.io/sidecar-injection": "disabled",
                "consul.hashicorp.com/connect-inject": "false",
                // Moving the agent to another node would cut every connection.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
        },
        "spec": spec,
    })
}

/// Any node but one, if there is another: the scheduler learns only after most of a minute that a node is gone. And
/// rather the node that has the image already.
fn affinity(avoid: Option<&str>, near: Option<&str>) -> Option<Value> {
    let term = |weight: u8, operator: &str, node: &str| {
        json!({
            "weight": weight,
            "preference": {"matchFields": [{"key": "metadata.name", "operator": operator, "values": [node]}]},
        })
    };
    let near = near.filter(|near| avoid != Some(*near)).map(|node| term(50, "In", node));
    let terms: Vec<_> = avoid.map(|node| term(100, "NotIn", node)).into_iter().chain(near).collect();
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}});
    (!terms.is_empty()).then_some(affinity)
}

/// What nothing may change: merged in after the user's patch.
fn required(settings: &AgentSettings, owner: &Owner) -> Value {
    let seconds = |duration| show_duration(duration);
    json!({
        "metadata": {
            "labels": labels(owner),
            "annotations": {
                STARTED_BY: owner.shown,
                "kubectl.kubernetes.io/default-container": CONTAINER,
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": CONTAINER,
                "command": [PROGRAM],
                "args": [
                    "--idle", seconds(settings.idle),
                    "--session-life", seconds(settings.session_life),
                    "--ping", seconds(settings.ping),
                    "--dead-after", seconds(settings.dead_after),
                    "--drain-grace", seconds(settings.drain_grace),
                    "--exit-on-goodbye",
                    format!("-v={}", settings.verbosity),
                ],
            }],
        },
    })
}

/// The image, and what a carried program needs: a node that can run it, and its file where an image would have it.
pub(crate) fn required_program(name: &str, settings: &PodSettings, program: Program<'_>) -> Value {
    match program {
        Program::Image => {
            let image = settings.image.clone().unwrap_or_else(default_image);
            json!({"spec": {"containers": [{"name": CONTAINER, "image": image}]}})
        }
        Program::Carried(embedded, borrowed) => json!({"spec": {
            // Nodes tell what they are by labels: so nobody has to be allowed to look at them.
            "nodeSelector": {"kubernetes.io/os": "linux", "kubernetes.io/arch": embedded.processor},
            "volumes": [{
                "name": VOLUME,
                "configMap": {"name": name, "defaultMode": 0o555, "items": [{"key": FILE, "path": FILE}]},
            }],
            "containers": [{
                "name": CONTAINER,
                "image": borrowed.image,
                // The image's own may be closed to the agent's user.
                "workingDir": "/",
                "volumeMounts": [
                    {"name": VOLUME, "mountPath": PROGRAM, "subPath": FILE, "readOnly": true},
                ],
            }],
        }}),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;
    use crate::cli::{args::Args, settings::Settings};

    fn settings(arguments: &[&str]) -> AgentSettings {
        let all = ["kubectl-relay", "x", "1"].iter().chain(arguments).copied();
        Settings::from_args(Args::try_parse_from(all).unwrap()).unwrap().agent
    }

    fn made(arguments: &[&str]) -> Value {
        let owner = Owner::new("jane", "laptop", "dev");
        let job = job("relay-agent-1", "dev", &settings(arguments), &owner, None, Program::Image);
        serde_json::to_value(job.unwrap()).unwrap()
    }

    fn carried(arguments: &[&str], avoid: Option<&str>) -> Value {
        let borrowed = Borrowed {
            image: "r/web:1".into(),
            pull_secrets: vec!["theirs".into()],
            node: Some("node-1".into()),
            of: Some("web-1".into()),
        };
        let program = Program::Carried(Embedded { processor: "arm64", file: b"agent" }, &borrowed);
        let job =
            job("relay-agent-1", "dev", &settings(arguments), &Owner::new("u", "m", "c"), avoid, program);
        serde_json::to_value(job.unwrap()).unwrap()["spec"]["template"]["spec"].clone()
    }

    #[test]
    fn the_pod_fits_pod_security_restricted() {
        let job = made(&[]);
        let spec = &job["spec"]["template"]["spec"];
        assert_eq!(
            spec["securityContext"],
            json!({
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"}
            })
        );
        assert_eq!(
            spec["containers"][0]["securityContext"],
            json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]}
            })
        );
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(spec["containers"][0]["resources"]["limits"]["memory"], "128Mi");
        assert!(spec["containers"][0]["resources"]["requests"]["cpu"].is_string());
    }

    #[test]
    fn the_job_never_retries_and_is_removed_when_finished() {
        let job = made(&[]);
        assert_eq!(job["spec"]["backoffLimit"], 0);
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 10);
        assert_eq!(job["spec"]["template"]["spec"]["restartPolicy"], "Never");
        assert_eq!(job["metadata"]["annotations"][STARTED_BY], "jane@laptop");
    }

    #[test]
    fn settings_become_the_agents_arguments() {
        let job = made(&["--agent-idle", "90s", "--session-life=1h", "--drain-grace", "500ms", "-v=4"]);
        assert_eq!(
            job["spec"]["template"]["spec"]["containers"][0]["args"],
            json!([
                "--idle",
                "90s",
                "--session-life",
                "1h",
                "--ping",
                "7500ms",
                "--dead-after",
                "15s",
                "--drain-grace",
                "500ms",
                "--exit-on-goodbye",
                "-v=4"
            ])
        );
    }

    #[test]
    fn flags_for_the_pod_reach_it() {
        let job = made(&[
            "--server.image=r/i:2",
            "--server.pull-secret=a,b",
            "--server.node-selector=zone=b",
            "--server.toleration=spot",
            "--server.requests=cpu=1",
            "--server.limits=memory=1Gi",
        ]);
        let spec = &job["spec"]["template"]["spec"];
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "a"}, {"name": "b"}]));
        assert_eq!(spec["nodeSelector"], json!({"zone": "b"}));
        assert_eq!(spec["tolerations"], json!([{"key": "spot", "operator": "Exists"}]));
        assert_eq!(spec["containers"][0]["image"], "r/i:2");
        assert_eq!(
            spec["containers"][0]["resources"],
            json!({"requests": {"cpu": "1", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}})
        );
    }

    #[test]
    fn a_patch_changes_the_pod_but_not_what_the_agent_needs() {
        let job = made(&[
            "-p",
            r#"{"metadata":{"labels":{"team":"a"}},
                "spec":{"restartPolicy":"Always","hostNetwork":true,
                        "containers":[{"name":"agent","command":["sh"],"args":["-c"],"env":[{"name":"A","value":"1"}]}]}}"#,
        ]);
        let template = &job["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["team"], "a");
        assert_eq!(template["spec"]["hostNetwork"], true);
        assert_eq!(template["spec"]["restartPolicy"], "Never");
        assert_eq!(template["spec"]["containers"][0]["command"], json!(["/relay-server"]));
        assert_eq!(template["spec"]["containers"][0]["args"][0], "--idle");
        assert_eq!(template["spec"]["containers"][0]["env"], json!([{"name": "A", "value": "1"}]));
    }

    #[test]
    fn a_carried_agent_lies_where_an_image_would_have_it() {
        let patch = r#"{"spec":{"nodeSelector":{"zone":"b"},"volumes":[{"name":"x","emptyDir":{}}],
            "containers":[{"name":"agent","image":"other","workingDir":"/root","volumeMounts":[{"name":"x","mountPath":"/x"}]}]}}"#;
        let spec = carried(&["--server.pull-secret=ours", "-p", patch], None);
        assert_eq!(
            spec["nodeSelector"],
            json!({"zone": "b", "kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"})
        );
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "ours"}, {"name": "theirs"}]));
        let volumes = spec["volumes"].as_array().unwrap();
        assert_eq!(volumes.len(), 2);
        assert!(volumes.contains(&json!({"name": "relay-agent", "configMap": {
            "name": "relay-agent-1", "defaultMode": 365, "items": [{"key": "relay-server", "path": "relay-server"}]}})));
        let container = &spec["containers"][0];
        assert_eq!(container["image"], "r/web:1");
        assert_eq!(container["command"], json!(["/relay-server"]));
        assert_eq!(container["workingDir"], "/");
        assert!(container["volumeMounts"].as_array().unwrap().contains(&json!({"name": "relay-agent",
            "mountPath": "/relay-server", "subPath": "relay-server", "readOnly": true})));
    }

    #[test]
    fn a_carried_agent_runs_rather_where_its_image_is_but_not_on_a_lost_node() {
        let affinity = |avoid| carried(&[], avoid)["affinity"].to_string();
        assert!(affinity(None).contains(r#""operator":"In","values":["node-1"]"#), "{}", affinity(None));
        let away = affinity(Some("node-1"));
        assert!(away.contains("NotIn") && !away.contains(r#""In""#), "{away}");
        let other = affinity(Some("node-2"));
        assert!(other.contains("NotIn") && other.contains(r#""In""#), "{other}");
    }

    proptest! {
        #[test]
        fn no_patch_takes_the_agents_command_away(field in "command|args|image|name2", text in "[a-z]{1,6}") {
            let patch = json!({"spec": {"containers": [{"name": "agent", field: text}]}}).to_string();
            let owner = Owner::new("u", "m", "c");
            if let Ok(job) = job("n", "ns", &settings(&["-p", &patch]), &owner, None, Program::Image) {
                let job = serde_json::to_value(job).unwrap();
                prop_assert_eq!(&job["spec"]["template"]["spec"]["containers"][0]["command"], &json!(["/relay-server"]));
            }
        }
    }
}
