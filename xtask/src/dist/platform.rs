//! The machines that the plugin is given away for.

use clap::ValueEnum;

/// A system and a processor, as kubectl's own downloads name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Platform {
    LinuxAmd64,
    LinuxArm64,
    DarwinAmd64,
    DarwinArm64,
    WindowsAmd64,
}

impl Platform {
    /// All, in the order in which they are built: what is used most comes first.
    pub(crate) const ALL: [Self; 5] =
        [Self::LinuxAmd64, Self::LinuxArm64, Self::WindowsAmd64, Self::DarwinArm64, Self::DarwinAmd64];

    /// Rust's name.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::LinuxAmd64 => "x86_64-unknown-linux-musl",
            Self::LinuxArm64 => "aarch64-unknown-linux-musl",
            Self::DarwinAmd64 => "x86_64-apple-darwin",
            Self::DarwinArm64 => "aarch64-apple-darwin",
            Self::WindowsAmd64 => "x86_64-pc-windows-gnu",
        }
    }

    /// Go's name of the system.
    pub(crate) fn os(self) -> &'static str {
        match self {
            Self::LinuxAmd64 | Self::LinuxArm64 => "linux",
            Self::DarwinAmd64 | Self::DarwinArm64 => "darwin",
            Self::WindowsAmd64 => "windows",
        }
    }

    /// Go's name of the processor.
    pub(crate) fn arch(self) -> &'static str {
        match self {
            Self::LinuxAmd64 | Self::DarwinAmd64 | Self::WindowsAmd64 => "amd64",
            Self::LinuxArm64 | Self::DarwinArm64 => "arm64",
        }
    }

    /// What programs' names end with.
    pub(crate) fn suffix(self) -> &'static str {
        if self == Self::WindowsAmd64 { ".exe" } else { "" }
    }

    /// The archive's name for this version.
    pub(crate) fn archive(self, version: &str) -> String {
        let kind = if self == Self::WindowsAmd64 { "zip" } else { "tar.gz" };
        format!("kubectl-relay_v{version}_{}_{}.{kind}", self.os(), self.arch())
    }

    /// Whether this machine runs its programs.
    pub(crate) fn is_native(self) -> bool {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.os() == std::env::consts::OS && self.arch() == arch
    }
}
