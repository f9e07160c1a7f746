//! The cluster, shared: a fault that breaks it for everybody has it alone, one with means of its own has it beside
//! others. All tests of one program go by this.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::kubectl::{kubectl, try_kubectl, xtask};

static CLUSTER: RwLock<()> = RwLock::new(());

/// The cluster, for one test alone; whole again afterwards.
pub struct Alone(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>);

/// The cluster, which nobody breaks meanwhile.
pub struct Beside(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>);

/// Waits until no other test uses the cluster.
pub fn alone() -> Alone {
    Alone(CLUSTER.write().unwrap_or_else(PoisonError::into_inner))
}

/// Waits until no other test breaks the cluster.
pub fn beside_others() -> Beside {
    Beside(CLUSTER.read().unwrap_or_else(PoisonError::into_inner))
}

impl Drop for Alone {
    fn drop(&mut self) {
        xtask(&["path", "heal"]);
        xtask(&["apiserver", "start"]);
        wait_for_controllers();
    }
}

/// After an API server was away, controllers and kubelet come back in their own time: half a minute and more. Whoever
/// needs a pod before that would measure them; and if it goes away again before that, and again, the node counts as lost,
/// and its pods are taken out of their Services.
pub fn wait_for_controllers() {
    let name = format!("works-again-{}", std::process::id());
    let job = format!("job/{name}");
    kubectl(&[
        "create",
        "job",
        &name,
        "--image=relay.test/workload:1",
        "--",
        "/relay-workload",
        "resolve",
        "localhost",
    ]);
    // Fails only where the next test would fail too, and says more then.
    try_kubectl(&["wait", "--for=condition=complete", &job, "--timeout=180s"]);
    try_kubectl(&["delete", &job, "--wait=true", "--timeout=60s"]);
}
