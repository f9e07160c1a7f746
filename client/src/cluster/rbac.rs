//! The rights a run needs, as data: refused calls print the Role that would do, and `manifests/role.yaml` is held
//! against the same table.

use std::{borrow::Borrow, fmt::Write};

/// One rule of a Role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The plural resource, with its subresource.
    pub resource: &'static str,
    /// What is done with it.
    pub verbs: &'static [&'static str],
}

/// What the agent's namespace must allow.
pub const AGENT_RULES: &[Rule] = &[
    Rule { group: "batch", resource: "jobs", verbs: &["create", "delete", "list"] },
    Rule { group: "", resource: "pods", verbs: &["list", "watch"] },
    Rule { group: "", resource: "pods/portforward", verbs: &["get", "create"] },
    Rule { group: "", resource: "events", verbs: &["list", "watch"] },
];

/// What the agent's namespace must allow beside that, where the agent's image cannot be pulled and the plugin brings the
/// agent itself.
pub const EMBEDDED_RULES: &[Rule] =
    &[Rule { group: "", resource: "configmaps", verbs: &["create", "delete"] }];

/// What the targets' namespace must allow, for the kinds with a name of their own in the grammar.
pub const TARGET_RULES: &[Rule] = &[
    Rule { group: "", resource: "services", verbs: &["get"] },
    Rule { group: "discovery.k8s.io", resource: "endpointslices", verbs: &["list", "watch"] },
    Rule { group: "apps", resource: "deployments", verbs: &["get"] },
    Rule { group: "apps", resource: "statefulsets", verbs: &["get"] },
    Rule { group: "apps", resource: "daemonsets", verbs: &["get"] },
    Rule { group: "apps", resource: "replicasets", verbs: &["get"] },
    Rule { group: "batch", resource: "jobs", verbs: &["get"] },
];

/// What the namespace of a shared agent must allow those who use it. Without `watch` it works too.
pub const SHARED_RULES: &[Rule] = &[
    Rule { group: "", resource: "pods", verbs: &["list", "watch"] },
    Rule { group: "", resource: "pods/portforward", verbs: &["get", "create"] },
];

/// The name of the Role for those who use a shared agent.
pub const SHARED_ROLE: &str = "kubectl-relay-shared";

/// A Role (or, without a namespace, a ClusterRole) that allows one refused call and the rest of what a run needs.
pub fn role_for(namespace: Option<&str>, group: &str, resource: &str, verb: &str) -> String {
    let asked = |rule: &&Rule| rule.group == group && rule.resource == resource;
    let known = AGENT_RULES
        .iter()
        .chain(EMBEDDED_RULES.iter().filter(asked))
        .chain(TARGET_RULES.iter().filter(|rule| rule.resource == "services"))
        .filter(|_| namespace.is_some());
    let name = if namespace.is_some() { "kubectl-relay" } else { "kubectl-relay-targets" };
    role(name, namespace, known, (group, resource, verb))
}

/// The Role that allows one refused call and the rest of what the use of a shared agent needs.
pub fn shared_role_for(namespace: &str, resource: &str, verb: &str) -> String {
    role(SHARED_ROLE, Some(namespace), SHARED_RULES, ("", resource, verb))
}

fn role<'a>(
    name: &str,
    namespace: Option<&str>,
    known: impl IntoIterator<Item = &'a Rule>,
    (group, resource, verb): (&str, &str, &str),
) -> String {
    let with_verbs = |rule: &Rule| {
        let verbs = rule.verbs.iter().map(|&verb| verb.to_owned()).collect();
        (rule.group.to_owned(), rule.resource.to_owned(), verbs)
    };
    let mut rules: Vec<(String, String, Vec<String>)> = known.into_iter().map(with_verbs).collect();
    match rules.iter_mut().find(|(g, r, _)| g == group && r == resource) {
        Some((_, _, verbs)) if verbs.iter().any(|v| v == verb) => {}
        Some((_, _, verbs)) => verbs.push(verb.to_owned()),
        None => rules.push((group.to_owned(), resource.to_owned(), vec![verb.to_owned()])),
    }

    let rules =
        rules.iter().map(|(group, resource, verbs)| (group.as_str(), resource.as_str(), verbs.as_slice()));
    role_of(name, namespace, rules)
}

/// A Role with these rules, each a group, a resource and its verbs; without a namespace a ClusterRole.
pub(crate) fn role_of<'a, V: Borrow<str> + 'a>(
    name: &str,
    namespace: Option<&str>,
    rules: impl IntoIterator<Item = (&'a str, &'a str, &'a [V])>,
) -> String {
    let mut role = String::from("apiVersion: rbac.authorization.k8s.io/v1\n");
    role += if namespace.is_some() { "kind: Role\n" } else { "kind: ClusterRole\n" };
    // Writing to a String cannot fail.
    let _ = writeln!(role, "metadata:\n  name: {name}");
    if let Some(namespace) = namespace {
        let _ = writeln!(role, "  namespace: {namespace}");
    }
    role += "rules:\n";
    for (group, resource, verbs) in rules {
        let _ = writeln!(
            role,
            "- {{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{}]}}",
            verbs.join(", ")
        );
    }
    role
}

/// A Role that allows to port-forward to the pods of a namespace, by the verbs that were refused and no others.
pub fn role_to_port_forward(namespace: &str, verbs: &[String]) -> String {
    let look = ["get", "list", "watch"].map(str::to_owned);
    let rules = [("", "pods", &look[..]), ("", "pods/portforward", verbs)];
    role_of("kubectl-relay", Some(namespace), rules)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::rbac::v1::Role;

    use super::*;

    fn triples(role: &Role) -> BTreeSet<(String, String, String)> {
        let mut triples = BTreeSet::new();
        for rule in role.rules.iter().flatten() {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        triples.insert((group.clone(), resource.clone(), verb.clone()));
                    }
                }
            }
        }
        triples
    }

    fn role_in(manifest: &str) -> Role {
        let mut documents = serde_yaml::Deserializer::from_str(manifest);
        serde::Deserialize::deserialize(documents.next().unwrap()).unwrap()
    }

    fn used<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> BTreeSet<(String, String, String)> {
        rules
            .into_iter()
            .flat_map(|rule| {
                rule.verbs
                    .iter()
                    .map(|&verb| (rule.group.to_owned(), rule.resource.to_owned(), verb.to_owned()))
            })
            .collect()
    }

    #[test]
    fn the_documented_roles_hold_exactly_the_verbs_that_are_used() {
        let person = role_in(include_str!("../../../manifests/role.yaml"));
        assert_eq!(triples(&person), used(AGENT_RULES.iter().chain(TARGET_RULES)));
        let embedded = role_in(include_str!("../../../manifests/role-embedded.yaml"));
        assert_eq!(triples(&embedded), used(EMBEDDED_RULES));
        let shared = role_in(include_str!("../../../manifests/role-shared.yaml"));
        assert_eq!(triples(&shared), used(SHARED_RULES));
        assert_eq!(shared.metadata.name.as_deref(), Some(SHARED_ROLE));
    }

    #[test]
    fn who_may_not_create_config_maps_is_told_all_that_the_embedded_agent_needs() {
        let role = role_in(&role_for(Some("dev"), "", "configmaps", "create"));
        assert!(triples(&role).is_superset(&used(AGENT_RULES.iter().chain(EMBEDDED_RULES))));
        assert!(!role_for(Some("dev"), "batch", "jobs", "create").contains("configmaps"));
    }

    #[test]
    fn who_may_not_use_the_shared_agent_is_told_all_that_it_takes() {
        let role: Role = serde_yaml::from_str(&shared_role_for("tools", "pods", "list")).unwrap();
        assert_eq!(role.metadata.namespace.as_deref(), Some("tools"));
        assert_eq!(triples(&role), used(SHARED_RULES));
    }

    #[test]
    fn the_printed_role_allows_the_refused_call() {
        for (group, resource, verb) in
            [("batch", "jobs", "create"), ("apps", "deployments", "get"), ("", "pods", "list")]
        {
            let role: Role = serde_yaml::from_str(&role_for(Some("dev"), group, resource, verb)).unwrap();
            assert_eq!(role.metadata.namespace.as_deref(), Some("dev"));
            assert!(triples(&role).contains(&(group.into(), resource.into(), verb.into())));
        }
    }

    #[test]
    fn a_cluster_wide_resource_needs_a_cluster_role() {
        assert_eq!(
            role_for(None, "", "nodes", "get"),
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: kubectl-relay-targets\n\
             rules:\n- {apiGroups: [\"\"], resources: [nodes], verbs: [get]}\n"
        );
    }
}
