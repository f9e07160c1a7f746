//! A real one-node Kubernetes, made from nothing and removed without a trace.

mod binaries;
mod certificates;
mod cgroups;
mod control_plane;
mod kubectl;
mod link;
mod network;
mod node;
mod packages;
mod plan;
mod sandbox;
mod workloads;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use rustix::process::Signal;

use crate::paths;
use crate::shell::{self, say, step};
use binaries::{ApiVersion, Binaries};
use certificates::Authority;
use kubectl::Kubectl;
pub(crate) use link::settings::Settings as LinkSettings;
pub(crate) use plan::DEFAULT_NAME;
use plan::Plan;
use sandbox::Sandbox;

/// Options of `cargo xtask cluster`.
#[derive(Args)]
pub(crate) struct Options {
    /// Which cluster; everything it uses on this machine follows from its name.
    #[arg(long, global = true, default_value = DEFAULT_NAME, env = "RELAY_CLUSTER")]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start it, with name server and test services; does only what is not done yet.
    Up {
        /// Version of the API server; a running cluster keeps its own unless this is given.
        #[arg(long, value_enum, value_name = "VERSION")]
        kubernetes: Option<ApiVersion>,
    },
    /// End it and remove everything of it.
    Down,
    /// Say what runs.
    Status,
    /// Print settings for a shell: `eval "$(cargo xtask cluster env)"`.
    Env,
    /// Print a kubeconfig for a user who may do nothing until Roles say otherwise.
    User {
        /// The user's name.
        user: String,
        /// The namespace that the kubeconfig selects.
        #[arg(long, default_value = "default")]
        namespace: String,
        /// A group that the user belongs to.
        #[arg(long)]
        group: Option<String>,
    },
    /// Load image archives into it.
    Load {
        /// docker-archive files; without any, the agent's image.
        archives: Vec<PathBuf>,
    },
    /// Stop, start, crash or freeze the API server.
    Apiserver {
        #[command(subcommand)]
        action: ApiServerAction,
    },
    /// Break or heal the path between this machine and the cluster.
    Path {
        #[command(subcommand)]
        action: network::Path,
    },
    /// A link with delay, loss and a rate between a client and the API server.
    Link {
        #[command(subcommand)]
        action: link::Link,
    },
    /// Run a program on the node: its network, its processes, its mounts.
    Exec {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[derive(Subcommand)]
enum ApiServerAction {
    /// An orderly shutdown.
    Stop,
    /// Start it and wait until it is ready.
    Start,
    /// SIGKILL.
    Kill,
    /// Stop (or kill) and start.
    Restart {
        /// SIGKILL instead of an orderly shutdown.
        #[arg(long)]
        kill: bool,
        /// Come back with another certificate of the same authority.
        #[arg(long)]
        new_certificate: bool,
    },
    /// SIGSTOP: connections stay open and nothing answers.
    Pause,
    /// SIGCONT.
    Resume,
    /// Run another version over the same data.
    Switch {
        /// The version.
        #[arg(long, value_enum)]
        version: ApiVersion,
    },
}

/// Runs a subcommand.
pub(crate) fn run(options: Options) -> Result<()> {
    let plan = Plan::new(&options.name)?;
    packages::check_machine()?;
    match options.command {
        Command::Up { kubernetes } => up(&plan, kubernetes),
        Command::Down => down(&plan),
        Command::Status => status(&plan),
        Command::Env => {
            Sandbox::require(&plan)?;
            for (key, value) in environment(&plan)? {
                println!("export {key}={value}");
            }
            println!("export PATH={}:$PATH", Binaries::cached()?.folder().display());
            Ok(())
        }
        Command::User { user, namespace, group } => {
            Sandbox::require(&plan)?;
            let authority = Authority::open(&plan)?;
            let identity = authority.client(&user, group.as_deref())?;
            print!("{}", authority.kubeconfig(&plan, &user, &identity, Some(&namespace)));
            Ok(())
        }
        Command::Load { archives } if archives.is_empty() => load(&options.name, &[node::server_archive()]),
        Command::Load { archives } => load(&options.name, &archives),
        Command::Apiserver { action } => api_server(&plan, &action),
        Command::Path { action } => network::set_path(&Sandbox::require(&plan)?, action),
        Command::Link { action } => link::run(&plan, action),
        Command::Exec { command } => exec(&plan, &command),
    }
}

/// Starts the cluster called `name`, for other parts of xtask.
pub(crate) fn start(name: &str) -> Result<()> {
    packages::check_machine()?;
    up(&Plan::new(name)?, None)
}

/// Builds everything that a cluster of any version may need.
pub(crate) fn build_all() -> Result<()> {
    Binaries::ensure()?;
    Binaries::ensure_newer()
}

/// Removes the cluster called `name`.
pub(crate) fn stop(name: &str) -> Result<()> {
    down(&Plan::new(name)?)
}

/// Makes the link of the cluster called `name`, or changes it. Gives a process in the clients' network, and their address.
pub(crate) fn link_up(name: &str, settings: LinkSettings) -> Result<(u32, String)> {
    let plan = Plan::new(name)?;
    link::up(&plan, settings)?;
    Ok((link::client(&plan)?, plan.link_client_ip()))
}

/// Removes the link of the cluster called `name`.
pub(crate) fn link_down(name: &str) -> Result<()> {
    link::down(&Plan::new(name)?)
}

/// Loads image archives into the cluster called `name`.
pub(crate) fn load(name: &str, archives: &[PathBuf]) -> Result<()> {
    let plan = Plan::new(name)?;
    let sandbox = Sandbox::require(&plan)?;
    step("load images", || node::import(&plan, &sandbox, archives))
}

/// The environment variables by which programs find the cluster called `name`, kubectl in PATH included.
pub(crate) fn environment_of(name: &str) -> Result<Vec<(&'static str, String)>> {
    let mut variables = environment(&Plan::new(name)?)?;
    let path = std::env::var("PATH").unwrap_or_default();
    variables.push(("PATH", format!("{}:{path}", Binaries::cached()?.folder().display())));
    Ok(variables)
}

/// What is left on this machine of the cluster called `name`; empty after an orderly end.
pub(crate) fn leftovers(name: &str) -> Result<Vec<String>> {
    let plan = Plan::new(name)?;
    let mut found = Vec::new();
    if Sandbox::find(&plan).is_some() {
        found.push("the node's processes".to_owned());
    }
    if plan.folder.exists() {
        found.push(format!("the folder {}", plan.folder.display()));
    }
    if Path::new("/sys/class/net").join(plan.device()).exists() {
        found.push(format!("the network device {}", plan.device()));
    }
    if cgroups::exists(&plan) {
        found.push(format!("the cgroup {}", plan.cgroup()));
    }
    let folder = plan.text("");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    found
        .extend(mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("the mount {line}")));
    for entry in fs::read_dir("/proc")?.flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&arguments).contains(&folder) {
            found.push(format!("the process {}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(found)
}

fn up(plan: &Plan, version: Option<ApiVersion>) -> Result<()> {
    say(format!("cluster {} ({}, pods {})", plan.name, plan.api_url(), plan.pod_cidr()));
    let _lock = lock(plan)?;
    packages::install()?;
    let version = version.unwrap_or_else(|| control_plane::remembered_version(plan));
    let binaries = Binaries::ensure()?;
    binaries.api_server(version)?;
    let workload = node::build_workload()?;
    let sandbox = match Sandbox::find(plan) {
        Some(sandbox) => sandbox,
        None => {
            // What a machine's restart or a failed start has left would only confuse a new cluster.
            clear(plan)?;
            fs::create_dir_all(plan.path("logs"))?;
            step("namespaces of the node", || Sandbox::start(plan, &workload))?
        }
    };
    step("network and cgroup", || {
        cgroups::ensure(plan)?;
        network::ensure(plan, &sandbox)
    })?;
    certificates::ensure(plan)?;
    if version != control_plane::remembered_version(plan) {
        control_plane::stop_api_server(&sandbox)?;
    }
    control_plane::remember_version(plan, version)?;
    // containerd gets ready beside the API server.
    step("etcd, containerd and API server", || {
        control_plane::ensure_etcd(plan, &sandbox, &binaries)?;
        node::ensure_containerd(plan, &sandbox)?;
        control_plane::ensure_api_server(plan, &sandbox, &binaries, version)
    })?;
    let digest = step("images", || node::ensure_images(plan, &sandbox, &binaries, &workload))?;
    step("controllers and kubelet", || {
        control_plane::ensure_controllers(plan, &sandbox, &binaries)?;
        node::ensure_agents(plan, &sandbox, &binaries)
    })?;
    step("name server and test services", || {
        workloads::apply(plan, &digest)?;
        workloads::wait(plan)
    })?;
    say(format!("ready; export KUBECONFIG={}", plan.kubeconfig().display()));
    Ok(())
}

fn down(plan: &Plan) -> Result<()> {
    let _lock = lock(plan)?;
    if let Some(sandbox) = Sandbox::find(plan) {
        step("end all processes of the node", || sandbox.end())?;
    }
    clear(plan)?;
    say(format!("cluster {} is gone", plan.name));
    Ok(())
}

/// Removes what a cluster has on this machine besides its processes.
fn clear(plan: &Plan) -> Result<()> {
    network::remove(plan);
    cgroups::remove(plan)?;
    if plan.folder.exists() {
        fs::remove_dir_all(&plan.folder).with_context(|| format!("remove {}", plan.folder.display()))?;
    }
    Ok(())
}

fn status(plan: &Plan) -> Result<()> {
    let Some(sandbox) = Sandbox::find(plan) else {
        println!("cluster {}: not running", plan.name);
        return Ok(());
    };
    println!("cluster {}: first process {}, {}", plan.name, sandbox.init(), plan.api_url());
    let names = [
        "etcd",
        control_plane::API_SERVER,
        "kube-controller-manager",
        "kube-scheduler",
        "containerd",
        "kubelet",
        "kube-proxy",
    ];
    for name in names {
        match sandbox.service(name) {
            Some(process) => println!("  {name:<24} process {}", process.host),
            None => println!("  {name:<24} not running; see {}", sandbox.log(name).display()),
        }
    }
    let kubectl = Kubectl::new(plan)?;
    for arguments in [&["version"][..], &["get", "nodes", "-o", "wide"], &["get", "pods", "-A", "-o", "wide"]]
    {
        println!();
        shell::run(kubectl.command().args(arguments).arg("--request-timeout=5s"))?;
    }
    Ok(())
}

fn environment(plan: &Plan) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("KUBECONFIG", plan.kubeconfig().display().to_string()),
        ("RELAY_CLUSTER", plan.name.clone()),
        ("RELAY_KUBECTL", Binaries::cached()?.kubernetes("kubectl").display().to_string()),
        ("RELAY_NODE", plan.node()),
        ("RELAY_NODE_IP", plan.node_ip()),
        ("RELAY_HOST_IP", plan.host_ip()),
        ("RELAY_POD_CIDR", plan.pod_cidr()),
    ])
}

fn api_server(plan: &Plan, action: &ApiServerAction) -> Result<()> {
    let sandbox = Sandbox::require(plan)?;
    let binaries = Binaries::cached()?;
    let start = |version| control_plane::ensure_api_server(plan, &sandbox, &binaries, version);
    let version = control_plane::remembered_version(plan);
    match action {
        ApiServerAction::Stop => control_plane::stop_api_server(&sandbox),
        ApiServerAction::Start => start(version),
        ApiServerAction::Kill => control_plane::kill_api_server(&sandbox),
        ApiServerAction::Restart { kill, new_certificate } => {
            if *kill {
                control_plane::kill_api_server(&sandbox)?;
            } else {
                control_plane::stop_api_server(&sandbox)?;
            }
            if *new_certificate {
                certificates::renew_api_server(plan)?;
            }
            start(version)
        }
        ApiServerAction::Pause => sandbox.signal(control_plane::API_SERVER, Signal::STOP),
        ApiServerAction::Resume => sandbox.signal(control_plane::API_SERVER, Signal::CONT),
        ApiServerAction::Switch { version } => {
            // Built before the running one is stopped: that may take minutes.
            binaries.api_server(*version)?;
            control_plane::stop_api_server(&sandbox)?;
            control_plane::remember_version(plan, *version)?;
            start(*version)
        }
    }
}

fn exec(plan: &Plan, command: &[String]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else { bail!("nothing to run") };
    let status = Sandbox::require(plan)?.enter(program).args(arguments).status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// Two runs for one cluster wait for each other.
fn lock(plan: &Plan) -> Result<File> {
    // Not in the cluster's folder, which comes and goes.
    let folder = paths::cache()?.join("locks");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join(&plan.name);
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    file.lock()?;
    Ok(file)
}
