//! What the test services and the tests that talk to them share.
//!
//! The program `relay-workload` runs in the test cluster as `relay.test/workload:1` and listens on
//! every port of [`ports`] at once. Tests use the same constants and the same [`Pattern`] to know
//! which bytes must arrive.
//!
//! | port | protocol | behaviour |
//! | --- | --- | --- |
//! | 8080 | HTTP | `/`, `/healthz`, `/ready/on`, `/ready/off`, `/bytes/N`, `/sha256/N`, `POST /sink`, `/live` |
//! | 7007 | TCP | echo; keeps a half-closed connection until everything is sent back |
//! | 7007 | UDP | echo of datagrams up to 65,507 bytes |
//! | 7008 | TCP | the server speaks first: one line, [`BANNER`] and the host name, then echo |
//! | 7009 | TCP | sink: reads to the end, answers `SHA256 COUNT\n` |
//! | 7010 | TCP | source: reads a line `N`, sends `N` bytes of the pattern, closes |
//! | 7011 | TCP | half-close: reads a line `DELAY_MS N`, waits for the client's FIN, then the delay, sends `N` bytes |
//! | 7012 | TCP | reset: reads something, then resets the connection |
//! | 7013 | TCP | never reads; keeps the connection until the peer resets it |
//! | 7014 | TCP | slow: reads a line `N`, sends `N` bytes, 1 KiB every 100 ms |
//! | 7015 | HTTP/2 without TLS | `/bytes/N` (up to 1 MiB), `/grpc/N` ends with that status of gRPC |
//! | 7099 | | nobody listens: for refused connections |

mod pattern;

pub use pattern::{Pattern, hex, sha256_of_pattern};

/// The text that the page at `/` holds, whichever pod serves it.
pub const MARKER: &str = "relay workload says hello";
/// How the line of the banner server begins; a space and the host name follow.
pub const BANNER: &str = "220 relay-workload";

/// The port numbers on which the workload listens.
pub mod ports {
    /// HTTP.
    pub const HTTP: u16 = 8080;
    /// TCP and UDP echo.
    pub const ECHO: u16 = 7007;
    /// Server-first banner.
    pub const BANNER: u16 = 7008;
    /// Discards and answers with the digest.
    pub const SINK: u16 = 7009;
    /// Sends as many bytes as asked for.
    pub const SOURCE: u16 = 7010;
    /// Replies only after the client's FIN.
    pub const HALF_CLOSE: u16 = 7011;
    /// Resets every connection.
    pub const RESET: u16 = 7012;
    /// Accepts and never reads.
    pub const NEVER_READ: u16 = 7013;
    /// Sends 1 KiB every 100 ms.
    pub const SLOW: u16 = 7014;
    /// HTTP/2 without TLS.
    pub const H2C: u16 = 7015;
    /// Nobody listens here.
    pub const CLOSED: u16 = 7099;
}
