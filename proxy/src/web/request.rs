//! One request after the other of a client, each answered by its target, by the proxy itself, or with the reason why
//! not.

use std::{net::SocketAddr, sync::Arc};

use http::{
    HeaderName, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, PROXY_AUTHORIZATION},
};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::sync::Mutex;

use super::{
    Body, Handover, Later, answer,
    head::{self, Asked, BadHead},
    upstream::{Failed, Upstream, Watched, broken},
};
use crate::{
    Dial, PageRequest, Refused, Target,
    connections::{Spoken, Tracked},
    server::Shared,
};

/// A client's requests.
pub(super) struct Requests<D: Dial> {
    shared: Arc<Shared<D>>,
    peer: SocketAddr,
    local: SocketAddr,
    later: Later<D::Stream>,
    /// The last target's connection. Requests come one at a time.
    upstream: Mutex<Option<Upstream>>,
}

/// The target ended a kept connection at the moment of a request: the client sees the same and tries again.
#[derive(Debug, thiserror::Error)]
#[error("a kept connection to {0} ended")]
pub(super) struct KeptConnectionEnded(Target);

impl<D: Dial> Requests<D> {
    pub(super) fn new(
        shared: Arc<Shared<D>>,
        peer: SocketAddr,
        local: SocketAddr,
        later: Later<D::Stream>,
    ) -> Self {
        Self { shared, peer, local, later, upstream: Mutex::default() }
    }

    /// Ends the kept connection in order, after the last answer.
    pub(super) async fn finish(&self) {
        if let Some(kept) = self.upstream.lock().await.take() {
            kept.finish().await;
        }
    }

    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, KeptConnectionEnded> {
        let (head, body) = request.into_parts();
        let asked = match head::asked(&head) {
            Ok(asked) => asked,
            Err(bad) => return Ok(nonsense(bad)),
        };
        let request = Request::from_parts(head, body);
        Ok(match asked {
            Asked::Page => self.page(&request),
            _ if !self.is_authorized(&request, &PROXY_AUTHORIZATION) => answer::who_are_you(),
            Asked::Tunnel(target) => self.tunnel(request, &target).await,
            Asked::Forward(target) => return self.forward(request, target).await,
        })
    }

    fn is_authorized(&self, request: &Request<Incoming>, name: &HeaderName) -> bool {
        let Some(credentials) = &self.shared.settings.credentials else { return true };
        request.headers().get(name).is_some_and(|value| credentials.accepts_header(value.as_bytes()))
    }

    fn page(&self, request: &Request<Incoming>) -> Response<Body> {
        let Some(host) = head::own_host(request.headers()) else {
            let sentence = "this is a proxy: ask it for whole URLs, or open it by its address";
            return answer::nonsense(StatusCode::MISDIRECTED_REQUEST, sentence);
        };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return answer::nonsense(StatusCode::METHOD_NOT_ALLOWED, "the proxy's own pages are only read");
        }
        let wanted = PageRequest {
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query(),
            host,
            local: self.local,
            peer: self.peer,
            is_authorized: self.is_authorized(request, &AUTHORIZATION),
        };
        match self.shared.settings.pages.page(&wanted) {
            Some(page) => page.map(|body| Either::Right(Full::new(body))),
            None => answer::text(StatusCode::NOT_FOUND, "the proxy has no such page"),
        }
    }

    async fn tunnel(&self, mut request: Request<Incoming>, target: &Target) -> Response<Body> {
        let tracked = self.shared.connections.begin(Spoken::HttpConnect, self.peer, target);
        match self.shared.reach.tcp(target).await {
            Ok((stream, origin)) => {
                tracked.opened(origin);
                let client = hyper::upgrade::on(&mut request);
                self.later.set(Handover::Connect { client, stream, tracked });
                Response::new(Either::Right(Full::default()))
            }
            Err(refused) => {
                tracked.refused(&refused);
                answer::refused(&refused)
            }
        }
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        target: Target,
    ) -> Result<Response<Body>, KeptConnectionEnded> {
        let client = hyper::upgrade::on(&mut request);
        let (mut head, body) = request.into_parts();
        if let Err(bad) = head::to_target(&mut head) {
            return Ok(nonsense(bad));
        }
        let mut request = Request::from_parts(head, body);
        let mut kept = self.upstream.lock().await;
        // One try on a kept connection, and one on a new one.
        loop {
            let upstream = match self.connected(&mut kept, &target).await {
                Ok(upstream) => upstream,
                Err(refused) => return Ok(answer::refused(&refused)),
            };
            match upstream.send(request).await {
                Ok(response) => {
                    let tracked = upstream.tracked();
                    return Ok(self.passed_on(response, client, &target, tracked));
                }
                Err(Failed::Unsent(unsent)) => {
                    let is_new = kept.take().is_none_or(|upstream| upstream.is_new());
                    if is_new {
                        let why = format!("{target} ended the connection at once");
                        let refused = Refused { status: relay_protocol::Status::ResetByPeer, why };
                        return Ok(answer::refused(&refused));
                    }
                    request = *unsent;
                }
                Err(Failed::Broken { was_kept, error }) => {
                    *kept = None;
                    if was_kept {
                        return Err(KeptConnectionEnded(target));
                    }
                    return Ok(answer::refused(&broken(&target, &error)));
                }
            }
        }
    }

    /// The kept connection where it leads to the target, else a new one.
    async fn connected<'a>(
        &self,
        kept: &'a mut Option<Upstream>,
        target: &Target,
    ) -> Result<&'a mut Upstream, Refused> {
        let usable = match kept.as_mut().filter(|upstream| upstream.target == *target) {
            Some(upstream) => upstream.is_ready().await,
            None => false,
        };
        if !usable {
            if let Some(old) = kept.take() {
                old.finish().await;
            }
            let tracked = self.shared.connections.begin(Spoken::Http, self.peer, target);
            let stream = match self.shared.reach.tcp(target).await {
                Ok((stream, origin)) => {
                    tracked.opened(origin);
                    stream
                }
                Err(refused) => {
                    tracked.refused(&refused);
                    return Err(refused);
                }
            };
            *kept = Some(Upstream::new(target.clone(), stream, tracked).await?);
        }
        let gone = || Refused { status: relay_protocol::Status::Unknown, why: format!("{target} is gone") };
        kept.as_mut().ok_or_else(gone)
    }

    fn passed_on(
        &self,
        mut response: Response<Incoming>,
        client: hyper::upgrade::OnUpgrade,
        target: &Target,
        tracked: Arc<Tracked>,
    ) -> Response<Body> {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let other_side = switches.then(|| hyper::upgrade::on(&mut response));
        let (mut head, body) = response.into_parts();
        if head::to_client(&mut head).is_err() {
            let why = format!("{target} uses a transfer coding that is not known here");
            return answer::refused(&Refused { status: relay_protocol::Status::Unknown, why });
        }
        if let Some(target) = other_side {
            self.later.set(Handover::Upgrade { client, target });
        }
        Response::from_parts(head, Either::Left(Watched::new(body, tracked)))
    }
}

fn nonsense(bad: BadHead) -> Response<Body> {
    let status = match bad {
        BadHead::Coding => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::BAD_REQUEST,
    };
    answer::nonsense(status, &bad.to_string())
}
