//! `cargo xtask demo`: the main job, shown step by step on a real cluster.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::test::{Runner, build_plugin};
use crate::{cluster, image};

const NAME: &str = "relay-demo";

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// Use the cluster of the current kubeconfig context instead of a throw-away one; it must have
    /// the test services (`cargo xtask cluster up` makes them) and be able to get the agent's image.
    #[arg(long)]
    current: bool,
}

/// Where the plugin is and how it finds its cluster.
struct Stage {
    plugin: PathBuf,
    environment: Vec<(&'static str, String)>,
}

/// Shows the main job.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runner = Runner::new()?;
    let plugin = build_plugin(&runner)?;
    if options.current {
        return show(&runner, &Stage { plugin, environment: Vec::new() });
    }
    let shown = on_own_cluster(&runner, plugin);
    title("The cluster goes");
    let ended = cluster::stop(NAME);
    shown.and(ended)
}

fn on_own_cluster(runner: &Runner, plugin: PathBuf) -> Result<()> {
    let agent = image::build_server()?;
    title("A real Kubernetes on this machine, thrown away afterwards");
    cluster::start(NAME)?;
    cluster::load(NAME, &[agent])?;
    let environment = cluster::environment_of(NAME)?;
    show(runner, &Stage { plugin, environment })
}

fn show(runner: &Runner, stage: &Stage) -> Result<()> {
    let steps: [(&str, &[&str], Check); 3] = [
        ("A web service, by the name of its port", &["svc/web", "18080:http"], web_page),
        (
            "UDP: the cluster's name server, asked from here",
            &["-n", "kube-system", "svc/kube-dns", "15353:53@udp"],
            name_server,
        ),
        (
            "A host name that only the cluster can resolve",
            &["host/web.default.svc.cluster.local", "18081:80"],
            web_page_by_name,
        ),
    ];
    for (text, arguments, check) in steps {
        if runner.interrupted() {
            bail!("interrupted");
        }
        title(text);
        Forward::start(stage, arguments)?.check(check)?;
    }
    Ok(())
}

type Check = fn() -> Result<()>;

fn web_page() -> Result<()> {
    get(18080)
}

fn web_page_by_name() -> Result<()> {
    get(18081)
}

fn get(port: u16) -> Result<()> {
    println!("$ curl http://127.0.0.1:{port}/");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect to the local port")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).context("read the page")?;
    let Some((_, body)) = reply.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200"))
    else {
        bail!("no page came back, but: {reply:?}");
    };
    println!("{}", body.trim_end());
    Ok(())
}

fn name_server() -> Result<()> {
    let name = "kubernetes.default.svc.cluster.local";
    println!("$ dig -p 15353 @127.0.0.1 {name}");
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.send_to(&question(name), "127.0.0.1:15353")?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).context("no answer from the name server")?;
    // The only record's last four bytes are the address: answers of ours carry no additional part.
    match &buffer[..length] {
        [_, _, _, code, _, _, 0, 1, .., a, b, c, d] if code & 15 == 0 => {
            println!("{name} is {a}.{b}.{c}.{d}");
        }
        answer => bail!("unexpected answer: {answer:02x?}"),
    }
    Ok(())
}

/// A DNS question for an IPv4 address.
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

/// A running `kubectl relay`.
struct Forward(Child);

impl Forward {
    /// Starts it and waits for the line that says traffic can flow.
    fn start(stage: &Stage, arguments: &[&str]) -> Result<Self> {
        println!("$ kubectl relay {}", arguments.join(" "));
        let mut command = command(&stage.plugin, arguments);
        command.envs(stage.environment.iter().map(|(key, value)| (key, value)));
        let mut child = command.stdout(Stdio::piped()).spawn().context("start the plugin")?;
        let stdout = child.stdout.take().context("the plugin's output")?;
        let forward = Self(child);
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("{line}");
                let _ = send.send(line);
            }
        });
        loop {
            match receive.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line.starts_with("Forwarding from") => return Ok(forward),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("the plugin is not ready after 60 s"),
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the plugin has ended"),
            }
        }
    }

    /// Uses it, then ends it as Ctrl-C would.
    fn check(mut self, check: Check) -> Result<()> {
        check()?;
        println!("^C");
        let id =
            i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("the plugin's process id")?;
        kill_process(id, Signal::INT)?;
        let status = self.0.wait()?;
        if !status.success() {
            bail!("the plugin ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // After an orderly end there is nothing left to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(plugin: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(plugin);
    command.args(arguments).stdin(Stdio::null());
    command
}

fn title(text: &str) {
    println!("\n── {text}");
}
