//! The agents that this plugin carries, as programs for the nodes' processors, and the ConfigMap that one travels in.

use k8s_openapi::{
    ByteString,
    api::core::v1::ConfigMap,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{identity::Owner, spec::labels};

/// The program's name in the ConfigMap.
pub const FILE: &str = "relay-server";

/// Everything that was built in; empty in a plugin that was built without.
pub static EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/agents.rs"));

/// One agent.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// For which nodes, as their label `kubernetes.io/arch` says.
    pub processor: &'static str,
    /// A static program that needs nothing beside it, of at most 1 MiB.
    pub file: &'static [u8],
}

/// The agents that this plugin carries, in the order in which they are tried.
pub fn embedded() -> Vec<Embedded> {
    EMBEDDED.iter().map(|&(processor, file)| Embedded { processor, file }).collect()
}

/// The ConfigMap for a Job of the same name. Its owner is added when the Job has an identity.
pub fn config_map(name: &str, namespace: &str, owner: &Owner, file: &[u8]) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            labels: Some(labels(owner)),
            ..ObjectMeta::default()
        },
        binary_data: Some([(FILE.to_owned(), ByteString(file.to_vec()))].into()),
        // Nobody watches what cannot change.
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// The Job as an owner: what it owns goes when it goes.
pub fn owned_by(job: &str, uid: &str) -> Vec<OwnerReference> {
    vec![OwnerReference {
        api_version: "batch/v1".into(),
        kind: "Job".into(),
        name: job.into(),
        uid: uid.into(),
        // To block the owner's end would need a right on Jobs that nothing else needs.
        ..OwnerReference::default()
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_is_for_known_processors_and_fits_into_a_config_map() {
        for agent in embedded() {
            assert!(["amd64", "arm64"].contains(&agent.processor));
            assert!(agent.file.starts_with(b"\x7fELF") && agent.file.len() <= 1 << 20);
        }
    }

    #[test]
    fn a_config_map_tells_whose_it_is_and_cannot_be_changed() {
        let owner = Owner::new("jane", "laptop", "dev");
        let mut map = config_map("relay-agent-1", "dev", &owner, b"program");
        map.metadata.owner_references = Some(owned_by("relay-agent-1", "uid"));
        assert_eq!(
            serde_json::to_value(map).unwrap(),
            serde_json::json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {
                    "name": "relay-agent-1", "namespace": "dev",
                    "labels": {"app.kubernetes.io/managed-by": "kubectl-relay", "app.kubernetes.io/name": "relay-server",
                               "kubectl-relay.io/owner": owner.label},
                    "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "relay-agent-1", "uid": "uid"}],
                },
                "binaryData": {"relay-server": "cHJvZ3JhbQ=="},
                "immutable": true,
            })
        );
    }
}
