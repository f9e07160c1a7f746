//! How a link behaves, as it is typed and as it is kept in a file: `80ms/1%/50mbit/1q`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

/// What a link does to packets, in each direction alike.
#[derive(Debug, Clone, Copy, PartialEq, Args)]
pub(crate) struct Settings {
    /// The round trip; each direction takes half of it.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_time)]
    pub(crate) rtt: Duration,
    /// The share of packets that each direction loses, at random.
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_loss)]
    pub(crate) loss: f64,
    /// What each direction carries, such as 50mbit or 1gbit, IP headers counted [default: all it can].
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) rate: Option<u64>,
    /// What waits when more comes than the rate carries, in bandwidth-delay products; the rest is dropped.
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = parse_queue, requires = "rate")]
    pub(crate) queue: f64,
    /// Which packets are lost: the same ones for the same seed and order of packets.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Default for Settings {
    /// Nothing but the link itself.
    fn default() -> Self {
        Self { rtt: Duration::ZERO, loss: 0.0, rate: None, queue: 1.0, seed: 1 }
    }
}

impl FromStr for Settings {
    type Err = anyhow::Error;

    /// Parts in any order, told apart by their units; a missing one has its default.
    fn from_str(text: &str) -> Result<Self> {
        let mut settings = Self::default();
        for part in text.trim().split('/') {
            if part.ends_with('%') {
                settings.loss = parse_loss(part)?;
            } else if part.ends_with("bit") {
                settings.rate = Some(parse_rate(part)?);
            } else if let Some(seed) = part.strip_prefix("seed") {
                settings.seed = seed.parse().with_context(|| format!("{part:?} is no seed: try seed1"))?;
            } else if let Some(queue) = part.strip_suffix('q') {
                settings.queue = parse_queue(queue)?;
            } else {
                settings.rtt = parse_time(part)?;
            }
        }
        Ok(settings)
    }
}

impl fmt::Display for Settings {
    /// What [`Self::from_str`] reads, without the parts that have their defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.rtt.as_secs_f64() * 1e3)?;
        if self.loss > 0.0 {
            write!(f, "/{}%", self.loss * 100.0)?;
        }
        match self.rate {
            Some(rate) if rate % 1_000_000_000 == 0 => write!(f, "/{}gbit", rate / 1_000_000_000)?,
            Some(rate) if rate % 1_000_000 == 0 => write!(f, "/{}mbit", rate / 1_000_000)?,
            Some(rate) => write!(f, "/{rate}bit")?,
            None => {}
        }
        if self.rate.is_some() {
            write!(f, "/{}q", self.queue)?;
        }
        if self.seed != 1 {
            write!(f, "/seed{}", self.seed)?;
        }
        Ok(())
    }
}

fn parse_time(text: &str) -> Result<Duration> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1e-3),
        (None, Some(number)) => (number, 1.0),
        (None, None) => bail!("{text:?} is no time: try 80ms or 0.5s"),
    };
    let seconds = number.parse::<f64>().with_context(|| format!("{text:?} is no time: try 80ms"))? * unit;
    if !(0.0..=10.0).contains(&seconds) {
        bail!("{text:?} is not between 0 and 10 seconds");
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn parse_loss(text: &str) -> Result<f64> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let percent: f64 = number.parse().with_context(|| format!("{text:?} is no share: try 1%"))?;
    if !(0.0..=100.0).contains(&percent) {
        bail!("{text:?} is not between 0 and 100 percent");
    }
    Ok(percent / 100.0)
}

fn parse_rate(text: &str) -> Result<u64> {
    let units = [("kbit", 1_000.0), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)];
    let found = units.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)));
    let (number, size) = found.with_context(|| format!("{text:?} is no rate: try 50mbit or 1gbit"))?;
    let rate = number.parse::<f64>().with_context(|| format!("{text:?} is no rate: try 50mbit"))? * size;
    if !(1e3..=1e12).contains(&rate) {
        bail!("{text:?} is not between 1kbit and 1000gbit");
    }
    Ok(rate as u64)
}

fn parse_queue(text: &str) -> Result<f64> {
    let queue: f64 = text.parse().with_context(|| format!("{text:?} is no number of products"))?;
    if !(0.0..=1000.0).contains(&queue) {
        bail!("{text:?} is not between 0 and 1000");
    }
    Ok(queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_reads_as_it_is_written() {
        for text in ["0ms", "80ms", "20ms/1%", "20ms/50mbit/4q", "0.5ms/3%/1gbit/0.5q/seed7"] {
            assert_eq!(text.parse::<Settings>().unwrap().to_string(), text);
        }
        let settings: Settings = "1%/20ms/2gbit".parse().unwrap();
        assert_eq!(settings.to_string(), "20ms/1%/2gbit/1q");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "80", "fast", "-1ms", "11s", "101%", "x%", "0mbit", "20ms/x", "20ms/-1q"] {
            assert!(text.parse::<Settings>().is_err(), "{text:?}");
        }
    }
}
