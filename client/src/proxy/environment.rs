//! What programs go by to find the proxy: variables for a command, or lines for a shell.

use std::{fmt::Write, net::SocketAddr};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::command::{Variables, environment::reachable};

/// Hosts that are this machine for everybody.
const HERE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The variables that programs know, each in capitals and not: `ALL_PROXY` for SOCKS5 with names resolved in the
/// cluster, `HTTP_PROXY` and `HTTPS_PROXY` for HTTP, which more programs understand, and in `NO_PROXY` this machine and
/// `direct`: the API server, for one, which is not to be reached through itself.
pub fn variables(proxy: SocketAddr, login: Option<(&str, &str)>, direct: &[String]) -> Variables {
    let address = reachable(proxy);
    let part = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let login = login.map(|(user, password)| format!("{}:{}@", part(user), part(password)));
    let login = login.unwrap_or_default();
    let (socks, http) = (format!("socks5h://{login}{address}"), format!("http://{login}{address}"));
    let here = HERE.iter().copied().chain(direct.iter().map(String::as_str)).collect::<Vec<_>>().join(",");
    let each = [("ALL_PROXY", &socks), ("HTTP_PROXY", &http), ("HTTPS_PROXY", &http), ("NO_PROXY", &here)];
    each.into_iter()
        .flat_map(|(name, value)| {
            [(name.to_owned(), value.clone()), (name.to_ascii_lowercase(), value.clone())]
        })
        .collect()
}

/// Lines that set them in a shell, and the id of the process that is the proxy in `RELAY_PID`.
pub fn export_lines(variables: &Variables, process: u32) -> String {
    let mut lines = String::new();
    for (name, value) in variables.iter().chain([&("RELAY_PID".to_owned(), process.to_string())]) {
        // A shell takes everything between these as it is.
        let quoted = value.replace('\'', r"'\''");
        // Writing to a string does not fail.
        let _ = writeln!(lines, "export {name}='{quoted}'");
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn told(proxy: &str, login: Option<(&str, &str)>, direct: &[&str]) -> Vec<String> {
        let direct: Vec<String> = direct.iter().map(|host| (*host).to_owned()).collect();
        let variables = variables(proxy.parse().unwrap(), login, &direct);
        variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn every_program_finds_the_variable_that_it_knows() {
        assert_eq!(
            told("127.0.0.1:1080", None, &["api.example.com"]),
            [
                "ALL_PROXY=socks5h://127.0.0.1:1080",
                "all_proxy=socks5h://127.0.0.1:1080",
                "HTTP_PROXY=http://127.0.0.1:1080",
                "http_proxy=http://127.0.0.1:1080",
                "HTTPS_PROXY=http://127.0.0.1:1080",
                "https_proxy=http://127.0.0.1:1080",
                "NO_PROXY=localhost,127.0.0.1,::1,api.example.com",
                "no_proxy=localhost,127.0.0.1,::1,api.example.com",
            ]
        );
    }

    #[test]
    fn what_listens_everywhere_is_reached_here_and_logins_are_encoded() {
        let told = told("[::]:1080", Some(("jane@x", "a:/'b")), &[]);
        assert_eq!(told[0], "ALL_PROXY=socks5h://jane%40x:a%3A%2F%27b@[::1]:1080");
    }

    #[test]
    fn a_shell_takes_the_lines_as_they_are_meant() {
        let value = "a'b $HOME `x` \"\n";
        let lines = export_lines(&vec![("ODD".into(), value.into())], 4711);
        let script = format!("{lines}printf '%s|%s' \"$ODD\" \"$RELAY_PID\"");
        let said = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{value}|4711"));
    }
}
