//! What one object of the cluster offers: the ports that it declares, and the forward that its annotation suggests.

use std::num::NonZeroU16;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Service};
use kube::{Api, api::ListParams, core::DynamicObject};

use super::{ANNOTATION, HintError, parse_annotation};
use crate::{
    cluster::{
        api::{ApiError, Call, made},
        discovery,
        ports::{self, DeclaredPort},
        resolve::{ResolveError, Resolver, pod_selector},
    },
    port::{LocalPort, PortSpec, RemotePort},
    target::{Kind, Target, TargetSpec},
};

/// Below this, most systems let only root listen.
const UNPRIVILEGED: u16 = 1024;
/// So a port below is offered so much higher: 80 as 8080.
const HIGHER: u16 = 8000;

/// What is known of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The ports it declares.
    pub ports: Vec<DeclaredPort>,
    /// What its annotation says.
    pub suggested: Option<Vec<PortSpec>>,
}

/// Looks at the object that a target names.
///
/// # Errors
/// It cannot be had, or its annotation makes no sense.
pub async fn of(resolver: &Resolver, spec: &TargetSpec) -> Result<Offer, HintError> {
    let (annotation, ports) = match &spec.target {
        Target::Service(name) => service(resolver, name).await?,
        Target::Pod(name) => pod(resolver, name).await?,
        Target::Workload(kind, name) => workload(resolver, spec, kind, name).await?,
        Target::Ip(_) | Target::Host(_) | Target::Node(_) => (None, Vec::new()),
    };
    let suggested = annotation.as_deref().map(parse_annotation).transpose();
    let suggested = suggested.map_err(|why| HintError::Annotation { object: spec.typed.clone(), why })?;
    Ok(Offer { ports, suggested })
}

type Found = (Option<String>, Vec<DeclaredPort>);

async fn service(resolver: &Resolver, name: &str) -> Result<Found, ResolveError> {
    let call = Call::new("get", "", "services", &resolver.namespace).on(name);
    let api: Api<Service> = Api::namespaced(resolver.access.client(), &resolver.namespace);
    let service = made(call, resolver.request_timeout, api.get(name)).await?;
    let ports = ports::of_service(service.spec.as_ref().and_then(|spec| spec.ports.as_ref()));
    Ok((annotation(service.metadata.annotations), ports))
}

/// By a list: that is the right a pod target needs anyway.
async fn pod(resolver: &Resolver, name: &str) -> Result<Found, ResolveError> {
    let call = Call::new("list", "", "pods", &resolver.namespace).on(name);
    let fields = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = pods(resolver, call.clone(), &fields).await?;
    let pod = found.into_iter().next().ok_or(ApiError::NotFound { call })?;
    Ok((annotation(pod.metadata.annotations), ports::of_pod(pod.spec.as_ref())))
}

async fn workload(
    resolver: &Resolver,
    spec: &TargetSpec,
    kind: &Kind,
    name: &str,
) -> Result<Found, ResolveError> {
    let client = resolver.access.client();
    let served = discovery::served(&client, kind, resolver.request_timeout)
        .await?
        .ok_or_else(|| ResolveError::NoKind(kind.clone()))?;
    if !served.namespaced {
        return Err(ResolveError::NoSelector(spec.typed.clone()));
    }
    let resource = served.resource;
    let call = Call::new("get", &resource.group, &resource.plural, &resolver.namespace).on(name);
    let api: Api<DynamicObject> = Api::namespaced_with(client, &resolver.namespace, &resource);
    let object = made(call, resolver.request_timeout, api.get(name)).await?;
    let selector = pod_selector(&object.data).ok_or_else(|| ResolveError::NoSelector(spec.typed.clone()))?;
    let template = object.data.pointer("/spec/template/spec").cloned();
    let pod_spec = match template.and_then(|spec| serde_json::from_value::<PodSpec>(spec).ok()) {
        Some(pod_spec) => Some(pod_spec),
        None => {
            let call = Call::new("list", "", "pods", &resolver.namespace);
            let found = pods(resolver, call, &ListParams::default().labels(&selector).limit(1)).await?;
            found.into_iter().next().and_then(|pod| pod.spec)
        }
    };
    Ok((annotation(object.metadata.annotations), ports::of_pod(pod_spec.as_ref())))
}

async fn pods(resolver: &Resolver, call: Call, which: &ListParams) -> Result<Vec<Pod>, ResolveError> {
    let api: Api<Pod> = Api::namespaced(resolver.access.client(), &resolver.namespace);
    Ok(made(call, resolver.request_timeout, api.list(which)).await?.items)
}

fn annotation(annotations: Option<std::collections::BTreeMap<String, String>>) -> Option<String> {
    annotations?.remove(ANNOTATION)
}

/// Those that speak TCP or UDP.
pub fn forwardable(ports: &[DeclaredPort]) -> impl Iterator<Item = &DeclaredPort> {
    ports.iter().filter(|port| port.protocol.is_some() && port.number > 0)
}

/// The port argument that means `port` and none of the others, on a local port that anybody may have.
pub fn spec(port: &DeclaredPort, known: &[DeclaredPort]) -> PortSpec {
    let alike = |same: fn(&DeclaredPort, &DeclaredPort) -> bool| {
        known.iter().filter(|other| same(other, port)).count() > 1
    };
    let has_own_name = !port.name.is_empty() && !alike(|one, other| one.name == other.name);
    let number = NonZeroU16::new(port.number).unwrap_or(NonZeroU16::MIN);
    let remote = if has_own_name { RemotePort::Name(port.name.clone()) } else { RemotePort::Number(number) };
    let local = if port.number < UNPRIVILEGED {
        LocalPort::Number(number.saturating_add(HIGHER))
    } else {
        LocalPort::Same
    };
    let protocol = port.protocol.filter(|_| !has_own_name && alike(|one, other| one.number == other.number));
    PortSpec { local, remote, protocol }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_protocol::header::Protocol;

    use super::*;

    fn port(name: &str, number: u16, protocol: Option<Protocol>) -> DeclaredPort {
        DeclaredPort { name: name.into(), number, protocol }
    }

    #[test]
    fn a_port_is_offered_as_it_is_typed() {
        let known = [
            port("http", 80, Some(Protocol::Tcp)),
            port("", 53, Some(Protocol::Udp)),
            port("", 53, Some(Protocol::Tcp)),
            port("metrics", 9153, Some(Protocol::Tcp)),
            port("twice", 7000, Some(Protocol::Tcp)),
            port("twice", 7001, Some(Protocol::Tcp)),
        ];
        let typed: Vec<_> = known.iter().map(|port| spec(port, &known).to_string()).collect();
        assert_eq!(typed, ["8080:http", "8053:53@udp", "8053:53@tcp", "metrics", "7000", "7001"]);
    }

    proptest! {
        #[test]
        fn what_is_offered_means_what_it_was_made_from(
            ports in prop::collection::btree_set((0..3u8, 1u16..4, any::<bool>()), 1..6)
        ) {
            let named = |(name, number, udp): (u8, u16, bool)| {
                let name = ["", "a", "b"][usize::from(name)];
                port(name, number, Some(if udp { Protocol::Udp } else { Protocol::Tcp }))
            };
            // A Service's ports differ in number or protocol.
            let mut known: Vec<DeclaredPort> = Vec::new();
            for port in ports.into_iter().map(named) {
                if known.iter().all(|other| (other.number, other.protocol) != (port.number, port.protocol)) {
                    known.push(port);
                }
            }
            for port in &known {
                let typed: PortSpec = spec(port, &known).to_string().parse().unwrap();
                let meant = ports::select("svc/x", &typed, &known, true).unwrap();
                prop_assert_eq!((meant.number, Some(meant.protocol)), (port.number, port.protocol));
            }
        }
    }
}
