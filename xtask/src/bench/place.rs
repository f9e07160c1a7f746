//! Where the client stands: on the machine itself, or behind a link with delay, loss or a rate.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};

use super::rows::Group;
use crate::cluster::LinkSettings;

/// A path from the client to the API server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Place {
    /// Nothing between the two.
    Here,
    /// An emulated link.
    Behind(LinkSettings),
}

/// The links that have goals.
const LINKS: [&str; 8] = [
    "20ms",
    "80ms",
    "20ms/1%",
    "20ms/3%",
    "20ms/1gbit/1q",
    "20ms/1gbit/4q",
    "20ms/50mbit/1q",
    "20ms/50mbit/4q",
];

/// Every round trip with every loss.
const GRID: [&str; 9] =
    ["0ms", "0ms/1%", "0ms/3%", "20ms", "20ms/1%", "20ms/3%", "80ms", "80ms/1%", "80ms/3%"];

/// One place, or all of a kind.
#[derive(Debug, Clone)]
pub(super) struct Places(pub(super) Vec<Place>);

impl FromStr for Places {
    type Err = anyhow::Error;

    /// `goals`, `grid`, or one [`Place`].
    fn from_str(text: &str) -> Result<Self> {
        let links: &[&str] = match text {
            "goals" => &LINKS,
            "grid" => &GRID,
            one => &[one],
        };
        links.iter().map(|link| link.parse()).collect::<Result<_>>().map(Self)
    }
}

impl Place {
    /// Everything that the published page may show, in its order.
    pub(super) fn all() -> Result<Vec<Self>> {
        let mut all = vec![Self::Here];
        for link in LINKS.iter().chain(&GRID) {
            let place = link.parse()?;
            if !all.contains(&place) {
                all.push(place);
            }
        }
        Ok(all)
    }

    /// What is measured there when nothing is chosen.
    pub(super) fn groups(self) -> &'static [Group] {
        use Group as G;
        let Self::Behind(link) = self else {
            return &[
                G::Start,
                G::Echo,
                G::Busy,
                G::Download1,
                G::Download8,
                G::Download64,
                G::Upload1,
                G::Upload8,
                G::Upload64,
                G::End,
                G::Connections1,
                G::Connections16,
                G::Udp,
                G::Busy1000,
                G::Memory,
                G::Proxy,
                G::Many,
            ];
        };
        if link.rate.is_some() {
            &[G::Download1, G::Upload1, G::Busy]
        } else if link.loss > 0.0 && link.rtt.as_millis() != 20 {
            &[G::Download8, G::Upload8, G::Busy, G::Echo]
        } else if link.loss > 0.02 {
            &[G::Echo]
        } else if link.loss > 0.0 {
            &[G::Download1, G::Download8, G::Upload1, G::Upload8, G::Busy, G::Echo, G::Udp]
        } else if link.rtt.is_zero() {
            &[G::First, G::Download8, G::Upload8, G::Busy]
        } else if link.rtt.as_millis() < 50 {
            &[G::First, G::Busy]
        } else {
            &[G::Start, G::First, G::Download1, G::Download8, G::Upload1, G::Upload8, G::Busy]
        }
    }

    /// The heading of its table.
    pub(super) fn title(self) -> String {
        let Self::Behind(link) = self else { return "On the machine itself".to_owned() };
        let mut title = format!("Over a link: round trip {} ms", link.rtt.as_secs_f64() * 1e3);
        if link.loss > 0.0 {
            title += &format!(", {} % loss each way", link.loss * 100.0);
        }
        if let Some(rate) = link.rate {
            title +=
                &format!(", {} Mbit/s, queue of {} bandwidth-delay products", rate / 1_000_000, link.queue);
        }
        title
    }
}

impl FromStr for Place {
    type Err = anyhow::Error;

    /// `here`, or a link as in `20ms/1%/50mbit/4q`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "here" {
            return Ok(Self::Here);
        }
        let link = text
            .parse()
            .with_context(|| format!("{text:?} is no link: try here, 80ms, 20ms/1% or 20ms/50mbit/4q"))?;
        Ok(Self::Behind(link))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("here"),
            Self::Behind(link) => link.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_for_places_and_every_place_has_a_title_of_its_own() {
        assert_eq!("goals".parse::<Places>().unwrap().0.len(), LINKS.len());
        assert_eq!("grid".parse::<Places>().unwrap().0.len(), GRID.len());
        assert_eq!("here".parse::<Places>().unwrap().0, [Place::Here]);
        assert!("nonsense".parse::<Places>().is_err());
        let all = Place::all().unwrap();
        let mut titles: Vec<_> = all.iter().map(|place| place.title()).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), all.len());
    }
}
