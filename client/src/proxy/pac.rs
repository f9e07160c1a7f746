//! The PAC file: a script that tells a browser which hosts it reaches through the proxy. Nothing in it asks a name
//! server, so nothing about the cluster's names gets out.

use clap::Args as ArgGroup;
use ipnet::IpNet;
use relay_dns::{BadDomain, Search};
use serde_json::json;

/// The script, with a place for what it decides by. It keeps to what browsers have understood for twenty years.
const SCRIPT: &str = include_str!("pac.js");

/// Flags about browsers.
#[derive(Debug, Clone, ArgGroup)]
#[command(next_help_heading = "Browsers")]
pub struct PacArgs {
    /// Addresses that a browser with the PAC file reaches through the proxy, such as those of pods and Services; repeatable.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub pac_range: Vec<String>,

    /// A domain whose names it reaches through the proxy, beside the cluster's own; repeatable.
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    pub pac_domain: Vec<String>,
}

/// What they mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PacSettings {
    /// As typed, without the bits that do not count.
    pub ranges: Vec<IpNet>,
    /// In lower case, without dots at their ends.
    pub domains: Vec<String>,
}

/// Flags that make no PAC file.
#[derive(Debug, thiserror::Error)]
pub enum PacError {
    /// `--pac-range`.
    #[error("--pac-range \"{0}\" is no range of addresses")]
    Range(String),
    /// `--pac-domain`.
    #[error("--pac-domain {0}")]
    Domain(BadDomain),
}

impl PacError {
    /// What to type instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Range(_) => "write --pac-range 10.96.0.0/12, or a single address".into(),
            Self::Domain(error) => error.hint(),
        }
    }
}

impl PacSettings {
    /// Gives the flags their meaning.
    ///
    /// # Errors
    /// The first value that has none.
    pub fn from_args(args: &PacArgs) -> Result<Self, PacError> {
        let range = |text: &String| {
            let single = || text.parse::<std::net::IpAddr>().map(IpNet::from);
            let range = text.parse::<IpNet>().or_else(|_| single());
            range.map(|range| range.trunc()).map_err(|_| PacError::Range(text.clone()))
        };
        let domain = |text: &String| {
            let domain = text.trim_matches('.').to_ascii_lowercase();
            Search::new(&[], &domain).map_err(PacError::Domain)?;
            Ok(domain)
        };
        Ok(Self {
            ranges: args.pac_range.iter().map(range).collect::<Result<_, _>>()?,
            domains: args.pac_domain.iter().map(domain).collect::<Result<_, _>>()?,
        })
    }
}

/// What goes through the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pac {
    /// Names under these go through, and these themselves; in lower case, without dots at their ends.
    pub domains: Vec<String>,
    /// `NAME.NAMESPACE` and `POD.SERVICE.NAMESPACE` of these go through. Without any, single words do not either.
    pub namespaces: Vec<String>,
    /// Addresses in these go through.
    pub ranges: Vec<IpNet>,
}

impl Pac {
    /// The cluster's own names, those of these namespaces in their short form, and what was asked for beside them.
    pub fn new(settings: &PacSettings, cluster_domain: &str, namespaces: &[String]) -> Self {
        let mut domains = vec![cluster_domain.to_owned(), "svc".to_owned()];
        domains.extend(settings.domains.iter().cloned());
        Self { domains, namespaces: namespaces.to_vec(), ranges: settings.ranges.clone() }
    }

    /// The script for whoever knows the proxy by this address and port.
    pub fn script(&self, proxy: &str) -> String {
        let range = |range: &IpNet| {
            let bytes = match range.network() {
                std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            json!({ "address": bytes, "bits": range.prefix_len() })
        };
        let facts = json!({
            "proxy": format!("PROXY {proxy}"),
            "domains": self.domains,
            "namespaces": self.namespaces,
            "ranges": self.ranges.iter().map(range).collect::<Vec<_>>(),
        });
        SCRIPT.replacen("FACTS", &facts.to_string(), 1)
    }
}

#[cfg(test)]
mod tests;
