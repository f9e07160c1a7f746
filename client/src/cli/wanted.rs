//! What to forward to, gathered from the command line and the targets files.

use super::{
    args::Args,
    settings::{ListenAddress, UsageError, parse_addresses},
    targets_file,
};
use crate::target::{TargetSpec, check_local_ports, parse_typed};

/// A target, and what is said about it alone.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The target with its ports.
    pub spec: TargetSpec,
    /// Where it is; `None`: in the namespace of the run.
    pub namespace: Option<String>,
    /// Through which context it is reached; `None`: the run's.
    pub context: Option<String>,
    /// Where to listen.
    pub addresses: Vec<ListenAddress>,
}

/// Everything that is asked for: first the command line's, then each file's in turn. Perhaps nothing.
pub(super) fn gather(args: &Args) -> Result<Vec<Wanted>, UsageError> {
    let addresses = parse_addresses(&args.listen.address)?;
    let typed = if args.arguments.is_empty() { Vec::new() } else { parse_typed(&args.arguments)? };
    let of_command_line =
        |spec| Wanted { spec, namespace: None, context: None, addresses: addresses.clone() };
    let of_files = targets_file::read(&args.files, &addresses)?;
    let all: Vec<Wanted> = typed.into_iter().map(of_command_line).chain(of_files).collect();
    check_each_address(&all)?;
    Ok(all)
}

/// Two forwards that listen on the same addresses cannot have the same port.
pub(crate) fn check_each_address(all: &[Wanted]) -> Result<(), UsageError> {
    let mut checked: Vec<&[ListenAddress]> = Vec::new();
    for wanted in all {
        let addresses = wanted.addresses.as_slice();
        if checked.contains(&addresses) {
            continue;
        }
        checked.push(addresses);
        let together: Vec<&TargetSpec> =
            all.iter().filter(|other| other.addresses == addresses).map(|other| &other.spec).collect();
        if let Err((second, error)) = check_local_ports(&together) {
            return Err(UsageError::from(error).at(together[second].place.as_ref()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::Path};

    use clap::Parser;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn args(words: &[&str], files: &[&Path]) -> Args {
        let files = files.iter().flat_map(|file| ["-f", file.to_str().unwrap()]);
        Args::try_parse_from(["kubectl-relay"].into_iter().chain(words.iter().copied()).chain(files)).unwrap()
    }

    fn gathered(words: &[&str], files: &[&Path]) -> Result<Vec<String>, UsageError> {
        let all = gather(&args(words, files))?;
        Ok(all.into_iter().map(|wanted| wanted.spec.typed).collect())
    }

    #[test]
    fn the_command_lines_targets_come_first_and_then_each_files() {
        let (one, two) = (file("svc/b 2\nsvc/c 3"), file("svc/d 4"));
        let all = gathered(&["svc/a", "1"], &[one.path(), two.path()]).unwrap();
        assert_eq!(all, ["svc/a", "svc/b", "svc/c", "svc/d"]);
        assert_eq!(gathered(&[], &[two.path()]).unwrap(), ["svc/d"]);
        assert!(gathered(&[], &[]).unwrap().is_empty());
    }

    #[test]
    fn a_local_port_is_asked_for_twice_only_on_the_same_addresses() {
        let text = "svc/a 53:53@udp\n-l 127.0.0.1 svc/b 53:53@udp\n-n x svc/c 53:53@udp";
        let file = file(text);
        let error = gathered(&[], &[file.path()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{}:3: local port 53 is asked for twice: by \"svc/a 53:53@udp\" and by \"svc/c 53:53@udp\"",
                file.path().display()
            )
        );
    }
}
