//! What a target's name stands for: asks the API server once, and starts the watch that keeps following it.

mod behind;

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, PodSpec, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, core::DynamicObject, runtime::watcher};
use relay_protocol::header::{Address, HostName, Protocol};
use serde_json::Value;

use super::{
    access::Access,
    api::{ApiError, Call, made},
    discovery,
    follow::{Ask, Follow},
    ports::{self, PortLookupError, Selected},
    ready::{Destination, EndpointPort, Route, is_ready},
    service::{ServiceAddress, cluster_ip},
};
use crate::{
    direct::pods::{Pods, Source},
    port::{LocalPort, PortSpec, RemotePort},
    target::{Kind, Place, Target, TargetSpec},
};

/// One local port's way to its target.
#[derive(Debug)]
pub struct Forward {
    /// Where it is typed, if not on the command line.
    pub place: Option<Place>,
    /// The target as typed.
    pub target: String,
    /// The local port; `Same` has become a number.
    pub local: LocalPort,
    /// What is forwarded.
    pub protocol: Protocol,
    /// The remote port as typed.
    pub port: RemotePort,
    /// The port that the agent dials, for the Forwarding line.
    pub remote: u16,
    /// Where connections go.
    pub route: Arc<Route>,
    /// What the user should know about the choice.
    pub note: Option<String>,
    /// The pods behind it, where it stands for pods.
    pub pods: Option<TargetPods>,
    /// The same pods, for connections that go to a pod itself; TCP only.
    pub direct: Option<Arc<Pods>>,
}

/// Which pods of its namespace a target stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPods {
    /// Those that a label selector matches.
    Selected(String),
    /// The one of this name.
    Named(String),
}

/// A target that leads nowhere.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    /// The API server says no, or nothing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The port is none of the target's.
    #[error(transparent)]
    Port(#[from] PortLookupError),
    /// No such resource type.
    #[error("the cluster has no resource type \"{0}\"")]
    NoKind(Kind),
    /// An object without pods.
    #[error("{0} has no pod selector, so there is nothing to forward to")]
    NoSelector(String),
    /// A Service whose external name is no host name.
    #[error("{target} stands for \"{name}\", which is no host name")]
    ExternalName {
        /// The target as typed.
        target: String,
        /// What the Service holds.
        name: String,
    },
    /// A node without an address inside the cluster.
    #[error("{0} has no internal address")]
    NodeAddress(String),
    /// A target's pods took too long.
    #[error("{target} has no ready pod after {}", crate::cli::duration::show_duration(*waited))]
    NothingReady {
        /// The target as typed.
        target: String,
        /// `--pod-running-timeout`.
        waited: Duration,
    },
    /// A pod target that ended before anything was forwarded.
    #[error("{0}")]
    Gone(String),
}

impl ResolveError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Api(error) => error.hint(),
            Self::Port(error) => error.hint(),
            Self::NoKind(_) => "kubectl api-resources lists the types".into(),
            Self::NoSelector(_) => "name a Service, a pod or a workload such as deploy/NAME".into(),
            Self::ExternalName { .. } => "correct the Service's externalName, or use host/NAME".into(),
            Self::NodeAddress(_) => "use ip/ADDR with an address of the node".into(),
            Self::NothingReady { target, .. } => {
                format!(
                    "kubectl describe {target} says what it waits for; --pod-running-timeout gives it longer"
                )
            }
            Self::Gone(_) => {
                "name a pod that runs, or a workload such as deploy/NAME to follow its pods".into()
            }
        }
    }
}

/// Looks targets up in one namespace.
#[derive(Clone)]
pub struct Resolver {
    /// How to ask.
    pub access: Access,
    /// Where the targets are.
    pub namespace: String,
    /// `--request-timeout`.
    pub request_timeout: Duration,
    /// `--pod-running-timeout`: for a port name that only a pod can tell.
    pub pod_timeout: Duration,
}

impl Resolver {
    /// Resolves one target and its ports.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve(&self, spec: &TargetSpec) -> Result<Vec<Forward>, ResolveError> {
        match &spec.target {
            Target::Ip(ip) => Ok(fixed(spec, Address::Ip(*ip))?),
            Target::Host(name) => Ok(fixed(spec, Address::Host(name.clone()))?),
            Target::Node(name) => self.node(spec, name).await,
            Target::Service(name) => self.service(spec, name).await,
            Target::Pod(name) => self.pod(spec, name).await,
            Target::Workload(kind, name) => self.workload(spec, kind, name).await,
        }
    }

    async fn node(&self, spec: &TargetSpec, name: &str) -> Result<Vec<Forward>, ResolveError> {
        let call = Call::cluster_wide("get", "", "nodes").on(name);
        let api: Api<Node> = Api::all(self.access.client());
        let node = made(call, self.request_timeout, api.get(name)).await?;
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        let ip = addresses
            .iter()
            .filter(|address| address.type_ == "InternalIP")
            .find_map(|address| address.address.parse::<IpAddr>().ok())
            .ok_or_else(|| ResolveError::NodeAddress(spec.typed.clone()))?;
        Ok(fixed(spec, Address::Ip(ip))?)
    }

    async fn service(&self, spec: &TargetSpec, name: &str) -> Result<Vec<Forward>, ResolveError> {
        let call = Call::new("get", "", "services", &self.namespace).on(name);
        let api: Api<Service> = Api::namespaced(self.access.client(), &self.namespace);
        let service = made(call.clone(), self.request_timeout, api.get(name)).await?;
        let cluster_ip = cluster_ip(&service);
        let service = service.spec.unwrap_or_default();
        let known = ports::of_service(service.ports.as_ref());
        let selector = service.selector.iter().flatten().map(|(key, value)| format!("{key}={value}"));
        let pods = Some(selector.collect::<Vec<_>>().join(","))
            .filter(|selector| !selector.is_empty())
            .map(TargetPods::Selected);

        if service.type_.as_deref() == Some("ExternalName") {
            let external = service.external_name.unwrap_or_default();
            let host = HostName::new(&external).map_err(|_| ResolveError::ExternalName {
                target: spec.typed.clone(),
                name: external.clone(),
            })?;
            return Ok(each_port(spec, |port| {
                let selected = ports::select(&spec.typed, port, &known, false)?;
                let destination = Destination { address: Address::Host(host.clone()), port: selected.number };
                Ok((selected, Route::Fixed(destination)))
            })?);
        }
        if let Some(ip) = cluster_ip {
            let forwards = each_port(spec, |port| {
                let selected = ports::select(&spec.typed, port, &known, true)?;
                let (api, call) = (api.clone(), call.clone());
                let address = ServiceAddress::follow(api, name, call, self.request_timeout, ip);
                let route = Route::Service(address, selected.number);
                Ok((selected, route))
            })?;
            return Ok(self.behind_service(spec, forwards, pods.as_ref(), &known, &service));
        }
        let forwards = match self.headless(spec, name, &known).await {
            Err(ResolveError::Api(error @ ApiError::Denied { .. })) => match &pods {
                // Its pods are as good, for whoever may look at those.
                Some(TargetPods::Selected(selector)) => {
                    self.pods_of_headless(spec, selector, &known, &service).await.map_err(|_| error)?
                }
                _ => return Err(error.into()),
            },
            forwards => forwards?,
        };
        Ok(self.behind_service(spec, forwards, pods.as_ref(), &known, &service))
    }

    async fn headless(
        &self,
        spec: &TargetSpec,
        name: &str,
        known: &[ports::DeclaredPort],
    ) -> Result<Vec<Forward>, ResolveError> {
        // A mistyped port is said before a watch is begun.
        for port in &spec.ports {
            ports::select(&spec.typed, port, known, false)?;
        }
        let api: Api<EndpointSlice> = Api::namespaced(self.access.client(), &self.namespace);
        let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={name}"));
        let call = Call::new("list", "discovery.k8s.io", "endpointslices", &self.namespace);
        let follow = Arc::new(Follow::start(&self.access, api, config, call));
        let snapshot = follow.synced().await?;
        Ok(each_port(spec, |port| {
            let mut selected = ports::select(&spec.typed, port, known, false)?;
            // What a Service calls a port is not what its endpoints listen on.
            let endpoint_port = if selected.declared {
                let named = EndpointPort::Named(selected.name.clone(), selected.protocol);
                let first = snapshot.objects.values().find_map(|slice| {
                    ports::of_slice(slice.ports.as_ref())
                        .into_iter()
                        .find(|p| p.name == selected.name && p.protocol == Some(selected.protocol))
                });
                if let Some(first) = first {
                    selected.number = first.number;
                }
                named
            } else {
                EndpointPort::Number(selected.number)
            };
            Ok((selected, Route::Endpoints(Arc::clone(&follow), endpoint_port, AtomicUsize::default())))
        })?)
    }

    async fn pod(&self, spec: &TargetSpec, name: &str) -> Result<Vec<Forward>, ResolveError> {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let call = Call::new("list", "", "pods", &self.namespace).on(name);
        let ask = Ask::ForOne(name.into());
        let follow = Follow::start_or_ask(&self.access, self.pods(), config, call.clone(), ask);
        let follow = Arc::new(follow);
        let snapshot = follow.synced().await?;
        let Some(pod) = snapshot.objects.get(name) else {
            return Err(ApiError::NotFound { call }.into());
        };
        let known = ports::of_pod(pod.spec.as_ref());
        let forwards = each_port(spec, |port| {
            let selected = ports::select(&spec.typed, port, &known, false)?;
            let route = Route::Pod {
                follow: Arc::clone(&follow),
                name: name.into(),
                uid: pod.metadata.uid.clone(),
                port: EndpointPort::Number(selected.number),
            };
            Ok((selected, route))
        })?;
        let uid = &pod.metadata.uid;
        let direct = |forward: &Forward| {
            let (follow, name, uid) = (Arc::clone(&follow), name.to_owned(), uid.clone());
            let port = EndpointPort::Number(forward.remote);
            Pods::new(&self.namespace, Source::One { follow, name, uid }, port)
        };
        let forwards = behind(forwards, Some(&TargetPods::Named(name.into()))).into_iter();
        Ok(forwards.map(|forward| forward.with_direct_of(direct)).collect())
    }

    async fn workload(
        &self,
        spec: &TargetSpec,
        kind: &Kind,
        name: &str,
    ) -> Result<Vec<Forward>, ResolveError> {
        let client = self.access.client();
        let served = discovery::served(&client, kind, self.request_timeout)
            .await?
            .ok_or_else(|| ResolveError::NoKind(kind.clone()))?;
        if !served.namespaced {
            return Err(ResolveError::NoSelector(spec.typed.clone()));
        }
        let resource = served.resource;
        let call = Call::new("get", &resource.group, &resource.plural, &self.namespace).on(name);
        let api: Api<DynamicObject> = Api::namespaced_with(client, &self.namespace, &resource);
        let object = made(call, self.request_timeout, api.get(name)).await?;
        let selector =
            pod_selector(&object.data).ok_or_else(|| ResolveError::NoSelector(spec.typed.clone()))?;

        let follow = Arc::new(self.follow_pods(&selector));
        follow.synced().await?;
        let template = object.data.pointer("/spec/template/spec").cloned();
        let pod_spec = match template.and_then(|spec| serde_json::from_value::<PodSpec>(spec).ok()) {
            Some(pod_spec) => Some(pod_spec),
            None => self.spec_of_a_ready_pod(spec, &follow).await?,
        };
        let known = ports::of_pod(pod_spec.as_ref());
        // A name is looked up in each pod: a rollout may move it to another number.
        let endpoint_port = |port: &RemotePort, protocol| match port {
            RemotePort::Name(name) => EndpointPort::Named(name.clone(), protocol),
            RemotePort::Number(number) => EndpointPort::Number(number.get()),
        };
        let forwards = each_port(spec, |port| {
            let selected = ports::select(&spec.typed, port, &known, false)?;
            let endpoint_port = endpoint_port(&port.remote, selected.protocol);
            Ok((selected, Route::Pods(Arc::clone(&follow), endpoint_port, AtomicUsize::default())))
        })?;
        let direct = |forward: &Forward| {
            let port = endpoint_port(&forward.port, forward.protocol);
            Pods::new(&self.namespace, Source::Selected(Arc::clone(&follow)), port)
        };
        let forwards = behind(forwards, Some(&TargetPods::Selected(selector))).into_iter();
        Ok(forwards.map(|forward| forward.with_direct_of(direct)).collect())
    }

    /// For kinds whose objects hold no pod template: needed only for what a template would tell.
    async fn spec_of_a_ready_pod(
        &self,
        spec: &TargetSpec,
        follow: &Follow<Pod>,
    ) -> Result<Option<PodSpec>, ResolveError> {
        let needed = spec
            .ports
            .iter()
            .any(|port| port.protocol.is_none() || matches!(port.remote, RemotePort::Name(_)));
        if !needed {
            return Ok(None);
        }
        let mut snapshots = follow.subscribe();
        let ready = async {
            loop {
                let ready = follow.snapshot().objects.values().find(|pod| is_ready(pod)).cloned();
                match ready {
                    Some(pod) => return pod.spec.clone(),
                    // The sender lives as long as `follow`.
                    None => _ = snapshots.changed().await,
                }
            }
        };
        tokio::time::timeout(self.pod_timeout, ready)
            .await
            .map_err(|_| ResolveError::NothingReady { target: spec.typed.clone(), waited: self.pod_timeout })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.access.client(), &self.namespace)
    }
}

fn fixed(spec: &TargetSpec, address: Address) -> Result<Vec<Forward>, PortLookupError> {
    each_port(spec, |port| {
        let selected = ports::plain(&spec.typed, port)?;
        let destination = Destination { address: address.clone(), port: selected.number };
        Ok((selected, Route::Fixed(destination)))
    })
}

/// Makes the forwards of a target, given what each of its ports means.
fn each_port(
    spec: &TargetSpec,
    meaning: impl Fn(&PortSpec) -> Result<(Selected, Route), PortLookupError>,
) -> Result<Vec<Forward>, PortLookupError> {
    let forward = |port: &PortSpec| {
        let (selected, route) = meaning(port)?;
        let typed = &spec.typed;
        let note = selected.also.map(|other| {
            format!(
                "{typed} has port {} as {} and as {other}; forwarding {}. For the other: {}@{other}",
                port.remote, selected.protocol, selected.protocol, port
            )
        });
        let local = match (port.local, &port.remote) {
            (LocalPort::Same, RemotePort::Number(number)) => LocalPort::Number(*number),
            // kubectl listens on the number that the name stands for.
            (LocalPort::Same, RemotePort::Name(_)) => {
                std::num::NonZeroU16::new(selected.number).map_or(LocalPort::Free, LocalPort::Number)
            }
            (local, _) => local,
        };
        Ok(Forward {
            place: spec.place.clone(),
            target: typed.clone(),
            local,
            protocol: selected.protocol,
            port: port.remote.clone(),
            remote: selected.number,
            route: Arc::new(route),
            note,
            pods: None,
            direct: None,
        })
    };
    spec.ports.iter().map(forward).collect()
}

/// The forwards of a target that stands for pods.
fn behind(forwards: Vec<Forward>, pods: Option<&TargetPods>) -> Vec<Forward> {
    forwards.into_iter().map(|forward| Forward { pods: pods.cloned(), ..forward }).collect()
}

/// The selector of an object's pods, as the API takes it: from its spec, or as its scale status shows it.
pub(crate) fn pod_selector(object: &Value) -> Option<String> {
    let from_spec = object.pointer("/spec/selector").and_then(|selector| match selector {
        Value::Object(fields)
            if fields.contains_key("matchLabels") || fields.contains_key("matchExpressions") =>
        {
            serde_json::from_value(selector.clone()).ok().as_ref().and_then(selector_text)
        }
        Value::Object(fields) => {
            let labels: Option<Vec<_>> =
                fields.iter().map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
            labels.map(|labels| labels.join(","))
        }
        Value::String(text) => Some(text.clone()),
        _ => None,
    });
    let from_status = || {
        ["/status/selector", "/status/labelSelector"]
            .iter()
            .find_map(|path| object.pointer(path).and_then(Value::as_str).map(ToOwned::to_owned))
    };
    // An empty selector would match every pod of the namespace.
    from_spec.or_else(from_status).filter(|selector| !selector.is_empty())
}

fn selector_text(selector: &LabelSelector) -> Option<String> {
    let mut parts: Vec<_> =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let key = &expression.key;
        let values = expression.values.as_deref().unwrap_or_default().join(",");
        parts.push(match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        });
    }
    Some(parts.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_of_every_shape_are_read() {
        let cases = [
            (json!({"spec": {"selector": {"matchLabels": {"app": "web"}}}}), Some("app=web")),
            (
                json!({"spec": {"selector": {"matchLabels": {"a": "b"}, "matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["x", "y"]},
                    {"key": "old", "operator": "DoesNotExist"}]}}}),
                Some("a=b,tier in (x,y),!old"),
            ),
            (json!({"spec": {"selector": {"app": "web", "tier": "x"}}}), Some("app=web,tier=x")),
            (json!({"status": {"selector": "app=web"}}), Some("app=web")),
            (json!({"spec": {"selector": {}}}), None),
            (json!({"spec": {}}), None),
        ];
        for (object, expected) in cases {
            assert_eq!(pod_selector(&object).as_deref(), expected, "{object}");
        }
    }
}
