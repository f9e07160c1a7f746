//! A page with a WebSocket and a stream of events stays connected through a proxy while the API server dies and comes
//! back: in Chromium, by SOCKS5 and by the PAC file, where there is one; in a client of the tests' own everywhere.

mod browser;
mod own;

use std::time::{Duration, Instant};

use relay_tests::{Relay, alone, short_or_long, wait_until, xtask};
use serde_json::Value;

use browser::Browser;
use own::Own;

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(5);
/// Echoes and events before and after it, ten a second at most.
const SOME: u64 = 20;

/// What became of a page's two connections so far.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Messages that came back over the WebSocket.
    echoes: u64,
    /// Events, each the successor of the one before.
    events: u64,
    /// Connections that have ended; none is opened again.
    ended: u64,
    /// Messages other than the expected one.
    wrong: u64,
    /// The longest time between two echoes, in milliseconds.
    longest: u64,
}

impl Seen {
    /// From the title of the page.
    fn parse(title: &str) -> Option<Self> {
        let title: Value = serde_json::from_str(title).ok()?;
        let number = |name: &str| title[name].as_u64();
        Some(Self {
            echoes: number("echoes")?,
            events: number("events")?,
            ended: number("ended")?,
            wrong: number("wrong")?,
            longest: number("longest")?,
        })
    }
}

/// Somebody who looks at the page.
trait Viewer {
    /// How it came there.
    fn name(&self) -> &str;
    /// What it has seen; nothing before the page is there.
    fn seen(&self) -> Option<Seen>;
}

#[test]
fn a_page_stays_connected() {
    let _alone = alone();
    let (relay, proxy) = Relay::start_proxy(&["-o", "json"]);
    let mut viewers: Vec<Box<dyn Viewer>> = vec![Box::new(Own::start(proxy))];
    let pac = format!("--proxy-pac-url=http://{proxy}/proxy.pac");
    for (way, url) in [
        (format!("--proxy-server=socks5://{proxy}"), "http://web.default/live"),
        (pac, "http://web.default.svc.cluster.local/live"),
    ] {
        match Browser::start(&way, url) {
            Some(browser) => viewers.push(Box::new(browser)),
            None => println!("no Chromium here: {way} is not tried"),
        }
    }
    all_have_seen(&viewers, SOME);

    let before = Instant::now();
    xtask(&["apiserver", "kill"]);
    let killed = Instant::now();
    relay.wait_state("reconnecting", before, Duration::from_secs(20));
    std::thread::sleep(AWAY.saturating_sub(killed.elapsed()));
    xtask(&["apiserver", "start"]);
    let ready = Instant::now();
    let last = viewers.iter().filter_map(|viewer| viewer.seen()).map(|seen| seen.echoes.max(seen.events));
    all_have_seen(&viewers, last.max().expect("a viewer") + SOME);
    println!("everything went on {:?} after the API server was ready", ready.elapsed());

    // Five minutes of events in a long run.
    all_have_seen(&viewers, short_or_long(150, 3000));
    for viewer in &viewers {
        println!("{}: {:?}", viewer.name(), viewer.seen().expect("a page"));
    }
}

/// Waits until each viewer has seen so many echoes and events, and nothing that ended.
fn all_have_seen(viewers: &[Box<dyn Viewer>], count: u64) {
    // A tenth of a second each, on a busy machine two.
    let limit = Duration::from_secs(60) + Duration::from_millis(200) * count as u32;
    for viewer in viewers {
        wait_until(&format!("{}: {count} echoes and events", viewer.name()), limit, || {
            let seen = viewer.seen().unwrap_or_default();
            assert!(seen.ended == 0 && seen.wrong == 0, "{}: {seen:?}", viewer.name());
            seen.echoes >= count && seen.events >= count
        });
    }
}
