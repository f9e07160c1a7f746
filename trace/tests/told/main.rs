//! What is told of connections of each kind, in whatever pieces their bytes come.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

mod http1;
mod http2;
mod support;
mod tls;
