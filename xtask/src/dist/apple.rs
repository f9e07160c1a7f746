//! What a linker has to know of Apple's frameworks: the names that they export, and where a Mac has them. Apple's SDK says so
//! in text files (`.tbd`), and nothing else of it is needed; here those files are made of the names that the packages declare.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::packages::Package;

/// A framework, the package that declares what it exports, and the compatibility version that a Mac's library has.
const FRAMEWORKS: [(&str, &str, u32); 2] =
    [("CoreFoundation", "core-foundation-sys", 150), ("Security", "security-framework-sys", 1)];

/// Writes the files into `folder`, which is then one for a linker's `-F`.
///
/// # Errors
/// One of the packages is not among these, or declares nothing.
pub(crate) fn write_frameworks(packages: &[Package], folder: &Path) -> Result<()> {
    for (framework, package, compatibility) in FRAMEWORKS {
        let package = packages.iter().find(|candidate| candidate.name == package);
        let package = package.with_context(|| format!("no package declares what {framework} exports"))?;
        let mut names = BTreeSet::new();
        for file in sources(&package.folder.join("src"))? {
            let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            names.extend(declared(&text));
        }
        if names.is_empty() {
            bail!("{} {} declares nothing in {}", package.name, package.version, package.folder.display());
        }
        let folder = folder.join(format!("{framework}.framework"));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let file = folder.join(format!("{framework}.tbd"));
        fs::write(&file, stub(framework, compatibility, &names))
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Functions and variables of a source's `extern "C"` blocks. A name too many does no harm: only what is used is looked up.
fn declared(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for block in source.split("extern \"C\" {").skip(1) {
        // Blocks hold declarations only, so the first line with nothing but a brace is the end.
        for line in block.lines().take_while(|line| line.trim() != "}") {
            let line = line.trim().trim_start_matches("pub ");
            let name = line.strip_prefix("fn ").or_else(|| line.strip_prefix("static "));
            let Some(name) = name.map(|rest| rest.trim_start_matches("mut ")) else { continue };
            let end = name.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            names.insert(name[..end.unwrap_or(name.len())].to_owned());
        }
    }
    names
}

/// Version 4 of the format, as Apple's own linker reads it.
fn stub(framework: &str, compatibility: u32, names: &BTreeSet<String>) -> String {
    let symbols: Vec<_> = names.iter().map(|name| format!("_{name}")).collect();
    format!(
        "--- !tapi-tbd\n\
         tbd-version: 4\n\
         targets: [ x86_64-macos, arm64-macos ]\n\
         install-name: '/System/Library/Frameworks/{framework}.framework/Versions/A/{framework}'\n\
         compatibility-version: {compatibility}\n\
         exports:\n  \
           - targets: [ x86_64-macos, arm64-macos ]\n    \
             symbols: [ {} ]\n\
         ...\n",
        symbols.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_packages_declare_is_what_the_linker_is_told() {
        let source = "pub struct S { x: u8 }\nextern \"C\" {\n    pub static kSecClass: CFStringRef;\n\n    \
            #[cfg(target_os = \"macos\")]\n    pub fn SecItemAdd(\n        query: CFDictionaryRef,\n    ) -> OSStatus;\n\
            }\nfn ours() {}\nextern \"C\" {\n    pub fn CFRelease(cf: CFTypeRef);\n}\n";
        let names: Vec<_> = declared(source).into_iter().collect();
        assert_eq!(names, ["CFRelease", "SecItemAdd", "kSecClass"]);

        let folder = tempfile::tempdir().unwrap();
        let package = |name: &str| {
            let place = folder.path().join(name);
            fs::create_dir_all(place.join("src/deep")).unwrap();
            fs::write(place.join("src/deep/a.rs"), source).unwrap();
            Package {
                name: name.into(),
                version: "1.0.0".into(),
                licence: "MIT".into(),
                folder: place,
                foreign: true,
                description: None,
                repository: None,
                links: Vec::new(),
            }
        };
        let packages = [package("core-foundation-sys"), package("security-framework-sys")];
        let made = folder.path().join("made");
        write_frameworks(&packages, &made).unwrap();
        let text = fs::read_to_string(made.join("Security.framework/Security.tbd")).unwrap();
        assert!(text.contains("\n    symbols: [ _CFRelease, _SecItemAdd, _kSecClass ]\n"), "{text}");
        assert!(text.contains("'/System/Library/Frameworks/Security.framework/Versions/A/Security'"));
        assert!(write_frameworks(&packages[..1], &made).is_err());
    }
}
