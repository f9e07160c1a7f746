//! What was learnt about pods whose ports answer on the pod's loopback only.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use relay_transport::DialError;
use tokio::time::Instant;

use super::pods::PodPort;

/// A port that answered nowhere is not asked for on the loopback again so soon: programs try again at once.
const NOWHERE: Duration = Duration::from_secs(2);
/// Nor is the right to port-forward, which somebody may give meanwhile.
const FORBIDDEN: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Loopback(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Answered there.
    answers: HashSet<(String, u16)>,
    /// Answered nowhere, and when.
    nowhere: HashMap<(String, u16), Instant>,
    /// Namespaces where nobody lets us in, since when.
    forbidden: HashMap<String, (Instant, DialError)>,
    /// Targets of which it was said.
    told: HashSet<(String, u16)>,
}

impl Loopback {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all of these answer there; not so where there are none.
    pub(super) fn is_all_of(&self, pods: &[PodPort]) -> bool {
        let known = self.known();
        !pods.is_empty() && pods.iter().all(|pod| known.answers.contains(&key(pod)))
    }

    /// A connection through the pod's port-forward got an answer. True where that is to be told of the target.
    pub(super) fn answered(&self, pod: &PodPort, target: &str) -> bool {
        let mut known = self.known();
        known.nowhere.remove(&key(pod));
        known.answers.insert(key(pod));
        known.told.insert((target.to_owned(), pod.port))
    }

    /// Nothing listens there either.
    pub(super) fn refused(&self, pod: &PodPort) {
        let mut known = self.known();
        known.answers.remove(&key(pod));
        known.nowhere.retain(|_, since| since.elapsed() < NOWHERE);
        known.nowhere.insert(key(pod), Instant::now());
    }

    /// The API server does not let us in.
    pub(super) fn forbidden(&self, pod: &PodPort, error: &DialError) {
        self.known().forbidden.insert(pod.namespace.clone(), (Instant::now(), error.clone()));
    }

    /// Why it is not worth trying now, if it is not; with the API server's refusal if it was one.
    pub(super) fn is_hopeless(&self, pod: &PodPort) -> Option<Option<DialError>> {
        let known = self.known();
        if known.nowhere.get(&key(pod)).is_some_and(|since| since.elapsed() < NOWHERE) {
            return Some(None);
        }
        let (since, error) = known.forbidden.get(&pod.namespace)?;
        (since.elapsed() < FORBIDDEN).then(|| Some(error.clone()))
    }
}

fn key(pod: &PodPort) -> (String, u16) {
    (pod.uid.clone(), pod.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> PodPort {
        let ip = [10, 0, 0, 1].into();
        PodPort { namespace: "dev".into(), pod: uid.into(), uid: uid.into(), ip, port: 80 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_answers_is_remembered_and_another_is_not_it() {
        let loopback = Loopback::default();
        assert!(!loopback.is_all_of(&[]));
        assert!(!loopback.is_all_of(&[pod("a")]));
        assert!(loopback.answered(&pod("a"), "deploy/x"), "the first time it is told");
        assert!(loopback.is_all_of(&[pod("a")]));
        assert!(
            !loopback.is_all_of(&[pod("a"), pod("b")]),
            "the next rollout's pods are tried at their address"
        );
        assert!(!loopback.answered(&pod("b"), "deploy/x"), "and not told of again");
        loopback.refused(&pod("a"));
        assert!(!loopback.is_all_of(&[pod("a")]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_hopeless_is_tried_again_a_little_later() {
        let loopback = Loopback::default();
        assert_eq!(loopback.is_hopeless(&pod("a")), None);
        loopback.refused(&pod("a"));
        assert_eq!(loopback.is_hopeless(&pod("a")), Some(None));
        assert_eq!(loopback.is_hopeless(&pod("b")), None);
        tokio::time::advance(NOWHERE).await;
        assert_eq!(loopback.is_hopeless(&pod("a")), None);

        let error = DialError::Unreachable("forbidden".into());
        loopback.forbidden(&pod("a"), &error);
        assert_eq!(loopback.is_hopeless(&pod("b")), Some(Some(error)), "it is the namespace's");
        tokio::time::advance(FORBIDDEN).await;
        assert_eq!(loopback.is_hopeless(&pod("b")), None);
    }
}
