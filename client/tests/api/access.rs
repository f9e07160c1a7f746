//! Credentials and addresses that change while the plugin runs: the next request has the new ones, and what hangs on
//! the old ones goes on.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, runtime::watcher};
use kubectl_relay::{
    cli::args::ClusterArgs,
    cluster::{
        access::Access,
        api::Call,
        config::ClusterConfig,
        follow::{Follow, Snapshot},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use crate::fake::event;

const SOON: Duration = Duration::from_secs(20);

/// A server on a port of its own: the token it accepts, the pod it has, and the requests it got.
#[derive(Clone)]
struct Server {
    address: String,
    token: Arc<Mutex<String>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(token: &str, pod: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            token: Arc::new(Mutex::new(token.to_owned())),
            seen: Arc::default(),
        };
        let (this, pod) = (server.clone(), pod.to_owned());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (this, pod) = (this.clone(), pod.clone());
                tokio::spawn(async move { this.serve(stream, &pod).await });
            }
        });
        server
    }

    async fn serve(&self, mut stream: TcpStream, pod: &str) {
        while let Some(head) = head(&mut stream).await {
            let authorized =
                head.contains(&format!("authorization: Bearer {}\r\n", self.token.lock().unwrap()));
            self.seen.lock().unwrap().push(head.lines().next().unwrap().to_owned());
            if authorized && head.contains("watch=true") {
                // Open for ever, and nothing more comes: as a path that swallows packets.
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                let _ = chunk(&mut stream, &event("ADDED", object(pod))).await;
                std::future::pending::<()>().await;
            }
            let (status, body) = if authorized {
                ("200 OK", json!({"metadata": {"resourceVersion": "1"}, "items": []}))
            } else {
                ("401 Unauthorized", json!({"kind": "Status", "code": 401, "message": "Unauthorized"}))
            };
            let body = body.to_string();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn watches(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|line| line.contains("watch=true")).count()
    }
}

fn object(pod: &str) -> Value {
    json!({"metadata": {"name": pod, "resourceVersion": "2"}})
}

async fn chunk(stream: &mut TcpStream, event: &Value) -> std::io::Result<()> {
    let line = format!("{event}\n");
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(bytes).ok()
}

struct Kubeconfig(TempDir);

impl Kubeconfig {
    fn new(server: &Server, user: &str) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.write(&server.address, user);
        this
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("config")
    }

    /// As editors and `kubectl config` do: whole, by another file that is moved there.
    fn write(&self, address: &str, user: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
             clusters:\n- {{name: c, cluster: {{server: '{address}'}}}}\n\
             users:\n- {{name: u, user: {user}}}\n\
             contexts:\n- {{name: here, context: {{cluster: c, user: u}}}}\n"
        );
        self.replace(&text);
    }

    fn replace(&self, text: &str) {
        let next = self.0.path().join("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, self.path()).unwrap();
    }

    async fn access(&self) -> Access {
        let args = ClusterArgs { kubeconfig: Some(self.path()), ..ClusterArgs::default() };
        let config = ClusterConfig::load(&args).await.unwrap();
        Access::open(&args, config).await.unwrap()
    }

    /// A plugin that gives the token in a file, and counts its runs.
    fn plugin(&self, token: &str) -> String {
        let folder = self.0.path();
        fs::write(folder.join("token"), token).unwrap();
        let script = folder.join("plugin");
        let text = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho run >>runs\n\
             printf '{\"kind\":\"ExecCredential\",\"status\":{\"token\":\"%s\"}}' \"$(cat token)\"\n";
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        format!(
            "{{exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: '{}'}}}}",
            script.display()
        )
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.0.path().join("runs")).unwrap().lines().count()
    }
}

async fn works(access: &Access) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(access.client(), "dev");
    timeout(SOON, pods.list(&Default::default())).await.unwrap().map(drop)
}

fn follow(access: &Access) -> Follow<Pod> {
    let api = Api::namespaced(access.client(), "dev");
    Follow::start(access, api, watcher::Config::default(), Call::new("list", "", "pods", "dev"))
}

async fn has(snapshots: &mut watch::Receiver<Snapshot<Pod>>, pod: &str) {
    let found = snapshots.wait_for(|snapshot| snapshot.objects.contains_key(pod));
    assert!(timeout(SOON, found).await.is_ok(), "{pod} is not seen");
}

#[tokio::test]
async fn a_rotated_token_file_is_read_by_the_next_request() {
    let server = Server::start("first", "p").await;
    let kubeconfig = Kubeconfig::new(&server, "{tokenFile: token}");
    fs::write(kubeconfig.0.path().join("token"), "first").unwrap();
    let access = kubeconfig.access().await;
    works(&access).await.unwrap();
    *server.token.lock().unwrap() = "second".into();
    fs::write(kubeconfig.0.path().join("token"), "second").unwrap();
    works(&access).await.unwrap();
    let seen = server.seen.lock().unwrap().len();
    assert_eq!(seen, 2, "nothing was refused on the way");
}

#[tokio::test]
async fn a_watch_goes_on_at_the_address_that_the_kubeconfig_gives_now() {
    let (old, new) = (Server::start("t", "old").await, Server::start("t", "new").await);
    let kubeconfig = Kubeconfig::new(&old, "{token: t}");
    let access = kubeconfig.access().await;
    let follow = follow(&access);
    let mut snapshots = follow.subscribe();
    has(&mut snapshots, "old").await;
    kubeconfig.write(&new.address, "{token: t}");
    // Any request finds it, as a dial does when the address is dead.
    works(&access).await.unwrap();
    has(&mut snapshots, "new").await;
    assert_eq!(old.watches(), 1);
}

#[tokio::test]
async fn a_refused_token_is_asked_for_again_and_the_request_does_not_notice() {
    let server = Server::start("first", "p").await;
    let kubeconfig = Kubeconfig::new(&server, "{token: x}");
    let user = kubeconfig.plugin("first");
    kubeconfig.write(&server.address, &user);
    let access = kubeconfig.access().await;
    works(&access).await.unwrap();
    assert_eq!(kubeconfig.runs(), 1);
    *server.token.lock().unwrap() = "second".into();
    fs::write(kubeconfig.0.path().join("token"), "second").unwrap();
    works(&access).await.unwrap();
    assert_eq!(kubeconfig.runs(), 2);
}

#[tokio::test]
async fn a_plugin_that_has_nothing_better_is_not_run_by_every_refusal() {
    let server = Server::start("other", "p").await;
    let kubeconfig = Kubeconfig::new(&server, "{token: x}");
    let user = kubeconfig.plugin("first");
    kubeconfig.write(&server.address, &user);
    let access = kubeconfig.access().await;
    let refused = futures_util::future::join_all((0..20).map(|_| works(&access))).await;
    assert!(
        refused.iter().all(|outcome| matches!(outcome, Err(kube::Error::Api(status)) if status.code == 401))
    );
    assert_eq!(kubeconfig.runs(), 2);
}

#[tokio::test]
async fn a_half_written_kubeconfig_changes_nothing_until_it_is_whole() {
    let (old, new) = (Server::start("t", "old").await, Server::start("t", "new").await);
    let kubeconfig = Kubeconfig::new(&old, "{token: t}");
    let access = kubeconfig.access().await;
    kubeconfig.replace("apiVersion: v1\nclusters: [");
    works(&access).await.unwrap();
    assert_eq!(old.seen.lock().unwrap().len(), 1);
    kubeconfig.write(&new.address, "{token: t}");
    works(&access).await.unwrap();
    assert_eq!(new.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn another_current_context_is_not_followed_and_ends_no_watch() {
    let server = Server::start("t", "p").await;
    let kubeconfig = Kubeconfig::new(&server, "{token: t}");
    let access = kubeconfig.access().await;
    let follow = follow(&access);
    has(&mut follow.subscribe(), "p").await;
    let text = fs::read_to_string(kubeconfig.path()).unwrap();
    let elsewhere = "\n- {name: there, context: {cluster: c, user: nobody}}\n";
    kubeconfig
        .replace(&(text.replace("current-context: here", "current-context: there") + elsewhere.trim_start()));
    works(&access).await.unwrap();
    assert!(!access.renewals().has_changed().unwrap());
}

#[tokio::test]
async fn after_a_lost_path_a_silent_watch_goes_on_over_a_new_connection() {
    let server = Server::start("t", "p").await;
    let kubeconfig = Kubeconfig::new(&server, "{token: t}");
    let access = kubeconfig.access().await;
    let follow = follow(&access);
    has(&mut follow.subscribe(), "p").await;
    access.reconnect();
    let again = async {
        while server.watches() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, again).await.unwrap();
}
