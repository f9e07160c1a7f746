//! A ConfigMap as protobuf, which an API server takes in several times faster than JSON: a megabyte in 15 ms instead of
//! 55. Field numbers are those of `k8s.io/api/core/v1/generated.proto` and of `generated.proto` in
//! `k8s.io/apimachinery/pkg/apis/meta/v1` and `k8s.io/apimachinery/pkg/runtime`; fields that are never sent are left out.

use std::collections::BTreeMap;

use k8s_openapi::{
    Resource as _,
    api::core::v1,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use prost::Message;

/// What an object begins with, by `k8s.io/apimachinery/pkg/runtime/serializer/protobuf`.
pub const MAGIC: &[u8] = b"k8s\0";
/// The media type of what [`encode`] gives.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// `runtime.Unknown`: an object beside its kind.
#[derive(Clone, PartialEq, Message)]
pub struct Unknown {
    /// What the object is.
    #[prost(message, required, tag = "1")]
    pub type_meta: TypeMeta,
    /// The object.
    #[prost(bytes = "vec", tag = "2")]
    pub raw: Vec<u8>,
}

/// `runtime.TypeMeta`.
#[derive(Clone, PartialEq, Message)]
pub struct TypeMeta {
    /// As in JSON.
    #[prost(string, tag = "1")]
    pub api_version: String,
    /// As in JSON.
    #[prost(string, tag = "2")]
    pub kind: String,
}

/// `v1.ConfigMap`.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigMap {
    /// As in JSON.
    #[prost(message, required, tag = "1")]
    pub metadata: Metadata,
    /// As in JSON, but not in base64.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub binary_data: BTreeMap<String, Vec<u8>>,
    /// As in JSON.
    #[prost(bool, optional, tag = "4")]
    pub immutable: Option<bool>,
}

/// `meta.v1.ObjectMeta`.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    /// As in JSON.
    #[prost(string, tag = "1")]
    pub name: String,
    /// As in JSON.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// As in JSON.
    #[prost(btree_map = "string, string", tag = "11")]
    pub labels: BTreeMap<String, String>,
    /// As in JSON.
    #[prost(message, repeated, tag = "13")]
    pub owner_references: Vec<Owner>,
}

/// `meta.v1.OwnerReference`.
#[derive(Clone, PartialEq, Message)]
pub struct Owner {
    /// As in JSON.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// As in JSON.
    #[prost(string, tag = "3")]
    pub name: String,
    /// As in JSON.
    #[prost(string, tag = "4")]
    pub uid: String,
    /// As in JSON.
    #[prost(string, tag = "5")]
    pub api_version: String,
}

/// The body of a request that creates this ConfigMap, of whose metadata only name, namespace, labels and owners are
/// taken, and of whose content only what is binary.
pub fn encode(config_map: &v1::ConfigMap) -> Vec<u8> {
    let ObjectMeta { name, namespace, labels, owner_references, .. } = config_map.metadata.clone();
    let owner = |OwnerReference { api_version, kind, name, uid, .. }| Owner { kind, name, uid, api_version };
    let content = config_map.binary_data.iter().flatten();
    let object = ConfigMap {
        metadata: Metadata {
            name: name.unwrap_or_default(),
            namespace: namespace.unwrap_or_default(),
            labels: labels.unwrap_or_default(),
            owner_references: owner_references.into_iter().flatten().map(owner).collect(),
        },
        binary_data: content.map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        immutable: config_map.immutable,
    };
    let type_meta =
        TypeMeta { api_version: v1::ConfigMap::API_VERSION.into(), kind: v1::ConfigMap::KIND.into() };
    let object = Unknown { type_meta, raw: object.encode_to_vec() };
    [MAGIC, &object.encode_to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;
    use crate::agent::{embedded, identity};

    /// Field by field, each length by hand: the definitions above are not asked.
    #[test]
    fn a_config_map_is_encoded_as_kubernetes_defines_it() {
        let mut map = v1::ConfigMap {
            metadata: ObjectMeta {
                name: Some("n".into()),
                namespace: Some("dev".into()),
                labels: Some([("a".into(), "b".into())].into()),
                ..ObjectMeta::default()
            },
            binary_data: Some([("f".into(), ByteString(vec![0, 0xff]))].into()),
            immutable: Some(true),
            ..v1::ConfigMap::default()
        };
        map.metadata.owner_references = Some(embedded::owned_by("j", "u"));
        let mut expected = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x34".to_vec();
        expected.extend_from_slice(b"\x0a\x27\x0a\x01n\x1a\x03dev\x5a\x06\x0a\x01a\x12\x01b");
        expected.extend_from_slice(b"\x6a\x15\x0a\x03Job\x1a\x01j\x22\x01u\x2a\x08batch/v1");
        expected.extend_from_slice(b"\x1a\x07\x0a\x01f\x12\x02\x00\xff\x20\x01");
        assert_eq!(encode(&map), expected);
    }

    #[test]
    fn what_is_sent_is_all_that_an_agents_config_map_has() {
        let owner = identity::Owner::new("jane", "laptop", "dev");
        let map = embedded::config_map("relay-agent-1", "dev", &owner, b"program");
        let known = ["binaryData", "immutable", "metadata", "apiVersion", "kind"];
        let of_metadata = ["name", "namespace", "labels"];
        let json = serde_json::to_value(&map).unwrap();
        assert!(json.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{json}");
        let metadata = json["metadata"].as_object().unwrap();
        assert!(metadata.keys().all(|key| of_metadata.contains(&key.as_str())), "{json}");
    }
}
