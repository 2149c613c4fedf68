//! What the operator typed: each setting once, from flag, environment or `sandstorm.toml`.
//!
//! Nothing is judged here; [`super::Config::check`] does that.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// One row a setting: its name in the environment, its flag, and what it means.
/// `--help` and the file's keys come from here.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Settings {
    /// Port of the shell [default: 3000]
    #[arg(long, env = "PORT", value_name = "PORT")]
    pub port: Option<String>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, env = "BIND_IP", value_name = "ADDRESS")]
    pub bind_ip: Option<String>,
    /// The shell as browsers see it [default: http://sandstorm.localhost:PORT]
    #[arg(long, env = "ROOT_URL", value_name = "URL")]
    pub root_url: Option<String>,
    /// Host names of grains, with one `*` [default: `*.` and the host and port of ROOT_URL]
    #[arg(long, env = "WILDCARD_HOST", value_name = "HOST")]
    pub wildcard_host: Option<String>,
    /// `wildcard`: a host name for each grain; `port`: a port for each [default: wildcard]
    #[arg(long, env = "GRAIN_MODE", value_name = "MODE")]
    pub grain_mode: Option<String>,
    /// Ports of grains in port mode [default: 7000-7999]
    #[arg(long, env = "GRAIN_PORTS", value_name = "FIRST-LAST")]
    pub grain_ports: Option<String>,
    /// Seconds from the last closed tab to sleep, 2 or more [default: 60]
    #[arg(long, env = "GRAIN_IDLE_SECONDS", value_name = "SECONDS")]
    pub grain_idle_seconds: Option<String>,
    /// What one grain may use where no exception is made, as NAME=VALUE with commas
    /// [default: the values of `shell limit list`]
    #[arg(long, env = "GRAIN_LIMITS", value_name = "LIST")]
    pub grain_limits: Option<String>,
    /// New grains keep their data in an image file each, whose size is the disk limit; wants the
    /// supervisor setuid, e2fsprogs and loop devices [default: false]
    #[arg(long, env = "GRAIN_IMAGE", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true")]
    pub grain_image: Option<String>,
    /// Addresses or ranges whose X-Forwarded-For counts, with commas [default: loopback]
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "LIST")]
    pub trusted_proxies: Option<String>,
    /// Let /install/PACKAGE?url= reach private addresses [default: false]
    #[arg(long, env = "ALLOW_PRIVATE_DOWNLOADS", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true")]
    pub allow_private_downloads: Option<String>,
    /// Let anybody sign in under any name, for development [default: false]
    #[arg(long, env = "ALLOW_DEV_ACCOUNTS", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true")]
    pub allow_dev_accounts: Option<String>,
}

/// The home by flag or environment, else the default, as an absolute path. Needed before the
/// file can be read.
pub fn home(given: Option<&Path>) -> Result<PathBuf> {
    let named = std::env::var_os("SANDSTORM_HOME").map(PathBuf::from);
    let given = given.map(Path::to_path_buf).or(named);
    let given = given.filter(|home| !home.as_os_str().is_empty());
    // A working directory that is gone harms only what is looked for in it.
    if let Some(home) = given.as_ref().filter(|home| home.is_absolute()) {
        return Ok(home.clone());
    }
    let cwd = std::env::current_dir().map_err(|e| {
        Error::Config(format!(
            "the working directory cannot be used: {e}; go to one that is there, or name the home \
             with its whole path"
        ))
    })?;
    Ok(match given {
        Some(home) => cwd.join(home),
        None if is_checkout(&cwd) => cwd.join(".sandstorm"),
        None => PathBuf::from(SYSTEM_HOME),
    })
}

/// The home outside of a checkout.
const SYSTEM_HOME: &str = "/var/sandstorm";

fn is_checkout(dir: &Path) -> bool {
    dir.join("crates/sandstorm-supervisor").is_dir()
}

/// The other places where a server may be whose home nobody has named: which default counts depends
/// on the directory, and in a checkout that other users cannot enter `make run` takes the system's.
pub fn other_homes(home: &Path) -> Vec<PathBuf> {
    let checkout = |dir: &Path| is_checkout(dir).then(|| dir.join(".sandstorm"));
    let here = std::env::current_dir().ok().and_then(|cwd| checkout(&cwd));
    let ours = std::env::current_exe().ok().and_then(|exe| checkout(exe.parent()?.parent()?));
    let mut all: Vec<PathBuf> =
        [Some(PathBuf::from(SYSTEM_HOME)), here, ours].into_iter().flatten().collect();
    all.dedup();
    all.retain(|other| other != home);
    all
}

impl Settings {
    /// Fills what flag and environment left open from `home/sandstorm.toml`, if that exists.
    pub fn with_file(mut self, home: &Path) -> Result<Settings> {
        let path = home.join("sandstorm.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            // Whether the home can be made is judged elsewhere.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(self);
            }
            Err(e) => return Err(Error::io(path.display().to_string())(e)),
        };
        let table: toml::Table =
            text.parse().map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        let mut written: HashMap<String, String> = HashMap::new();
        for (key, value) in table {
            let name = key.to_ascii_lowercase();
            if let Some(before) = written.insert(name.clone(), key.clone()) {
                return Err(Error::Config(format!(
                    "{}: {before} and {key} are the same setting; keep one of the two",
                    path.display()
                )));
            }
            let list = key.eq_ignore_ascii_case("trusted_proxies");
            let text = match &value {
                toml::Value::Array(items) if list => {
                    items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|v| v.join(","))
                }
                one => scalar(one),
            };
            let Some(text) = text else {
                let what = match &value {
                    toml::Value::Float(number) => format!("is {number}; write a whole number"),
                    toml::Value::Datetime(_) => "is a date; write a text, in quotes".to_owned(),
                    _ => "must be one value, not a list or a table".to_owned(),
                };
                return Err(Error::Config(format!("{}: {key} {what}", path.display())));
            };
            let slot = match name.as_str() {
                "port" => &mut self.port,
                "bind_ip" => &mut self.bind_ip,
                "root_url" => &mut self.root_url,
                "wildcard_host" => &mut self.wildcard_host,
                "grain_mode" => &mut self.grain_mode,
                "grain_ports" => &mut self.grain_ports,
                "grain_idle_seconds" => &mut self.grain_idle_seconds,
                "grain_limits" => &mut self.grain_limits,
                "grain_image" => &mut self.grain_image,
                "trusted_proxies" => &mut self.trusted_proxies,
                "allow_private_downloads" => &mut self.allow_private_downloads,
                "allow_dev_accounts" => &mut self.allow_dev_accounts,
                _ => {
                    return Err(Error::Config(format!(
                        "{}: no setting is called {key}; `{} serve --help` lists them",
                        path.display(),
                        crate::cli::output::called()
                    )));
                }
            };
            // An empty variable, as unit and compose files pass it, is an unset one.
            if slot.as_deref().is_none_or(|text| text.trim().is_empty()) {
                *slot = Some(text);
            }
        }
        Ok(self)
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}
