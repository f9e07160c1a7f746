//! What a shared agent consists of in a cluster. Install applies it, manifest prints it, `manifests/` holds it.

use std::{fmt, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{Resource, core::ApiResource};
use relay_policy::Rule;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{SharedError, args::WantedArgs};
use crate::{
    agent::{
        found::{COMPONENT, NAMESPACE},
        identity::{MANAGED_BY, NAME},
        patch,
        spec::{AGENT_PORT, CONTAINER, PROGRAM, Program, default_template, required_program},
    },
    cli::{
        duration::show_duration,
        settings::{PodSettings, UsageError},
    },
    cluster::rbac::{SHARED_ROLE, SHARED_RULES},
};

/// The name of everything but the Role.
pub const AGENT: &str = "relay-agent";
/// The annotation with the settings that it was installed with.
pub const RECORD: &str = "kubectl-relay.io/installed-with";
/// The label with the version that made it.
pub const VERSION: &str = "app.kubernetes.io/version";
/// Where metrics are served on each pod's loopback.
pub const METRICS_PORT: u16 = AGENT_PORT + 1;

const REPLICAS: u16 = 2;
const DRAIN_GRACE: Duration = Duration::from_secs(30);
const SESSION_LIFE: Duration = Duration::from_secs(30 * 60);

/// How a shared agent shall be: checked.
#[derive(Debug, Clone)]
pub struct Settings {
    wanted: WantedArgs,
    pod: PodSettings,
    subjects: Vec<Value>,
}

/// One object.
#[derive(Debug, Clone)]
pub struct Object {
    /// How to address it.
    pub resource: ApiResource,
    /// `None`: it is the cluster's.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Itself.
    pub value: Value,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", shown(&self.resource), self.name)
    }
}

/// A kind as kubectl writes it: `deployment.apps`.
pub(super) fn shown(resource: &ApiResource) -> String {
    let kind = resource.kind.to_lowercase();
    if resource.group.is_empty() { kind } else { format!("{kind}.{}", resource.group) }
}

impl Settings {
    /// Checks what was typed or recorded.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn new(wanted: &WantedArgs) -> Result<Self, SharedError> {
        let groups = wanted.user_groups.iter().map(|group| Ok(of_rbac("Group", group)));
        let others = wanted.subjects.iter().map(|subject| parse_subject(subject));
        let subjects = groups.chain(others).collect::<Result<_, UsageError>>()?;
        for (flag, rules) in [("--allow", &wanted.allow), ("--deny", &wanted.deny)] {
            for rule in rules {
                rule.parse::<Rule>().map_err(|error| SharedError::Rule {
                    flag,
                    rule: rule.clone(),
                    error,
                })?;
            }
        }
        let mut pod = wanted.pod.settings()?;
        // A team's connections all at once; of storage only their log, which the node cuts at some ten MiB.
        for (map, defaults) in [
            (&mut pod.requests, [("cpu", "50m"), ("memory", "64Mi"), ("ephemeral-storage", "16Mi")]),
            (&mut pod.limits, [("cpu", "2"), ("memory", "256Mi"), ("ephemeral-storage", "512Mi")]),
        ] {
            for (resource, quantity) in defaults {
                map.entry(resource.to_owned()).or_insert_with(|| quantity.to_owned());
            }
        }
        Ok(Self { wanted: wanted.clone(), pod, subjects })
    }

    fn drain_grace(&self) -> Duration {
        self.wanted.drain_grace.unwrap_or(DRAIN_GRACE)
    }

    fn args(&self) -> Vec<String> {
        let wanted = &self.wanted;
        let session_life = wanted.session_life.unwrap_or(SESSION_LIFE);
        let mut args = vec![
            "--shared".to_owned(),
            format!("--session-life={}", show_duration(session_life)),
            format!("--drain-grace={}", show_duration(self.drain_grace())),
        ];
        args.extend(wanted.allow.iter().map(|rule| format!("--allow={rule}")));
        args.extend(wanted.deny.iter().map(|rule| format!("--deny={rule}")));
        let numbers = [("--max-sessions", wanted.max_sessions), ("--max-streams", wanted.max_streams)];
        let numbers = numbers.into_iter().filter_map(|(flag, number)| Some(format!("{flag}={}", number?)));
        args.extend(numbers);
        args.extend(wanted.audit.filter(|audit| *audit).map(|_| "--audit".to_owned()));
        args.extend(wanted.metrics_listen.map(|address| format!("--metrics-listen={address}")));
        args.extend(wanted.server_verbosity.map(|verbosity| format!("-v={verbosity}")));
        args
    }

    fn record(&self) -> Result<String, SharedError> {
        let version = Some(env!("CARGO_PKG_VERSION").to_owned());
        let record = WantedArgs { version, ..self.wanted.clone() };
        serde_json::to_string(&record).map_err(SharedError::Record)
    }
}

fn parse_subject(text: &str) -> Result<Value, UsageError> {
    let of_kind = |kind, name: &str| (!name.is_empty()).then(|| of_rbac(kind, name));
    let account = |rest: &str| {
        let (namespace, name) =
            rest.split_once(':').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())?;
        Some(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}))
    };
    let subject = match text.split_once(':') {
        Some(("user", name)) => of_kind("User", name),
        Some(("group", name)) => of_kind("Group", name),
        Some(("serviceaccount", rest)) => account(rest),
        _ => None,
    };
    subject.ok_or_else(|| UsageError::Form {
        flag: "--subject",
        value: text.into(),
        form: "user:NAME, group:NAME or serviceaccount:NAMESPACE:NAME",
    })
}

fn of_rbac(kind: &str, name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name})
}

/// What finds the pods, for ever the same.
fn selector() -> Value {
    json!({NAME.0: NAME.1, COMPONENT.0: COMPONENT.1})
}

fn labels() -> Value {
    json!({
        MANAGED_BY.0: MANAGED_BY.1,
        NAME.0: NAME.1,
        COMPONENT.0: COMPONENT.1,
        VERSION: env!("CARGO_PKG_VERSION"),
    })
}

/// Everything, in the order in which it is applied. The namespace is part of it where it is the agent's own.
///
/// # Errors
/// When the user's patch does not fit.
pub fn all(namespace: &str, settings: &Settings) -> Result<Vec<Object>, SharedError> {
    let metadata = |name: &str| json!({"name": name, "namespace": namespace, "labels": labels()});
    let mut objects = Vec::new();
    if namespace == NAMESPACE {
        objects.push(own_namespace(namespace)?);
    }
    objects.push(object::<ServiceAccount>(json!({
        "metadata": metadata(AGENT),
        "automountServiceAccountToken": false,
    }))?);
    let rules: Vec<_> = SHARED_RULES
        .iter()
        .map(|rule| json!({"apiGroups": [rule.group], "resources": [rule.resource], "verbs": rule.verbs}))
        .collect();
    objects.push(object::<Role>(json!({"metadata": metadata(SHARED_ROLE), "rules": rules}))?);
    if !settings.subjects.is_empty() {
        objects.push(object::<RoleBinding>(json!({
            "metadata": metadata(SHARED_ROLE),
            "roleRef": of_rbac("Role", SHARED_ROLE),
            "subjects": settings.subjects,
        }))?);
    }
    objects.push(object::<NetworkPolicy>(json!({
        "metadata": metadata(AGENT),
        "spec": network_policy(settings),
    }))?);
    objects.push(object::<PodDisruptionBudget>(json!({
        "metadata": metadata(AGENT),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector()},
            // One that never was ready serves nobody.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }))?);
    let mut metadata = metadata(AGENT);
    metadata["annotations"] = json!({RECORD: settings.record()?});
    objects.push(object::<Deployment>(json!({
        "metadata": metadata,
        "spec": {
            "replicas": settings.wanted.replicas.unwrap_or(REPLICAS),
            "selector": {"matchLabels": selector()},
            "revisionHistoryLimit": 3,
            // New ones are ready before old ones are asked to end.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template(settings)?,
        },
    }))?);
    Ok(objects)
}

/// A namespace of the agent's own, with nothing in it that is not fit for Pod Security *restricted*.
pub(super) fn own_namespace(namespace: &str) -> Result<Object, SharedError> {
    let mut labels = labels();
    labels["pod-security.kubernetes.io/enforce"] = "restricted".into();
    object::<Namespace>(json!({"metadata": {"name": namespace, "labels": labels}}))
}

/// Nobody in the cluster reaches the agent: users come by way of its node. It reaches what its policy allows.
fn network_policy(settings: &Settings) -> Value {
    let ports =
        settings.wanted.metrics_listen.map(|address| json!({"port": address.port(), "protocol": "TCP"}));
    let ingress: Vec<_> = ports.into_iter().map(|port| json!({"ports": [port]})).collect();
    json!({
        "podSelector": {"matchLabels": selector()},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": [{}],
    })
}

fn template(settings: &Settings) -> Result<Value, SharedError> {
    let mut template = default_template(&settings.pod, settings.drain_grace(), Program::Image);
    if let Some(annotations) = template["metadata"]["annotations"].as_object_mut() {
        // Another replica takes over: it may be moved.
        annotations.remove("cluster-autoscaler.kubernetes.io/safe-to-evict");
        annotations.remove("karpenter.sh/do-not-disrupt");
    }
    let spread = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector()},
        })
    };
    template["spec"]["topologySpreadConstraints"] =
        json!([spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")]);
    let asks = json!({"command": [PROGRAM, "--health"]});
    let container = &mut template["spec"]["containers"][0];
    container["startupProbe"] = json!({"exec": asks, "periodSeconds": 1, "failureThreshold": 30});
    container["readinessProbe"] = json!({"exec": asks, "periodSeconds": 5, "timeoutSeconds": 3});
    container["livenessProbe"] =
        json!({"exec": asks, "periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": 3});
    if let Some(user_patch) = &settings.pod.patch {
        template = patch::apply(template, user_patch)?;
    }
    let required = json!({
        "metadata": {
            "labels": labels(),
            "annotations": {"kubectl.kubernetes.io/default-container": CONTAINER},
        },
        "spec": {
            "serviceAccountName": AGENT,
            "containers": [{"name": CONTAINER, "command": [PROGRAM], "args": settings.args()}],
        },
    });
    template = patch::apply(template, &required)?;
    Ok(patch::apply(template, &required_program(AGENT, &settings.pod, Program::Image))?)
}

/// A typed object's value, which has to be one.
fn object<K>(mut value: Value) -> Result<Object, SharedError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let resource = ApiResource::erase::<K>(&());
    serde_json::from_value::<K>(value.clone())
        .map_err(|error| SharedError::Object("the shared agent's Deployment", error))?;
    value["apiVersion"] = resource.api_version.clone().into();
    value["kind"] = resource.kind.clone().into();
    let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
    Ok(Object { namespace: text("namespace"), name: text("name").unwrap_or_default(), resource, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(namespace: &str, wanted: WantedArgs) -> Vec<Object> {
        all(namespace, &Settings::new(&wanted).unwrap()).unwrap()
    }

    fn deployment(wanted: WantedArgs) -> Value {
        objects("tools", wanted).pop().unwrap().value
    }

    #[test]
    fn policy_flags_become_the_agents_arguments() {
        let wanted = WantedArgs {
            replicas: Some(3),
            allow: vec!["10.0.0.0/8:443".into(), "*.internal".into()],
            deny: vec!["10.1.0.0/16".into()],
            max_sessions: Some(20),
            max_streams: Some(500),
            audit: Some(true),
            metrics_listen: Some("0.0.0.0:9090".parse().unwrap()),
            drain_grace: Some(Duration::from_secs(90)),
            server_verbosity: Some(4),
            ..WantedArgs::default()
        };
        let deployment = deployment(wanted);
        let spec = &deployment["spec"]["template"]["spec"];
        assert_eq!(deployment["spec"]["replicas"], 3);
        assert_eq!(
            spec["containers"][0]["args"],
            json!([
                "--shared",
                "--session-life=30m",
                "--drain-grace=90s",
                "--allow=10.0.0.0/8:443",
                "--allow=*.internal",
                "--deny=10.1.0.0/16",
                "--max-sessions=20",
                "--max-streams=500",
                "--audit",
                "--metrics-listen=0.0.0.0:9090",
                "-v=4"
            ])
        );
        assert_eq!(spec["terminationGracePeriodSeconds"], 95);
    }

    #[test]
    fn a_rule_that_the_agent_would_refuse_is_told_before_anything_is_changed() {
        let error = Settings::new(&WantedArgs { deny: vec!["10.0.0.0/40".into()], ..WantedArgs::default() });
        let error = error.unwrap_err();
        assert!(error.to_string().starts_with("--deny \"10.0.0.0/40\": "), "{error}");
        assert!(!error.hint().is_empty());
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn nobody_reaches_the_pods_unless_metrics_are_opened() {
        let ingress = |wanted| {
            let all = objects("tools", wanted);
            all.iter().find(|object| object.resource.kind == "NetworkPolicy").unwrap().value["spec"]["ingress"].clone()
        };
        assert_eq!(ingress(WantedArgs::default()), json!([]));
        let metrics_listen = Some("[::]:9090".parse().unwrap());
        let opened = ingress(WantedArgs { metrics_listen, ..WantedArgs::default() });
        assert_eq!(opened, json!([{"ports": [{"port": 9090, "protocol": "TCP"}]}]));
    }

    #[test]
    fn only_the_agents_own_namespace_is_part_of_it() {
        let kinds = |namespace| -> Vec<_> {
            objects(namespace, WantedArgs::default()).into_iter().map(|object| object.resource.kind).collect()
        };
        let inside = ["ServiceAccount", "Role", "NetworkPolicy", "PodDisruptionBudget", "Deployment"];
        assert_eq!(kinds("tools"), inside);
        assert_eq!(kinds(NAMESPACE)[0], "Namespace");
        assert_eq!(kinds(NAMESPACE)[1..], inside);
    }

    #[test]
    fn subjects_are_bound_to_the_role() {
        let subject = |text: &str| {
            let wanted = WantedArgs { subjects: vec![text.into()], ..WantedArgs::default() };
            Settings::new(&wanted).map(|settings| settings.subjects[0].clone())
        };
        assert_eq!(subject("user:jane").unwrap(), of_rbac("User", "jane"));
        assert_eq!(subject("group:system:authenticated").unwrap()["name"], "system:authenticated");
        let account = json!({"kind": "ServiceAccount", "namespace": "ci", "name": "deployer"});
        assert_eq!(subject("serviceaccount:ci:deployer").unwrap(), account);
        for wrong in ["jane", "user:", "serviceaccount:ci", "robot:x"] {
            assert!(matches!(subject(wrong), Err(SharedError::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn a_patch_changes_the_pod_but_not_what_the_agent_needs() {
        let patch = r#"{"metadata":{"labels":{"team":"a","app.kubernetes.io/component":"x"}},"spec":{"hostNetwork":true,
            "containers":[{"name":"agent","command":["sh"],"args":["-c"]}]}}"#;
        let pod = crate::cli::args::PodArgs { patch: Some(patch.into()), ..Default::default() };
        let deployment = deployment(WantedArgs { pod, ..WantedArgs::default() });
        let template = &deployment["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["team"], "a");
        assert_eq!(template["metadata"]["labels"][COMPONENT.0], COMPONENT.1);
        assert_eq!(template["spec"]["hostNetwork"], true);
        assert_eq!(template["spec"]["containers"][0]["command"], json!(["/relay-server"]));
        assert_eq!(template["spec"]["containers"][0]["args"][0], "--shared");
    }

    #[test]
    fn the_kustomize_base_is_what_manifest_prints() {
        let printed = super::super::yaml(&objects(NAMESPACE, WantedArgs::default())).unwrap();
        let kept = include_str!("../../../manifests/shared/agent.yaml");
        let again = "kubectl relay agent manifest > manifests/shared/agent.yaml";
        assert_eq!(kept.trim_end(), printed.trim_end(), "make it again: {again}");
    }
}
