//! Names and ports out of the cluster, for completion: one small request for each question, and no word about failures.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodSpec, Service};
use kube::{
    Api,
    api::ListParams,
    core::{ApiResource, DynamicObject, Resource},
};

use crate::{
    cli::args::ClusterArgs,
    cluster::{
        access::Access,
        config::ClusterConfig,
        discovery,
        ports::{self, DeclaredPort},
    },
    target::Target,
};

/// So many names are looked at: more are of no use to anybody who chooses.
const NAMES: u32 = 1000;

/// A cluster to ask.
pub struct Cluster {
    access: Access,
    namespace: String,
}

impl Cluster {
    /// The one that kubectl's flags and the kubeconfig mean, if they mean any.
    pub async fn open(args: ClusterArgs) -> Option<Self> {
        let config = ClusterConfig::load(&args).await.ok()?;
        let namespace = config.namespace.clone();
        let access = Access::open(&args, config).await.ok()?;
        Some(Self::new(access, &namespace))
    }

    /// One whose client is at hand.
    pub fn new(access: Access, namespace: &str) -> Self {
        Self { access, namespace: namespace.into() }
    }

    /// Every namespace, if one may see them.
    pub(super) async fn namespaces(&self) -> Option<Vec<String>> {
        self.list(&erased::<Namespace>(), false).await
    }

    /// The objects of a type as typed.
    pub(super) async fn objects(&self, kind: &str) -> Option<Vec<String>> {
        // Any name makes a target of the type.
        match format!("{kind}/x").parse().ok()? {
            Target::Service(_) => self.list(&erased::<Service>(), true).await,
            Target::Pod(_) => self.list(&erased::<Pod>(), true).await,
            Target::Node(_) => self.list(&erased::<Node>(), false).await,
            Target::Workload(kind, _) => {
                let served = discovery::served(&self.access.client(), &kind, Duration::ZERO).await.ok()??;
                if !served.namespaced {
                    return None;
                }
                self.list(&served.resource, true).await
            }
            Target::Ip(_) | Target::Host(_) => None,
        }
    }

    /// The ports that a target declares.
    pub(super) async fn ports(&self, target: &str) -> Option<Vec<DeclaredPort>> {
        let client = self.access.client();
        match target.parse().ok()? {
            Target::Service(name) => {
                let service = Api::<Service>::namespaced(client, &self.namespace).get(&name).await.ok()?;
                Some(ports::of_service(service.spec?.ports.as_ref()))
            }
            Target::Pod(name) => {
                let pod = Api::<Pod>::namespaced(client, &self.namespace).get(&name).await.ok()?;
                Some(ports::of_pod(pod.spec.as_ref()))
            }
            Target::Workload(kind, name) => {
                let served = discovery::served(&client, &kind, Duration::ZERO).await.ok()??;
                let api: Api<DynamicObject> = Api::namespaced_with(client, &self.namespace, &served.resource);
                let object = api.get(&name).await.ok()?;
                let template = object.data.pointer("/spec/template/spec")?.clone();
                let spec: PodSpec = serde_json::from_value(template).ok()?;
                Some(ports::of_pod(Some(&spec)))
            }
            Target::Ip(_) | Target::Host(_) | Target::Node(_) => None,
        }
    }

    async fn list(&self, resource: &ApiResource, namespaced: bool) -> Option<Vec<String>> {
        let client = self.access.client();
        let api: Api<DynamicObject> = if namespaced {
            Api::namespaced_with(client, &self.namespace, resource)
        } else {
            Api::all_with(client, resource)
        };
        let list = api.list_metadata(&ListParams::default().limit(NAMES)).await.ok()?;
        Some(list.items.into_iter().filter_map(|object| object.metadata.name).collect())
    }
}

fn erased<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}
