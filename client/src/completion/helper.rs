//! kubectl's side of completion: it calls the helper with the words after `kubectl relay`, the last one under the cursor,
//! and reads one candidate per line, a TAB and a description behind it, and at last a number that says how to go on.

use std::time::Duration;

use clap::{Arg, CommandFactory, Parser};

use super::{
    Candidate,
    cluster::Cluster,
    flags, ports,
    words::{self, Asked, Line},
};
use crate::{
    cli::args::{Args, ClusterArgs},
    cluster::config::Names,
};

/// Whoever waits at a prompt waits no longer than this.
const LIMIT: Duration = Duration::from_secs(2);

/// Types of targets, in the order in which they are offered.
const KINDS: &[(&str, &str)] = &[
    ("svc/", "Service"),
    ("pod/", "Pod"),
    ("deploy/", "Deployment"),
    ("sts/", "StatefulSet"),
    ("ds/", "DaemonSet"),
    ("rs/", "ReplicaSet"),
    ("job/", "Job"),
    ("node/", "Node, by its internal address"),
    ("ip/", "an address that the cluster reaches"),
    ("host/", "a host name, resolved in the cluster"),
];

/// What `--address` is mostly.
const ADDRESSES: &[(&str, &str)] = &[
    ("localhost", "127.0.0.1 and ::1"),
    ("127.0.0.1", "IPv4 loopback"),
    ("::1", "IPv6 loopback"),
    ("0.0.0.0", "every IPv4 address of this machine"),
    ("::", "every address of this machine"),
];

/// What the shell does with the candidates; the numbers are cobra's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    /// Completes files where there is no candidate.
    Files = 0,
    /// Takes the candidates as they are.
    NoFiles = 4,
    /// The same, and the word goes on behind a candidate.
    NoFilesNoSpace = 6,
}

/// The helper's answer to `words`, to be printed as it is. `open` gives the cluster that kubectl's flags in the words mean.
/// What cannot be found out, or not soon, is not offered.
pub async fn answer(words: &[String], open: impl AsyncFnOnce(ClusterArgs) -> Option<Cluster>) -> String {
    let mut root = Args::command();
    root.build();
    let line = words::read(&root, words);
    let found = tokio::time::timeout(LIMIT, found(&line, open));
    let (candidates, directive) = found.await.unwrap_or((Vec::new(), Directive::NoFiles));
    let mut text = String::new();
    for Candidate { text: word, about } in candidates {
        text += &word;
        if let Some(about) = about.lines().next().filter(|about| !about.is_empty()) {
            text.push('\t');
            text += &about.replace('\t', " ");
        }
        text.push('\n');
    }
    text + &format!(":{}\n", directive as u8)
}

async fn found(
    line: &Line<'_>,
    open: impl AsyncFnOnce(ClusterArgs) -> Option<Cluster>,
) -> (Vec<Candidate>, Directive) {
    let cluster = async || open(kubectl_flags(line)?).await;
    match &line.asked {
        Asked::Foreign => (Vec::new(), Directive::Files),
        Asked::Nothing => (Vec::new(), Directive::NoFiles),
        Asked::Flag(typed) => (flags::candidates(line, typed), Directive::NoFiles),
        Asked::Value { of, .. } if flags::is_file(of) => (Vec::new(), Directive::Files),
        Asked::Value { of, glued, typed } => {
            let (before, typed) = match of.get_value_delimiter().and_then(|comma| typed.rfind(comma)) {
                Some(comma) => typed.split_at(comma + 1),
                None => ("", *typed),
            };
            let mut values = values(of, line, cluster).await;
            values.retain(|value| value.text.starts_with(typed));
            for value in &mut values {
                value.text = format!("{glued}{before}{}", value.text);
            }
            (values, Directive::NoFiles)
        }
        Asked::Target { typed, first } => targets(line, typed, *first, cluster).await,
        Asked::Port { typed, target, taken } => {
            let cluster = cluster().await;
            let known = match &cluster {
                Some(cluster) => cluster.ports(target).await,
                None => None,
            };
            let mut candidates = ports::candidates(&known.unwrap_or_default(), typed, taken);
            // Behind a port the next target may come, which whoever means it has begun to type.
            if !typed.is_empty() && !taken.is_empty() {
                candidates.extend(kinds(typed));
            }
            with_directive(candidates)
        }
    }
}

/// kubectl's own flags among the words; `None` when they make no sense.
fn kubectl_flags(line: &Line<'_>) -> Option<ClusterArgs> {
    let words = ["kubectl-relay"].into_iter().chain(line.kubectl.iter().map(String::as_str));
    Some(Args::try_parse_from(words).ok()?.cluster)
}

async fn values(of: &Arg, line: &Line<'_>, cluster: impl AsyncFnOnce() -> Option<Cluster>) -> Vec<Candidate> {
    let names = || kubectl_flags(line).and_then(|flags| Names::read(&flags)).unwrap_or_default();
    let plain = |names: Vec<String>| names.into_iter().map(Candidate::plain).collect();
    match of.get_long().unwrap_or_default() {
        "namespace" | "server.namespace" => {
            let seen = match cluster().await {
                Some(cluster) => cluster.namespaces().await,
                None => None,
            };
            // Those that one works in are known without a right to see any.
            plain(seen.unwrap_or_else(|| names().namespaces))
        }
        "context" => plain(names().contexts),
        "cluster" => plain(names().clusters),
        "user" => plain(names().users),
        "address" => ADDRESSES.iter().map(|&(address, about)| Candidate::new(address, about)).collect(),
        _ => flags::values(of),
    }
}

async fn targets(
    line: &Line<'_>,
    typed: &str,
    first: bool,
    cluster: impl AsyncFnOnce() -> Option<Cluster>,
) -> (Vec<Candidate>, Directive) {
    let asking = async |kind: &str| match cluster().await {
        Some(cluster) => cluster.objects(kind).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let mut candidates = Vec::new();
    if let Some((kind, name)) = typed.split_once('/') {
        let mut names = asking(kind).await;
        names.retain(|known| known.starts_with(name));
        candidates.extend(names.iter().map(|name| Candidate::plain(format!("{kind}/{name}"))));
        return (candidates, Directive::NoFiles);
    }
    if first {
        let verbs = line.command.get_subcommands().filter(|verb| !verb.is_hide_set());
        let about = |verb: &clap::Command| verb.get_about().map(ToString::to_string).unwrap_or_default();
        let verbs = verbs.map(|verb| Candidate::new(verb.get_name(), about(verb)));
        candidates.extend(verbs.filter(|verb| verb.text.starts_with(typed)));
    }
    // A verb with verbs of its own takes nothing else.
    if line.command.get_positionals().any(words::takes_targets) {
        candidates.extend(kinds(typed));
        // All the pods would hide everything else from whoever has typed nothing yet.
        if first && !typed.is_empty() {
            let pods = asking("pod").await.into_iter().filter(|name| name.starts_with(typed));
            candidates.extend(pods.map(|name| Candidate::new(name, "Pod")));
        }
    }
    with_directive(candidates)
}

fn kinds(typed: &str) -> impl Iterator<Item = Candidate> {
    let fitting = KINDS.iter().filter(move |(kind, _)| kind.starts_with(typed));
    fitting.map(|&(kind, about)| Candidate::new(kind, about))
}

/// A type goes on with a name behind its slash.
fn with_directive(candidates: Vec<Candidate>) -> (Vec<Candidate>, Directive) {
    let goes_on = candidates.iter().any(|candidate| candidate.text.ends_with('/'));
    let directive = if goes_on { Directive::NoFilesNoSpace } else { Directive::NoFiles };
    (candidates, directive)
}
