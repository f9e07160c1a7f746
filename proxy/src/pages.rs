//! Pages of the proxy itself: what a browser gets that opens the proxy's port as if it were a site.

use std::net::SocketAddr;

use bytes::Bytes;

/// A request for a page of the proxy itself. Its `Host` is an address of this machine's or `localhost`, so that no page
/// of somebody else's can read the answer by a name that leads here.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest<'a> {
    /// GET or HEAD.
    pub method: &'a http::Method,
    /// Begins with a slash; without the query.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: Option<&'a str>,
    /// The address and port that the client knows the proxy by, from its `Host`.
    pub host: &'a str,
    /// Where the request was accepted.
    pub local: SocketAddr,
    /// Who asks.
    pub peer: SocketAddr,
    /// Whether it may see what is confidential: the proxy asks for no credentials, or the request has them in
    /// `Authorization`.
    pub is_authorized: bool,
}

/// Gives the pages of the proxy itself.
pub trait Pages: Send + Sync + 'static {
    /// The page, with its status and headers; `None` where there is none. Must not take long.
    fn page(&self, request: &PageRequest<'_>) -> Option<http::Response<Bytes>>;
}

/// No pages.
#[derive(Debug, Clone, Copy)]
pub struct NoPages;

impl Pages for NoPages {
    fn page(&self, _: &PageRequest<'_>) -> Option<http::Response<Bytes>> {
        None
    }
}
