//! The pods behind a target, for connections that go to a pod itself.

use std::sync::{Arc, atomic::AtomicUsize};

use k8s_openapi::api::core::v1::{Pod, ServiceSpec};
use kube::runtime::watcher;
use relay_protocol::header::Protocol;

use super::{Forward, ResolveError, Resolver, TargetPods, behind, each_port};
use crate::{
    cluster::{
        api::Call,
        follow::{Ask, Follow},
        ports,
        ready::Route,
    },
    direct::pods::{Later, Pods, Source},
    port::PortSpec,
    target::TargetSpec,
};

impl Forward {
    /// Lets connections go to the pods themselves.
    pub(super) fn with_direct_of(self, pods: impl Fn(&Self) -> Pods) -> Self {
        let pods = pods(&self);
        self.with_direct(Some(pods))
    }

    fn with_direct(self, pods: Option<Pods>) -> Self {
        let direct = pods.filter(|_| self.protocol == Protocol::Tcp).map(Arc::new);
        Self { direct, ..self }
    }
}

impl Resolver {
    /// A headless Service by its pods.
    pub(super) async fn pods_of_headless(
        &self,
        spec: &TargetSpec,
        selector: &str,
        known: &[ports::DeclaredPort],
        service: &ServiceSpec,
    ) -> Result<Vec<Forward>, ResolveError> {
        let follow = Arc::new(self.follow_pods(selector));
        follow.synced().await?;
        Ok(each_port(spec, |port| {
            let selected = ports::select(&spec.typed, port, known, false)?;
            let endpoint_port = ports::target_port(service.ports.as_ref(), &selected);
            Ok((selected, Route::Pods(Arc::clone(&follow), endpoint_port, AtomicUsize::default())))
        })?)
    }

    /// Follows the pods of a selector.
    pub(super) fn follow_pods(&self, selector: &str) -> Follow<Pod> {
        let config = watcher::Config::default().labels(selector);
        let call = Call::new("list", "", "pods", &self.namespace);
        Follow::start_or_ask(&self.access, self.pods(), config, call, Ask::ForAll)
    }

    /// The forwards of a Service, with its pods; nobody follows those before a connection is to go to one.
    pub(super) fn behind_service(
        &self,
        spec: &TargetSpec,
        forwards: Vec<Forward>,
        pods: Option<&TargetPods>,
        known: &[ports::DeclaredPort],
        service: &ServiceSpec,
    ) -> Vec<Forward> {
        let direct = |port: &PortSpec| {
            let Some(TargetPods::Selected(selector)) = pods else { return None };
            let selected = ports::select(&spec.typed, port, known, false).ok()?;
            let port = ports::target_port(service.ports.as_ref(), &selected);
            let (this, selector) = (self.clone(), selector.clone());
            let later = Later::new(move || this.follow_pods(&selector));
            Some(Pods::new(&self.namespace, Source::Later(later), port))
        };
        let forwards = behind(forwards, pods).into_iter().zip(&spec.ports);
        forwards.map(|(forward, port)| forward.with_direct(direct(port))).collect()
    }
}
