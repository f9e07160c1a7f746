//! `--dns`: a name server on this machine that passes everything on to the cluster's, for programs that know no proxy
//! and for whoever wants to look names up.

mod listen;
mod upstream;

use clap::Args as ArgGroup;
use relay_dns::{BadDomain, Search};
use relay_proxy::{Target, TargetError};

pub(super) use listen::{DnsListening, DnsServing};

use super::settings::{ListenOn, beyond_loopback, listen_on};

/// The port of name servers.
const PORT: u16 = 53;

/// Flags about names.
#[derive(Debug, Clone, ArgGroup)]
#[command(next_help_heading = "Names")]
pub struct DnsArgs {
    /// Also listen as a name server, on UDP and TCP, that passes queries to the cluster's: ADDRESS:PORT, or a PORT on 127.0.0.1, 0 being a free one; repeated or comma-separated.
    #[arg(long, value_name = "ADDR:PORT", value_delimiter = ',', env = "KUBECTL_RELAY_PROXY_DNS")]
    pub dns: Vec<String>,

    /// The cluster's name server, as its pods know it [default: kube-dns.kube-system.svc in the cluster's domain].
    #[arg(long, value_name = "HOST[:PORT]", env = "KUBECTL_RELAY_DNS_SERVER")]
    pub dns_server: Option<String>,

    /// The domain that all names of the cluster end in.
    #[arg(
        long,
        value_name = "DOMAIN",
        default_value = "cluster.local",
        env = "KUBECTL_RELAY_CLUSTER_DOMAIN"
    )]
    pub cluster_domain: String,
}

/// What they mean.
#[derive(Debug, Clone)]
pub struct DnsSettings {
    /// Where to listen; nowhere unless it was wanted.
    pub listen: Vec<ListenOn>,
    /// Whom the agent passes queries to.
    pub server: Target,
    /// Without a dot at its end.
    pub domain: String,
}

/// Flags that make no name server.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// `--dns`.
    #[error("--dns \"{0}\" is no address and port to listen on")]
    Listen(String),
    /// DNS has no passwords.
    #[error("--dns {0} would answer others than this machine, and DNS asks for no password")]
    Open(String),
    /// `--dns-server`.
    #[error("--dns-server \"{0}\": {1}")]
    Server(String, TargetError),
    /// `--cluster-domain`.
    #[error("--cluster-domain {0}")]
    Domain(BadDomain),
}

impl DnsError {
    /// What to type instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Listen(_) => "write --dns 127.0.0.1:5300, localhost:5300 or 5300".into(),
            Self::Open(_) => "write --dns 127.0.0.1:5300, or another address of 127.0.0.0/8".into(),
            Self::Server(..) => {
                "write HOST or HOST:PORT as pods of the cluster know it, for example --dns-server 10.96.0.10"
                    .into()
            }
            Self::Domain(error) => error.hint(),
        }
    }
}

impl DnsSettings {
    /// Gives the flags their meaning.
    ///
    /// # Errors
    /// The first value that has none.
    pub fn from_args(args: &DnsArgs) -> Result<Self, DnsError> {
        let domain = args.cluster_domain.trim_end_matches('.').to_ascii_lowercase();
        Search::new(&[], &domain).map_err(DnsError::Domain)?;
        let listen = args.dns.iter().map(|text| listen_here(text)).collect::<Result<_, _>>()?;
        let server = match &args.dns_server {
            Some(typed) => server(typed).map_err(|error| DnsError::Server(typed.clone(), error))?,
            None => {
                let name = format!("kube-dns.kube-system.svc.{domain}");
                Target::new(&name, PORT).map_err(|error| DnsError::Server(name, error))?
            }
        };
        Ok(Self { listen, server, domain })
    }
}

fn listen_here(text: &str) -> Result<ListenOn, DnsError> {
    let on = listen_on(text).map_err(|_| DnsError::Listen(text.to_owned()))?;
    if beyond_loopback(on.address).is_some() {
        return Err(DnsError::Open(text.to_owned()));
    }
    Ok(on)
}

/// An IPv6 address needs its brackets only before a port.
fn server(text: &str) -> Result<Target, TargetError> {
    if let Ok(ip) = text.parse() {
        return Ok(std::net::SocketAddr::new(ip, PORT).into());
    }
    match text.parse() {
        Err(TargetError::NoPort) => Target::new(text, PORT),
        target => target,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        dns: DnsArgs,
    }

    fn settings(words: &[&str]) -> Result<DnsSettings, DnsError> {
        DnsSettings::from_args(&Typed::try_parse_from(["proxy"].iter().chain(words)).unwrap().dns)
    }

    #[test]
    fn the_clusters_name_server_is_found_by_its_usual_name() {
        let dns = settings(&["--cluster-domain", "Example.org."]).unwrap();
        assert!(dns.listen.is_empty());
        assert_eq!(dns.server.to_string(), "kube-dns.kube-system.svc.example.org:53");
    }

    #[test]
    fn another_one_is_named_with_a_port_or_without() {
        let cases = [
            ("10.96.0.10", "10.96.0.10:53"),
            ("fd00::a", "[fd00::a]:53"),
            ("[fd00::a]:5353", "[fd00::a]:5353"),
            ("dns.example.com", "dns.example.com:53"),
            ("dns:1053", "dns:1053"),
        ];
        for (typed, server) in cases {
            assert_eq!(settings(&["--dns-server", typed]).unwrap().server.to_string(), server);
        }
    }

    #[test]
    fn mistakes_are_named_with_what_to_type() {
        let cases: &[(&[&str], &str)] = &[
            (&["--dns", "example:1"], "--dns \"example:1\" is no address and port to listen on"),
            (
                &["--dns", "0.0.0.0:53"],
                "--dns 0.0.0.0:53 would answer others than this machine, and DNS asks for no password",
            ),
            (&["--dns-server", "a b"], "--dns-server \"a b\": the host is neither an address nor a name"),
            (&["--dns-server", "a:b"], "--dns-server \"a:b\": the host is neither an address nor a name"),
            (&["--cluster-domain", "a b"], "--cluster-domain \"a b\" is no domain name"),
        ];
        for (words, message) in cases {
            let error = settings(words).unwrap_err();
            assert_eq!(error.to_string(), *message);
            assert!(!error.hint().is_empty());
        }
    }
}
