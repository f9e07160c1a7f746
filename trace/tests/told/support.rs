//! Conversations in pieces, and what is told of them as lines.

use std::time::Duration;

use relay_trace::{Observer, Seen};

/// Who says what.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said<'a> {
    Client(&'a [u8]),
    Server(&'a [u8]),
    ServerEnd,
}

/// All that is told of a conversation whose parts come in pieces of these sizes, in turn, a second apart.
pub(crate) fn seen(said: &[Said<'_>], sizes: &[usize]) -> Vec<Seen> {
    let mut observer = Observer::new(false);
    let mut sizes = sizes.iter().copied().cycle();
    let mut at = Duration::ZERO;
    for part in said {
        let (mut bytes, is_client) = match part {
            Said::Client(bytes) => (*bytes, true),
            Said::Server(bytes) => (*bytes, false),
            Said::ServerEnd => {
                observer.received_all(at);
                continue;
            }
        };
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(sizes.next().expect("a size").min(bytes.len()));
            at += Duration::from_secs(1);
            if is_client {
                observer.sent(piece, at);
            } else {
                observer.received(piece, at);
            }
            bytes = rest;
        }
    }
    observer.ended(at);
    std::iter::from_fn(|| observer.next_seen()).collect()
}

pub(crate) fn told_in(said: &[Said<'_>], sizes: &[usize]) -> Vec<String> {
    seen(said, sizes).iter().map(line).collect()
}

pub(crate) fn told(said: &[Said<'_>], size: usize) -> Vec<String> {
    told_in(said, &[size])
}

pub(crate) fn whole(said: &[Said<'_>]) -> Vec<String> {
    told(said, usize::MAX)
}

/// A line without times.
pub(crate) fn line(seen: &Seen) -> String {
    match seen {
        Seen::Exchange(exchange) => {
            let status = exchange.status.map_or("-".into(), |status| status.to_string());
            let grpc = exchange.grpc_status.map(|status| format!(" grpc={status}")).unwrap_or_default();
            format!(
                "{} {} {} {status}{grpc} sent={} received={} {:?}",
                exchange.version.as_str(),
                exchange.method,
                exchange.target,
                exchange.sent,
                exchange.received,
                exchange.end
            )
        }
        Seen::Tls(hello) => format!("TLS {:?} {:?}", hello.server_name, hello.protocols),
        Seen::NotHttp => "not HTTP".into(),
        Seen::Lost(why) => format!("lost: {why}"),
        Seen::Skipped(count) => format!("skipped: {count}"),
    }
}
