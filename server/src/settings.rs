//! What the agent was told on its command line, and the limits that are not flags.
//!
//! Agent and plugin may be of different age, and krelay's clients start the agent with arguments of their own: so a
//! flag nobody here knows is said and skipped, while a bad value for a known one is an error.

use std::time::Duration;

use relay_protocol::AGENT_PORT;

/// The command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Only ask the running agent whether it listens, and exit 0 or 1.
    pub health: bool,
    /// Port on 127.0.0.1 and ::1; 0 takes a free one.
    pub port: u16,
    /// The agent ends after this long with nothing to do; `None` never.
    pub idle: Option<Duration>,
    /// How long a session with open streams lives without any lane.
    pub session_life: Duration,
    /// How long streams may take to finish after SIGTERM.
    pub drain_grace: Duration,
    /// End at a client's GOODBYE: for an agent that has one user.
    pub exit_on_goodbye: bool,
    /// 0 to 3 shows what happens, 4 also addresses, 5 and more also packets.
    pub verbosity: u8,
    /// Arguments that mean nothing to this version.
    pub unknown: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            health: false,
            port: AGENT_PORT,
            idle: Some(Duration::from_secs(5 * 60)),
            session_life: Duration::from_secs(30 * 60),
            drain_grace: Duration::from_secs(30),
            exit_on_goodbye: false,
            verbosity: 0,
            unknown: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads arguments (without the program's name): `--flag value`, `--flag=value`, and `-v4` too.
    ///
    /// # Errors
    /// A sentence that names the flag and what it takes.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut settings = Self::default();
        let mut args = args.into_iter().peekable();
        while let Some(arg) = args.next() {
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None if arg.starts_with("-v") && arg.len() > 2 => ("-v", Some(arg[2..].to_owned())),
                None => (arg.as_str(), None),
            };
            match flag {
                "--health" | "--exit-on-goodbye" => {
                    let on = match inline.as_deref() {
                        None | Some("true") => true,
                        Some("false") => false,
                        Some(other) => return Err(format!("{flag} takes true or false, not {other:?}")),
                    };
                    *(if flag == "--health" {
                        &mut settings.health
                    } else {
                        &mut settings.exit_on_goodbye
                    }) = on;
                    continue;
                }
                "-v" | "--v" | "--port" | "--idle" | "--idle-timeout" | "--session-life"
                | "--drain-grace" => {}
                _ => {
                    // Its value, if it has one, is no flag of ours either.
                    let value = args.next_if(|next| inline.is_none() && !next.starts_with('-'));
                    settings.unknown.extend([Some(arg), value].into_iter().flatten());
                    continue;
                }
            }
            let value = inline.or_else(|| args.next()).ok_or_else(|| format!("{flag} needs a value"))?;
            let number = |what: &str| format!("{flag} takes {what}, not {value:?}");
            let time = || {
                parse_duration(&value)
                    .ok_or_else(|| format!("{flag} takes a time such as 90s, 5m or 1h30m, not {value:?}"))
            };
            match flag {
                "--port" => settings.port = value.parse().map_err(|_| number("a port from 0 to 65535"))?,
                "--session-life" => settings.session_life = time()?,
                "--drain-grace" => settings.drain_grace = time()?,
                "--idle" | "--idle-timeout" => settings.idle = Some(time()?).filter(|idle| !idle.is_zero()),
                _ => settings.verbosity = value.parse().map_err(|_| number("a number from 0 to 255"))?,
            }
        }
        Ok(settings)
    }
}

/// A time as Go writes it: numbers with the units h, m, s and ms, in a row. A bare 0 is allowed.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let unit = match &tail[..unit_len] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        let seconds = number.parse::<f64>().ok()? * unit;
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = &tail[unit_len..];
    }
    (!text.is_empty()).then_some(total)
}

/// Limits that are the same in every agent. Tests shorten them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A header or hello must be whole within this time.
    pub greeting: Duration,
    /// Connections that may be without one at the same time.
    pub greeting_connections: usize,
    /// Resolving a name may take this long.
    pub resolve: Duration,
    /// Connecting to a target may take this long, all its addresses together.
    pub connect: Duration,
    /// The next address is tried after this long without an answer from those before it.
    pub stagger: Duration,
    /// Direct streams and flows at the same time.
    pub direct_streams: usize,
    /// UDP flows at the same time; then the one that has been quiet for longest goes.
    pub flows: usize,
    /// Bytes of kernel buffers that target sockets share.
    pub kernel_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(10),
            greeting_connections: 32,
            resolve: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            stagger: Duration::from_millis(250),
            direct_streams: 512,
            flows: 1024,
            kernel_bytes: 32 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Settings, String> {
        Settings::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_plugins_arguments() {
        let got = parse("--idle 2m30s --session-life=1h --drain-grace 1.5s --port 0 -v=3 --exit-on-goodbye")
            .unwrap();
        let want = Settings {
            port: 0,
            idle: Some(Duration::from_secs(150)),
            session_life: Duration::from_secs(3600),
            drain_grace: Duration::from_millis(1500),
            exit_on_goodbye: true,
            verbosity: 3,
            ..Settings::default()
        };
        assert_eq!(got, want);
        assert!(parse("--health").unwrap().health);
        assert!(!parse("--exit-on-goodbye=false").unwrap().exit_on_goodbye);
        assert_eq!(parse("--idle 0").unwrap().idle, None);
    }

    #[test]
    fn the_arguments_of_a_krelay_client() {
        for line in ["-v=4 --idle-timeout=15s", "-v 4 --idle-timeout 15s", "-v4 --idle-timeout=15s"] {
            let got = parse(line).unwrap();
            assert_eq!((got.verbosity, got.idle), (4, Some(Duration::from_secs(15))), "{line}");
        }
    }

    #[test]
    fn flags_from_the_future_are_skipped_with_their_value() {
        let got = parse("--turbo 9 --colour=red --port 1 --fast --idle 1s extra").unwrap();
        assert_eq!(got.unknown, ["--turbo", "9", "--colour=red", "--fast", "extra"]);
        assert_eq!((got.port, got.idle), (1, Some(Duration::from_secs(1))));
    }

    #[test]
    fn a_bad_value_names_the_flag() {
        for line in [
            "--port 70000",
            "--idle 5",
            "--idle m",
            "--idle 5d",
            "--idle=",
            "-v=x",
            "--idle -1s",
            "--idle 1e400h",
        ] {
            let flag = line.split([' ', '=']).next().unwrap();
            assert!(parse(line).unwrap_err().contains(flag), "{line}");
        }
        assert_eq!(parse("--port").unwrap_err(), "--port needs a value");
        assert!(parse("--health=maybe").is_err());
    }
}
