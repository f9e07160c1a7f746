//! Several addresses, one connection: whichever answers first (RFC 8305, "happy eyeballs").

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use relay_protocol::Status;
use tokio::time::sleep;

use crate::error::status_of;

/// Connects to the first address that answers: each gets a head start of `stagger` over the next, and one that fails
/// lets the next begin at once (RFC 8305, section 5).
pub(crate) async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    stagger: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure: Option<io::Error> = None;
    loop {
        attempts.extend(waiting.next().map(&connect));
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(connected) => return Ok(connected),
                // "No route" for one family says less than what an address with a route answered.
                Err(error) if failure.as_ref().is_none_or(|old| status_of(old) == Status::Unreachable) => {
                    failure = Some(error);
                }
                Err(_) => {}
            },
            () = sleep(stagger), if waiting.len() > 0 => {}
            else => return Err(failure.unwrap_or_else(|| io::ErrorKind::NetworkUnreachable.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    const STAGGER: Duration = Duration::from_millis(250);

    #[tokio::test(start_paused = true)]
    async fn an_address_that_never_answers_costs_one_head_start() {
        let start = Instant::now();
        let got = race(addresses(3), STAGGER, |address| async move {
            match address.port() {
                2 => Ok(2),
                _ => pending().await,
            }
        });
        assert_eq!(got.await.unwrap(), 2);
        assert_eq!(start.elapsed(), STAGGER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_lets_the_next_begin_at_once() {
        let start = Instant::now();
        let got = race(addresses(3), STAGGER, |address| async move {
            match address.port() {
                3 => Ok(3),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        });
        assert_eq!(got.await.unwrap(), 3);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_may_still_win() {
        let got = race(addresses(2), STAGGER, |address| async move {
            sleep(STAGGER * if address.port() == 1 { 2 } else { 9 }).await;
            Ok(address.port())
        });
        assert_eq!(got.await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_failure_that_says_most_is_reported() {
        for ports in [[1, 2], [2, 1]] {
            let addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            let got: io::Result<()> = race(addresses.to_vec(), STAGGER, |address| async move {
                Err(if address.port() == 1 {
                    io::ErrorKind::NetworkUnreachable
                } else {
                    io::ErrorKind::ConnectionRefused
                }
                .into())
            })
            .await;
            assert_eq!(status_of(&got.unwrap_err()), Status::Refused);
        }
    }
}
