//! The events of `-o json`, as they are written.

use serde::Serialize;

/// What happened; docs/events.md says when and what the fields mean.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Event<'a> {
    Forwarding {
        target: &'a str,
        address: String,
        port: u16,
        remote_port: u16,
        protocol: String,
    },
    Proxy {
        address: String,
        port: u16,
        protocols: &'a [&'a str],
    },
    Dns {
        address: String,
        port: u16,
    },
    Metrics {
        address: String,
        port: u16,
    },
    State {
        state: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        down_seconds: Option<f64>,
    },
    Stream {
        target: &'a str,
        status: u8,
        reason: String,
        by: &'a str,
        sent: u64,
        received: u64,
    },
    Connection {
        target: &'a str,
        remote_port: u16,
        protocol: String,
        peer: String,
        start: String,
        end: String,
        seconds: f64,
        sent: u64,
        received: u64,
        status: u8,
        reason: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<&'a str>,
    },
    Exchange {
        target: &'a str,
        remote_port: u16,
        peer: String,
        start: String,
        version: &'a str,
        method: &'a str,
        path: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        grpc_status: Option<u32>,
        seconds: f64,
        sent: u64,
        received: u64,
        end: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reset_code: Option<u32>,
    },
    Traffic {
        target: &'a str,
        remote_port: u16,
        protocol: String,
        peer: String,
        start: String,
        kind: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        server_name: Option<&'a str>,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        alpn: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        skipped: Option<u64>,
    },
    Note {
        message: &'a str,
    },
    Warning {
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<&'a str>,
    },
    Error {
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<&'a str>,
    },
}

/// An event as it is written.
#[derive(Serialize)]
pub(super) struct Stamped<'a> {
    pub(super) time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) context: Option<&'a str>,
    #[serde(flatten)]
    pub(super) event: Event<'a>,
}

#[cfg(test)]
mod tests;
