//! Chromium without a window. What it has seen is the title of its page, which its debugging port tells of.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Seen, Viewer};

/// What it is called, on Debian and elsewhere.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// How long it may take to end.
const END: Duration = Duration::from_secs(10);

/// A browser with one page; ended when dropped.
pub(super) struct Browser {
    way: String,
    child: Child,
    profile: TempDir,
}

impl Browser {
    /// Opens a page, by a proxy as the option says; nothing where there is no browser.
    pub(super) fn start(way: &str, url: &str) -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let mut places = PROGRAMS
            .iter()
            .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
        let program = places.find(|program| program.is_file())?;
        let profile = tempfile::tempdir().expect("a folder");
        let child = Command::new(program)
            // Root, which the tests run as, may not have the sandbox; the page is the tests' own.
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
            .args(["--remote-debugging-port=0", way, url])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser runs");
        Some(Self { way: way.to_owned(), child, profile })
    }
}

impl Viewer for Browser {
    fn name(&self) -> &str {
        &self.way
    }

    fn seen(&self) -> Option<Seen> {
        let pages = pages(self.profile.path())?;
        let page = pages.as_array()?.iter().find(|page| page["type"] == "page")?;
        // Titles are escaped as HTML is.
        Seen::parse(&page["title"].as_str()?.replace("&quot;", "\""))
    }
}

/// All pages that are open.
fn pages(profile: &Path) -> Option<Value> {
    let told = std::fs::read_to_string(profile.join("DevToolsActivePort")).ok()?;
    let url = format!("http://127.0.0.1:{}/json/list", told.lines().next()?);
    let output = Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "10", &url]).output();
    serde_json::from_slice(&output.expect("curl runs").stdout).ok()
}

impl Drop for Browser {
    /// In order where it can: its processes write into the profile until they have ended.
    fn drop(&mut self) {
        let since = Instant::now();
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < END {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
