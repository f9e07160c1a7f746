//! The link between this machine and the node, the node's routes, and ways to break the link.

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::plan::Plan;
use super::sandbox::Sandbox;
use crate::shell;

/// What happens to packets between this machine and the node.
#[derive(Debug, Clone, Copy, PartialEq, Subcommand)]
pub(crate) enum Path {
    /// Drop every packet, silently, in both directions.
    Cut,
    /// Answer every TCP segment with a reset, in both directions.
    Reset,
    /// Drop this share of the packets, at random, in each direction.
    Loss {
        /// 0 to 100.
        percent: f32,
    },
    /// Undo the others.
    Heal,
}

/// Sets up everything that the node needs to reach this machine, and pods each other.
pub(crate) fn ensure(plan: &Plan, sandbox: &Sandbox) -> Result<()> {
    let device = plan.device();
    if !shell::succeeds(sandbox.enter("ip").args(["link", "show", "eth0"])) {
        if shell::succeeds(ip().args(["link", "show", &device])) {
            bail!(
                "the device {device} exists already: the name {:?} shares its addresses with another cluster; \
                 choose another --name, or take that cluster down",
                plan.name
            );
        }
        let init = sandbox.init().to_string();
        let link = ["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", &init];
        shell::output(ip().args(link)).context("make the link to the node")?;
    }
    let host = [
        format!("address replace {}/24 dev {device}", plan.host_ip()),
        format!("-6 address replace {}/64 dev {device} nodad", plan.host_ip6()),
        format!("link set {device} up"),
    ];
    for command in host {
        shell::output(ip().args(command.split(' ')))?;
    }
    let blackhole = "192.0.2.0/24";
    let script = format!(
        "set -e
         echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
         echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
         ip link set lo up
         ip address replace {node}/24 dev eth0
         ip -6 address replace {node6}/64 dev eth0 nodad
         ip link set eth0 up
         # Service addresses need a route before iptables gets to see the packet.
         ip route replace {services} dev eth0
         ip -6 route replace {services6} dev eth0
         # For tests: a network that swallows everything.
         ip route replace blackhole {blackhole}",
        node = plan.node_ip(),
        node6 = plan.node_ip6(),
        services = plan.service_cidr(),
        services6 = plan.service_cidr6(),
    );
    shell::output(sandbox.enter("sh").args(["-c", &script])).context("set up the node's network")?;
    Ok(())
}

/// Removes what is left of the link; the namespaces' end has normally taken it already.
pub(crate) fn remove(plan: &Plan) {
    // The kernel takes a dead namespace's devices some time later: this waits for nothing.
    shell::succeeds(ip().args(["link", "delete", &plan.device()]));
}

/// Breaks or heals the path between this machine and the node.
pub(crate) fn set_path(sandbox: &Sandbox, path: Path) -> Result<()> {
    const CHAIN: &str = "RELAY-PATH";
    let action = match path {
        Path::Heal => String::new(),
        Path::Cut => format!("iptables -w -A {CHAIN} -j DROP"),
        // The resets themselves have to get through.
        Path::Reset => {
            format!("iptables -w -A {CHAIN} -p tcp ! --tcp-flags RST RST -j REJECT --reject-with tcp-reset")
        }
        Path::Loss { percent } if (0.0..=100.0).contains(&percent) => format!(
            "iptables -w -A {CHAIN} -m statistic --mode random --probability {:.6} -j DROP",
            percent / 100.0
        ),
        Path::Loss { percent } => bail!("a loss of {percent} percent is impossible: give 0 to 100"),
    };
    let script = format!(
        "set -e
         iptables -w -N {CHAIN} 2>/dev/null || iptables -w -F {CHAIN}
         iptables -w -C INPUT -i eth0 -j {CHAIN} 2>/dev/null || iptables -w -I INPUT -i eth0 -j {CHAIN}
         iptables -w -C OUTPUT -o eth0 -j {CHAIN} 2>/dev/null || iptables -w -I OUTPUT -o eth0 -j {CHAIN}
         {action}"
    );
    shell::output(sandbox.enter("sh").args(["-c", &script]))?;
    Ok(())
}

fn ip() -> Command {
    Command::new("ip")
}
