//! Which of our hosts a request is for. Scheme and names come from the settings alone.

use crate::config::{Config, GrainHosts, Origin};

/// Which listener a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Main,
    /// One of the ports of port mode.
    GrainPort(u16),
}

/// A host on which one grain appears.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GrainHost {
    /// The label of a session in wildcard mode, such as `ui-…`.
    Label(String),
    /// The port of a (grain, account) in port mode.
    Port(u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Shell,
    Grain(GrainHost),
    /// `selftest-…`: answers that the wildcard host works.
    Selftest,
    /// A usual wrong name for this very machine: redirect to ROOT_URL.
    Elsewhere,
    Unknown,
}

/// `host` as it stands in the `Host` header, in any case.
pub fn route(config: &Config, via: Via, host: &str) -> Target {
    let host = host.to_ascii_lowercase();
    let (name, port) = split(&host, &config.root);
    let is_root = name == config.root.host && port == config.root.port;
    match (&config.grain_hosts, via) {
        (_, Via::Main) if is_root => return Target::Shell,
        (GrainHosts::Wildcard(wildcard), Via::Main) if port == wildcard.port => {
            match wildcard.label(name) {
                Some(label) if label.starts_with("ui-") => {
                    return Target::Grain(GrainHost::Label(label.to_owned()));
                }
                Some(label) if label.starts_with("selftest-") => return Target::Selftest,
                _ => {}
            }
        }
        (GrainHosts::Port { first, last }, via) => {
            let port = if config.root.https {
                port_of_name(&config.root, name).filter(|_| port == config.root.port)
            } else {
                (name == config.root.host).then_some(port)
            };
            if let Some(port) = port.filter(|port| (first..=last).contains(&port)) {
                // A grain's own listener serves that grain alone.
                if matches!(via, Via::Main) || via == Via::GrainPort(port) {
                    return Target::Grain(GrainHost::Port(port));
                }
            }
        }
        _ => {}
    }
    if via == Via::Main && name == "localhost" { Target::Elsewhere } else { Target::Unknown }
}

fn split<'a>(host: &'a str, root: &Origin) -> (&'a str, u16) {
    let default = if root.https { 443 } else { 80 };
    // An IPv6 address has colons inside its brackets.
    let tail = host.rfind(']').unwrap_or(0);
    match host[tail..].rfind(':') {
        None => (host.trim_end_matches('.'), default),
        Some(colon) => {
            let (name, port) = host.split_at(tail + colon);
            (name.trim_end_matches('.'), port[1..].parse().unwrap_or(0))
        }
    }
}

/// 2014's scheme behind TLS: `box-7001.example.org` for port 7001 of `box.example.org`.
fn port_of_name(root: &Origin, name: &str) -> Option<u16> {
    let (first, rest) = root.host.split_once('.')?;
    let (label, name_rest) = name.split_once('.')?;
    if rest != name_rest {
        return None;
    }
    label.strip_prefix(first)?.strip_prefix('-')?.parse().ok()
}

/// The name of that scheme for `port`.
pub fn port_name(root: &Origin, port: u16) -> String {
    match root.host.split_once('.') {
        Some((first, rest)) => format!("{first}-{port}.{rest}"),
        None => format!("{}-{port}", root.host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Listen, Settings};

    fn config(root: Option<&str>, mode: &str) -> Config {
        let settings = Settings {
            root_url: root.map(Into::into),
            grain_mode: Some(mode.into()),
            ..Settings::default()
        };
        let listen = Listen::check(&settings).unwrap();
        Config::check(&settings, "/tmp/h".into(), listen).unwrap()
    }

    #[test]
    fn wildcard_mode() {
        let c = config(None, "wildcard");
        let route = |host: &str| route(&c, Via::Main, host);
        assert_eq!(route("sandstorm.localhost:3000"), Target::Shell);
        assert_eq!(route("Sandstorm.LOCALHOST:3000"), Target::Shell);
        assert_eq!(route("sandstorm.localhost.:3000"), Target::Shell);
        assert_eq!(
            route("ui-ab.sandstorm.localhost:3000"),
            Target::Grain(GrainHost::Label("ui-ab".into()))
        );
        assert_eq!(route("selftest-1.sandstorm.localhost:3000"), Target::Selftest);
        assert_eq!(route("localhost:3000"), Target::Elsewhere);
        for unknown in [
            "evil.example",
            "sandstorm.localhost",
            "sandstorm.localhost:3001",
            "ui-ab.sandstorm.localhost",
            "x.ui-ab.sandstorm.localhost:3000",
            "api-x.sandstorm.localhost:3000",
            "127.0.0.1:3000",
            "[::1]:3000",
            "",
            ":3000",
        ] {
            assert_eq!(route(unknown), Target::Unknown, "{unknown}");
        }
    }

    #[test]
    fn port_mode_http() {
        let c = config(Some("http://box.localhost:3000"), "port");
        let grain = Target::Grain(GrainHost::Port(7001));
        assert_eq!(route(&c, Via::Main, "box.localhost:3000"), Target::Shell);
        assert_eq!(route(&c, Via::GrainPort(7001), "box.localhost:7001"), grain);
        assert_eq!(route(&c, Via::GrainPort(7001), "box.localhost:7002"), Target::Unknown);
        assert_eq!(route(&c, Via::GrainPort(7001), "box.localhost:3000"), Target::Unknown);
        assert_eq!(route(&c, Via::GrainPort(7001), "localhost:7001"), Target::Unknown);
        assert_eq!(route(&c, Via::Main, "box.localhost:8001"), Target::Unknown);
    }

    #[test]
    fn port_mode_behind_tls() {
        let c = config(Some("https://box.example.org"), "port");
        let grain = Target::Grain(GrainHost::Port(7001));
        assert_eq!(port_name(&c.root, 7001), "box-7001.example.org");
        assert_eq!(route(&c, Via::Main, "box-7001.example.org"), grain);
        assert_eq!(route(&c, Via::GrainPort(7001), "box-7001.example.org"), grain);
        assert_eq!(route(&c, Via::GrainPort(7002), "box-7001.example.org"), Target::Unknown);
        assert_eq!(route(&c, Via::Main, "box-80.example.org"), Target::Unknown);
        assert_eq!(route(&c, Via::Main, "box-7001.example.net"), Target::Unknown);
    }
}
