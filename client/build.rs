//! Takes in the agents that `cargo xtask plugin` has packed. Without them the plugin starts agents from images only.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// The folder with a file `relay-server-PROCESSOR` for each of [`PROCESSORS`] that nodes may have.
const AGENTS: &str = "RELAY_EMBEDDED_AGENTS";
/// As the label `kubernetes.io/arch` has them; those that are seen most come first.
const PROCESSORS: [&str; 2] = ["amd64", "arm64"];
/// What a ConfigMap holds at most, in bytes.
const CONFIG_MAP: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={AGENTS}");
    let mut list = String::from("&[");
    if let Some(folder) = env::var_os(AGENTS).map(PathBuf::from) {
        println!("cargo::rerun-if-changed={}", folder.display());
        for processor in PROCESSORS {
            let file = folder.join(format!("relay-server-{processor}"));
            if !file.exists() {
                continue;
            }
            println!("cargo::rerun-if-changed={}", file.display());
            let size = fs::metadata(&file)?.len();
            if size > CONFIG_MAP {
                return Err(format!(
                    "{} has {size} bytes, and a ConfigMap holds {CONFIG_MAP}: the agent has to become smaller",
                    file.display()
                )
                .into());
            }
            write!(
                list,
                "({processor:?}, include_bytes!({:?})),",
                file.canonicalize()?.display().to_string()
            )?;
        }
        if list.len() == 2 {
            return Err(format!("{AGENTS} is {}, and there is no agent", folder.display()).into());
        }
    }
    list.push(']');
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("agents.rs"), list)?;
    // A megabyte of relocations is read at start-up, and then stays: packed (RELR, glibc 2.36) it is a few KiB. A linker
    // that does not know it says so, and goes on.
    if env::var("CARGO_CFG_TARGET_OS")? == "linux" && env::var("CARGO_CFG_TARGET_ENV")? == "gnu" {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}
