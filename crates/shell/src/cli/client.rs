//! A sub-command's end of the control socket.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::ext_control_capnp::control;
use sandstorm_schema::rpc::connect::{Trust, Vat, connect_at};
use sandstorm_schema::rpc::error::text;

use super::output::called;
use crate::control::{SOCKET, is_served};
use crate::error::{Error, Result};

/// A running server looks for its socket every two seconds, and binds it early in its start.
const PATIENCE: Duration = Duration::from_secs(6);

/// Connects to the running server and does `work` with it.
pub fn run(
    home: &Path,
    work: impl AsyncFnOnce(control::Client) -> capnp::Result<()>,
) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("starting"))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let vat = connect(home).await?;
        let result = work(vat.bootstrap()).await;
        vat.disconnect().await;
        result.map_err(|e| Error::Internal(text(&e)))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The connection; an error says how to start the server, or what keeps the one that runs from
/// answering.
pub async fn connect(home: &Path) -> Result<Vat> {
    let begin = Instant::now();
    loop {
        let why = match try_connect(home).await {
            Ok(stream) => return Ok(Vat::spawn(stream, Side::Client, None, Trust::Peer)),
            Err(why) => why,
        };
        let absent = matches!(why.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        let served = absent && is_served(home) == Some(true);
        // It is starting, or its socket was removed: then it makes another.
        if served && begin.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let elsewhere = match absent && !is_home_named() {
            true => answers(crate::config::other_homes(home)).await,
            false => None,
        };
        let (home, socket) = (home.display(), home.join(SOCKET));
        let socket = socket.display();
        return Err(Error::Internal(match why.kind() {
            ErrorKind::NotFound if served => format!(
                "a server runs with the home {home}, but its control socket {socket} is missing \
                 and does not come back; the server's log says why"
            ),
            ErrorKind::ConnectionRefused if served => format!(
                "a server runs with the home {home}, but {socket} is not its control socket; \
                 remove that file, and the server makes its socket anew within seconds"
            ),
            _ if absent => format!(
                "no server runs with the home {home}; start one with `{} serve`, or name another \
                 home with --home or SANDSTORM_HOME{}",
                called(),
                elsewhere.map_or_else(String::new, |other| {
                    format!(".\nA server runs with the home {}: {}", other.display(), typed(&other))
                })
            ),
            ErrorKind::PermissionDenied => {
                format!("{socket} answers only the server's own user and root")
            }
            _ => format!("{socket}: {why}"),
        }));
    }
}

/// Did whoever typed this say which home they mean?
fn is_home_named() -> bool {
    std::env::var_os("SANDSTORM_HOME").is_some_and(|home| !home.is_empty())
        || std::env::args_os().any(|word| word.as_encoded_bytes().starts_with(b"--home"))
}

/// The first of these homes whose server answers us.
async fn answers(homes: Vec<PathBuf>) -> Option<PathBuf> {
    for home in homes {
        if try_connect(&home).await.is_ok() {
            return Some(home);
        }
    }
    None
}

/// What was typed, for another home.
fn typed(home: &Path) -> String {
    let words = std::iter::once(format!("SANDSTORM_HOME={}", quoted(&home.to_string_lossy())));
    let typed = std::env::args_os().map(|word| quoted(&word.to_string_lossy()));
    words.chain(typed).collect::<Vec<_>>().join(" ")
}

/// As one word of a command line.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_./:=,@%+-".contains(&b);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

async fn try_connect(home: &Path) -> std::io::Result<tokio::net::UnixStream> {
    let dir = std::fs::File::open(home)?;
    connect_at(dir.as_fd(), SOCKET).await
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_word_stays_one_word() {
        assert_eq!(quoted("bin/shell"), "bin/shell");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
    }
}
