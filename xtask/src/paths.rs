//! Where things lie: the checkout, the build output, and the cache outside the checkout.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The target triple of everything that runs in a container.
pub(crate) const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's output folder.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// What takes minutes to build and seldom changes; shared by all checkouts of this user.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(cache) = env::var_os("RELAY_CACHE").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(cache));
    }
    let base = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(env::var_os("HOME").context(
            "no folder for the cache: neither RELAY_CACHE, XDG_CACHE_HOME nor HOME is set; set RELAY_CACHE",
        )?)
        .join(".cache"),
    };
    Ok(base.join("kubectl-relay"))
}
