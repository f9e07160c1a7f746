//! All rules together, and their judgement.

use std::net::{IpAddr, SocketAddr};

use crate::reserved::{self, Reserved};
use crate::rule::{Place, Rule};

/// The names that led to an address, each in lower case without a dot at its end. None for an address that was asked
/// for as such.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    asked: Option<String>,
    complete: Option<String>,
    aliases: Vec<String>,
}

impl Names {
    /// The name as it was asked for, and the complete one that was found: with what the search list added.
    pub fn new(asked: &str, complete: &str) -> Self {
        Self { asked: Some(tidy(asked)), complete: Some(tidy(complete)), aliases: Vec::new() }
    }

    /// One more name that the complete one is an alias for.
    pub fn add_alias(&mut self, name: &str) {
        let name = tidy(name);
        if !self.aliases.contains(&name) {
            self.aliases.push(name);
        }
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.asked.iter().chain(&self.complete).chain(&self.aliases)
    }
}

fn tidy(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Why an address may not be dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A deny rule names it.
    #[error("denied by policy: rule \"deny {0}\"")]
    Rule(String),
    /// There are allow rules, and none names it.
    #[error("denied by policy: no allow rule names it")]
    NotAllowed,
    /// Nobody allowed it by its own address.
    #[error("denied by policy: {0}, which no allow rule names by address")]
    Reserved(&'static str),
    /// The agent itself would answer.
    #[error("denied by policy: the agent's own port")]
    Own,
}

/// What may be reached. The default denies what is reserved and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// With any of these, everything that none of them names is denied.
    pub allow: Vec<Rule>,
    /// What any of these names is denied, whatever is allowed.
    pub deny: Vec<Rule>,
    /// Ports on which the agent listens: not to be dialled at the pod's own addresses.
    pub own_ports: Vec<u16>,
}

impl Policy {
    /// Judges a name before anybody is asked for it.
    ///
    /// # Errors
    /// [`Denial::Rule`] where a deny rule names it for this port.
    pub fn judge_name(&self, name: &str, port: u16) -> Result<(), Denial> {
        let name = tidy(name);
        match self.deny.iter().find(|rule| rule.has_port(port) && rule.has_name(&name)) {
            Some(rule) => Err(Denial::Rule(rule.to_string())),
            None => Ok(()),
        }
    }

    /// Judges an address that is about to be dialled.
    ///
    /// - A deny rule counts for the address and for each of the names.
    /// - A reserved address is lifted by an allow rule whose network lies within what is reserved: a wide network, a
    ///   name or `*` does not mean it.
    /// - An allow rule with a name counts for the complete name only: what an alias or a search list makes of a name
    ///   is in other hands.
    ///
    /// # Errors
    /// [`Denial`].
    pub fn judge(&self, names: &Names, address: SocketAddr) -> Result<(), Denial> {
        let (ip, port) = (reserved::plain(address.ip()), address.port());
        let views = || [Some(ip), reserved::translated(ip)].into_iter().flatten();
        let denies = |rule: &&Rule| {
            rule.has_port(port)
                && (views().any(|ip| rule.has_address(ip)) || names.all().any(|name| rule.has_name(name)))
        };
        if let Some(rule) = self.deny.iter().find(denies) {
            return Err(Denial::Rule(rule.to_string()));
        }
        for view in views() {
            let is_closed = |place: &&Reserved| place.net.contains(&view) && !self.lifts(place, view, port);
            if let Some(place) = reserved::ALL.iter().find(is_closed) {
                return Err(Denial::Reserved(place.what));
            }
        }
        let allows = |rule: &Rule| {
            let named = names.complete.as_ref().is_some_and(|name| rule.has_name(name));
            rule.has_port(port) && (named || rule.has_address(ip))
        };
        if !self.allow.is_empty() && !self.allow.iter().any(allows) {
            return Err(Denial::NotAllowed);
        }
        Ok(())
    }

    /// Whether a rule means this very place.
    fn lifts(&self, reserved: &Reserved, ip: IpAddr, port: u16) -> bool {
        self.allow.iter().any(|rule| match &rule.place {
            Place::Net(net) => reserved.net.contains(net) && net.contains(&ip) && rule.has_port(port),
            Place::Everywhere | Place::Name(_) => false,
        })
    }
}
