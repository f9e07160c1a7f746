//! A part of a processor for programs that stand for somebody else's machine: what they do shall not be done at the cost
//! of those that are measured here.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So short that whoever is held back does nothing for a moment only, and takes a whole processor for a moment only.
const PERIOD: Duration = Duration::from_millis(5);

/// A cgroup whose programs together get a part of one processor; it goes with its last program, when this is dropped.
pub struct Quota {
    folder: PathBuf,
}

impl Quota {
    /// So many hundredths of one processor.
    pub fn new(name: &str, percent: u32) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let (root, is_version_2) = mounts.lines().find_map(root_of_cpu).expect("a cpu controller");
        let folder = root.join(format!("relay-tests-{name}-{}", std::process::id()));
        if is_version_2 {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
        }
        fs::create_dir(&folder).expect("a cgroup");
        let quota = Self { folder };
        let (quota_us, period_us) = (PERIOD.as_micros() * u128::from(percent) / 100, PERIOD.as_micros());
        if is_version_2 {
            quota.set("cpu.max", &format!("{quota_us} {period_us}"));
            quota.set("cpu.weight", "1");
        } else {
            quota.set("cpu.cfs_period_us", &period_us.to_string());
            quota.set("cpu.cfs_quota_us", &quota_us.to_string());
            quota.set("cpu.shares", "2");
        }
        quota
    }

    /// Takes in a program with all its threads.
    pub fn take_in(&self, pid: u32) {
        self.set("cgroup.procs", &pid.to_string());
    }

    fn set(&self, file: &str, value: &str) {
        let path = self.folder.join(file);
        fs::write(&path, value)
            .unwrap_or_else(|error| panic!("write {value} to {}: {error}", path.display()));
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Its last program may be about to end, and version 1 tells nobody when it has.
        let since = Instant::now();
        while fs::remove_dir(&self.folder).is_err() && since.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where a line of mounts has the controller, and whether that is version 2.
fn root_of_cpu(line: &str) -> Option<(PathBuf, bool)> {
    let mut fields = line.split(' ').skip(1);
    let (place, kind, options) = (Path::new(fields.next()?), fields.next()?, fields.next()?);
    let has_cpu =
        || fs::read_to_string(place.join("cgroup.controllers")).is_ok_and(|all| all.contains("cpu"));
    match kind {
        "cgroup" if options.split(',').any(|option| option == "cpu") => Some((place.into(), false)),
        "cgroup2" if has_cpu() => Some((place.into(), true)),
        _ => None,
    }
}
