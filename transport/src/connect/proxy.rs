//! Which proxy, if any, stands between us and the API server.
//!
//! The rules are those of kubectl (Go's `http.ProxyFromEnvironment`), because what works there must work
//! here: the kubeconfig's `proxy-url` wins; else `HTTPS_PROXY` (or `HTTP_PROXY` for a plain server), unless
//! `NO_PROXY` holds the API server's host.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri, uri};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;

/// A proxy setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Not the address of a proxy.
    #[error("the proxy in {setting} is not an address such as http://host:3128: {value}")]
    Address {
        /// Where it was set.
        setting: &'static str,
        /// What was set, without user and password.
        value: String,
    },
    /// A kind of proxy that is not supported.
    #[error("the proxy in {setting} is of kind {scheme}; http, https, socks5 and socks5h are supported")]
    Scheme {
        /// Where it was set.
        setting: &'static str,
        /// The scheme.
        scheme: String,
    },
}

/// How to talk to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `CONNECT` over plain TCP.
    Http,
    /// `CONNECT` over TLS.
    Https,
    /// SOCKS 5; names are resolved by the proxy.
    Socks5,
}

/// A proxy to go through.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(super) kind: Kind,
    /// Scheme, host and port; no user, no password.
    pub(super) address: Uri,
    pub(super) user: Option<(String, String)>,
}

impl Proxy {
    /// The proxy on the way to `server`. `kubeconfig` is the cluster's `proxy-url`; `env` looks up a
    /// variable of the environment.
    ///
    /// # Errors
    /// The setting that applies names no usable proxy.
    pub fn choose(
        kubeconfig: Option<&str>,
        server: &Uri,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, ProxyError> {
        if let Some(url) = kubeconfig.filter(|url| !url.is_empty()) {
            return Self::parse("proxy-url", url).map(Some);
        }
        let either = |name: &str| {
            [name.to_owned(), name.to_lowercase()]
                .iter()
                .find_map(|name| env(name).filter(|value| !value.is_empty()))
        };
        let setting = match server.scheme_str() {
            Some("http") => "HTTP_PROXY",
            _ => "HTTPS_PROXY",
        };
        let Some(url) = either(setting) else { return Ok(None) };
        if bypasses(&either("NO_PROXY").unwrap_or_default(), server) {
            return Ok(None);
        }
        Self::parse(setting, &url).map(Some)
    }

    fn parse(setting: &'static str, url: &str) -> Result<Self, ProxyError> {
        let url = url.trim();
        // `host:port` alone means http, as in Go.
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let wrong = || ProxyError::Address {
            setting,
            value: full.rsplit_once('@').map_or(full.as_str(), |(_, host)| host).to_owned(),
        };
        let parsed: Uri = full.parse().map_err(|_| wrong())?;
        let (kind, scheme, port) = match parsed.scheme_str() {
            Some("http") => (Kind::Http, "http", 80),
            Some("https") => (Kind::Https, "https", 443),
            Some("socks5" | "socks5h") => (Kind::Socks5, "socks5", 1080),
            other => {
                return Err(ProxyError::Scheme { setting, scheme: other.unwrap_or_default().to_owned() });
            }
        };
        let authority = parsed.authority().ok_or_else(wrong)?;
        let host = authority.host();
        if host.is_empty() {
            return Err(wrong());
        }
        let address = Uri::builder()
            .scheme(scheme)
            .authority(format!("{host}:{}", authority.port_u16().unwrap_or(port)))
            .path_and_query("/")
            .build()
            .map_err(|_| wrong())?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            (decoded(name), decoded(password))
        });
        Ok(Self { kind, address, user })
    }

    /// The header that shows user and password to an HTTP proxy.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let (name, password) = self.user.as_ref()?;
        let encoded = STANDARD.encode(format!("{name}:{password}"));
        // Base64 is always a valid header value.
        HeaderValue::try_from(format!("Basic {encoded}")).ok()
    }
}

/// Without user and password: this goes into logs and errors.
impl fmt::Display for Proxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.address.authority().map_or("", uri::Authority::as_str);
        write!(out, "{}://{authority}", self.address.scheme_str().unwrap_or_default())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Proxy({self})")
    }
}

/// Whether `server` is to be reached without a proxy.
fn bypasses(no_proxy: &str, server: &Uri) -> bool {
    let Some(host) = server.host() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_lowercase();
    let default_port = if server.scheme_str() == Some("http") { 80 } else { 443 };
    let port = server.port_u16().unwrap_or(default_port);
    let ip: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    no_proxy.split(',').map(|entry| entry.trim().to_lowercase()).any(|entry| match entry.as_str() {
        "" => false,
        "*" => true,
        entry => holds(entry, &host, ip, port),
    })
}

/// Whether one entry of `NO_PROXY` names the host.
fn holds(entry: &str, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
    if let Ok(net) = entry.parse::<IpNet>() {
        return ip.is_some_and(|ip| net.contains(&ip));
    }
    let (name, wanted) = split_port(entry);
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if let Ok(address) = name.parse::<IpAddr>() {
        return ip == Some(address);
    }
    // `.domain` and `*.domain` are what lies below a domain, `domain` includes itself.
    let suffix = name.strip_prefix('*').unwrap_or(name);
    match suffix.strip_prefix('.') {
        Some(_) => host.ends_with(suffix),
        None => host == suffix || host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')),
    }
}

/// `host:port`, `[v6]:port`, or either without a port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if entry.parse::<IpAddr>().is_ok() {
        return (entry, None);
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        None => (entry, None),
    };
    (name.trim_start_matches('[').trim_end_matches(']'), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(kubeconfig: Option<&str>, server: &str, env: &[(&str, &str)]) -> Option<String> {
        let lookup =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Proxy::choose(kubeconfig, &server.parse().unwrap(), lookup).unwrap().map(|proxy| proxy.to_string())
    }

    #[test]
    fn the_kubeconfigs_proxy_wins_over_the_environment_and_ignores_no_proxy() {
        let env = [("HTTPS_PROXY", "http://env:1"), ("NO_PROXY", "*")];
        assert_eq!(choose(Some("socks5://kube:2"), "https://k8s", &env).unwrap(), "socks5://kube:2");
        assert_eq!(choose(Some(""), "https://k8s", &env[..1]).unwrap(), "http://env:1");
        assert_eq!(choose(None, "https://k8s", &[]), None);
    }

    #[test]
    fn the_variable_follows_the_servers_scheme_in_either_case() {
        let env = [("https_proxy", "sec:3128"), ("HTTP_PROXY", "http://plain")];
        assert_eq!(choose(None, "https://k8s:6443", &env).unwrap(), "http://sec:3128");
        assert_eq!(choose(None, "http://k8s:8080", &env).unwrap(), "http://plain:80");
    }

    #[test]
    fn no_proxy_is_compared_with_the_api_servers_host() {
        let cases = [
            ("k8s.example.com", "https://k8s.example.com:6443", true),
            ("example.com", "https://k8s.example.com:6443", true),
            ("Example.COM", "https://K8S.example.com", true),
            ("ample.com", "https://k8s.example.com", false),
            (".example.com", "https://k8s.example.com", true),
            ("*.example.com", "https://k8s.example.com", true),
            (".example.com", "https://example.com", false),
            ("a, ,b.c,", "https://b.c", true),
            ("k8s:6443", "https://k8s:6443", true),
            ("k8s:6443", "https://k8s", false),
            ("k8s:443", "https://k8s", true),
            ("*", "https://k8s", true),
            ("10.0.0.0/8", "https://10.1.2.3:6443", true),
            ("10.0.0.0/8", "https://11.1.2.3:6443", false),
            ("10.1.2.3", "https://10.1.2.3:6443", true),
            ("10.1.2.3:6443", "https://10.1.2.3:6443", true),
            ("10.1.2.3:443", "https://10.1.2.3:6443", false),
            ("10.1.2", "https://10.1.2.3", false),
            ("fd00::/8", "https://[fd00::1]:6443", true),
            ("[fd00::1]:6443", "https://[fd00::1]:6443", true),
            ("fd00::1", "https://[fd00::1]:6443", true),
            ("", "https://localhost:6443", true),
            ("", "https://127.0.0.1:6443", true),
            ("", "https://[::1]:6443", true),
            ("proxy", "https://k8s", false),
        ];
        for (no_proxy, server, direct) in cases {
            let env = [("HTTPS_PROXY", "http://proxy:3128"), ("no_proxy", no_proxy)];
            assert_eq!(choose(None, server, &env).is_none(), direct, "{no_proxy:?} for {server}");
        }
    }

    #[test]
    fn user_and_password_are_decoded_and_never_shown() {
        let proxy = Proxy::parse("HTTPS_PROXY", "http://me:p%40ss%3A@proxy:3128/path").unwrap();
        assert_eq!(proxy.user, Some(("me".to_owned(), "p@ss:".to_owned())));
        let header = proxy.authorization().unwrap();
        assert_eq!(header, format!("Basic {}", STANDARD.encode("me:p@ss:")).as_str());
        assert_eq!(format!("{proxy} {proxy:?}"), "http://proxy:3128 Proxy(http://proxy:3128)");
    }

    #[test]
    fn unusable_settings_say_where_they_stand_without_the_password() {
        let error = Proxy::parse("proxy-url", "ftp://proxy").unwrap_err();
        assert_eq!(error, ProxyError::Scheme { setting: "proxy-url", scheme: "ftp".to_owned() });
        for url in ["http://", "me:secret@ho st", "http://me:secret@"] {
            let error = Proxy::parse("HTTPS_PROXY", url).unwrap_err().to_string();
            assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
        }
    }
}
