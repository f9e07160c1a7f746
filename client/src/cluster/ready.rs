//! Where the next connection of a forward goes: one fixed address, or one of the endpoints that are ready now, in
//! turn.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use relay_protocol::header::{Address, Protocol};
use tokio::sync::watch;

use super::{
    follow::{Follow, Snapshot},
    ports::{of_pod, of_slice},
    service::ServiceAddress,
};

/// What the agent is told to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// An IP address, or a name that the agent resolves.
    pub address: Address,
    /// The port.
    pub port: u16,
}

/// The answer to "where to, now?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Dial this.
    Go(Destination),
    /// Nothing is ready at the moment.
    Wait,
    /// Nothing ever will be: the reason.
    Gone(String),
}

/// The port of an endpoint that is not the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointPort {
    /// This number, whatever is declared.
    Number(u16),
    /// The declared port of this name; each endpoint may give it another number.
    Named(String, Protocol),
}

/// How a forward finds its destinations.
#[derive(Debug)]
pub enum Route {
    /// Always the same.
    Fixed(Destination),
    /// A Service's own address, which may become another one.
    Service(ServiceAddress, u16),
    /// The ready pods of a selector.
    Pods(Arc<Follow<Pod>>, EndpointPort, AtomicUsize),
    /// The ready endpoints of a Service.
    Endpoints(Arc<Follow<EndpointSlice>>, EndpointPort, AtomicUsize),
    /// One pod, as long as it lives.
    Pod {
        /// The pod's own watch.
        follow: Arc<Follow<Pod>>,
        /// Its name.
        name: String,
        /// Another pod of the same name is another pod.
        uid: Option<String>,
        /// Where to dial.
        port: EndpointPort,
    },
}

impl Route {
    /// Chooses for one connection or flow.
    pub fn choose(&self) -> Choice {
        match self {
            Self::Fixed(destination) => Choice::Go(destination.clone()),
            Self::Service(address, port) => match address.now() {
                Some(ip) => Choice::Go(Destination { address: Address::Ip(ip), port: *port }),
                None => Choice::Wait,
            },
            Self::Pods(follow, port, turn) => in_turn(&pod_destinations(&follow.snapshot(), port), turn),
            Self::Endpoints(follow, port, turn) => {
                in_turn(&slice_destinations(&follow.snapshot(), port), turn)
            }
            Self::Pod { follow, name, uid, port } => {
                single_pod(&follow.snapshot(), name, uid.as_deref(), port)
            }
        }
    }

    /// Whether a connection that one endpoint refuses may find another.
    pub fn has_others(&self) -> bool {
        let other = |choices: Vec<Destination>| choices.len() > 1;
        match self {
            Self::Fixed(_) | Self::Service(..) | Self::Pod { .. } => false,
            Self::Pods(follow, port, _) => other(pod_destinations(&follow.snapshot(), port)),
            Self::Endpoints(follow, port, _) => other(slice_destinations(&follow.snapshot(), port)),
        }
    }

    /// The agent could not reach what was chosen: perhaps it is somewhere else now.
    pub fn doubt(&self) {
        if let Self::Service(address, _) = self {
            address.doubt();
        }
    }

    /// From now on, notices when [`Self::choose`] may have another answer.
    fn watch(&self) -> RouteWatch {
        match self {
            Self::Fixed(_) => RouteWatch::Never,
            Self::Service(address, _) => RouteWatch::Service(address.subscribe()),
            Self::Pods(follow, ..) | Self::Pod { follow, .. } => RouteWatch::Pods(follow.subscribe()),
            Self::Endpoints(follow, ..) => RouteWatch::Endpoints(follow.subscribe()),
        }
    }

    /// Waits for somewhere to go. Cancellation safe.
    ///
    /// # Errors
    /// Why there will never be one.
    pub async fn destination(&self) -> Result<Destination, String> {
        let mut watch = self.watch();
        loop {
            match self.choose() {
                Choice::Go(destination) => return Ok(destination),
                Choice::Gone(reason) => return Err(reason),
                Choice::Wait => watch.changed().await,
            }
        }
    }

    /// Waits until there is never anywhere to go again, and says why. Cancellation safe.
    pub async fn gone(&self) -> String {
        let mut watch = self.watch();
        loop {
            if let Self::Pod { .. } = self
                && let Choice::Gone(reason) = self.choose()
            {
                return reason;
            }
            watch.changed().await;
        }
    }
}

enum RouteWatch {
    Never,
    Service(watch::Receiver<Option<IpAddr>>),
    Pods(watch::Receiver<Snapshot<Pod>>),
    Endpoints(watch::Receiver<Snapshot<EndpointSlice>>),
}

impl RouteWatch {
    async fn changed(&mut self) {
        let open = match self {
            Self::Never => false,
            Self::Service(address) => address.changed().await.is_ok(),
            Self::Pods(snapshots) => snapshots.changed().await.is_ok(),
            Self::Endpoints(snapshots) => snapshots.changed().await.is_ok(),
        };
        if !open {
            std::future::pending::<()>().await;
        }
    }
}

fn in_turn(destinations: &[Destination], turn: &AtomicUsize) -> Choice {
    if destinations.is_empty() {
        return Choice::Wait;
    }
    let turn = turn.fetch_add(1, Ordering::Relaxed);
    Choice::Go(destinations[turn % destinations.len()].clone())
}

/// The ready pods' addresses, in a steady order.
pub fn pod_destinations(snapshot: &Snapshot<Pod>, port: &EndpointPort) -> Vec<Destination> {
    snapshot
        .objects
        .values()
        .filter(|pod| is_ready(pod))
        .filter_map(|pod| destination_of(pod, port))
        .collect()
}

fn slice_destinations(snapshot: &Snapshot<EndpointSlice>, port: &EndpointPort) -> Vec<Destination> {
    let mut destinations = Vec::new();
    for slice in snapshot.objects.values() {
        let number = match port {
            EndpointPort::Number(number) => Some(*number),
            EndpointPort::Named(name, protocol) => of_slice(slice.ports.as_ref())
                .iter()
                .find(|declared| declared.name == *name && declared.protocol == Some(*protocol))
                .map(|declared| declared.number),
        };
        let Some(number) = number else { continue };
        for endpoint in &slice.endpoints {
            // Unknown counts as ready, as the API says.
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let Some(address) = endpoint.addresses.first().filter(|_| ready) else { continue };
            let Ok(ip) = address.parse::<IpAddr>() else { continue };
            destinations.push(Destination { address: Address::Ip(ip), port: number });
        }
    }
    destinations
}

/// One pod, as long as it lives.
pub fn single_pod(snapshot: &Snapshot<Pod>, name: &str, uid: Option<&str>, port: &EndpointPort) -> Choice {
    if !snapshot.synced {
        return Choice::Wait;
    }
    let Some(pod) = snapshot.objects.get(name) else {
        return Choice::Gone(format!("pod \"{name}\" is gone"));
    };
    if pod.metadata.uid.as_deref() != uid {
        return Choice::Gone(format!("pod \"{name}\" is gone; another one has its name now"));
    }
    match phase(pod) {
        "Succeeded" | "Failed" => Choice::Gone(format!("pod \"{name}\" has ended")),
        "Running" => match destination_of(pod, port) {
            Some(destination) => Choice::Go(destination),
            None => Choice::Wait,
        },
        _ => Choice::Wait,
    }
}

/// Where a pod's port is.
pub fn destination_of(pod: &Pod, port: &EndpointPort) -> Option<Destination> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let port = match port {
        EndpointPort::Number(number) => *number,
        EndpointPort::Named(name, protocol) => {
            of_pod(pod.spec.as_ref())
                .iter()
                .find(|declared| declared.name == *name && declared.protocol == Some(*protocol))?
                .number
        }
    };
    Some(Destination { address: Address::Ip(ip), port })
}

/// Ready for traffic: running, ready, and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let condition = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = condition
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none() && phase(pod) == "Running"
}

/// The pod's phase; empty when it has none yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn pod(name: &str, ip: &str, ready: bool, port: u16) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": format!("uid-{name}")},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": ip,
                       "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap()
    }

    fn snapshot(pods: Vec<Pod>) -> Snapshot<Pod> {
        let objects: BTreeMap<_, _> =
            pods.into_iter().map(|pod| (pod.metadata.name.clone().unwrap(), Arc::new(pod))).collect();
        Snapshot { synced: true, objects: Arc::new(objects), error: None }
    }

    fn to(ip: &str, port: u16) -> Destination {
        Destination { address: Address::Ip(ip.parse().unwrap()), port }
    }

    #[test]
    fn only_ready_pods_are_dialled_each_at_its_own_port_number() {
        let mut leaving = pod("d", "10.0.0.4", true, 80);
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2030-01-01T00:00:00Z")).unwrap();
        let pods = snapshot(vec![
            pod("a", "10.0.0.1", true, 80),
            pod("b", "10.0.0.2", false, 80),
            pod("c", "10.0.0.3", true, 8080),
            leaving,
        ]);
        let named = EndpointPort::Named("http".into(), Protocol::Tcp);
        assert_eq!(pod_destinations(&pods, &named), [to("10.0.0.1", 80), to("10.0.0.3", 8080)]);
        assert_eq!(pod_destinations(&pods, &EndpointPort::Number(9)), [to("10.0.0.1", 9), to("10.0.0.3", 9)]);
    }

    #[test]
    fn connections_are_spread_in_turn() {
        let destinations = [to("10.0.0.1", 80), to("10.0.0.2", 80)];
        let turn = AtomicUsize::new(0);
        let chosen: Vec<_> = (0..4).map(|_| in_turn(&destinations, &turn)).collect();
        assert_eq!(chosen[0], Choice::Go(destinations[0].clone()));
        assert_eq!(chosen[1], Choice::Go(destinations[1].clone()));
        assert_eq!(chosen[2], chosen[0]);
        assert_eq!(in_turn(&[], &turn), Choice::Wait);
    }

    #[test]
    fn ready_endpoints_of_all_slices_are_dialled_at_their_target_port() {
        let slice = |name: &str, port: u16, endpoints: serde_json::Value| -> EndpointSlice {
            serde_json::from_value(json!({
                "metadata": {"name": name}, "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            }))
            .unwrap()
        };
        let slices = [
            slice(
                "x",
                80,
                json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                       {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]),
            ),
            slice("y", 8080, json!([{"addresses": ["10.0.0.3"]}])),
        ];
        let objects: BTreeMap<_, _> =
            slices.into_iter().map(|s| (s.metadata.name.clone().unwrap(), Arc::new(s))).collect();
        let snapshot = Snapshot { synced: true, objects: Arc::new(objects), error: None };
        let named = EndpointPort::Named("http".into(), Protocol::Tcp);
        assert_eq!(slice_destinations(&snapshot, &named), [to("10.0.0.1", 80), to("10.0.0.3", 8080)]);
        let udp = EndpointPort::Named("http".into(), Protocol::Udp);
        assert_eq!(slice_destinations(&snapshot, &udp), []);
    }

    #[test]
    fn a_pod_target_follows_nothing_and_says_so_when_the_pod_is_gone() {
        let port = EndpointPort::Number(80);
        let alive = snapshot(vec![pod("a", "10.0.0.1", false, 80)]);
        assert_eq!(single_pod(&alive, "a", Some("uid-a"), &port), Choice::Go(to("10.0.0.1", 80)));
        assert_eq!(
            single_pod(&alive, "a", Some("uid-before"), &port),
            Choice::Gone("pod \"a\" is gone; another one has its name now".into())
        );
        assert_eq!(
            single_pod(&snapshot(vec![]), "a", Some("uid-a"), &port),
            Choice::Gone("pod \"a\" is gone".into())
        );
        let mut ended = pod("a", "10.0.0.1", false, 80);
        ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert_eq!(
            single_pod(&snapshot(vec![ended]), "a", Some("uid-a"), &port),
            Choice::Gone("pod \"a\" has ended".into())
        );
    }
}
