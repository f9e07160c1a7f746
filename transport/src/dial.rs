//! Upgrading a request to the API server into a connection to a pod's port.

use std::time::Duration;

use futures_util::TryFutureExt as _;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL};
use http::header::{SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Collected, Limited};
use kube::client::Body;

use crate::connect::direct;
use crate::connection::Connection;
use crate::error::{DialError, Target, refusal, transport};
use crate::framing::Negotiated;
use crate::websocket::{accept_for, request_key};

/// How long a dial may take, both ways of upgrading together.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(15);

/// The most that is read of a refusal.
const MAX_REFUSAL: usize = 64 * 1024;

const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
const V4_PROTOCOL: &str = "v4.channel.k8s.io";
const SPDY_UPGRADE: &str = "SPDY/3.1";
const SPDY_PROTOCOL: &str = "portforward.k8s.io";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Which way of port-forwarding to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// WebSocket, the newest that the server knows; SPDY if the upgrade is refused.
    #[default]
    Auto,
    /// SPDY tunnelled through WebSocket only.
    WebSocket,
    /// WebSocket with channel bytes only.
    WebSocketV4,
    /// SPDY only.
    Spdy,
}

/// Port-forwards.
#[derive(Debug)]
pub struct PortForward;

impl PortForward {
    /// Connects to `port` of a pod through the API server, within [`DIAL_TIMEOUT`].
    ///
    /// Success means that the API server and the node agreed. Whether something listens on the port shows
    /// on the connection: the node's complaint is a read error.
    ///
    /// Cancellation safe: a dropped dial closes what it opened.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(
        client: &kube::Client,
        namespace: &str,
        pod: &str,
        port: u16,
        mode: Mode,
    ) -> Result<(Connection, Negotiated), DialError> {
        Dial { client, namespace, pod, port: Some(port) }.within_limit(mode).await
    }

    /// As [`Self::dial`], without a stream to any port yet: [`Connection::open`] makes one. Nobody in the pod notices a
    /// connection that waits. Channel bytes cannot wait: with [`Mode::WebSocketV4`] the upgrade counts as refused.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_idle(
        client: &kube::Client,
        namespace: &str,
        pod: &str,
        mode: Mode,
    ) -> Result<(Connection, Negotiated), DialError> {
        Dial { client, namespace, pod, port: None }.within_limit(mode).await
    }
}

struct Dial<'a> {
    client: &'a kube::Client,
    namespace: &'a str,
    pod: &'a str,
    /// `None`: none yet.
    port: Option<u16>,
}

impl Dial<'_> {
    async fn within_limit(&self, mode: Mode) -> Result<(Connection, Negotiated), DialError> {
        tokio::time::timeout(DIAL_TIMEOUT, self.connect(mode))
            .await
            .unwrap_or(Err(DialError::TimedOut(DIAL_TIMEOUT)))
    }

    async fn connect(&self, mode: Mode) -> Result<(Connection, Negotiated), DialError> {
        for name in [self.namespace, self.pod] {
            // Goes into the path: nothing but what a Kubernetes name may hold.
            if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'.') {
                return Err(DialError::ProtocolError(format!("{name:?} is no Kubernetes name")));
            }
        }
        match mode {
            Mode::Auto => {
                let offer = [TUNNEL_PROTOCOL, V4_PROTOCOL];
                self.websocket(if self.port.is_some() { &offer } else { &offer[..1] })
                    .or_else(|first| async move {
                        if !first.is_about_the_upgrade() {
                            return Err(first);
                        }
                        tracing::debug!(error = %first, "no WebSocket, trying SPDY");
                        self.spdy().await.map_err(|second| second.after(first))
                    })
                    .await
            }
            Mode::WebSocket => self.websocket(&[TUNNEL_PROTOCOL]).await,
            Mode::WebSocketV4 if self.port.is_none() => {
                Err(DialError::ProtocolError("the older WebSocket protocol has no idle connections".into()))
            }
            Mode::WebSocketV4 => self.websocket(&[V4_PROTOCOL]).await,
            Mode::Spdy => self.spdy().await,
        }
    }

    fn request(&self, method: Method, query: &str) -> http::request::Builder {
        let Self { namespace, pod, .. } = self;
        Request::builder()
            .method(method)
            .uri(format!("/api/v1/namespaces/{namespace}/pods/{pod}/portforward{query}"))
            .header(CONNECTION, "Upgrade")
    }

    async fn websocket(&self, offer: &[&str]) -> Result<(Connection, Negotiated), DialError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| DialError::ProtocolError(format!("no random bytes from the system: {error}")))?;
        let key = request_key(random);
        let query = self.port.map(|port| format!("?ports={port}")).unwrap_or_default();
        let request = self
            .request(Method::GET, &query)
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key)
            .header(SEC_WEBSOCKET_PROTOCOL, offer.join(", "));
        let response = self.upgrade(request, "websocket").await?;
        let negotiated = subprotocol(&response, &key, offer)?;
        self.open(response, negotiated).await
    }

    async fn spdy(&self) -> Result<(Connection, Negotiated), DialError> {
        let request = self
            .request(Method::POST, "")
            .header(UPGRADE, SPDY_UPGRADE)
            .header(STREAM_PROTOCOL, SPDY_PROTOCOL);
        let response = self.upgrade(request, SPDY_UPGRADE).await?;
        // Servers older than the header choose the only protocol there is.
        match text(response.headers(), &STREAM_PROTOCOL) {
            Some(SPDY_PROTOCOL) | None => self.open(response, Negotiated::Spdy).await,
            Some(other) => {
                Err(DialError::ProtocolError(format!("stream protocol {other:?} was never offered")))
            }
        }
    }

    /// Sends the request; anything but a switch to `protocol` is an error.
    async fn upgrade(
        &self,
        request: http::request::Builder,
        protocol: &str,
    ) -> Result<Response<Body>, DialError> {
        let request = request
            .body(Body::empty())
            .map_err(|error| DialError::ProtocolError(format!("cannot form the request: {error}")))?;
        let response = self.client.send(request).await.map_err(|error| transport(&error))?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let switched = text(response.headers(), &UPGRADE);
            if switched.is_some_and(|name| name.eq_ignore_ascii_case(protocol)) {
                return Ok(response);
            }
            return Err(DialError::ProtocolError(format!("switched to {switched:?} instead of {protocol}")));
        }
        // A refusal that cannot be read whole is still a refusal.
        let body = Limited::new(response.into_body(), MAX_REFUSAL)
            .collect()
            .await
            .map(Collected::to_bytes)
            .unwrap_or_default();
        let target = Target { namespace: self.namespace, pod: self.pod };
        Err(refusal(status, &body, target))
    }

    async fn open(
        &self,
        response: Response<Body>,
        negotiated: Negotiated,
    ) -> Result<(Connection, Negotiated), DialError> {
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| DialError::Unreachable(crate::error::chain(&error)))?;
        let unreachable = |error: std::io::Error| DialError::Unreachable(error.to_string());
        let (io, early) = direct(upgraded);
        let mut connection = Connection::idle(io, early, negotiated, self.port.unwrap_or_default());
        if let Some(port) = self.port {
            connection.open(port).await.map_err(unreachable)?;
        }
        Ok((connection, negotiated))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// What the server chose, once it has shown that it is a WebSocket server.
fn subprotocol(response: &Response<Body>, key: &str, offer: &[&str]) -> Result<Negotiated, DialError> {
    let header = |name: HeaderName| text(response.headers(), &name);
    if header(SEC_WEBSOCKET_ACCEPT) != Some(accept_for(key).as_str()) {
        return Err(DialError::ProtocolError("Sec-WebSocket-Accept does not fit the key".to_owned()));
    }
    match header(SEC_WEBSOCKET_PROTOCOL) {
        Some(chosen) if !offer.contains(&chosen) => {
            Err(DialError::ProtocolError(format!("subprotocol {chosen:?} was never offered")))
        }
        Some(TUNNEL_PROTOCOL) => Ok(Negotiated::WebSocket),
        Some(_) => Ok(Negotiated::WebSocketV4),
        None => Err(DialError::ProtocolError("the server chose no subprotocol".to_owned())),
    }
}
