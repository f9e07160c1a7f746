//! What a cluster's name decides: its folder, its addresses, its device, its cgroup.
//!
//! Only the link between the machine and the node is visible outside the cluster's own namespaces;
//! pod and service addresses exist inside alone and need to be unique only for a test that adds a
//! route to them on purpose.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The name that is used when none is given.
pub(crate) const DEFAULT_NAME: &str = "relay";
const FOLDER: &str = "/var/lib/kubectl-relay";

/// Everything that follows from a name.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The cluster's name.
    pub(crate) name: String,
    /// Third part of the addresses: 0 for the default name.
    pub(crate) slot: u8,
    /// State, logs, keys: all of it goes with the cluster.
    pub(crate) folder: PathBuf,
}

impl Plan {
    /// Checks the name and works out the rest.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty()
            || name.len() > 30
            || !name.chars().all(plain)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            bail!(
                "{name:?} cannot be a cluster's name: up to 30 lower-case letters, digits and inner hyphens, \
                 because it becomes a host name"
            );
        }
        Ok(Self { name: name.to_owned(), slot: slot(name), folder: Path::new(FOLDER).join(name) })
    }

    /// A file or folder inside the cluster's folder.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.join(inside)
    }

    /// The same as text, for arguments and settings; our folders are plain ASCII.
    pub(crate) fn text(&self, inside: &str) -> String {
        self.path(inside).to_string_lossy().into_owned()
    }

    /// The node's name in Kubernetes and its host name.
    pub(crate) fn node(&self) -> String {
        format!("{}-node", self.name)
    }

    /// The machine's end of the link.
    pub(crate) fn device(&self) -> String {
        format!("rly{}", self.slot)
    }

    /// The cgroup below which all pods run.
    pub(crate) fn cgroup(&self) -> String {
        format!("kubectl-relay-{}", self.name)
    }

    /// The node's address: API server, kubelet, node ports.
    pub(crate) fn node_ip(&self) -> String {
        format!("10.77.{}.1", self.slot)
    }

    /// The machine's address as seen from the cluster.
    pub(crate) fn host_ip(&self) -> String {
        format!("10.77.{}.254", self.slot)
    }

    /// A client's address behind the link; no one outside the cluster's namespaces sees it.
    pub(crate) fn link_client_ip(&self) -> String {
        format!("10.78.{}.2", self.slot)
    }

    /// The node's end of the link.
    pub(crate) fn link_node_ip(&self) -> String {
        format!("10.78.{}.1", self.slot)
    }

    /// The node's IPv6 address.
    pub(crate) fn node_ip6(&self) -> String {
        format!("fd77:0:0:{:x}::1", self.slot)
    }

    /// The machine's IPv6 address as seen from the cluster.
    pub(crate) fn host_ip6(&self) -> String {
        format!("fd77:0:0:{:x}::254", self.slot)
    }

    /// Addresses of pods.
    pub(crate) fn pod_cidr(&self) -> String {
        format!("10.244.{}.0/24", self.slot)
    }

    /// IPv6 addresses of pods.
    pub(crate) fn pod_cidr6(&self) -> String {
        format!("fd77:0:1:{:x}::/64", self.slot)
    }

    /// Addresses of services.
    pub(crate) fn service_cidr(&self) -> &'static str {
        "10.96.0.0/16"
    }

    /// IPv6 addresses of services.
    pub(crate) fn service_cidr6(&self) -> String {
        format!("fd77:0:2:{:x}::/112", self.slot)
    }

    /// The address of the service `kubernetes`.
    pub(crate) fn api_service_ip(&self) -> &'static str {
        "10.96.0.1"
    }

    /// The address of the service `kube-dns`.
    pub(crate) fn dns_ip(&self) -> &'static str {
        "10.96.0.10"
    }

    /// Where the API server is reached, from the machine and from the node.
    pub(crate) fn api_url(&self) -> String {
        format!("https://{}:6443", self.node_ip())
    }

    /// containerd's socket.
    pub(crate) fn runtime_socket(&self) -> String {
        self.text("containerd.sock")
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }
}

fn slot(name: &str) -> u8 {
    if name == DEFAULT_NAME {
        return 0;
    }
    // FNV-1a, folded to 1..=250.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    1 + u8::try_from(hash % 250).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_separate_clusters() {
        let one = Plan::new("relay").unwrap();
        let two = Plan::new("other").unwrap();
        assert_ne!(one.slot, two.slot);
        assert_ne!(one.folder, two.folder);
        assert_eq!(one.api_url(), "https://10.77.0.1:6443");
    }

    #[test]
    fn a_name_that_is_no_host_name_is_refused() {
        for name in ["", "Upper", "a/b", "-a", "a-", "a b", "..", "0123456789012345678901234567890"] {
            assert!(Plan::new(name).is_err(), "{name:?}");
        }
    }
}
