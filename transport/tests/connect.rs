//! The client's connector: proxies, credentials and which connection a request takes.

#![expect(clippy::unwrap_used, reason = "a helper's surprise is a test's failure")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster, ExecConfig};
use relay_transport::connect::{self, Ahead, ConnectError, Credentials, Proxy};
use relay_transport::{DialError, Mode, PortForward};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A plain HTTP server that only its proxy knows how to find.
const SERVER: &str = "http://api.nowhere.test:8080";

fn config(server: &str) -> kube::Config {
    let mut config = kube::Config::new(server.parse().unwrap());
    config.default_retry = false;
    config
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// Answers one request as an API server that knows only its version; gives back the request's head.
async fn serve_version(stream: &mut TcpStream) -> String {
    let head = head(stream).await;
    let body = r#"{"major":"1","minor":"34","gitVersion":"v1.34.0","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    head
}

fn through(url: &str) -> Proxy {
    Proxy::choose(Some(url), &SERVER.parse().unwrap(), |_| None).unwrap().unwrap()
}

#[tokio::test]
async fn requests_cross_an_http_proxy_with_its_credentials() {
    let (listener, address) = listener().await;
    let proxy = through(&format!("http://me:p%40ss@{address}"));
    let client = connect::client(config(SERVER), Some(&proxy)).unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let connect = head(&mut stream).await.to_lowercase();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        serve_version(&mut stream).await;
        connect
    };
    let (version, connect) = tokio::join!(client.apiserver_version(), server);
    assert_eq!(version.unwrap().minor, "34");
    assert!(connect.starts_with("connect api.nowhere.test:8080 "), "{connect}");
    let credentials = STANDARD.encode("me:p@ss").to_lowercase();
    assert!(connect.contains(&format!("proxy-authorization: basic {credentials}\r\n")), "{connect}");
}

#[tokio::test]
async fn requests_cross_a_socks_proxy_that_resolves_the_name() {
    let (listener, address) = listener().await;
    let client = connect::client(config(SERVER), Some(&through(&format!("socks5h://{address}")))).unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut methods = [0; 2];
        stream.read_exact(&mut methods).await.unwrap();
        stream.read_exact(&mut vec![0; usize::from(methods[1])]).await.unwrap();
        stream.write_all(&[5, 0]).await.unwrap();
        // Version, connect, reserved, a name of so many bytes.
        let mut request = [0; 5];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(request[..4], [5, 1, 0, 3]);
        let mut name = vec![0; usize::from(request[4])];
        stream.read_exact(&mut name).await.unwrap();
        assert_eq!(stream.read_u16().await.unwrap(), 8080);
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        serve_version(&mut stream).await;
        String::from_utf8(name).unwrap()
    };
    let (version, name) = tokio::join!(client.apiserver_version(), server);
    assert_eq!(version.unwrap().minor, "34");
    assert_eq!(name, "api.nowhere.test");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_as_the_reason() {
    let (listener, address) = listener().await;
    let client = connect::client(config(SERVER), Some(&through(&format!("http://{address}")))).unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
    };
    let (dialled, ()) = tokio::join!(PortForward::dial(&client, "n", "p", 1, Mode::Auto), server);
    let error = dialled.map(drop).unwrap_err();
    assert!(matches!(&error, DialError::Unreachable(text) if text.contains("proxy auth")), "{error:?}");
}

#[tokio::test]
async fn an_upgrade_takes_a_new_connection_and_carries_impersonation_and_token() {
    let (listener, address) = listener().await;
    let mut config = config(&format!("http://{address}"));
    config.auth_info.token = Some("secret".to_owned().into());
    config.auth_info.impersonate = Some("jane".to_owned());
    config.auth_info.impersonate_groups = Some(vec!["devs".to_owned(), "ops".to_owned()]);
    config.auth_info.impersonate_uid = Some("42".to_owned());
    let client = connect::client(config, None).unwrap();
    let server = async {
        let (mut first, _) = listener.accept().await.unwrap();
        serve_version(&mut first).await;
        let (mut second, _) = listener.accept().await.unwrap();
        let upgrade = head(&mut second).await.to_lowercase();
        second.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        // Held so that the pooled connection is alive, and still not used.
        drop(first);
        upgrade
    };
    let requests = async {
        client.apiserver_version().await.unwrap();
        PortForward::dial(&client, "n", "p", 1, Mode::Auto).await
    };
    let (dialled, upgrade) = tokio::join!(requests, server);
    assert!(matches!(dialled, Err(DialError::Unauthorized { .. })));
    for line in [
        "upgrade: websocket",
        "authorization: bearer secret",
        "impersonate-user: jane",
        "impersonate-uid: 42",
        "impersonate-group: devs\r\nimpersonate-group: ops",
    ] {
        assert!(upgrade.contains(&format!("{line}\r\n")), "{line} in {upgrade}");
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_not_tried_again_behind_the_dials_back() {
    let (listener, address) = listener().await;
    let mut config = config(&format!("http://{address}"));
    config.default_retry = true;
    let client = connect::client(config, None).unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    };
    let (dialled, ()) = tokio::join!(PortForward::dial(&client, "n", "p", 1, Mode::Auto), server);
    assert!(matches!(dialled, Err(DialError::UpgradeRefused { status, .. }) if status.as_u16() == 503));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_unreachable() {
    let (listener, address) = listener().await;
    drop(listener);
    let client = connect::client(config(&format!("https://{address}")), None).unwrap();
    let error = PortForward::dial(&client, "n", "p", 1, Mode::Auto).await.map(drop).unwrap_err();
    assert!(matches!(&error, DialError::Unreachable(text) if text.contains("refused")), "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_then_says_nothing_is_given_up() {
    let (listener, address) = listener().await;
    let client = connect::client(config(&format!("https://{address}")), None).unwrap();
    // The kernel accepts by itself; nobody ever answers the TLS hello.
    let error = PortForward::dial(&client, "n", "p", 1, Mode::Auto).await.map(drop).unwrap_err();
    let expected = format!("no connection to {address} within 3 s");
    assert!(matches!(&error, DialError::Unreachable(text) if text.contains(&expected)), "{error:?}");
    drop(listener);
}

fn with_ahead(address: &str) -> (kube::Client, Ahead) {
    Credentials::obtain(config(&format!("http://{address}"))).unwrap().client(None).unwrap()
}

/// Answers an upgrade as a server that refuses it.
async fn refuse(stream: &mut TcpStream) {
    let head = head(stream).await.to_lowercase();
    assert!(head.contains("upgrade: websocket"), "{head}");
    stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await.unwrap();
}

#[tokio::test]
async fn the_next_upgrade_takes_the_connection_that_was_made_ahead() {
    let (listener, address) = listener().await;
    let (client, ahead) = with_ahead(&address);
    ahead.connect();
    ahead.connect();
    // Before there is anything to send.
    let (mut made, _) = listener.accept().await.unwrap();
    let requests = async {
        // What is no upgrade leaves it alone.
        client.apiserver_version().await.unwrap();
        for _ in 0..2 {
            let dialled = PortForward::dial(&client, "n", "p", 1, Mode::Auto).await;
            assert!(matches!(dialled, Err(DialError::Unauthorized { .. })));
        }
    };
    let server = async {
        let (mut pooled, _) = listener.accept().await.unwrap();
        serve_version(&mut pooled).await;
        refuse(&mut made).await;
        // And the one after that a connection of its own: told twice, only one was made.
        let (mut second, _) = listener.accept().await.unwrap();
        refuse(&mut second).await;
        drop(pooled);
    };
    tokio::join!(requests, server);
}

#[tokio::test(start_paused = true)]
async fn a_connection_made_ahead_is_not_used_when_it_is_old() {
    let (listener, address) = listener().await;
    let (client, ahead) = with_ahead(&address);
    ahead.connect();
    let (mut old, _) = listener.accept().await.unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;
    ahead.connect();
    // It is closed, and another one made.
    assert_eq!(old.read(&mut [0]).await.unwrap(), 0);
    let (mut next, _) = listener.accept().await.unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        refuse(&mut stream).await;
        assert_eq!(next.read(&mut [0]).await.unwrap(), 0);
    };
    let (dialled, ()) = tokio::join!(PortForward::dial(&client, "n", "p", 1, Mode::Auto), server);
    assert!(matches!(dialled, Err(DialError::Unauthorized { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_could_not_be_made_ahead_is_tried_again() {
    let (closed, address) = listener().await;
    drop(closed);
    let (client, ahead) = with_ahead(&address);
    ahead.connect();
    // Time goes on when nothing is left to do: the kernel refuses at once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let listener = TcpListener::bind(&address).await.unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        refuse(&mut stream).await;
    };
    let (dialled, ()) = tokio::join!(PortForward::dial(&client, "n", "p", 1, Mode::Auto), server);
    assert!(matches!(dialled, Err(DialError::Unauthorized { .. })));
}

#[tokio::test]
async fn a_connection_made_ahead_ends_with_its_client() {
    let (listener, address) = listener().await;
    let (client, ahead) = with_ahead(&address);
    ahead.connect();
    let (mut made, _) = listener.accept().await.unwrap();
    drop((client, ahead));
    assert_eq!(made.read(&mut [0]).await.unwrap(), 0);
}

#[test]
fn a_kubeconfigs_entries_all_reach_the_configuration() {
    let authority = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert;
    let twice = authority.pem().repeat(2);
    let cluster = Cluster {
        server: Some("https://k8s.test:6443/base".to_owned()),
        certificate_authority_data: Some(STANDARD.encode(&twice)),
        tls_server_name: Some("inside.test".to_owned()),
        insecure_skip_tls_verify: Some(true),
        ..Cluster::default()
    };
    let user = AuthInfo { impersonate: Some("jane".to_owned()), ..AuthInfo::default() };
    let config = connect::config(&cluster, user, "space").unwrap();
    assert_eq!(config.cluster_url, "https://k8s.test:6443/base");
    assert_eq!(config.root_cert, Some(vec![authority.der().to_vec(); 2]));
    assert_eq!(config.tls_server_name.as_deref(), Some("inside.test"));
    assert!(config.accept_invalid_certs);
    assert_eq!(config.default_namespace, "space");
    assert_eq!(config.auth_info.impersonate.as_deref(), Some("jane"));
}

#[test]
fn unusable_entries_are_named() {
    let cases = [
        (Cluster { server: Some("not an address".to_owned()), ..Cluster::default() }, "server"),
        (
            Cluster {
                server: Some("https://k8s".to_owned()),
                certificate_authority: Some("/nowhere/ca.crt".to_owned()),
                ..Cluster::default()
            },
            "/nowhere/ca.crt",
        ),
    ];
    for (cluster, expected) in cases {
        let error = connect::config(&cluster, AuthInfo::default(), "n").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A configuration whose plugin is a script with `body`, which can count its runs in `$RUNS`.
fn with_plugin(folder: &tempfile::TempDir, body: &str) -> kube::Config {
    let script = folder.path().join("plugin");
    fs::write(&script, format!("#!/bin/sh\necho run >>\"$RUNS\"\n{body}\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let runs = folder.path().join("runs").to_str().unwrap().to_owned();
    let variable = HashMap::from([("name".to_owned(), "RUNS".to_owned()), ("value".to_owned(), runs)]);
    let exec = ExecConfig {
        api_version: Some("client.authentication.k8s.io/v1".to_owned()),
        command: Some(script.to_str().unwrap().to_owned()),
        env: Some(vec![variable]),
        ..serde_json::from_str("{}").unwrap()
    };
    let mut config = config("https://127.0.0.1:1");
    config.auth_info.exec = Some(exec);
    config
}

fn runs(folder: &tempfile::TempDir) -> usize {
    fs::read_to_string(folder.path().join("runs")).unwrap().lines().count()
}

#[tokio::test]
async fn a_plugins_certificate_expires_with_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let identity = rcgen::generate_simple_self_signed(["me".to_owned()]).unwrap();
    let status = serde_json::json!({ "status": {
        "clientCertificateData": identity.cert.pem(),
        "clientKeyData": identity.signing_key.serialize_pem(),
        "expirationTimestamp": "2040-01-02T03:04:05Z",
    }});
    fs::write(folder.path().join("status"), status.to_string()).unwrap();
    let config = with_plugin(&folder, "cat \"$(dirname \"$0\")/status\"");
    let client = connect::client(config, None).unwrap();
    assert_eq!(client.valid_until().unwrap().to_string(), "2040-01-02T03:04:05Z");
    assert_eq!(runs(&folder), 2);
}

#[tokio::test]
async fn a_plugins_token_is_asked_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_plugin(&folder, r#"echo '{"kind":"ExecCredential","status":{"token":"t"}}'"#);
    let client = connect::client(config, None).unwrap();
    assert!(client.valid_until().is_none());
    assert_eq!(runs(&folder), 1);
}

#[tokio::test]
async fn a_plugin_that_fails_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = connect::client(with_plugin(&folder, "exit 3"), None).map(drop).unwrap_err();
    assert!(matches!(error, ConnectError::Config(_)));
    assert!(error.to_string().contains("plugin"), "{error}");
}
