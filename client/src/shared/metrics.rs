//! A replica's metrics: asked for on its loopback, through a port-forward, and read from the text that it answers.

use std::time::Duration;

use kube::Client;
use relay_transport::{DialError, Mode, PortForward};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::objects::METRICS_PORT;

/// A replica answers within this time, or is told to be silent.
const ANSWER: Duration = Duration::from_secs(5);
/// The most that is read.
const MOST: u64 = 1 << 20;

/// What a replica counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// Sessions now.
    pub sessions: u64,
    /// Streams now.
    pub streams: u64,
    /// UDP flows now.
    pub flows: u64,
    /// Bytes since its start, both directions together.
    pub bytes: u64,
    /// What its policy has denied since its start.
    pub denied: u64,
    /// Its version.
    pub version: Option<String>,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// No port-forward to it.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It does not listen.
    #[error("it serves no metrics: is it of an older version?")]
    NotServed,
    /// The connection broke.
    #[error("its metrics cannot be read: {0}")]
    Io(std::io::Error),
    /// It says something else.
    #[error("it answers {0:?} instead of metrics")]
    NotMetrics(String),
    /// It says nothing.
    #[error("it does not answer within 5s")]
    Silent,
}

impl From<std::io::Error> for MetricsError {
    fn from(error: std::io::Error) -> Self {
        // The node's words for what it met inside the pod.
        if error.to_string().contains("connection refused") { Self::NotServed } else { Self::Io(error) }
    }
}

/// Asks one replica.
///
/// # Errors
/// See [`MetricsError`].
pub async fn of_pod(client: &Client, namespace: &str, pod: &str) -> Result<Metrics, MetricsError> {
    let asked = async {
        let (mut connection, _) = PortForward::dial(client, namespace, pod, METRICS_PORT, Mode::Auto).await?;
        connection
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        connection.flush().await?;
        let mut answer = String::new();
        connection.take(MOST).read_to_string(&mut answer).await?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(parse(body)),
            _ => Err(MetricsError::NotMetrics(answer.lines().next().unwrap_or_default().to_owned())),
        }
    };
    timeout(ANSWER, asked).await.unwrap_or(Err(MetricsError::Silent))
}

/// Reads Prometheus' text format. What is not known, or makes no sense, is skipped.
fn parse(text: &str) -> Metrics {
    let mut metrics = Metrics::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.trim_end().rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let add = |number: &mut u64| *number = number.saturating_add(whole(value));
        match name {
            "relay_agent_sessions" => add(&mut metrics.sessions),
            "relay_agent_streams" => add(&mut metrics.streams),
            "relay_agent_flows" => add(&mut metrics.flows),
            "relay_agent_bytes_total" => add(&mut metrics.bytes),
            "relay_agent_denied_total" => add(&mut metrics.denied),
            "relay_agent_build_info" => {
                let version = labels.split_once("version=\"").and_then(|(_, rest)| rest.split_once('"'));
                metrics.version = version.map(|(version, _)| version.to_owned());
            }
            _ => {}
        }
    }
    metrics
}

/// Counters may be written as floating-point numbers.
fn whole(value: &str) -> u64 {
    value.parse().unwrap_or_else(|_| {
        let number = value.parse::<f64>().unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let whole = number as u64;
        whole
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn series_of_one_name_are_summed_and_others_skipped() {
        let text = "# HELP relay_agent_sessions Sessions.\n# TYPE relay_agent_sessions gauge\nrelay_agent_sessions 3\n\
            relay_agent_streams 12\nrelay_agent_flows 1\nrelay_agent_bytes_total{direction=\"to_target\"} 100\n\
            relay_agent_bytes_total{direction=\"from_target\"} 1.5e3\nrelay_agent_dials_total{status=\"ok\"} 9\n\
            relay_agent_denied_total 4\nrelay_agent_build_info{version=\"0.1.0\"} 1\nno number here\n";
        let expected = Metrics {
            sessions: 3,
            streams: 12,
            flows: 1,
            bytes: 1600,
            denied: 4,
            version: Some("0.1.0".into()),
        };
        assert_eq!(parse(text), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z_{}\"= 0-9.\n]{0,200}|relay_agent_(sessions|build_info\\{version=\")[^\n]{0,20}") {
            parse(&text);
        }
    }
}
