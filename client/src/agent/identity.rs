//! Names and labels of what a run creates: how a run finds its own agent, and a user their own old ones.

use sha2::{Digest, Sha256};

/// Marks everything that this plugin made.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kubectl-relay");
/// What the object is.
pub const NAME: (&str, &str) = ("app.kubernetes.io/name", "relay-server");
/// The label that tells one user's agents from another's: a hash, as a user's name is no label value.
pub const OWNER_LABEL: &str = "kubectl-relay.io/owner";
/// The annotation that tells a person who started an agent.
pub const STARTED_BY: &str = "kubectl-relay.io/started-by";

/// Who runs the plugin, where, and as whom in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// For a person: `user@machine`.
    pub shown: String,
    /// For a label: the same two and the cluster's user, hashed.
    pub label: String,
}

impl Owner {
    /// From the local user, the local machine and the kubeconfig's user. The machine is part of it, so that a run
    /// never takes away what its user runs elsewhere.
    pub fn new(user: &str, machine: &str, cluster_user: &str) -> Self {
        let digest = Sha256::digest(format!("{user}\0{machine}\0{cluster_user}"));
        let label = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { shown: format!("{user}@{machine}"), label }
    }

    /// The owner of this process.
    pub fn of_this_process(cluster_user: &str) -> Self {
        let user = std::env::var("USER").or_else(|_| std::env::var("USERNAME")).unwrap_or_default();
        let user = if user.is_empty() { "unknown".to_owned() } else { user };
        Self::new(&user, &machine(), cluster_user)
    }

    /// The selector that finds this owner's Jobs.
    pub fn selector(&self) -> String {
        format!("{}={},{OWNER_LABEL}={}", MANAGED_BY.0, MANAGED_BY.1, self.label)
    }
}

#[cfg(unix)]
fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(windows)]
fn machine() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

/// A fresh name for a Job: known before the API server answers, so that watches can start beside the creation.
///
/// # Errors
/// When the system has no randomness to give.
pub fn job_name() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 5];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().fold("relay-agent-".to_owned(), |name, byte| name + &format!("{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_differ_by_user_machine_and_cluster_user() {
        let labels = [
            Owner::new("a", "m", "c").label,
            Owner::new("b", "m", "c").label,
            Owner::new("a", "n", "c").label,
            Owner::new("a", "m", "d").label,
        ];
        for (i, label) in labels.iter().enumerate() {
            assert_eq!(label.len(), 16);
            assert!(!labels[..i].contains(label));
        }
        assert_eq!(Owner::new("a", "m", "c").label, labels[0]);
    }

    #[test]
    fn job_names_are_fresh_and_valid() {
        let (one, two) = (job_name().unwrap(), job_name().unwrap());
        assert_ne!(one, two);
        assert!(one.len() <= 63 && one.starts_with("relay-agent-"));
    }
}
