//! The ledger as Prometheus reads it, for whoever asks with `--metrics`.

mod render;
mod serve;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

pub use self::{
    render::render,
    serve::{Metrics, serve},
};

/// Where the metrics cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for the metrics: {source}")]
pub struct MetricsError {
    /// What was asked for.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

impl MetricsError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        format!("let the system choose a port: --metrics {}", SocketAddr::new(self.address.ip(), 0))
    }
}

/// Reads `--metrics`: `ADDR:PORT`, or a port alone, which is one of 127.0.0.1.
///
/// # Errors
/// A sentence on what is wrong, for the argument parser to show.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let port = text.strip_prefix("localhost:").unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::new(loopback, port));
    }
    text.parse()
        .map_err(|_| format!("\"{text}\" is no address with a port; write for example 127.0.0.1:9100 or 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_left_out_but_not_a_port() {
        let read = |text| parse_listen(text).map(|address| address.to_string());
        assert_eq!(read("0").unwrap(), "127.0.0.1:0");
        assert_eq!(read("9100").unwrap(), "127.0.0.1:9100");
        assert_eq!(read("localhost:9100").unwrap(), "127.0.0.1:9100");
        assert_eq!(read("[::1]:0").unwrap(), "[::1]:0");
        assert_eq!(read("0.0.0.0:9100").unwrap(), "0.0.0.0:9100");
        for wrong in ["", "127.0.0.1", "::1", "localhost", "example.com:9100", "70000", "-1"] {
            assert!(read(wrong).unwrap_err().contains("no address with a port"), "{wrong}");
        }
    }
}
