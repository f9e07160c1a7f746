//! Names to addresses, as a program in the pod would see them: the hosts file, then the name servers with the pod's
//! search list.
//!
//! The search list is walked here and not by the library, so that both families of an answer belong to the same
//! name, and so that a family whose answer never comes does not hold up the other.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};
use relay_policy::Names;
use relay_protocol::{HostName, Status};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::error::DialError;

/// How long the family that answered first waits for the other (RFC 8305, section 3).
const OTHER_FAMILY: Duration = Duration::from_millis(50);

/// What a name led to.
#[derive(Debug)]
pub struct Found {
    /// All its addresses, IPv6 and IPv4 in turn; never empty.
    pub addresses: Vec<IpAddr>,
    /// The names on the way.
    pub names: Names,
}

/// Resolves names. One per agent.
pub struct Resolver {
    names: Arc<NameServers>,
    /// The runtime that asks: connections to name servers are shared by all who want to know something, and are to
    /// outlive the thread of whoever was the first.
    home: Handle,
}

struct NameServers {
    /// Asks the name servers for complete names. Absent where the pod has none.
    dns: Option<TokioResolver>,
    search: Vec<Name>,
    ndots: usize,
    hosts: Hosts,
}

impl Resolver {
    /// With the pod's `/etc/resolv.conf` and `/etc/hosts`. Names are asked for in the runtime that this is called in.
    pub fn from_system() -> Self {
        Self::at_home(NameServers::from_system())
    }

    /// With these name servers and this search list; as above.
    pub fn new(config: ResolverConfig, options: ResolverOpts, hosts: Hosts) -> Self {
        Self::at_home(NameServers::new(config, options, hosts))
    }

    fn at_home(names: NameServers) -> Self {
        Self { names: Arc::new(names), home: Handle::current() }
    }

    /// All addresses of `host`, and the names that led to them.
    ///
    /// # Errors
    /// A [`DialError`] where there is none, or no answer.
    pub async fn resolve(&self, host: &HostName) -> Result<Found, DialError> {
        let (names, host) = (self.names.clone(), host.clone());
        let answer = AbortOnDropHandle::new(self.home.spawn(async move { names.resolve(&host).await }));
        answer.await.unwrap_or_else(|_| Err(DialError::new(Status::ShuttingDown, "the agent ends")))
    }
}

impl NameServers {
    fn from_system() -> Self {
        let hosts = Hosts::from_system().unwrap_or_default();
        match read_system_conf() {
            Ok((config, options)) => Self::new(config, options, hosts),
            Err(error) => {
                tracing::warn!(%error, "no name servers: /etc/resolv.conf cannot be used, only addresses can be dialled");
                Self { dns: None, search: Vec::new(), ndots: 1, hosts }
            }
        }
    }

    fn new(config: ResolverConfig, mut options: ResolverOpts, hosts: Hosts) -> Self {
        let search = config.domain().into_iter().chain(config.search()).cloned().collect();
        let ndots = options.ndots;
        let servers = ResolverConfig::from_parts(None, Vec::new(), config.name_servers().to_vec());
        // The cluster's DNS caches. Here a name that just came to life would stay unknown for its negative TTL.
        options.cache_size = 0;
        let mut dns = TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
        *dns.options_mut() = options;
        let dns = dns.build().inspect_err(|error| tracing::warn!(%error, "no name can be resolved")).ok();
        Self { dns, search, ndots, hosts }
    }

    async fn resolve(&self, host: &HostName) -> Result<Found, DialError> {
        let name = Name::from_ascii(host.as_str())
            .map_err(|error| DialError::new(Status::NoSuchHost, error.to_string()))?;
        if let Some(addresses) = self.in_hosts(&name) {
            return Ok(Found { addresses, names: Names::new(host.as_str(), host.as_str()) });
        }
        let Some(dns) = &self.dns else {
            return Err(DialError::new(Status::NoSuchHost, "the pod has no name servers"));
        };
        let mut failure = DialError::new(Status::NoSuchHost, "no address of that name");
        for candidate in self.candidates(name) {
            let mut names = Names::new(host.as_str(), &candidate.to_ascii());
            match ask(dns, candidate, &mut names).await {
                Ok(addresses) if !addresses.is_empty() => return Ok(Found { addresses, names }),
                Ok(_) => {}
                Err(NetError::Timeout) => {
                    failure = DialError::new(Status::ResolveTimedOut, "no answer from the name servers");
                }
                Err(error) if error.is_no_records_found() || error.is_nx_domain() => {}
                // An answer may still come for the next candidate; if not, this is why.
                Err(error) => failure = DialError::new(Status::Unknown, error.to_string()),
            }
        }
        Err(failure)
    }

    fn in_hosts(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let find = |kind| self.hosts.lookup_static_host(&Query::query(name.to_lowercase(), kind));
        let (v6, v4) = (find(RecordType::AAAA), find(RecordType::A));
        Some(interleave(&addresses(v6.as_ref()), &addresses(v4.as_ref()))).filter(|found| !found.is_empty())
    }

    /// The complete names to ask for, in order, as resolv.conf(5) has it.
    fn candidates(&self, mut name: Name) -> Vec<Name> {
        if name.is_fqdn() {
            return vec![name];
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let mut names: Vec<_> =
            self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        name.set_fqdn(true);
        names.insert(if dots >= self.ndots { 0 } else { names.len() }, name);
        names.dedup();
        names
    }
}

/// Asks for both families of one name at once, and adds the names that it is an alias for.
async fn ask(dns: &TokioResolver, name: Name, names: &mut Names) -> Result<Vec<IpAddr>, NetError> {
    let v6 = pin!(dns.ipv6_lookup(name.clone()));
    let v4 = pin!(dns.ipv4_lookup(name));
    let (v6, v4) = match select(v6, v4).await {
        Either::Left((Ok(v6), v4)) => {
            (Ok(v6), timeout(OTHER_FAMILY, v4).await.unwrap_or(Err(NetError::Timeout)))
        }
        Either::Left((v6, v4)) => (v6, v4.await),
        Either::Right((Ok(v4), v6)) => {
            (timeout(OTHER_FAMILY, v6).await.unwrap_or(Err(NetError::Timeout)), Ok(v4))
        }
        Either::Right((v4, v6)) => (v6.await, v4),
    };
    for record in [&v6, &v4].into_iter().flatten().flat_map(Lookup::answers) {
        names.add_alias(&record.name.to_ascii());
        if let RData::CNAME(alias) = &record.data {
            names.add_alias(&alias.to_ascii());
        }
    }
    match (v6, v4) {
        // Where no family has an address, the one that failed says more than the one that has none.
        (Err(error), Err(other)) => Err(if error.is_no_records_found() { other } else { error }),
        (v6, v4) => Ok(interleave(&addresses(v6.ok().as_ref()), &addresses(v4.ok().as_ref()))),
    }
}

fn addresses(lookup: Option<&Lookup>) -> Vec<IpAddr> {
    lookup.into_iter().flat_map(Lookup::answers).filter_map(|record| record.data.ip_addr()).collect()
}

/// One of each in turn, so that a family without a route costs one attempt and not all (RFC 8305, section 4).
fn interleave(v6: &[IpAddr], v4: &[IpAddr]) -> Vec<IpAddr> {
    (0..v6.len().max(v4.len())).flat_map(|i| [v6.get(i), v4.get(i)]).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(search: &[&str], ndots: usize) -> NameServers {
        let search = search.iter().map(|domain| Name::from_ascii(domain).unwrap()).collect();
        NameServers { dns: None, search, ndots, hosts: Hosts::default() }
    }

    fn candidates(resolver: &NameServers, name: &str) -> Vec<String> {
        resolver.candidates(Name::from_ascii(name).unwrap()).iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn the_search_list_as_a_pod_has_it() {
        let pod = resolver(&["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"], 5);
        assert_eq!(
            candidates(&pod, "web.ns"),
            ["web.ns.ns.svc.cluster.local.", "web.ns.svc.cluster.local.", "web.ns.cluster.local.", "web.ns."]
        );
        assert_eq!(candidates(&pod, "a.b.c.d.e.f")[0], "a.b.c.d.e.f.");
        assert_eq!(candidates(&pod, "web.ns."), ["web.ns."]);
    }

    #[tokio::test]
    async fn the_hosts_file_needs_no_name_server() {
        let mut resolver = resolver(&[], 1);
        resolver.hosts.read_hosts_conf(&b"10.1.2.3 Web web-0\n::7 web # both\n"[..]).unwrap();
        let found = resolver.resolve(&HostName::new("WEB").unwrap()).await.unwrap();
        assert_eq!(found.addresses, ["::7".parse::<IpAddr>().unwrap(), "10.1.2.3".parse().unwrap()]);
        let missing = resolver.resolve(&HostName::new("db").unwrap()).await;
        assert_eq!(missing.unwrap_err().status, Status::NoSuchHost);
    }

    #[test]
    fn families_take_turns() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let got = interleave(&[ip("::1"), ip("::2")], &[ip("1.1.1.1")]);
        assert_eq!(got, [ip("::1"), ip("1.1.1.1"), ip("::2")]);
    }
}
