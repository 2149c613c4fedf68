//! Settings: flag, then environment, then `$SANDSTORM_HOME/sandstorm.toml`, then the default.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

/// Checked settings of a running shell.
#[derive(Clone, Debug)]
pub struct Config {
    pub home: PathBuf,
    pub listen: SocketAddr,
    /// Scheme and authority of the shell as browsers see it; no path.
    pub root: Origin,
    pub grain_hosts: GrainHosts,
    pub idle: Duration,
    pub trusted_proxies: Vec<Net>,
    pub allow_private_downloads: bool,
    pub allow_dev_accounts: bool,
    /// Directory of our own executable: the other three programs are its siblings.
    pub bin: PathBuf,
}

/// `scheme://host[:port]`, lower case, default port left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub https: bool,
    pub host: String,
    pub port: u16,
}

/// Where grains appear in the browser.
#[derive(Clone, Debug)]
pub enum GrainHosts {
    /// Every grain session under a host name of its own.
    Wildcard { prefix: String, suffix: String, port: u16, cross_site: bool },
    /// Every (grain, account) on a port of its own.
    Port { first: u16, last: u16 },
}

/// An address range (`10.0.0.0/8`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    pub addr: IpAddr,
    pub bits: u8,
}

impl Origin {
    pub fn parse(_text: &str) -> Option<Origin> {
        let uri: Uri = _text.parse().ok()?;
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Origin { https, host, port })
    }

    /// Host with the port where it is not the scheme's own: what a `Host` header carries.
    pub fn authority(&self) -> String {
        if self.port == if self.https { 443 } else { 80 } {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}
