//! What goes for every forward of a file: flags of the command line, under their names in one word. The command line's
//! own definition reads them, so nothing is said twice.

use clap::Parser;
use serde_saphyr::Spanned;

use super::{
    Mistake,
    read::{Reader, text, texts},
    tree::{Node, line},
};
use crate::cli::{
    args::{AgentArgs, ClusterArgs, ListenArgs, SessionArgs},
    settings::{Settings, UsageError},
};

/// A key, its flag, and whether it may be a list.
const KEYS: [(&str, &str, bool); 21] = [
    ("connectWait", "--connect-wait", false),
    ("transport", "--transport", false),
    ("lanes", "--lanes", false),
    ("ping", "--ping", false),
    ("deadAfter", "--dead-after", false),
    ("sessionLife", "--session-life", false),
    ("agentSource", "--agent-source", false),
    ("serverNamespace", "--server.namespace", false),
    ("serverImage", "--server.image", false),
    ("serverPullSecret", "--server.pull-secret", true),
    ("serverNodeSelector", "--server.node-selector", true),
    ("serverToleration", "--server.toleration", true),
    ("serverRequests", "--server.requests", true),
    ("serverLimits", "--server.limits", true),
    ("patch", "--patch", false),
    ("agentIdle", "--agent-idle", false),
    ("drainGrace", "--drain-grace", false),
    ("podRunningTimeout", "--pod-running-timeout", false),
    ("context", "", false),
    ("namespace", "", false),
    ("address", "", true),
];

/// Flags that a file sets, each with its line. Two that are equal have the same effect.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    words: Vec<(&'static str, String, usize)>,
}

#[derive(Debug, Clone, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
struct Flags {
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    agent: AgentArgs,
}

impl PartialEq for Defaults {
    fn eq(&self, other: &Self) -> bool {
        self.words().eq(other.words())
    }
}

impl Defaults {
    /// The keys that may stand there.
    pub(super) fn keys() -> Vec<&'static str> {
        KEYS.iter().map(|(key, ..)| *key).collect()
    }

    /// Takes one key, unless it is one of those that forwards have too.
    pub(super) fn take(
        &mut self,
        reader: &Reader<'_>,
        key: &Spanned<String>,
        value: &Spanned<Node>,
    ) -> Result<(), UsageError> {
        let known = KEYS.iter().find(|(known, flag, _)| *known == key.value && !flag.is_empty());
        let Some((name, flag, may_be_list)) = known else { return Ok(()) };
        let values =
            if *may_be_list { texts(reader, name, value)? } else { vec![text(reader, name, value)?] };
        for value in values {
            let word = format!("{flag}={value}");
            let refused = Flags::try_parse_from([&word]).err().map(|error| Mistake::Value {
                key: (*name).into(),
                message: crate::cli::misuse::told(&error).0,
            });
            if let Some(mistake) = refused {
                return Err(reader.wrong(line(key), mistake));
            }
            self.words.push((*name, word, line(key)));
        }
        Ok(())
    }

    /// The first that is set, with its line.
    pub(super) fn first(&self) -> Option<(&'static str, usize)> {
        self.words.first().map(|(key, _, line)| (*key, *line))
    }

    /// The flags as they could be typed.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(|(_, word, _)| word.as_str())
    }

    /// What they mean, where nothing else is typed but kubectl's flags: the environment fills in what is not set.
    ///
    /// # Errors
    /// Values that do not go together.
    pub fn settings(&self, cluster: ClusterArgs, verbosity: u8) -> Result<Settings, UsageError> {
        // One by one they were fine.
        let flags = Flags::try_parse_from(self.words());
        let Flags { listen, session, agent } =
            flags.map_err(|error| UsageError::Line(crate::cli::misuse::told(&error).0))?;
        let settings = Settings::without_targets(&agent, &session, cluster, verbosity)?;
        Ok(Settings {
            connect_wait: listen.connect_wait,
            addresses: crate::cli::settings::parse_addresses(&listen.address)?,
            ..settings
        })
    }
}
