//! The proxy of a run: its listeners, bound before anything is created in the cluster, and what is said of them.

use std::{net::SocketAddr, sync::Arc};

use relay_dns::Search;
use relay_protocol::header::Protocol;
use relay_proxy::{Proxy, Settings, Totals};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{
    ProxyError, ProxySettings,
    dial::TunnelDial,
    dns::{DnsListening, DnsServing},
    environment::{export_lines, variables},
    pac::Pac,
    shell::Shell,
    status::{About, Status},
    tell::Teller,
};
use crate::{
    cluster::config::ClusterConfig,
    command::{Variables, environment::reachable},
    forward::{
        Relay,
        listen::{Bound, ListenError, bind},
    },
    ledger::{Bytes, Connections, Ledger, ProxySnapshot},
    output::Output,
};

/// Bound sockets.
pub(crate) struct Listening {
    proxy: Vec<(SocketAddr, TcpListener)>,
    dns: DnsListening,
}

impl Listening {
    /// Binds every address that is wanted.
    pub(crate) fn bind(settings: &ProxySettings) -> Result<Self, ProxyError> {
        let mut proxy = Vec::new();
        for on in &settings.listen {
            for bound in bind(&[on.address], on.port, Protocol::Tcp)? {
                let Bound::Tcp(listener) = bound else { continue };
                let failed = |source| ListenError {
                    address: SocketAddr::from(([0, 0, 0, 0], 0)),
                    protocol: Protocol::Tcp,
                    source,
                };
                proxy.push((listener.local_addr().map_err(failed)?, listener));
            }
        }
        Ok(Self { proxy, dns: DnsListening::bind(&settings.dns)? })
    }
}

/// A proxy at work; dropping it ends its listeners and resets its clients.
pub(crate) struct Proxying {
    addresses: Vec<SocketAddr>,
    dns: DnsServing,
    variables: Variables,
    /// Waits for the variables, and goes on then.
    shell: Option<Shell>,
    _listeners: Vec<AbortOnDropHandle<()>>,
}

impl Proxying {
    /// Serves what was bound through `relay`. Short names are looked for in the current namespace unless others were
    /// named.
    pub(crate) fn serve(
        settings: &ProxySettings,
        listening: Listening,
        relay: Relay,
        cluster: &ClusterConfig,
        ledger: &Ledger,
    ) -> Self {
        let mut rules = settings.rules.clone();
        if rules.search.is_empty() {
            rules.search.push(cluster.namespace.clone());
        }
        let (addresses, listeners): (Vec<_>, Vec<_>) = listening.proxy.into_iter().unzip();
        // Both were looked at when the flags were.
        let search = Search::new(&rules.search, &settings.dns.domain).ok();
        let dns = DnsServing::serve(&settings.dns, listening.dns, relay.clone(), search);
        let variables =
            addresses.first().map(|first| led_here(*first, settings, cluster)).unwrap_or_default();
        let about = about(&addresses, &dns.addresses, settings, cluster, &rules.search);
        let pac = Pac::new(&settings.pac, &settings.dns.domain, &rules.search);
        let teller = Arc::new(Teller(Arc::clone(&relay.output)));
        let status = Status::new(about, pac, relay.current.clone(), teller);
        let proxy_settings = Settings {
            rules,
            credentials: settings.credentials.clone(),
            limits: settings.limits.clone(),
            pages: Arc::clone(&status) as _,
            observer: Arc::clone(&status) as _,
            tasks: relay.tasks.clone(),
        };
        let proxy = Proxy::new(TunnelDial(relay), proxy_settings);
        status.watch(proxy.connections());
        let (local, connections) = (addresses.clone(), Arc::clone(proxy.connections()));
        ledger.add_proxy(move || accounted(&local, &connections));
        let serve = |listener| AbortOnDropHandle::new(tokio::spawn(proxy.clone().serve(listener)));
        let listeners = listeners.into_iter().map(serve).collect();
        let shell = settings.print_env.then(Shell::of_this_process);
        Self { addresses, dns, variables, shell, _listeners: listeners }
    }

    /// What leads programs to it.
    pub(crate) fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Tells where it listens and how it is used, at the moment traffic can flow.
    pub(crate) fn announce(&self, output: &Output) {
        for address in &self.addresses {
            output.proxying(*address);
        }
        for address in &self.dns.addresses {
            output.answering(*address);
        }
        if let Some(shell) = &self.shell {
            shell.stay_beside();
            output.hand_over(&export_lines(&self.variables, std::process::id()));
        } else if let Some(first) = self.addresses.first() {
            output.usage(&usage(reachable(*first), self.dns.addresses.first().copied()));
        }
    }
}

/// What the ledger tells of it.
fn accounted(local: &[SocketAddr], connections: &relay_proxy::Connections) -> ProxySnapshot {
    let Totals { asked, refused, sent, received } = connections.totals();
    let open = connections.open().len() as u64;
    ProxySnapshot {
        local: local.to_vec(),
        connections: Connections { open, total: asked, failed: refused },
        bytes: Bytes { sent, received },
    }
}

/// The variables that lead programs to the proxy's first address, and past it to the API server.
fn led_here(first: SocketAddr, settings: &ProxySettings, cluster: &ClusterConfig) -> Variables {
    let login = settings.credentials.as_ref().map(|login| (login.name(), login.password()));
    let api_server = cluster.kube.cluster_url.host().map(|host| host.trim_matches(['[', ']']).to_owned());
    variables(first, login, &api_server.into_iter().collect::<Vec<_>>())
}

fn usage(proxy: SocketAddr, dns: Option<SocketAddr>) -> String {
    let mut text = format!(
        "In a shell:   export ALL_PROXY=socks5h://{proxy} HTTP_PROXY=http://{proxy} HTTPS_PROXY=http://{proxy}\n\
         In a browser: http://{proxy}/proxy.pac as the address of the proxy's configuration\n\
         To look at:   http://{proxy}/"
    );
    if let Some(dns) = dns {
        text += &format!("\nNames:        dig -p {} @{} NAME", dns.port(), dns.ip());
    }
    text
}

/// What the status page says of the proxy itself. No password: the page is for whoever may see it on a screen.
fn about(
    addresses: &[SocketAddr],
    dns: &[SocketAddr],
    settings: &ProxySettings,
    cluster: &ClusterConfig,
    search: &[String],
) -> About {
    let list = |all: &[SocketAddr]| all.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    let mut facts = vec![
        ("Context".to_owned(), cluster.context.clone().unwrap_or_else(|| "none".into())),
        ("API server".to_owned(), cluster.kube.cluster_url.to_string()),
        ("Listens on".to_owned(), list(addresses)),
        ("Short names in".to_owned(), search.join(", ")),
    ];
    if !dns.is_empty() {
        facts.push(("Name server on".to_owned(), list(dns)));
    }
    if settings.credentials.is_some() {
        facts.push(("Password".to_owned(), "needed".to_owned()));
    }
    let variables = addresses.first().map(|first| variables(*first, None, &[])).unwrap_or_default();
    // In capitals is enough to see what it is about.
    let is_shown = |name: &str| name.chars().all(|letter| !letter.is_ascii_lowercase());
    let lines = variables.iter().filter(|(name, _)| is_shown(name));
    About { facts, lines: lines.map(|(name, value)| format!("export {name}={value}")).collect() }
}
