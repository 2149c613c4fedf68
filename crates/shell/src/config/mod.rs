//! Settings of a running shell: flag, then environment, then `$SANDSTORM_HOME/sandstorm.toml`,
//! then the default; checked once at start, so that nothing later meets a value that cannot work.

mod hosts;
mod settings;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::limits::Chosen;
pub use hosts::{GrainHosts, Origin, Wildcard};
pub use settings::{Settings, home, other_homes};

/// The longest time that a grain stays awake for nobody: a year.
const MAX_IDLE_SECONDS: u64 = 31_536_000;

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Absolute path of all state.
    pub home: PathBuf,
    /// Where the main listener is, for messages; the port is the real one.
    pub bind_ip: IpAddr,
    pub port: u16,
    /// The shell as browsers see it.
    pub root: Origin,
    pub grain_hosts: GrainHosts,
    /// From the last sign of life to sleep.
    pub idle: Duration,
    /// What grains run under, where it is not the table's default.
    pub grain_limits: Chosen,
    /// New grains keep their data in an image file each.
    pub grain_image: bool,
    pub trusted_proxies: Vec<AddressRange>,
    pub allow_private_downloads: bool,
    pub allow_dev_accounts: bool,
    /// Directory of our own executable: the other three programs are its siblings.
    pub bin: PathBuf,
    /// What an administrator must know about this choice of settings; shown on each of their
    /// pages, and in the log at start.
    pub warnings: Vec<Warning>,
}

/// A choice of settings that works, but not as well as another.
#[derive(Clone, Debug)]
pub struct Warning {
    /// In a sentence.
    pub what: String,
    /// What to do about it.
    pub fix: &'static str,
}

/// Address and port of the main listener, known before the rest is judged: with PORT=0 the
/// kernel chooses, and ROOT_URL's default follows.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    pub ip: IpAddr,
    pub port: u16,
}

impl Listen {
    pub fn check(settings: &Settings) -> Result<Listen> {
        let ip = value(&settings.bind_ip).unwrap_or("127.0.0.1");
        let port = value(&settings.port).unwrap_or("3000");
        Ok(Listen {
            ip: ip.trim_matches(['[', ']']).parse().map_err(|_| {
                Error::Config(format!(
                    "BIND_IP is \"{ip}\"; write an address like 127.0.0.1, or 0.0.0.0 for all"
                ))
            })?,
            port: port.parse().map_err(|_| {
                Error::Config(format!("PORT is \"{port}\"; write a number from 1 to 65535"))
            })?,
        })
    }
}

impl Config {
    /// Judges the settings; `listen` has the port that is really bound.
    pub fn check(settings: &Settings, home: PathBuf, listen: Listen) -> Result<Config> {
        let default_root = format!("http://sandstorm.localhost:{}", listen.port);
        let root = Origin::parse(value(&settings.root_url).unwrap_or(&default_root))?;
        let mut warnings = Vec::new();
        // Judged in either mode: a mistake in it should not wait for a change of the mode.
        let (first, last) = ports(value(&settings.grain_ports).unwrap_or("7000-7999"))?;
        let grain_hosts = match value(&settings.grain_mode).unwrap_or("wildcard") {
            "wildcard" => {
                let wildcard = Wildcard::check(&root, value(&settings.wildcard_host))?;
                if wildcard.port != root.port {
                    warnings.push(Warning {
                        what: format!(
                            "Grains are on port {} but the server is on port {}. That works only \
                             if something forwards both.",
                            wildcard.port, root.port
                        ),
                        fix: "Give WILDCARD_HOST the port of ROOT_URL, or see that a proxy \
                              forwards both ports to PORT.",
                    });
                }
                GrainHosts::Wildcard(wildcard)
            }
            "port" => {
                if (first..=last).contains(&listen.port) {
                    return Err(Error::Config(format!(
                        "GRAIN_PORTS {first}-{last} contains PORT {}; take another range",
                        listen.port
                    )));
                }
                GrainHosts::Port { first, last }
            }
            other => {
                return Err(Error::Config(format!(
                    "GRAIN_MODE is \"{other}\"; it can be wildcard or port"
                )));
            }
        };
        if !root.is_trustworthy() {
            warnings.push(Warning {
                what: format!(
                    "{root} is plain http: whoever is on the way can read and change everything, \
                     and browsers switch off part of what protects grains from each other."
                ),
                fix: "Set ROOT_URL to an https address, or on one machine to a name that ends in \
                      .localhost.",
            });
        }
        let idle = value(&settings.grain_idle_seconds).unwrap_or("60");
        let idle = match idle.parse::<u64>() {
            Ok(seconds @ 2..=MAX_IDLE_SECONDS) => Duration::from_secs(seconds),
            _ => {
                return Err(Error::Config(format!(
                    "GRAIN_IDLE_SECONDS is \"{idle}\"; write a number from 2 to \
                     {MAX_IDLE_SECONDS}, which is a year"
                )));
            }
        };
        let exe = std::env::current_exe().map_err(Error::io("own executable"))?;
        Ok(Config {
            home,
            bind_ip: listen.ip,
            port: listen.port,
            root,
            grain_hosts,
            idle,
            grain_limits: Chosen::from_setting(value(&settings.grain_limits).unwrap_or_default())?,
            grain_image: flag("GRAIN_IMAGE", &settings.grain_image)?,
            trusted_proxies: AddressRange::parse_list(
                value(&settings.trusted_proxies).unwrap_or("loopback"),
            )?,
            allow_private_downloads: flag(
                "ALLOW_PRIVATE_DOWNLOADS",
                &settings.allow_private_downloads,
            )?,
            allow_dev_accounts: flag("ALLOW_DEV_ACCOUNTS", &settings.allow_dev_accounts)?,
            bin: exe.parent().map(PathBuf::from).unwrap_or_default(),
            warnings,
        })
    }
}

/// An unset and an empty variable mean the same.
fn value(setting: &Option<String>) -> Option<&str> {
    setting.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

fn flag(name: &str, setting: &Option<String>) -> Result<bool> {
    match value(setting).map(str::to_ascii_lowercase).as_deref() {
        None | Some("false" | "0" | "no" | "off") => Ok(false),
        Some("true" | "1" | "yes" | "on") => Ok(true),
        Some(other) => Err(Error::Config(format!("{name} is \"{other}\"; write true or false"))),
    }
}

fn ports(text: &str) -> Result<(u16, u16)> {
    let bad = || {
        Error::Config(format!(
            "GRAIN_PORTS is \"{text}\"; write a range like 7000-7999, from 1024 up"
        ))
    };
    let (first, last) = text.split_once('-').ok_or_else(bad)?;
    let first: u16 = first.trim().parse().map_err(|_| bad())?;
    let last: u16 = last.trim().parse().map_err(|_| bad())?;
    if first < 1024 || first > last {
        return Err(bad());
    }
    Ok((first, last))
}

/// A range of addresses such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    addr: IpAddr,
    bits: u8,
}

impl AddressRange {
    pub fn parse_list(text: &str) -> Result<Vec<AddressRange>> {
        let mut out = Vec::new();
        for item in text.split([',', ' ']).filter(|item| !item.is_empty()) {
            if item.eq_ignore_ascii_case("loopback") {
                out.push(AddressRange { addr: IpAddr::from([127, 0, 0, 0]), bits: 8 });
                out.push(AddressRange { addr: std::net::Ipv6Addr::LOCALHOST.into(), bits: 128 });
                continue;
            }
            if item.eq_ignore_ascii_case("none") {
                continue;
            }
            let bad = || {
                Error::Config(format!(
                    "TRUSTED_PROXIES has \"{item}\"; write addresses like 10.0.0.1 or 10.0.0.0/8, \
                     or loopback, with commas"
                ))
            };
            let (addr, bits) = match item.split_once('/') {
                Some((addr, bits)) => (addr, Some(bits.parse::<u8>().map_err(|_| bad())?)),
                None => (item, None),
            };
            let addr: IpAddr = addr.parse().map_err(|_| bad())?;
            let whole = if addr.is_ipv4() { 32 } else { 128 };
            let bits = bits.unwrap_or(whole);
            if bits > whole {
                return Err(bad());
            }
            out.push(AddressRange { addr, bits });
        }
        Ok(out)
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let differ = match (self.addr, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(u32::from(a) ^ u32::from(b)) << 96,
            (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(a) ^ u128::from(b),
            _ => return false,
        };
        differ.leading_zeros() >= u32::from(self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(edit: impl FnOnce(&mut Settings)) -> Result<Config> {
        let mut settings = Settings::default();
        edit(&mut settings);
        let listen = Listen::check(&settings)?;
        Config::check(&settings, "/tmp/h".into(), listen)
    }

    #[test]
    fn defaults() {
        let c = check(|_| ()).unwrap();
        assert_eq!(c.root.to_string(), "http://sandstorm.localhost:3000");
        assert_eq!(c.idle, Duration::from_secs(60));
        assert!(c.trusted_proxies.iter().any(|r| r.contains([127, 0, 0, 9].into())));
        assert!(!c.trusted_proxies.iter().any(|r| r.contains([10, 0, 0, 9].into())));
        assert!(c.warnings.is_empty());
    }

    #[test]
    fn wrong_values_name_the_setting_and_a_right_one() {
        type Edit = fn(&mut Settings);
        let cases: [(Edit, &str); 10] = [
            (|s| s.port = Some("x".into()), "PORT"),
            (|s| s.bind_ip = Some("box".into()), "BIND_IP"),
            (|s| s.grain_mode = Some("ports".into()), "GRAIN_MODE"),
            (|s| s.grain_idle_seconds = Some("1".into()), "GRAIN_IDLE_SECONDS"),
            (|s| s.trusted_proxies = Some("10.0.0.0/40".into()), "TRUSTED_PROXIES"),
            (|s| s.allow_dev_accounts = Some("maybe".into()), "ALLOW_DEV_ACCOUNTS"),
            (|s| s.root_url = Some("box".into()), "ROOT_URL"),
            (|s| s.grain_ports = Some("junk".into()), "GRAIN_PORTS"),
            (
                |s| {
                    s.grain_mode = Some("port".into());
                    s.grain_ports = Some("2000-4000".into());
                },
                "GRAIN_PORTS",
            ),
            (
                |s| {
                    s.grain_mode = Some("port".into());
                    s.grain_ports = Some("80".into());
                },
                "GRAIN_PORTS",
            ),
        ];
        for (edit, name) in cases {
            let text = check(edit).unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn plain_http_names_warn() {
        let c = check(|s| s.root_url = Some("http://box.example.org:3000".into())).unwrap();
        assert_eq!(c.warnings.len(), 1);
        assert!(c.warnings[0].fix.contains("https"));
        let c = check(|s| s.wildcard_host = Some("*.sandstorm.localhost:9999".into())).unwrap();
        assert_eq!(c.warnings.len(), 1);
        assert!(c.warnings[0].fix.contains("WILDCARD_HOST"), "{:?}", c.warnings);
    }

    #[test]
    fn ranges() {
        let r = AddressRange::parse_list("10.1.0.0/16, 2001:db8::/32").unwrap();
        assert!(r[0].contains([10, 1, 2, 3].into()));
        assert!(r[0].contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!r[0].contains([10, 2, 2, 3].into()));
        assert!(r[1].contains("2001:db8:1::1".parse().unwrap()));
        assert!(!r[1].contains([10, 1, 2, 3].into()));
        let all = AddressRange::parse_list("0.0.0.0/0").unwrap();
        assert!(all[0].contains([1, 2, 3, 4].into()));
    }

    #[test]
    fn file_fills_what_is_left_open() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("sandstorm.toml"),
            "port = 4000\nROOT_URL = 'https://a.example.org'\nallow_dev_accounts = true\n\
             trusted_proxies = ['10.0.0.1', 'loopback']\n",
        )
        .unwrap();
        // What is set and empty counts as unset, whoever sets it.
        let typed = Settings {
            port: Some("5000".into()),
            root_url: Some(String::new()),
            ..Settings::default()
        };
        let s = typed.with_file(dir.path()).unwrap();
        assert_eq!(s.port.as_deref(), Some("5000"));
        assert_eq!(s.root_url.as_deref(), Some("https://a.example.org"));
        assert_eq!(s.allow_dev_accounts.as_deref(), Some("true"));
        assert_eq!(s.trusted_proxies.as_deref(), Some("10.0.0.1,loopback"));
        std::fs::write(dir.path().join("sandstorm.toml"), "prot = 4000\n").unwrap();
        let e = Settings::default().with_file(dir.path()).unwrap_err().to_string();
        assert!(e.contains("prot"), "{e}");
        for (text, says) in [
            ("grain_idle_seconds = 2.5\n", "grain_idle_seconds is 2.5; write a whole number"),
            ("port = 4621\nPORT = 4622\n", "are the same setting"),
            ("port = [1, 2]\n", "not a list"),
            ("root_url = 2020-01-01\n", "in quotes"),
        ] {
            std::fs::write(dir.path().join("sandstorm.toml"), text).unwrap();
            let e = Settings::default().with_file(dir.path()).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
        assert!(
            Settings::default().with_file(dir.path()).unwrap_err().to_string().contains("root_url")
        );
    }
}
