//! What can go wrong with the shared agent's installation.

use std::time::Duration;

use relay_policy::RuleError;

use crate::{
    agent::{diagnosis::Trouble, patch::PatchError},
    cli::{duration::show_duration, settings::UsageError},
    cluster::api::ApiError,
};

/// A verb on the shared agent that did not work out.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// A flag's value.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The user's patch does not fit.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// A rule of the policy.
    #[error("{flag} \"{rule}\": {error}")]
    Rule {
        /// The flag.
        flag: &'static str,
        /// As typed.
        rule: String,
        /// What is wrong with it.
        error: RuleError,
    },
    /// The API server says no, or nothing.
    #[error(transparent)]
    Api(Box<ApiError>),
    /// Somebody else has set a field.
    #[error("{object} is managed by somebody else too: {message}")]
    Conflict {
        /// What was applied.
        object: String,
        /// The API server's words.
        message: String,
    },
    /// An object cannot be made.
    #[error("the patch makes {0} invalid: {1}")]
    Object(&'static str, serde_json::Error),
    /// It cannot be written.
    #[error("cannot write the manifest: {0}")]
    Yaml(String),
    /// What was recorded at the installation makes no sense.
    #[error("what was recorded when the shared agent was installed cannot be read: {0}")]
    Record(serde_json::Error),
    /// Nothing to tell of, or to upgrade.
    #[error("there is no shared agent in namespace \"{0}\"")]
    NotInstalled(String),
    /// It was made in another way.
    #[error("the shared agent in namespace \"{0}\" was not installed by kubectl relay")]
    NotOurs(String),
    /// Its pods cannot run, whatever one waits for.
    #[error("{}", .0.what)]
    Trouble(Trouble),
    /// It is not ready in time.
    #[error("the shared agent is not ready after {}{}", show_duration(*waited), trouble.as_ref().map(|trouble| format!(": {}", trouble.what)).unwrap_or_default())]
    NotReady {
        /// `--timeout`.
        waited: Duration,
        /// What was in the way.
        trouble: Option<Trouble>,
    },
    /// It is not gone in time.
    #[error("{what} is still there after {}", show_duration(*waited))]
    StillThere {
        /// What was deleted.
        what: String,
        /// `--timeout`.
        waited: Duration,
    },
}

impl From<ApiError> for SharedError {
    fn from(error: ApiError) -> Self {
        Self::Api(error.into())
    }
}

impl SharedError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Usage(error) => error.hint(),
            Self::Patch(error) => error.hint(),
            Self::Rule { error, .. } => error.hint().into(),
            Self::Api(error) => match &**error {
                ApiError::Denied { call, .. } => format!(
                    "ask for the right to {} {}, or let an administrator apply what kubectl relay agent manifest prints",
                    call.verb, call.resource
                ),
                ApiError::NoNamespace(name) => format!("make it first: kubectl create namespace {name}"),
                error => error.hint(),
            },
            Self::Conflict { .. } => "--force-conflicts takes the fields over".into(),
            Self::Object(..) => "correct what -p or --patch-file adds".into(),
            Self::Yaml(_) => {
                "this is a fault of the plugin: report it, with the flags that were given".into()
            }
            Self::Record(_) => "install it again, with all its settings: kubectl relay agent install".into(),
            Self::NotInstalled(_) => {
                "kubectl relay agent install makes one; -n names another namespace to look in".into()
            }
            Self::NotOurs(_) => {
                "upgrade it the way it was installed: with helm, or whatever applies its manifests".into()
            }
            Self::Trouble(trouble) | Self::NotReady { trouble: Some(trouble), .. } => trouble.hint.clone(),
            Self::NotReady { trouble: None, .. } => {
                "--timeout gives it longer; kubectl describe deployment relay-agent says more".into()
            }
            Self::StillThere { .. } => {
                "--timeout gives it longer; connections that are open may finish first".into()
            }
        }
    }

    /// 2 for a wrong command line, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Patch(_) | Self::Rule { .. } | Self::Object(..) => 2,
            _ => 1,
        }
    }
}
