//! The command line, in both of its forms. Opens nothing, resolves nothing.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Print [`help`].
    Help,
    /// Print the version.
    Version,
    /// Start a command and serve it.
    Run(Run),
}

/// A command to start and the address that it will listen on.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the app will accept connections.
    pub addr: SocketAddr,
    /// The program and its arguments; never empty.
    pub command: Vec<OsString>,
    /// How long the app may take until it accepts connections.
    pub start_timeout: Duration,
}

/// How long an app may take to start when nothing else is said: a big app on a small, busy machine
/// needs minutes.
pub const START_TIMEOUT: Duration = Duration::from_secs(300);

/// The text of `--help`.
pub fn help() -> String {
    format!(
        "\
legacy-bridge runs an ordinary web server inside a grain.

It starts your server, waits until it accepts connections, and then turns the
requests that arrive on the grain's socket (fd 3, Cap'n Proto RPC) into plain
HTTP/1.1 requests to it. It ends when your server ends.

Usage:
  legacy-bridge [OPTIONS] ADDR:PORT COMMAND [ARGUMENT]...
  legacy-bridge [OPTIONS] PORT -- COMMAND [ARGUMENT]...

The second form means 127.0.0.1:PORT. A COMMAND without a slash is looked up in
PATH. The program may also be installed as sandstorm-http-bridge.

Options:
  --start-timeout SECONDS  Give up when the server accepts no connection after
                           this time (default {})
  --help, --version

Examples:
  A Node server that listens on port 8000:
    legacy-bridge 127.0.0.1:8000 /opt/app/bin/node /opt/app/server.js
  The same in today's spelling:
    legacy-bridge 8000 -- /opt/app/bin/node /opt/app/server.js
  A Python server found in PATH, on IPv6:
    legacy-bridge '[::1]:8000' python3 -m http.server --bind ::1 8000

What your server should know:
  - Listen on the address above; there is no other network.
  - Write only below /var; everything else is read-only, /tmp is lost.
  - Who is asking stands in the request: X-Sandstorm-Username,
    X-Sandstorm-User-Id, X-Sandstorm-Permissions, and so on.
  - Host and X-Sandstorm-Base-Path say how the browser reaches you.

If the package has a file /sandstorm-http-bridge-config, its viewInfo and
apiPath are honoured. What goes wrong is written to the grain's log on lines
that begin with \"** HTTP-BRIDGE:\".
",
        START_TIMEOUT.as_secs()
    )
}

/// Reads the arguments, without the program's own name.
///
/// # Errors
/// One sentence that says what to type instead.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Action, String> {
    let mut args = args.into_iter().peekable();
    let mut start_timeout = START_TIMEOUT;
    let place = loop {
        let Some(arg) = args.next() else {
            return Err("say where the app listens and how to start it, for example: \
                        legacy-bridge 127.0.0.1:8000 /app/server"
                .into());
        };
        match arg.to_str() {
            Some("--help" | "-h") => return Ok(Action::Help),
            Some("--version") => return Ok(Action::Version),
            Some("--start-timeout") => start_timeout = parse_seconds(args.next())?,
            Some(option) if option.starts_with("--start-timeout=") => {
                let value = option.trim_start_matches("--start-timeout=");
                start_timeout = parse_seconds(Some(value.into()))?;
            }
            Some(option) if option.starts_with('-') => {
                return Err(format!("unknown option {option}; see legacy-bridge --help"));
            }
            Some(place) => break place.to_owned(),
            None => return Err("the address is not readable text".into()),
        }
    };
    let port_alone = place.bytes().all(|b| b.is_ascii_digit());
    let addr = parse_addr(&place, port_alone)?;
    let separator = args.peek().is_some_and(|a| a == "--");
    if separator {
        args.next();
    } else if port_alone {
        return Err(format!(
            "with a port alone, write -- before the command: legacy-bridge {place} -- COMMAND; \
             or give the address too: legacy-bridge 127.0.0.1:{place} COMMAND"
        ));
    }
    let command: Vec<OsString> = args.collect();
    if command.first().is_none_or(|c| c.is_empty()) {
        let dashes = if separator { "-- " } else { "" };
        return Err(format!("say how to start the app: legacy-bridge {place} {dashes}COMMAND"));
    }
    Ok(Action::Run(Run { addr, command, start_timeout }))
}

fn parse_addr(place: &str, port_alone: bool) -> Result<SocketAddr, String> {
    let hint = || {
        format!(
            "{place:?} is not an address and port; write 127.0.0.1:8000 or [::1]:8000 (names are \
             not looked up)"
        )
    };
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let addr = if port_alone {
        SocketAddr::new(loopback, place.parse().map_err(|_| hint())?)
    } else if let Some(port) = place.strip_prefix("localhost:") {
        SocketAddr::new(loopback, port.parse().map_err(|_| hint())?)
    } else {
        place.parse().map_err(|_| hint())?
    };
    if addr.port() == 0 {
        return Err("port 0 is no port to connect to; say the one that the app listens on".into());
    }
    Ok(addr)
}

fn parse_seconds(value: Option<OsString>) -> Result<Duration, String> {
    value
        .as_ref()
        .and_then(|v| v.to_str())
        .and_then(|v| v.parse::<u32>().ok())
        .filter(|n| *n > 0)
        .map(|n| Duration::from_secs(n.into()))
        .ok_or_else(|| "--start-timeout needs a number of seconds, at least 1".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Action, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn run(line: &str) -> Run {
        match parse_line(line) {
            Ok(Action::Run(run)) => run,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn both_forms() {
        let old = run("127.0.0.1:8000 /app/server --flag -- x");
        assert_eq!(old.addr, "127.0.0.1:8000".parse().unwrap());
        assert_eq!(old.command, ["/app/server", "--flag", "--", "x"]);
        let new = run("8000 -- server -v");
        assert_eq!(new.addr, old.addr);
        assert_eq!(new.command, ["server", "-v"]);
        assert_eq!(run("127.0.0.1:1 -- a").command, ["a"]);
        assert_eq!(run("[::1]:80 a").addr, "[::1]:80".parse().unwrap());
        assert_eq!(run("localhost:80 a").addr, "127.0.0.1:80".parse().unwrap());
        assert_eq!(run("--start-timeout 7 80 -- a").start_timeout, Duration::from_secs(7));
        assert_eq!(run("--start-timeout=7 80 -- a").start_timeout, Duration::from_secs(7));
        assert_eq!(run("80 -- a --help").command, ["a", "--help"]);
    }

    #[test]
    fn help_is_an_answer() {
        assert_eq!(parse_line("--help"), Ok(Action::Help));
        assert_eq!(parse_line("-h 80"), Ok(Action::Help));
        assert_eq!(parse_line("--version"), Ok(Action::Version));
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        for (line, word) in [
            ("", "for example"),
            ("80 server", "-- before the command"),
            ("80", "-- before the command"),
            ("80 --", "legacy-bridge 80 -- COMMAND"),
            ("127.0.0.1:80", "how to start"),
            ("example.com:80 a", "names are not looked up"),
            ("127.0.0.1 a", "not an address and port"),
            ("70000 -- a", "not an address and port"),
            ("0 -- a", "port 0"),
            ("--verbose 80 -- a", "unknown option"),
            ("--start-timeout x 80 -- a", "number of seconds"),
        ] {
            let error = parse_line(line).expect_err(line);
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
