//! A link with delay, loss and a rate between a client and the API server.
//!
//! Clients run in a network namespace of the link's own, whose only way out is a TUN device; the packets reach the node
//! through another one there. The process between the two is a service of the node and lives in the client's namespace:
//! when the node ends, so do the process, the namespace and both devices.

mod line;
mod pump;
pub(crate) mod settings;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use rustix::process::Signal;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::plan::Plan;
use super::sandbox::Sandbox;
use crate::shell;
use pump::Control;
use settings::Settings;

const SERVICE: &str = "link";
/// The devices: in the client's namespace and on the node.
const NEAR: &str = "node0";
const FAR: &str = "link0";
/// Packets that may wait for the emulator to read them: it must be its own queue that drops.
const DEVICE_QUEUE: u32 = 20_000;
/// What came of the packets, for `status`; written when the link is ready and then four times per second.
const COUNTS: &str = "link-counts";
const LOOK: Duration = Duration::from_millis(250);

/// A link with delay, loss and a rate between a client and the API server.
#[derive(Debug, Subcommand)]
pub(crate) enum Link {
    /// Make it, or change the one there is; its connections stay open.
    Up(Settings),
    /// Remove it.
    Down,
    /// Say how it is set and what became of its packets.
    Status,
    /// Run a program here whose network is the far end of the link: it reaches the API server and pods.
    Exec {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// The emulator itself.
    #[command(hide = true)]
    Run,
}

/// Runs a subcommand.
pub(super) fn run(plan: &Plan, command: Link) -> Result<()> {
    match command {
        Link::Up(settings) => up(plan, settings),
        Link::Down => down(plan),
        Link::Status => {
            Sandbox::require(plan)?.service(SERVICE).context("there is no link")?;
            println!("{}", fs::read_to_string(settings_file(plan))?.trim());
            print!("{}", fs::read_to_string(plan.path(COUNTS))?);
            Ok(())
        }
        Link::Exec { command } => {
            let Some((program, arguments)) = command.split_first() else { bail!("nothing to run") };
            let status = enter(plan, program)?.args(arguments).status()?;
            std::process::exit(status.code().unwrap_or(1));
        }
        Link::Run => emulate(plan),
    }
}

/// Makes the link or changes its settings.
pub(super) fn up(plan: &Plan, settings: Settings) -> Result<()> {
    let sandbox = Sandbox::require(plan)?;
    // Written whole or not at all: the emulator may read it at any time.
    let new = plan.path("link.new");
    fs::write(&new, format!("{settings}\n"))?;
    fs::rename(&new, settings_file(plan))?;
    let counts = plan.path(COUNTS);
    if sandbox.service(SERVICE).is_none() {
        let _ = fs::remove_file(&counts);
        // Its own copy: this program may be built again while the link is up.
        let program = plan.path("bin/link");
        fs::copy(std::env::current_exe()?, &program).context("copy the emulator")?;
        let program = program.display().to_string();
        let arguments = ["--net", "--", &program, "cluster", "--name", &plan.name, "link", "run"];
        sandbox.ensure_service(SERVICE, Path::new("unshare"), &arguments.map(str::to_owned))?;
    } else {
        fs::remove_file(&counts)?;
        sandbox.signal(SERVICE, Signal::HUP)?;
    }
    shell::until(Duration::from_secs(10), || {
        if sandbox.service(SERVICE).is_none() {
            bail!("the emulator has ended; see {}", sandbox.log(SERVICE).display());
        }
        if counts.exists() { Ok(()) } else { bail!("the link is not ready") }
    })
}

/// Removes the link.
pub(super) fn down(plan: &Plan) -> Result<()> {
    let sandbox = Sandbox::require(plan)?;
    sandbox.stop_service(SERVICE, Signal::TERM, Duration::from_secs(2))?;
    for file in [settings_file(plan), plan.path(COUNTS), plan.path("bin/link")] {
        let _ = fs::remove_file(file);
    }
    Ok(())
}

/// A command in the client's network.
pub(super) fn enter(plan: &Plan, program: &str) -> Result<Command> {
    let mut command = Command::new("nsenter");
    command.args(["--target", &client(plan)?.to_string(), "--net", "--", program]);
    Ok(command)
}

/// A process in the client's network.
pub(super) fn client(plan: &Plan) -> Result<u32> {
    let link = Sandbox::require(plan)?.service(SERVICE);
    Ok(link
        .with_context(|| {
            format!("there is no link; make one with `cargo xtask cluster link up --name {}`", plan.name)
        })?
        .host)
}

fn settings_file(plan: &Plan) -> std::path::PathBuf {
    plan.path("link")
}

/// Makes devices and routes, then carries packets until a signal comes.
fn emulate(plan: &Plan) -> Result<()> {
    let read = || -> Result<Settings> { fs::read_to_string(settings_file(plan))?.parse() };
    let (changed, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, changed.clone())?;
    signal_hook::flag::register(signal_hook::consts::SIGTERM, ended.clone())?;
    let control = Arc::new(Control::new(read()?));
    let (near, far) = (device(NEAR)?, device(FAR)?);
    connect(plan)?;
    let carrying = {
        let control = control.clone();
        thread::spawn(move || pump::run(&near, &far, &control))
    };
    while !ended.load(Ordering::Relaxed) && !carrying.is_finished() {
        if changed.swap(false, Ordering::Relaxed) {
            control.change(read()?);
            // They apply before anybody is told so.
            thread::sleep(LOOK);
        }
        let [up, down] = control.counts();
        let line = |name, counts: line::Counts| {
            format!(
                "{name}: {} carried, {} lost, {} dropped by the queue\n",
                counts.carried, counts.lost, counts.overflowed
            )
        };
        let new = plan.path("link-counts.new");
        fs::write(&new, line("from the client", up) + &line("to the client", down))?;
        fs::rename(&new, plan.path(COUNTS))?;
        thread::sleep(LOOK);
    }
    if carrying.is_finished() {
        return carrying.join().unwrap_or_else(|_| bail!("the link's thread failed"));
    }
    Ok(())
}

fn device(name: &str) -> Result<SyncDevice> {
    let device =
        DeviceBuilder::new().name(name).mtu(1500).tx_queue_len(DEVICE_QUEUE).offload(true).build_sync();
    device.with_context(|| format!("make the device {name}"))
}

/// Moves the far device to the node and routes both ways over the link.
fn connect(plan: &Plan) -> Result<()> {
    let (node, pods) = (plan.node_ip(), plan.pod_cidr());
    let (near, far) = (plan.link_client_ip(), plan.link_node_ip());
    // Most systems run cubic, whatever this machine does; and what one connection learnt about the path is not for the next.
    let script = format!(
        "set -e
         ip link set {FAR} netns 1
         echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save
         ip link set lo up
         ip address add {near} peer {far} dev {NEAR}
         ip link set {NEAR} up
         ip route add {node} dev {NEAR} congctl cubic
         ip route add {pods} dev {NEAR} congctl cubic
         nsenter --target 1 --net -- sh -ec '
             echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save
             ip link set {FAR} up
             ip route replace {near} dev {FAR} congctl cubic
         '"
    );
    shell::output(Command::new("sh").args(["-c", &script])).context("connect the link")?;
    Ok(())
}
