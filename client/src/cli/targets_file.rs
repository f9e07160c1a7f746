//! Targets files: one target a line, in the words of the command line, with those of its flags that make sense for one
//! target alone.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use clap::Parser;

use super::{
    settings::{ListenAddress, UsageError, parse_addresses},
    wanted::Wanted,
};
use crate::{
    relay_file::{self, RelayFile},
    target::{Place, TargetError, TargetSpec, parse_arguments},
};

/// What stands for standard input.
const STDIN: &str = "-";

/// What may stand on a line.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
struct LineArgs {
    #[arg(num_args = 0..)]
    arguments: Vec<String>,
    #[arg(short, long)]
    namespace: Option<String>,
    #[arg(short = 'l', long, value_delimiter = ',')]
    address: Vec<String>,
    #[arg(long)]
    context: Option<String>,
}

/// Reads the files in their order; `-` is standard input. A line without `-l` listens on `addresses`.
///
/// # Errors
/// A file that cannot be read or holds no target, or the first line that makes no sense.
pub(super) fn read(
    files: &[impl AsRef<Path>],
    addresses: &[ListenAddress],
) -> Result<Vec<Wanted>, UsageError> {
    let mut all = Vec::new();
    let mut stdin_is_read = false;
    for file in files {
        let file = file.as_ref();
        let (name, text) = if file.as_os_str() == STDIN {
            if std::mem::replace(&mut stdin_is_read, true) {
                return Err(UsageError::StdinTwice);
            }
            let mut text = String::new();
            ("stdin".to_owned(), io::stdin().read_to_string(&mut text).map(|_| text))
        } else {
            (file.display().to_string(), fs::read_to_string(file))
        };
        let text = text.map_err(|source| UsageError::TargetsFile { file: name.clone(), source })?;
        all.extend(if relay_file::is_named_so(file) {
            RelayFile::parse_for_run(&name, &text, addresses)?
        } else {
            parse(&name, &text, addresses)?
        });
    }
    Ok(all)
}

fn parse(file: &str, text: &str, addresses: &[ListenAddress]) -> Result<Vec<Wanted>, UsageError> {
    let mut all = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        if words.first().is_none_or(|first| first.starts_with("//")) {
            continue;
        }
        let place = Place { file: file.into(), line: index + 1 };
        match parse_line(&words, &place, addresses) {
            Ok(wanted) => all.extend(wanted),
            Err(error) => return Err(error.at(Some(&place))),
        }
    }
    if all.is_empty() { Err(UsageError::NoTargets(file.into())) } else { Ok(all) }
}

fn parse_line(words: &[&str], place: &Place, addresses: &[ListenAddress]) -> Result<Vec<Wanted>, UsageError> {
    let line = LineArgs::try_parse_from(words).map_err(|error| UsageError::Line(first_sentence(&error)))?;
    if line.arguments.is_empty() {
        return Err(TargetError::Nothing.into());
    }
    let addresses = match line.address.as_slice() {
        [] => addresses.to_vec(),
        typed => parse_addresses(typed)?,
    };
    let specs = parse_arguments(&line.arguments)?;
    let wanted = specs.into_iter().map(|spec| Wanted {
        spec: TargetSpec { place: Some(place.clone()), ..spec },
        namespace: line.namespace.clone(),
        context: line.context.clone(),
        addresses: addresses.clone(),
    });
    Ok(wanted.collect())
}

/// What clap says, without its advice about a command line that nobody typed.
fn first_sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).trim_end_matches(':').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Vec<Wanted>, UsageError> {
        parse("targets.txt", text, &[ListenAddress::Localhost])
    }

    /// Each target as it could be typed, with the line it comes from.
    fn summary(text: &str) -> Vec<String> {
        let line = |wanted: Wanted| {
            let ports: Vec<_> = wanted.spec.ports.iter().map(ToString::to_string).collect();
            let namespace = wanted.namespace.map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
            let place = wanted.spec.place.unwrap();
            format!("{place}: {} {}{namespace}", wanted.spec.typed, ports.join(" "))
        };
        parsed(text).unwrap().into_iter().map(line).collect()
    }

    #[test]
    fn lines_are_read_as_the_command_line_is() {
        let text = "\u{feff}# the cluster's own\n\
                    -n kube-system svc/kube-dns 10053:53@udp\r\n\
                    \n   \n\
                    svc/web 8080:80   # the shop\n\
                    // and a database\n\
                    host/db.example.com 6379 :22 --namespace=other\n\
                    \tbare 53@udp 53@tcp -n=dev\n\
                    ip/1.2.3.4 8443 svc/more 1";
        assert_eq!(
            summary(text),
            [
                "targets.txt:2: svc/kube-dns 10053:53@udp -n kube-system",
                "targets.txt:5: svc/web 8080:80",
                "targets.txt:7: host/db.example.com 6379 :22 -n other",
                "targets.txt:8: pod/bare 53@udp 53@tcp -n dev",
                "targets.txt:9: ip/1.2.3.4 8443",
                "targets.txt:9: svc/more 1",
            ]
        );
    }

    #[test]
    fn a_line_listens_where_it_says_or_where_the_command_line_does() {
        let all =
            parsed("-l 127.0.0.1,::1 svc/a 1\nsvc/b 2\n--address 10.0.0.1 -l localhost svc/c 3").unwrap();
        let ip = |text: &str| ListenAddress::Ip(text.parse().unwrap());
        assert_eq!(all[0].addresses, [ip("127.0.0.1"), ip("::1")]);
        assert_eq!(all[1].addresses, [ListenAddress::Localhost]);
        assert_eq!(all[2].addresses, [ip("10.0.0.1"), ListenAddress::Localhost]);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_line() {
        let cases = [
            ("", "targets.txt holds no target"),
            ("# nothing\n\n// here", "targets.txt holds no target"),
            ("svc/a 1\nsvc/b", "targets.txt:2: target \"svc/b\" has no port"),
            ("-n dev", "targets.txt:1: no target given"),
            ("\n-n foo 8080", "targets.txt:2: target \"pod/8080\" has no port"),
            ("svc/a 70000", "targets.txt:1: port \"70000\": the remote port 70000 is not in 1 to 65535"),
            ("svc/a 1 -l here", "targets.txt:1: \"here\" is no address to listen on"),
            ("--lanes 2 svc/a 1", "targets.txt:1: unexpected argument '--lanes' found"),
            ("svc/a 1 --help", "targets.txt:1: unexpected argument '--help' found"),
            (
                "svc/a 1 -n",
                "targets.txt:1: a value is required for '--namespace <NAMESPACE>' but none was supplied",
            ),
        ];
        for (text, message) in cases {
            let error = parsed(text).unwrap_err();
            assert_eq!(error.to_string(), message, "{text:?}");
            assert!(!error.hint().is_empty());
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named_and_stdin_is_read_once() {
        let localhost = [ListenAddress::Localhost];
        let error = read(&["/nowhere/targets.txt"], &localhost).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the targets file /nowhere/targets.txt: No such file or directory (os error 2)"
        );
        assert!(!error.hint().is_empty());
    }

    proptest! {
        #[test]
        fn any_text_gives_targets_or_an_error(text in "(.{0,20}\n|svc/[a-z]{1,3} [0-9:@a-z]{1,6}\n|-[nlcf-] ?[a-z.]{0,4} ){0,5}") {
            if let Ok(all) = parsed(&text) {
                prop_assert!(all.iter().all(|wanted| !wanted.spec.ports.is_empty() && !wanted.addresses.is_empty()));
            }
        }
    }
}
