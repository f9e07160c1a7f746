//! `--print-role`: the least that has to be allowed, ready to apply.

use super::rights::Way;
use crate::cluster::rbac::{Rule, TARGET_RULES, role_of};

/// What following a target's pods takes.
const FOLLOWED: Rule = Rule { group: "", resource: "pods", verbs: &["list", "watch"] };
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// A Role for each namespace that is touched, bound to the user of this name in the cluster.
pub(super) fn manifest(
    ways: &[Way],
    source: &str,
    carries_agents: bool,
    namespace: &str,
    user: &str,
) -> String {
    let is_taken = |way: &&Way| match (source, way.word) {
        ("auto", "image") => true,
        ("auto", "embedded") => carries_agents,
        _ => way.word == source,
    };
    let taken: Vec<&Way> = ways.iter().filter(is_taken).collect();
    let mut places: Vec<(&str, Vec<Rule>)> = Vec::new();
    let of_ways = taken.iter().flat_map(|way| way.rules.iter().map(|rule| (&*way.namespace, *rule)));
    let of_targets = [FOLLOWED].into_iter().chain(TARGET_RULES.iter().copied());
    for (place, rule) in of_ways.chain(of_targets.map(|rule| (namespace, rule))) {
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, rules)) => rules.push(rule),
            None => places.push((place, vec![rule])),
        }
    }
    let documents: Vec<String> = places
        .iter()
        .map(|(place, rules)| format!("{}---\n{}", role(place, rules), binding(place, user)))
        .collect();
    documents.join("---\n").trim_end().to_owned()
}

fn role(namespace: &str, rules: &[Rule]) -> String {
    let mut merged: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for rule in rules {
        let known = merged.iter().position(|(g, r, _)| *g == rule.group && *r == rule.resource);
        let at = known.unwrap_or_else(|| {
            merged.push((rule.group, rule.resource, Vec::new()));
            merged.len() - 1
        });
        let (_, _, verbs) = &mut merged[at];
        for verb in rule.verbs {
            if !verbs.contains(verb) {
                verbs.push(verb);
            }
        }
    }
    let merged = merged.iter().map(|(group, resource, verbs)| (*group, *resource, verbs.as_slice()));
    role_of("kubectl-relay", Some(&quoted(namespace)), merged)
}

fn binding(namespace: &str, user: &str) -> String {
    // Another user's binding must not be taken away; a name may hold all but these.
    let name = format!("kubectl-relay:{user}").replace(['/', '%'], "-");
    let subject = match user.strip_prefix(SERVICE_ACCOUNT).and_then(|account| account.split_once(':')) {
        Some((place, name)) => {
            format!("- kind: ServiceAccount\n  name: {}\n  namespace: {}\n", quoted(name), quoted(place))
        }
        None => format!("- apiGroup: rbac.authorization.k8s.io\n  kind: User\n  name: {}\n", quoted(user)),
    };
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata:\n  name: {}\n  namespace: {}\n\
         roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: kubectl-relay\nsubjects:\n{subject}",
        quoted(&name),
        quoted(namespace)
    )
}

/// A string as both JSON and YAML have it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
    use serde::Deserialize;

    use super::*;
    use crate::cluster::rbac::{AGENT_RULES, EMBEDDED_RULES};

    fn documents(text: &str) -> (Vec<Role>, Vec<RoleBinding>) {
        let (mut roles, mut bindings) = (Vec::new(), Vec::new());
        for document in serde_yaml::Deserializer::from_str(text) {
            let value = serde_yaml::Value::deserialize(document).unwrap();
            match value["kind"].as_str() {
                Some("Role") => roles.push(serde_yaml::from_value(value).unwrap()),
                _ => bindings.push(serde_yaml::from_value(value).unwrap()),
            }
        }
        (roles, bindings)
    }

    fn allowed(role: &Role) -> BTreeSet<(String, String)> {
        let rules = role.rules.iter().flatten();
        rules
            .flat_map(|rule| {
                let resource = rule.resources.as_ref().unwrap()[0].clone();
                rule.verbs.iter().map(move |verb| (resource.clone(), verb.clone()))
            })
            .collect()
    }

    fn of(rules: &[&[Rule]]) -> BTreeSet<(String, String)> {
        let rules = rules.iter().copied().flatten();
        rules.flat_map(|rule| rule.verbs.iter().map(|verb| (rule.resource.into(), (*verb).into()))).collect()
    }

    fn printed(source: &str, agent_namespace: Option<&str>, user: &str) -> String {
        manifest(&Way::all(agent_namespace, "dev"), source, true, "dev", user)
    }

    #[test]
    fn one_namespace_for_all_needs_one_role_that_is_bound_to_the_user() {
        let (roles, bindings) = documents(&printed("image", None, "jane@example.com"));
        assert_eq!(allowed(&roles[0]), of(&[AGENT_RULES, TARGET_RULES]));
        assert_eq!((roles.len(), bindings.len()), (1, 1));
        let subject = &bindings[0].subjects.as_ref().unwrap()[0];
        assert_eq!((subject.kind.as_str(), subject.name.as_str()), ("User", "jane@example.com"));
        assert_eq!(bindings[0].metadata.namespace.as_deref(), Some("dev"));
    }

    #[test]
    fn what_may_come_to_be_needed_is_in_it_with_auto() {
        let (roles, _) = documents(&printed("auto", None, "jane"));
        assert_eq!(allowed(&roles[0]), of(&[AGENT_RULES, EMBEDDED_RULES, TARGET_RULES]));
        let without = manifest(&Way::all(None, "dev"), "auto", false, "dev", "jane");
        assert_eq!(allowed(&documents(&without).0[0]), of(&[AGENT_RULES, TARGET_RULES]));
    }

    #[test]
    fn an_agent_elsewhere_needs_a_role_there_and_one_for_the_targets() {
        let (roles, bindings) =
            documents(&printed("image", Some("tools"), "system:serviceaccount:ci:runner"));
        let places: Vec<_> = roles.iter().map(|role| role.metadata.namespace.clone().unwrap()).collect();
        assert_eq!(places, ["tools", "dev"]);
        assert_eq!(allowed(&roles[0]), of(&[AGENT_RULES]));
        assert_eq!(allowed(&roles[1]), of(&[TARGET_RULES, &[FOLLOWED]]));
        let subject = &bindings[1].subjects.as_ref().unwrap()[0];
        assert_eq!(
            (subject.kind.as_str(), subject.name.as_str(), subject.namespace.as_deref()),
            ("ServiceAccount", "runner", Some("ci"))
        );
    }

    #[test]
    fn a_users_name_cannot_break_the_document() {
        let user = "o\"dd: [name]/%";
        let (_, bindings) = documents(&printed("image", None, user));
        assert_eq!(bindings[0].subjects.as_ref().unwrap()[0].name, user);
        assert_eq!(bindings[0].metadata.name.as_deref(), Some("kubectl-relay:o\"dd: [name]--"));
    }
}
