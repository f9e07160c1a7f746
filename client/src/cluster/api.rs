//! Calls to the API server, each under its verb and resource, so that a refusal can name both and print the Role.

use std::{error::Error as StdError, fmt, future::Future, time::Duration};

use kube::core::Status;
use relay_transport::{connect::ConnectError, of_credential_plugin};

use super::rbac::{role_for, shared_role_for};

/// What a call does, for its errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The RBAC verb.
    pub verb: &'static str,
    /// The API group; empty for the core.
    pub group: String,
    /// The plural resource.
    pub resource: String,
    /// `None` for a cluster-wide resource.
    pub namespace: Option<Box<str>>,
    /// The object, where one is meant.
    pub name: Option<Box<str>>,
}

impl Call {
    /// A call on a namespaced resource.
    pub fn new(verb: &'static str, group: &str, resource: &str, namespace: &str) -> Self {
        Self {
            verb,
            group: group.into(),
            resource: resource.into(),
            namespace: Some(namespace.into()),
            name: None,
        }
    }

    /// A call on a cluster-wide resource.
    pub fn cluster_wide(verb: &'static str, group: &str, resource: &str) -> Self {
        Self { verb, group: group.into(), resource: resource.into(), namespace: None, name: None }
    }

    /// The same call on one object.
    #[must_use]
    pub fn on(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace \"{namespace}\""),
            None => Ok(()),
        }
    }
}

/// A call that did not work out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// RBAC says no.
    #[error("not allowed to {call}: {message}")]
    Denied {
        /// The call.
        call: Call,
        /// The API server's words.
        message: String,
    },
    /// A quota leaves no room.
    #[error("cannot {call}, a quota is used up: {message}")]
    Quota {
        /// The call.
        call: Call,
        /// The API server's words.
        message: String,
    },
    /// An admission rule or the object's own check says no.
    #[error("cannot {call}, the cluster refused it: {message}")]
    Rejected {
        /// The call.
        call: Call,
        /// The API server's words.
        message: String,
    },
    /// There is no such object.
    #[error("{} \"{}\" not found{}", call.resource, call.name.as_deref().unwrap_or("?"), in_namespace(call))]
    NotFound {
        /// The call.
        call: Call,
    },
    /// There is no such namespace.
    #[error("there is no namespace \"{0}\"")]
    NoNamespace(String),
    /// The credentials are not accepted.
    #[error("the API server does not accept the credentials: {message}")]
    Unauthorized {
        /// The API server's words.
        message: String,
    },
    /// The credentials could not even be had.
    #[error("cannot get credentials for the API server: {message}")]
    Credentials {
        /// What went wrong, often the words of an exec plugin.
        message: String,
    },
    /// No answer within `--request-timeout`.
    #[error("cannot {call}: no answer within {}", crate::cli::duration::show_duration(*limit))]
    TimedOut {
        /// The call.
        call: Call,
        /// `--request-timeout`.
        limit: Duration,
    },
    /// The API server cannot be reached, or does not talk sense.
    #[error("cannot {call}, the API server cannot be reached: {message}")]
    Unreachable {
        /// The call.
        call: Call,
        /// What the connection says.
        message: String,
    },
    /// Anything else it answers.
    #[error("cannot {call}: {message}")]
    Other {
        /// The call.
        call: Call,
        /// The API server's words.
        message: String,
    },
}

fn in_namespace(call: &Call) -> String {
    call.namespace.as_ref().map(|namespace| format!(" in namespace \"{namespace}\"")).unwrap_or_default()
}

impl ApiError {
    /// What kube says, under the call that was made.
    pub fn new(call: Call, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(call, &status),
            kube::Error::Auth(error) => Self::Credentials { message: chain(&error) },
            kube::Error::SerdeError(error) => {
                Self::Other { call, message: format!("its answer makes no sense: {error}") }
            }
            kube::Error::Service(error) => {
                let credentials = error.is::<kube::client::AuthError>() || error.is::<ConnectError>();
                let message = chain(&*error);
                if credentials { Self::Credentials { message } } else { Self::Unreachable { call, message } }
            }
            other => Self::Unreachable { call, message: chain(source_or_self(&other)) },
        }
    }

    /// What the API server answered, under the call that was made.
    pub fn from_status(call: Call, status: &Status) -> Self {
        let message = one_line(&status.message);
        match status.code {
            401 => Self::Unauthorized { message },
            // Admission refuses with the same code as RBAC; only RBAC speaks of a user who cannot.
            403 if message.contains("exceeded quota") => Self::Quota { call, message },
            403 if message.contains("User \"") && message.contains("\" cannot ") => {
                Self::Denied { call, message }
            }
            403 if status.details.is_none() => Self::Denied { call, message },
            403 | 422 => Self::Rejected { call, message },
            400 if message.contains("admission webhook") => Self::Rejected { call, message },
            404 => match status.details.as_ref().map(|details| (details.kind.as_str(), &details.name)) {
                Some(("namespaces", name)) if call.resource != "namespaces" => {
                    Self::NoNamespace(name.clone())
                }
                _ if call.name.is_some() => Self::NotFound { call },
                _ => Self::Other { call, message },
            },
            _ => Self::Other { call, message },
        }
    }

    /// Whether trying again later may help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Other { .. })
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Denied { call, .. } => format!(
                "ask for this {}, bound to you:\n{}",
                if call.namespace.is_some() { "Role" } else { "ClusterRole" },
                role_for(call.namespace.as_deref(), &call.group, &call.resource, call.verb).trim_end()
            ),
            Self::Quota { call, .. } => format!(
                "free some of it (kubectl describe quota{}), or use another namespace with --server.namespace",
                flag_namespace(call)
            ),
            Self::Rejected { .. } => {
                "change the agent with -p/--patch as the rule asks, or use another namespace with --server.namespace"
                    .into()
            }
            Self::NotFound { call } => {
                format!("see what is there: kubectl get {}{}", call.resource, flag_namespace(call))
            }
            Self::NoNamespace(_) => "name another namespace with -n or --server.namespace".into(),
            Self::Unauthorized { .. } => {
                "log in again; kubectl auth whoami shows whom the cluster takes you for".into()
            }
            Self::Credentials { .. } => {
                "run the credential plugin by hand, or see kubectl config view --minify".into()
            }
            Self::TimedOut { .. } => "give it longer with --request-timeout, or 0 for no limit".into(),
            Self::Unreachable { .. } => {
                "check the connection with kubectl version, and the context with kubectl config current-context".into()
            }
            Self::Other { .. } => "kubectl relay -v=6 shows the requests".into(),
        }
    }
}

impl ApiError {
    /// As [`Self::hint`], for a call that is about the shared agent.
    pub fn shared_hint(&self) -> String {
        match self {
            Self::Denied { call: Call { namespace: Some(namespace), resource, verb, .. }, .. } => format!(
                "ask for this Role, bound to you:\n{}",
                shared_role_for(namespace, resource, verb).trim_end()
            ),
            _ => self.hint(),
        }
    }
}

fn flag_namespace(call: &Call) -> String {
    call.namespace.as_ref().map(|namespace| format!(" -n {namespace}")).unwrap_or_default()
}

/// Makes a call with a limit; zero is no limit.
///
/// # Errors
/// What went wrong, under the call's name.
pub async fn made<T>(
    call: Call,
    limit: Duration,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    tracing::debug!(target: "kubectl_relay::api", %call, "request");
    let answer = if limit.is_zero() {
        answer.await
    } else {
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => return Err(ApiError::TimedOut { call, limit }),
        }
    };
    answer.map_err(|error| ApiError::new(call, error))
}

/// An error with its causes, each said once.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    if let Some(text) = of_credential_plugin(error) {
        return text;
    }
    let mut text = one_line(&error.to_string());
    let mut current = error.source();
    while let Some(cause) = current {
        let next = one_line(&cause.to_string());
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        current = cause.source();
    }
    text
}

/// kube's own wrapping only repeats what it wraps.
fn source_or_self<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    error.source().unwrap_or(error)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str, details: Option<(&str, &str)>) -> Status {
        let details = details.map(|(kind, name)| {
            serde_json::from_value(serde_json::json!({"kind": kind, "name": name})).unwrap()
        });
        let status = Status::failure(message, "").with_code(code);
        match details {
            Some(details) => status.with_details(details),
            None => status,
        }
    }

    #[test]
    fn a_denied_verb_is_named_with_its_resource_and_the_role_that_would_do() {
        let call = Call::new("create", "batch", "jobs", "dev");
        let message = "jobs.batch is forbidden: User \"jane\" cannot create resource \"jobs\" in API group \"batch\" \
                       in the namespace \"dev\"";
        let error = ApiError::from_status(call, &status(403, message, Some(("jobs", ""))));
        assert_eq!(
            error.to_string(),
            format!("not allowed to create jobs.batch in namespace \"dev\": {message}")
        );
        let hint = error.hint();
        assert!(hint.starts_with("ask for this Role, bound to you:\napiVersion: rbac"), "{hint}");
        assert!(hint.contains("resources: [jobs], verbs: [create, delete, list]"), "{hint}");
    }

    #[test]
    fn refusals_of_other_kinds_are_told_apart() {
        let call = || Call::new("create", "batch", "jobs", "dev").on("agent");
        let cases = [
            (
                status(403, "jobs \"agent\" is forbidden: exceeded quota: q", Some(("jobs", "agent"))),
                "cannot create jobs.batch \"agent\" in namespace \"dev\", a quota is used up: \
                 jobs \"agent\" is forbidden: exceeded quota: q",
            ),
            (
                status(403, "admission webhook \"w\" denied the request: no", Some(("jobs", "agent"))),
                "cannot create jobs.batch \"agent\" in namespace \"dev\", the cluster refused it: \
                 admission webhook \"w\" denied the request: no",
            ),
            (
                status(404, "namespaces \"dev\" not found", Some(("namespaces", "dev"))),
                "there is no namespace \"dev\"",
            ),
            (
                status(401, "Unauthorized", None),
                "the API server does not accept the credentials: Unauthorized",
            ),
        ];
        for (status, text) in cases {
            let error = ApiError::from_status(call(), &status);
            assert_eq!(error.to_string(), text);
            assert!(!error.hint().is_empty());
            assert!(!error.is_transient());
        }
    }

    #[test]
    fn a_missing_object_is_said_plainly() {
        let error = ApiError::from_status(
            Call::new("get", "", "services", "dev").on("web"),
            &status(404, "services \"web\" not found", Some(("services", "web"))),
        );
        assert_eq!(error.to_string(), "services \"web\" not found in namespace \"dev\"");
        assert_eq!(error.hint(), "see what is there: kubectl get services -n dev");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_at_the_request_timeout() {
        let call = Call::new("get", "", "services", "dev").on("web");
        let error =
            made(call, Duration::from_secs(3), std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot get services \"web\" in namespace \"dev\": no answer within 3s"
        );
    }
}
