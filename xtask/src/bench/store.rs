//! What was measured in full, place by place, so that one page can show what several runs have found.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::place::Place;

/// A folder with one file for each place.
pub(super) struct Store(PathBuf);

impl Store {
    /// Opens the one in this folder.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let folder = folder.join("places");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }

    /// Replaces what is known of a place.
    pub(super) fn keep(&self, place: Place, section: &str) -> Result<()> {
        let file = self.file(place);
        fs::write(&file, section).with_context(|| format!("write {}", file.display()))
    }

    /// What is known, in the page's order.
    pub(super) fn sections(&self) -> Result<Vec<String>> {
        let all = Place::all()?;
        Ok(all.iter().filter_map(|place| fs::read_to_string(self.file(*place)).ok()).collect())
    }

    fn file(&self, place: Place) -> PathBuf {
        self.0.join(place.file()).with_extension("md")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_replaces_its_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path()).unwrap();
        let far: Place = "80ms".parse().unwrap();
        store.keep(far, "far\n").unwrap();
        store.keep(Place::Here, "here\n").unwrap();
        store.keep(far, "far again\n").unwrap();
        assert_eq!(store.sections().unwrap(), ["here\n", "far again\n"]);
    }
}
