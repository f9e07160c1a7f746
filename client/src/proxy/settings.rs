//! What the flags of `kubectl relay proxy` mean.

use std::{net::IpAddr, num::NonZeroU16, path::PathBuf};

use relay_protocol::header::HostName;
use relay_proxy::{Credentials, CredentialsError, Limits, Pattern, PatternError, Rules};

use super::{
    ProxyArgs,
    dns::{DnsError, DnsSettings},
    pac::{PacError, PacSettings},
};
use crate::{cli::settings::ListenAddress, forward::listen::ListenError, port::LocalPort};

/// Holds `NAME:PASSWORD`, so that no list of processes shows it.
const AUTH: &str = "KUBECTL_RELAY_PROXY_AUTH";

/// Everything that makes a proxy of a run.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Where to listen.
    pub listen: Vec<ListenOn>,
    /// What may be reached, and from where. Without namespaces to search, the current one is.
    pub rules: Rules,
    /// Who may use it; `None`: everybody on this machine.
    pub credentials: Option<Credentials>,
    /// What clients may use.
    pub limits: Limits,
    /// The name server.
    pub dns: DnsSettings,
    /// What browsers are told beside the cluster's own names.
    pub pac: PacSettings,
    /// stdout is a shell's, which sets its variables by it.
    pub print_env: bool,
}

/// One value of `--listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOn {
    /// The address.
    pub address: ListenAddress,
    /// The port, or a free one.
    pub port: LocalPort,
}

/// Flags that make no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// `--listen`.
    #[error("\"{0}\" is no address and port to listen on")]
    Listen(String),
    /// Without credentials, everybody who can connect would have the rights of this user.
    #[error("{0} is not on this machine alone, and clients need no password")]
    Open(IpAddr),
    /// `--allow`, `--deny` or `--direct`.
    #[error("{flag}: {error}")]
    Pattern {
        /// Which of them.
        flag: &'static str,
        /// What is wrong.
        error: PatternError,
    },
    /// `--namespace-search`.
    #[error("--namespace-search \"{0}\" is no name of a namespace")]
    Namespace(String),
    /// `--auth-file` cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    AuthFile {
        /// As typed.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it, or in the variable, is no name and password.
    #[error("{place}: {error}")]
    Credentials {
        /// The file or the variable.
        place: String,
        /// What is wrong.
        error: CredentialsError,
    },
    /// The name server.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// The PAC file.
    #[error(transparent)]
    Pac(#[from] PacError),
    /// `--print-env` where a shell cannot be handed stdout's end.
    #[error("--print-env is for shells of Unix")]
    #[cfg(windows)]
    PrintEnv,
    /// A port that cannot be had.
    #[error(transparent)]
    Bind(#[from] ListenError),
}

impl ProxyError {
    /// What to type instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Listen(_) => "write --listen 127.0.0.1:1080, localhost:1080 or 1080".into(),
            Self::Open(_) => {
                format!("give --auth-file FILE, or {AUTH}=NAME:PASSWORD; or listen on 127.0.0.1")
            }
            Self::Pattern { error, .. } => error.hint(),
            Self::Namespace(_) => {
                "write --namespace-search NAME, for example the one of the Services you use".into()
            }
            Self::AuthFile { .. } | Self::Credentials { .. } => {
                format!("write one line NAME:PASSWORD into a file that only you can read, or set {AUTH}")
            }
            Self::Dns(error) => error.hint(),
            Self::Pac(error) => error.hint(),
            #[cfg(windows)]
            Self::PrintEnv => {
                "start a command or a shell with the variables: kubectl relay proxy -- cmd".into()
            }
            Self::Bind(error) if error.source.kind() == std::io::ErrorKind::AddrInUse => {
                "choose another port: --listen 127.0.0.1:1081, or a free one: --listen 127.0.0.1:0".into()
            }
            Self::Bind(error) => error.hint(),
        }
    }

    /// 1 for what depends on the machine, 2 for a wrong command line.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Bind(_)) { 1 } else { 2 }
    }
}

impl ProxySettings {
    /// Gives the flags their meaning. Reads the file with the password, if one is named.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub fn from_args(args: &ProxyArgs) -> Result<Self, ProxyError> {
        #[cfg(windows)]
        if args.print_env {
            return Err(ProxyError::PrintEnv);
        }
        let listen: Vec<ListenOn> =
            args.listen.iter().map(|text| listen_on(text)).collect::<Result<_, _>>()?;
        let credentials = credentials(args.auth_file.as_ref(), std::env::var(AUTH).ok())?;
        if credentials.is_none()
            && let Some(open) = listen.iter().find_map(|on| beyond_loopback(on.address))
        {
            return Err(ProxyError::Open(open));
        }
        let rules = Rules {
            allow: patterns("--allow", &args.allow)?,
            deny: patterns("--deny", &args.deny)?,
            direct: patterns("--direct", &args.direct)?,
            search: args.namespace_search.iter().map(|name| namespace(name)).collect::<Result<_, _>>()?,
        };
        let limits = Limits {
            connections: args.max_connections as usize,
            flows: args.max_flows as usize,
            ..Limits::default()
        };
        let (dns, pac) = (DnsSettings::from_args(&args.dns)?, PacSettings::from_args(&args.pac)?);
        Ok(Self { listen, rules, credentials, limits, dns, pac, print_env: args.print_env })
    }
}

pub(super) fn listen_on(text: &str) -> Result<ListenOn, ProxyError> {
    let bad = || ProxyError::Listen(text.to_owned());
    let (host, port) = text.trim().rsplit_once(':').unwrap_or(("127.0.0.1", text.trim()));
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let number = port.parse::<u16>().map_err(|_| bad())?;
    let port = NonZeroU16::new(number).map_or(LocalPort::Free, LocalPort::Number);
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match (host, literal) {
        ("localhost", _) => ListenAddress::Localhost,
        (_, Some(v6)) => ListenAddress::Ip(IpAddr::V6(v6.parse().map_err(|_| bad())?)),
        (v4, None) => ListenAddress::Ip(IpAddr::V4(v4.parse().map_err(|_| bad())?)),
    };
    Ok(ListenOn { address, port })
}

pub(super) fn beyond_loopback(address: ListenAddress) -> Option<IpAddr> {
    match address {
        ListenAddress::Localhost => None,
        ListenAddress::Ip(ip) => (!ip.to_canonical().is_loopback()).then_some(ip),
    }
}

fn patterns(flag: &'static str, typed: &[String]) -> Result<Vec<Pattern>, ProxyError> {
    typed.iter().map(|text| text.parse().map_err(|error| ProxyError::Pattern { flag, error })).collect()
}

fn namespace(name: &str) -> Result<String, ProxyError> {
    match HostName::new(name) {
        Ok(_) if !name.contains(['.', '_']) => Ok(name.to_ascii_lowercase()),
        _ => Err(ProxyError::Namespace(name.to_owned())),
    }
}

fn credentials(file: Option<&PathBuf>, variable: Option<String>) -> Result<Option<Credentials>, ProxyError> {
    let (place, text) = match (file, variable) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ProxyError::AuthFile { path: path.clone(), source })?;
            (path.display().to_string(), text)
        }
        (None, Some(text)) if !text.is_empty() => (AUTH.to_owned(), text),
        _ => return Ok(None),
    };
    let parsed = Credentials::parse(&text);
    parsed.map(Some).map_err(|error| ProxyError::Credentials { place, error })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        proxy: ProxyArgs,
    }

    fn settings(words: &[&str]) -> Result<ProxySettings, ProxyError> {
        let words = ["proxy"].iter().chain(words);
        ProxySettings::from_args(&Typed::try_parse_from(words).unwrap().proxy)
    }

    #[test]
    fn nothing_typed_listens_on_this_machine_alone() {
        let settings = settings(&[]).unwrap();
        let address = ListenAddress::Ip([127, 0, 0, 1].into());
        let port = LocalPort::Number(NonZeroU16::new(1080).unwrap());
        assert_eq!(settings.listen, [ListenOn { address, port }]);
        assert_eq!((settings.limits.connections, settings.limits.flows), (4096, 1024));
    }

    #[test]
    fn addresses_have_a_port_and_ports_an_address() {
        let settings = settings(&["-l", "[::1]:2000,localhost:0", "--listen", "3000"]).unwrap();
        let number = |number| LocalPort::Number(NonZeroU16::new(number).unwrap());
        assert_eq!(
            settings.listen,
            [
                ListenOn { address: ListenAddress::Ip("::1".parse().unwrap()), port: number(2000) },
                ListenOn { address: ListenAddress::Localhost, port: LocalPort::Free },
                ListenOn { address: ListenAddress::Ip([127, 0, 0, 1].into()), port: number(3000) },
            ]
        );
    }

    #[test]
    fn mistakes_are_named_with_what_to_type() {
        let cases: &[(&[&str], &str)] = &[
            (&["-l", "example.com:1"], "\"example.com:1\" is no address and port to listen on"),
            (&["-l", "::1:1080"], "\"::1:1080\" is no address and port to listen on"),
            (&["-l", "0.0.0.0:1080"], "0.0.0.0 is not on this machine alone, and clients need no password"),
            (&["-l", "[::]:1080"], ":: is not on this machine alone, and clients need no password"),
            (&["--deny", "a b"], "--deny: \"a b\" is no pattern of targets"),
            (&["--namespace-search", "a.b"], "--namespace-search \"a.b\" is no name of a namespace"),
        ];
        for (words, message) in cases {
            let error = settings(words).unwrap_err();
            assert_eq!(error.to_string(), *message);
            assert!(!error.hint().is_empty());
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn with_a_password_it_listens_anywhere() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"me:secret\n").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let settings = settings(&["-l", "0.0.0.0:1080", "--auth-file", &path]).unwrap();
        assert_eq!(settings.credentials.unwrap().name(), "me");
        file.write_all(b"you:other\n").unwrap();
        let error = credentials(Some(&path.into()), None).unwrap_err();
        assert!(error.to_string().ends_with("the credentials are not of the form NAME:PASSWORD"), "{error}");
        assert!(!error.to_string().contains("secret"));
    }
}
