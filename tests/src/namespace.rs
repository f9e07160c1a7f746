//! A namespace of a test's own, gone when the test is.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::kubectl::{kubectl, kubectl_apply, xtask};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A namespace that is deleted, without waiting, when dropped.
pub struct Namespace {
    name: String,
    files: tempfile::TempDir,
}

impl Namespace {
    /// Makes a namespace with labels such as `pod-security.kubernetes.io/enforce=restricted`.
    pub fn new(purpose: &str, labels: &[&str]) -> Self {
        let name = format!("{purpose}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        kubectl(&["create", "namespace", &name]);
        if !labels.is_empty() {
            kubectl(&[&["label", "namespace", &name], labels].concat());
        }
        Self { name, files: tempfile::tempdir().unwrap() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes a user who may do in this namespace only what `rules` (of a Role, in JSON) say; gives its kubeconfig.
    pub fn user(&self, user: &str, rules: &str) -> PathBuf {
        let (name, user) = (&self.name, format!("{user}-{}", self.name));
        kubectl_apply(
            name,
            &format!(
                r#"{{"apiVersion":"v1","kind":"List","items":[
                {{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{{"name":"{user}"}},"rules":{rules}}},
                {{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{{"name":"{user}"}},
                  "roleRef":{{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"{user}"}},
                  "subjects":[{{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"{user}"}}]}}]}}"#
            ),
        );
        self.kubeconfig_of(&user)
    }

    /// A kubeconfig for a user of this name, who has whatever rights were bound to the name.
    pub fn kubeconfig_of(&self, user: &str) -> PathBuf {
        let path = self.files.path().join(user);
        std::fs::write(&path, xtask(&["user", user, "--namespace", &self.name])).unwrap();
        path
    }

    /// The agent's Jobs and pods that are there, one per line.
    pub fn agents(&self) -> String {
        let list = [
            "get",
            "jobs,pods",
            "-n",
            &self.name,
            "-l",
            "app.kubernetes.io/managed-by=kubectl-relay",
            "-o",
            "name",
        ];
        kubectl(&list)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        crate::kubectl::try_kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
