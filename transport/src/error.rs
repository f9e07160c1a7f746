//! Why a dial failed, in the user's terms, from what the API server and the network said.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use kube::client::AuthError;

use crate::connect::ConnectError;

/// A verb that a role may grant on `pods/portforward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Needed for WebSocket.
    Get,
    /// Needed for SPDY, and for WebSocket from Kubernetes 1.35 on.
    Create,
}

impl fmt::Display for Verb {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Get => "get",
            Self::Create => "create",
        })
    }
}

/// The verbs that were refused, without repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verbs(Vec<Verb>);

impl Verbs {
    pub(crate) fn one(verb: Verb) -> Self {
        Self(vec![verb])
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self.0.sort();
        self.0.dedup();
        self
    }

    /// The verbs, `get` first.
    pub fn iter(&self) -> impl Iterator<Item = Verb> + '_ {
        self.0.iter().copied()
    }
}

impl fmt::Display for Verbs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, verb) in self.0.iter().enumerate() {
            write!(out, "{}{verb}", if index == 0 { "" } else { " and " })?;
        }
        Ok(())
    }
}

/// The resource whose rights a dial needs.
pub const RESOURCE: &str = "pods/portforward";

/// Why no connection to the pod could be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The API server refuses every way of port-forwarding that was tried.
    #[error("not allowed to {verbs} pods/portforward in namespace {namespace}: {message}")]
    Forbidden {
        /// What a role would have to grant on [`RESOURCE`].
        verbs: Verbs,
        /// Where.
        namespace: String,
        /// The API server's words.
        message: String,
    },
    /// The API server does not know who is asking.
    #[error("the API server does not accept the credentials: {message}")]
    Unauthorized {
        /// The API server's words.
        message: String,
    },
    /// The credentials could not even be had: nobody has refused anything yet.
    #[error("cannot get credentials for the API server: {0}")]
    Credentials(String),
    /// There is no such pod.
    #[error("pod {namespace}/{pod} does not exist: {message}")]
    PodNotFound {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
        /// The API server's words.
        message: String,
    },
    /// The pod exists and is not (or no longer) running.
    #[error("pod {namespace}/{pod} is not running: {message}")]
    PodNotRunning {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
        /// The API server's words.
        message: String,
    },
    /// Something on the way answered the upgrade with an ordinary response.
    #[error("the upgrade to a port-forward was refused with {status}: {body}")]
    UpgradeRefused {
        /// The HTTP status.
        status: StatusCode,
        /// The message of a Kubernetes status, or the beginning of the body.
        body: String,
    },
    /// The API server cannot be reached: name resolution, proxy, TCP or TLS.
    #[error("cannot reach the API server: {0}")]
    Unreachable(String),
    /// Names that cannot be, or an upgrade that does not follow its protocol.
    #[error("the port-forward upgrade went wrong: {0}")]
    ProtocolError(String),
    /// No answer in time.
    #[error("no answer from the API server within {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl DialError {
    /// Whether the same dial may succeed a little later with nothing changed by the user.
    ///
    /// An API server that has just started refuses with `Forbidden`, `Unauthorized` and `PodNotFound` for
    /// a few seconds; who knows that it has been restarted may retry those as well.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::TimedOut(_)
            | Self::PodNotRunning { .. }
            // A plugin may need the same network that is away.
            | Self::Credentials(_) => true,
            Self::UpgradeRefused { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::Forbidden { .. }
            | Self::Unauthorized { .. }
            | Self::PodNotFound { .. }
            | Self::ProtocolError(_) => false,
        }
    }

    /// Whether another kind of upgrade may succeed where this one failed.
    pub(crate) fn is_about_the_upgrade(&self) -> bool {
        match self {
            Self::Forbidden { .. } | Self::ProtocolError(_) => true,
            // Overload and a server that is away concern every request alike.
            Self::UpgradeRefused { status, .. } => !matches!(status.as_u16(), 429 | 503 | 504),
            _ => false,
        }
    }

    /// The error to report when a second way was tried after the first failed.
    pub(crate) fn after(self, first: Self) -> Self {
        match (first, self) {
            (
                Self::Forbidden { verbs: first, namespace, message },
                Self::Forbidden { verbs: second, message: last, .. },
            ) => {
                // A refusal without a reason adds nothing to one with.
                let bare = message == last || message.trim_end().ends_with(':');
                let message = if bare { last } else { format!("{message}; {last}") };
                Self::Forbidden { verbs: first.and(second), namespace, message }
            }
            // A missing right is what the user can mend.
            (first @ Self::Forbidden { .. }, Self::UpgradeRefused { .. } | Self::ProtocolError(_)) => first,
            (_, second) => second,
        }
    }
}

/// Where a dial goes, for its errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
}

/// A Kubernetes `Status`, as far as it matters here.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Status {
    kind: String,
    message: String,
    reason: String,
}

/// Turns an answer that is no upgrade into an error.
pub(crate) fn refusal(status: StatusCode, body: &[u8], target: Target<'_>) -> DialError {
    let parsed = serde_json::from_slice::<Status>(body).unwrap_or_default();
    let is_status = parsed.kind == "Status";
    let message = if is_status && !parsed.message.is_empty() { parsed.message } else { excerpt(body) };
    let (namespace, pod) = (target.namespace.to_owned(), target.pod.to_owned());
    let mentions = |needle: &str| message.contains(needle);
    if status == StatusCode::UNAUTHORIZED {
        DialError::Unauthorized { message }
    } else if let Some(verb) = missing_verb(&message).filter(|_| is_status && status == StatusCode::FORBIDDEN)
    {
        DialError::Forbidden { verbs: Verbs::one(verb), namespace, message }
    } else if status == StatusCode::NOT_FOUND
        && (parsed.reason == "NotFound" || mentions("pod does not exist") || mentions("pod not found"))
    {
        DialError::PodNotFound { namespace, pod, message }
    } else if mentions("does not have a host assigned") || mentions("is not running") {
        DialError::PodNotRunning { namespace, pod, message }
    } else {
        DialError::UpgradeRefused { status, body: message }
    }
}

/// The verb whose right is missing, as the API server's authoriser words it. Other refusals with the same
/// status come from admission: no role mends them.
fn missing_verb(message: &str) -> Option<Verb> {
    if message.contains("cannot get resource") {
        Some(Verb::Get)
    } else if message.contains("cannot create resource") || message.trim_end().ends_with("is forbidden:") {
        // From 1.35 on a WebSocket is checked for `create` besides `get`, and a refusal gives no reason.
        Some(Verb::Create)
    } else {
        None
    }
}

/// The beginning of a body as one line of text.
fn excerpt(body: &[u8]) -> String {
    const MOST: usize = 300;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MOST)]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if text.is_empty() => "no further explanation".to_owned(),
        None => text,
    }
}

/// Turns what the HTTP client reports into an error.
pub(crate) fn transport(error: &kube::Error) -> DialError {
    match error {
        kube::Error::Auth(error) => DialError::Credentials(chain(error)),
        kube::Error::Service(error) => match source_of::<AuthError>(error.as_ref()) {
            Some(error) => DialError::Credentials(chain(error)),
            None => match source_of::<ConnectError>(error.as_ref()) {
                Some(error) => DialError::Credentials(chain(error)),
                None => DialError::Unreachable(chain(error.as_ref())),
            },
        },
        error => DialError::Unreachable(chain(error)),
    }
}

/// An error, or the first of its causes, of one type.
fn source_of<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    std::iter::successors(Some(error), |error| error.source()).find_map(<dyn std::error::Error>::downcast_ref)
}

/// How a credential plugin failed, if that is what it is about. The library's own words hold all that the plugin has printed,
/// which may be a token.
pub fn of_credential_plugin(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    match source_of(error)? {
        AuthError::AuthExecStart(error) => Some(format!("the credential plugin cannot be run: {error}")),
        AuthError::AuthExecRun { out, .. } => {
            let said = String::from_utf8_lossy(&out.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
            let said = if said.is_empty() { said } else { format!(": {said}") };
            Some(format!("the credential plugin ended with {}{said}", out.status))
        }
        _ => None,
    }
}

/// An error and its causes in one line, without the repetition that wrappers like to add.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(text) = of_credential_plugin(error) {
        return text;
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
