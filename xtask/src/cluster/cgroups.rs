//! The cgroup that holds all pods of a cluster, so that nothing of it stays.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::plan::Plan;

/// Makes the cgroup in every hierarchy: kubelet wants to find it there.
pub(crate) fn ensure(plan: &Plan) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(plan.cgroup());
        fs::create_dir_all(&group).with_context(|| format!("make the cgroup {}", group.display()))?;
        // A new group in the first version's cpuset hierarchy has no processor and no memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = group.join(file);
            if fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty())
                && let Ok(all) = fs::read_to_string(hierarchy.join(file))
            {
                let _ = fs::write(&own, all);
            }
        }
    }
    Ok(())
}

/// Removes it, once no process is left in it.
pub(crate) fn remove(plan: &Plan) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(plan.cgroup());
        if group.exists() {
            let removed = crate::shell::until(std::time::Duration::from_secs(10), || remove_tree(&group));
            removed.with_context(|| format!("remove the cgroup {}", group.display()))?;
        }
    }
    Ok(())
}

/// Whether any of it exists.
pub(crate) fn exists(plan: &Plan) -> bool {
    hierarchies().is_ok_and(|all| all.iter().any(|hierarchy| hierarchy.join(plan.cgroup()).exists()))
}

/// Groups are removed from the leaves up; the files in them are the kernel's.
fn remove_tree(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    Ok(fs::remove_dir(group)?)
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(place), Some("cgroup" | "cgroup2")) = (fields.next(), fields.next()) {
            found.push(PathBuf::from(place));
        }
    }
    Ok(found)
}
