//! One forward that somebody wants: one port of one target, and everything that decides how it is carried.

use std::sync::Arc;

use crate::{
    cli::{
        args::ClusterArgs,
        settings::{ListenAddress, Settings, UsageError},
        wanted::Wanted,
    },
    relay_file::{Defaults, RelayFile},
    target::TargetSpec,
};

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its name; those of one target's ports have the same.
    pub name: String,
    /// The group of the file that it is in.
    pub group: Option<String>,
    /// The target with exactly one port, and where it is.
    pub wanted: Wanted,
    /// Everything else.
    pub means: Means,
}

/// How forwards are carried. Those with the same means may share an agent.
#[derive(Debug, Clone)]
pub struct Means {
    /// What the flags come to.
    pub settings: Arc<Settings>,
    /// Equal where all of it is.
    pub key: Arc<str>,
}

impl Means {
    /// Those of a file's defaults, or of none, for the cluster of a command line.
    ///
    /// # Errors
    /// Values that do not go together.
    pub fn new(defaults: &Defaults, cluster: &ClusterArgs, verbosity: u8) -> Result<Self, UsageError> {
        let settings = defaults.settings(cluster.clone(), verbosity)?;
        let words: Vec<&str> = defaults.words().collect();
        // The namespace is each forward's own matter.
        let cluster = ClusterArgs { context: None, namespace: None, ..cluster.clone() };
        let key = format!("{words:?} {cluster:?}").into();
        Ok(Self { settings: Arc::new(settings), key })
    }
}

impl Wish {
    /// Every forward of a file, one for each port.
    pub fn of_file(file: &RelayFile, means: &Means) -> Vec<Self> {
        let each = |listed: &crate::relay_file::Listed| {
            Self::each_port(&listed.name, listed.group.as_deref(), &listed.wanted, means)
        };
        file.forwards.iter().flat_map(each).collect()
    }

    /// A target's ports, one by one.
    pub fn each_port(name: &str, group: Option<&str>, wanted: &Wanted, means: &Means) -> Vec<Self> {
        let one = |port: &crate::port::PortSpec| {
            let spec = TargetSpec { ports: vec![port.clone()], ..wanted.spec.clone() };
            let cluster = &means.settings.cluster;
            let wanted = Wanted {
                spec,
                namespace: wanted.namespace.clone().or_else(|| cluster.namespace.clone()),
                context: wanted.context.clone().or_else(|| cluster.context.clone()),
                addresses: wanted.addresses.clone(),
            };
            Self { name: name.into(), group: group.map(Into::into), wanted, means: means.clone() }
        };
        wanted.spec.ports.iter().map(one).collect()
    }

    /// As it could be typed.
    pub fn typed(&self) -> String {
        let ports: Vec<_> = self.wanted.spec.ports.iter().map(ToString::to_string).collect();
        format!("{} {}", self.wanted.spec.typed, ports.join(" "))
    }

    /// Equal for two wishes that come to the same forward, wherever they are written.
    pub fn key(&self) -> String {
        let Wanted { namespace, context, addresses, .. } = &self.wanted;
        let addresses: &[ListenAddress] = addresses;
        let (name, group, key) = (&self.name, &self.group, &self.means.key);
        format!("{name} {group:?} {} {namespace:?} {context:?} {addresses:?} {key}", self.typed())
    }
}
