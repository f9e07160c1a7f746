//! The way to the API server: kubeconfig, proxy, credentials, how soon it answers, its version, and whom it takes us for.

use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, Client, api::PostParams};
use relay_transport::connect::Proxy;

use super::report::{Line, Report, time};
use crate::{
    cli::args::ClusterArgs,
    cluster::{
        access::Access,
        api::{ApiError, Call, made},
        config::ClusterConfig,
    },
    error::Error,
};

/// Kubernetes whose API servers are tested against.
const TESTED: &str = "1.34 and 1.36";
/// The first minor version that lists its resource types in the way in which they are looked up.
const OLDEST: u32 = 30;

/// Reads the kubeconfig and gets credentials; `None` if there is nothing to go on with.
pub(super) async fn open(args: &ClusterArgs, report: &Report) -> Option<(ClusterConfig, Access)> {
    let config = match ClusterConfig::load(args).await {
        Ok(config) => config,
        Err(error) => {
            report.tell(Line::failed("kubeconfig", error.to_string(), error.hint()));
            return None;
        }
    };
    report.tell(Line::ok("kubeconfig", in_use(&config)));
    proxy(&config, |name| std::env::var(name).ok(), report);
    match Access::open(args, config.clone()).await {
        Ok(access) => Some((config, access)),
        Err(error) => {
            // A proxy that cannot be is told already.
            if report.is_well() {
                let error = Error::from(error);
                report.tell(Line::failed("kubeconfig", error.to_string(), error.hint()));
            }
            None
        }
    }
}

fn in_use(config: &ClusterConfig) -> String {
    let context = match &config.context {
        Some(name) => format!("context \"{name}\", user \"{}\"", config.user),
        None => "the credentials of this pod".into(),
    };
    format!("{context}, namespace \"{}\"", config.namespace)
}

/// What stands between here and the API server, as far as it is set up here.
fn proxy(config: &ClusterConfig, environment: impl Fn(&str) -> Option<String>, report: &Report) {
    let server = &config.kube.cluster_url;
    let setting = match config.proxy_url.as_deref().filter(|url| !url.is_empty()) {
        Some(_) => "proxy-url in the kubeconfig",
        None if server.scheme_str() == Some("http") => "HTTP_PROXY",
        None => "HTTPS_PROXY",
    };
    report.tell(match Proxy::choose(config.proxy_url.as_deref(), server, environment) {
        Ok(None) => Line::ok("proxy", format!("none on the way to {}", shown(server))),
        Ok(Some(proxy)) => {
            Line::ok("proxy", format!("{proxy} on the way to {}, from {setting}", shown(server)))
        }
        Err(error) => {
            Line::failed("proxy", error.to_string(), "correct proxy-url in the kubeconfig, or HTTPS_PROXY")
        }
    });
}

fn shown(server: &http::Uri) -> String {
    server.to_string().trim_end_matches('/').to_owned()
}

/// Asks the API server for its version and for our name; false if it cannot be asked for anything.
pub(super) async fn examine(access: &Access, limit: Duration, report: &Report) -> bool {
    let client = access.client();
    let since = Instant::now();
    let version = version(&client, limit).await;
    let first = since.elapsed();
    match version {
        Ok(version) => {
            let since = Instant::now();
            // The connection is there now: this one tells the way's time alone.
            let again = self::version(&client, limit).await.map(|_| since.elapsed()).unwrap_or(first);
            report.tell(of_version(&version, first, again));
        }
        Err(ApiError::Denied { .. }) => report.tell(
            Line::note("server", format!("it answers in {}, and keeps its version to itself", time(first)))
                .took(first),
        ),
        Err(error) => {
            report.tell(Line::failed("server", error.to_string(), error.hint()));
            return false;
        }
    }
    user(&client, limit, report).await
}

async fn version(client: &Client, limit: Duration) -> Result<String, ApiError> {
    let call = Call::cluster_wide("get", "", "/version");
    Ok(made(call, limit, client.apiserver_version()).await?.git_version)
}

fn of_version(version: &str, first: Duration, again: Duration) -> Line {
    let message = format!(
        "Kubernetes {} answers in {} (first contact {})",
        version.trim_start_matches('v'),
        time(again),
        time(first)
    );
    let minor = version.trim_start_matches('v').split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    let line = match minor {
        Some(minor) if minor < OLDEST => Line::warning(
            "server",
            message,
            format!(
                "it is older than 1.{OLDEST}: TYPE/NAME works for the usual types only; tested are {TESTED}"
            ),
        ),
        _ => Line::ok("server", message),
    };
    line.took(again)
}

async fn user(client: &Client, limit: Duration, report: &Report) -> bool {
    match who_am_i(client, limit).await {
        Ok(Some(name)) => report.tell(Line::ok("user", format!("the cluster takes you for \"{name}\""))),
        Err(error @ (ApiError::Unauthorized { .. } | ApiError::Credentials { .. })) => {
            report.tell(Line::failed("user", error.to_string(), error.hint()));
            return false;
        }
        Ok(None) | Err(_) => {
            report.tell(Line::note("user", "the cluster does not tell whom it takes you for"));
        }
    }
    true
}

/// The name that the cluster knows us by.
pub(super) async fn who_am_i(client: &Client, limit: Duration) -> Result<Option<String>, ApiError> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let (params, question) = (PostParams::default(), SelfSubjectReview::default());
    let call = Call::cluster_wide("create", "authentication.k8s.io", "selfsubjectreviews");
    let review = made(call, limit, reviews.create(&params, &question)).await?;
    Ok(review.status.and_then(|status| status.user_info).and_then(|user| user.username))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{output::tests::captured, version::Format};

    fn told(server: &str, proxy_url: Option<&str>, environment: &[(&str, &str)]) -> String {
        let config = ClusterConfig {
            kube: kube::Config::new(server.parse().unwrap()),
            proxy_url: proxy_url.map(Into::into),
            namespace: "dev".into(),
            user: "jane".into(),
            context: Some("c".into()),
            files: vec![],
            fingerprint: [0; 32],
        };
        let (output, out, _) = captured(false);
        let value = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        proxy(&config, value, &Report::new(Format::Text, Arc::new(output)));
        out.text()
    }

    #[test]
    fn a_proxy_is_named_with_where_it_was_set() {
        let proxied = [("HTTPS_PROXY", "http://u:secret@p:3128")];
        let cases = [
            (told("https://c:6443", None, &[]), "ok       proxy       none on the way to https://c:6443\n"),
            (
                told("https://c:6443", None, &proxied),
                "ok       proxy       http://p:3128 on the way to https://c:6443, from\n                     HTTPS_PROXY\n",
            ),
            (
                told("https://c:6443", Some("socks5://s:1080"), &proxied),
                "ok       proxy       socks5://s:1080 on the way to https://c:6443, from\n                     proxy-url in the kubeconfig\n",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(text, expected);
        }
        assert!(told("https://c:6443", Some("ftp://x"), &[]).starts_with("failed   proxy "));
    }

    #[test]
    fn an_old_api_server_is_a_warning() {
        let line = |version| of_version(version, Duration::from_millis(20), Duration::from_millis(4));
        assert_eq!(
            line("v1.34.4+k3s1").message,
            "Kubernetes 1.34.4+k3s1 answers in 4.0 ms (first contact 20 ms)"
        );
        assert!(line("v1.34.4").hint.is_none() && line("v2.0.0-strange").hint.is_some());
        assert!(line("v1.29.9").hint.is_some());
    }
}
