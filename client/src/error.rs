//! The one place where errors become text and exit codes.

use std::io;

use crate::{
    agent::launch::LaunchError,
    cli::settings::UsageError,
    cluster::{api::ApiError, config::ConfigError, connect::ConnectError, resolve::ResolveError},
    command::CommandError,
    direct::DirectError,
    forward::listen::ListenError,
    hints::HintError,
    metrics::MetricsError,
    ports_file::PortsFileError,
    proxy::ProxyError,
    shared::SharedError,
    target::Place,
    trace::TraceError,
    view::ViewError,
};
#[cfg(unix)]
use crate::{up::told::Told, view::TopError};

/// Why a run ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// About a line of a targets file.
    #[error("{place}: {error}")]
    At {
        /// The line.
        place: Place,
        /// What is wrong.
        error: Box<Self>,
    },
    /// In one of several contexts.
    #[error("context {name}: {error}")]
    InContext {
        /// The context.
        name: String,
        /// What is wrong.
        error: Box<Self>,
    },
    /// A wrong command line.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// A kubeconfig that leads nowhere.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No client can be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A target that leads nowhere.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// What was not typed cannot be had from the cluster either.
    #[error(transparent)]
    Hint(#[from] HintError),
    /// A local port that cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Metrics that cannot be had.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Forwards that cannot be shown.
    #[error(transparent)]
    View(#[from] ViewError),
    /// What another process forwards cannot be shown.
    #[cfg(unix)]
    #[error(transparent)]
    Top(#[from] TopError),
    /// A file that cannot be made.
    #[error(transparent)]
    PortsFile(#[from] PortsFileError),
    /// Nothing can be traced so.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A proxy that cannot be.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// An agent that does not come to run.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Something that can't be had without an agent.
    #[error(transparent)]
    Direct(#[from] DirectError),
    /// A command that cannot be started.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A verb on the shared agent.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// The agent's Job could not be removed at the end.
    #[error("the agent's Job is left behind: {0}")]
    LeftBehind(ApiError),
    /// What another process says.
    #[cfg(unix)]
    #[error(transparent)]
    Told(#[from] Told),
    /// The system itself.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

impl Error {
    /// Tells where it is.
    pub fn at(self, place: Option<&Place>) -> Self {
        match place.cloned() {
            Some(place) => Self::At { place, error: self.into() },
            None => self,
        }
    }

    /// Tells in which of several contexts it is.
    pub fn of_context(self, name: Option<&str>, is_one_of_several: bool) -> Self {
        match name.filter(|_| is_one_of_several) {
            Some(name) => Self::InContext { name: name.into(), error: self.into() },
            None => self,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::At { error, .. } | Self::InContext { error, .. } => error.hint(),
            Self::Usage(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Connect(ConnectError::Proxy(_)) => {
                "correct proxy-url in the kubeconfig, or HTTPS_PROXY".into()
            }
            Self::Connect(_) => "kubectl config view --minify shows what is in use".into(),
            Self::Resolve(error) => error.hint(),
            Self::Hint(error) => error.hint(),
            Self::Listen(error) => error.hint(),
            Self::Metrics(error) => error.hint(),
            Self::View(error) => error.hint(),
            #[cfg(unix)]
            Self::Top(error) => error.hint(),
            Self::PortsFile(error) => error.hint(),
            Self::Trace(error) => error.hint(),
            Self::Proxy(error) => error.hint(),
            Self::Launch(error) => error.hint(),
            Self::Direct(error) => error.hint(),
            Self::Command(error) => error.hint(),
            Self::Shared(error) => error.hint(),
            Self::LeftBehind(error) => format!("the agent ends by itself when it is idle; {}", error.hint()),
            #[cfg(unix)]
            Self::Told(told) => told.hint.clone(),
            Self::System(..) => "this is not about the cluster: look at the limits of this machine".into(),
        }
    }

    /// 2 for a wrong command line, 126 and 127 for a command that cannot be started, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::At { error, .. } | Self::InContext { error, .. } => error.exit_code(),
            Self::Usage(_) => 2,
            Self::Direct(error) => error.exit_code(),
            Self::Hint(error) if error.is_misuse() => 2,
            Self::PortsFile(error) if error.is_misuse() => 2,
            Self::Trace(error) if error.is_misuse() => 2,
            Self::Proxy(error) => error.exit_code(),
            Self::Command(error) => error.exit_code(),
            Self::Shared(error) => error.exit_code(),
            #[cfg(unix)]
            Self::Told(told) => told.code,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::api::Call, target::TargetError};

    fn whole(error: &Error) -> (String, u8) {
        (format!("error: {error}\nhint: {}", error.hint()), error.exit_code())
    }

    #[test]
    fn misuse_is_told_with_what_to_type_and_exit_code_two() {
        let error = Error::from(UsageError::from(TargetError::NoPorts("svc/web".into())));
        assert_eq!(
            whole(&error),
            (
                "error: target \"svc/web\" has no port\n\
                 hint: name at least one port: kubectl relay svc/web 8080:80"
                    .into(),
                2
            )
        );
    }

    #[test]
    fn a_denied_call_is_told_with_the_role_and_exit_code_one() {
        let denied = ApiError::Denied {
            call: Call::new("get", "", "services", "dev").on("web"),
            message: "services \"web\" is forbidden: User \"jane\" cannot get resource \"services\"".into(),
        };
        let error = Error::from(ResolveError::from(denied));
        assert_eq!(
            whole(&error),
            (
                "error: not allowed to get services \"web\" in namespace \"dev\": services \"web\" is forbidden: \
                 User \"jane\" cannot get resource \"services\"\n\
                 hint: ask for this Role, bound to you:\n\
                 apiVersion: rbac.authorization.k8s.io/v1\n\
                 kind: Role\n\
                 metadata:\n  name: kubectl-relay\n  namespace: dev\n\
                 rules:\n\
                 - {apiGroups: [\"batch\"], resources: [jobs], verbs: [create, delete, list]}\n\
                 - {apiGroups: [\"\"], resources: [pods], verbs: [list, watch]}\n\
                 - {apiGroups: [\"\"], resources: [pods/portforward], verbs: [get, create]}\n\
                 - {apiGroups: [\"\"], resources: [events], verbs: [list, watch]}\n\
                 - {apiGroups: [\"\"], resources: [services], verbs: [get]}"
                    .into(),
                1
            )
        );
    }
}
