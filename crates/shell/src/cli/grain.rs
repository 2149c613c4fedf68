//! `shell grain …`

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandstorm_schema::ext_control_capnp::{control, grain_info};
use sandstorm_schema::ext_report_capnp::limit_state;
use sandstorm_schema::rpc::body::{BodyReceiver, pipe};
use sandstorm_schema::rpc::error::failed;

use super::output::{called, outln};
use super::terminal::Shown;
use super::{Context, client, print};
use crate::error::Result;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a grain
    Create {
        /// The app, as `shell app list` names it
        #[arg(long, value_name = "APPID", value_parser = NonEmptyStringValueParser::new())]
        app: String,
        /// Which of the app's actions
        #[arg(long, value_name = "N", default_value_t = 0)]
        action: u32,
        /// What to call it
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        title: String,
        /// Whose it is [default: the local operator account]
        // An empty name, as an unset variable of a script makes it, is not the operator's.
        #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        owner: Option<String>,
    },
    /// List all grains
    List,
    /// Print a one-time link that signs in as the owner and opens the grain
    Open { grain: String },
    /// Print a session of the grain for curl and scripts
    Session {
        grain: String,
        /// Only these permissions of the app [default: all]
        #[arg(long, value_name = "A,B", value_delimiter = ',')]
        permissions: Option<Vec<String>>,
    },
    /// End the running app
    Stop {
        grain: String,
        /// Without asking it first
        #[arg(long)]
        now: bool,
    },
    /// Show what the app wrote: text as it is, also with --json; on a terminal, control characters
    /// as escapes
    Log {
        grain: String,
        /// Go on showing what comes
        #[arg(long, short)]
        follow: bool,
        /// Only what there is now, which is what happens without --follow
        #[arg(long, conflicts_with = "follow")]
        now: bool,
        /// How much of the past, in bytes
        #[arg(long, value_name = "N", default_value_t = 1 << 20)]
        bytes: u64,
    },
    /// Move the grain to the trash
    Delete {
        grain: String,
        /// Destroy it: it cannot come back
        #[arg(long)]
        now: bool,
    },
}

pub fn run(context: &Context, command: Command) -> Result<ExitCode> {
    client::run(&context.home, async |control| match command {
        Command::Create { app, action, title, owner } => {
            let mut request = control.grain_create_request();
            let mut params = request.get();
            params.set_app_id(&*app);
            params.set_action(action);
            params.set_title(&*title);
            params.set_owner(owner.as_deref().unwrap_or_default());
            let response = request.send().promise.await?;
            let id = response.get()?.get_grain_id()?.to_string()?;
            print(context, serde_json::json!({ "grainId": id }), || outln!("{id}"));
            Ok(())
        }
        Command::List => list(context, &control).await,
        Command::Open { grain } => {
            let mut request = control.grain_open_request();
            request.get().set_grain_id(&*grain);
            let response = request.send().promise.await?;
            let url = response.get()?.get_url()?.to_string()?;
            print(context, serde_json::json!({ "url": url }), || outln!("{url}"));
            Ok(())
        }
        Command::Session { grain, permissions } => {
            let mut request = control.grain_session_request();
            request.get().set_grain_id(&*grain);
            let mut choice = request.get().init_permissions();
            match &permissions {
                None => choice.set_all(()),
                Some(names) => {
                    let names: Vec<_> = names.iter().filter(|name| !name.is_empty()).collect();
                    let mut list = choice.init_named(names.len() as u32);
                    for (index, name) in names.iter().enumerate() {
                        list.set(index as u32, name.as_str());
                    }
                }
            }
            let response = request.send().promise.await?;
            let session = response.get()?;
            let origin = session.get_origin()?.to_string()?;
            let cookie = session.get_cookie()?.to_string()?;
            let expires = session.get_expires();
            let json =
                serde_json::json!({ "origin": origin, "cookie": cookie, "expires": expires });
            print(context, json, || outln!("curl -H 'Cookie: {cookie}' {origin}/"));
            Ok(())
        }
        Command::Stop { grain, now } => {
            let mut request = control.grain_stop_request();
            request.get().set_grain_id(&*grain);
            request.get().set_now(now);
            request.send().promise.await?;
            print(context, serde_json::json!({}), || outln!("Stopped."));
            Ok(())
        }
        Command::Log { grain, follow, now: _, bytes } => log(&control, &grain, follow, bytes).await,
        Command::Delete { grain, now } => {
            let mut request = control.grain_delete_request();
            request.get().set_grain_id(&*grain);
            request.get().set_now(now);
            let already = request.send().promise.await?.get()?.get_already();
            print(context, serde_json::json!({}), || match (now, already) {
                (true, _) => outln!("Destroyed."),
                (false, true) => outln!("It is in the trash already; --now destroys it."),
                (false, false) => outln!("Moved to the trash, where it stays 30 days."),
            });
            Ok(())
        }
    })
}

async fn list(context: &Context, control: &control::Client) -> capnp::Result<()> {
    let mut rows = Vec::new();
    let mut after = String::new();
    loop {
        let mut request = control.grain_list_request();
        request.get().set_after(&*after);
        let response = request.send().promise.await?;
        let page = response.get()?;
        for grain in page.get_grains()? {
            rows.push(serde_json::json!({
                "grainId": grain.get_grain_id()?.to_string()?,
                "title": grain.get_title()?.to_string()?,
                "appId": grain.get_app_id()?.to_string()?,
                "owner": grain.get_owner()?.to_string()?,
                "state": match grain.get_state()? {
                    grain_info::State::Running => "running",
                    grain_info::State::Asleep => "asleep",
                    grain_info::State::Trash => "trash",
                },
                "size": grain.get_size(),
                "trouble": grain.get_trouble()?.to_string()?,
                "limits": limits(grain.get_limits()?)?,
            }));
        }
        after = page.get_next()?.to_string()?;
        if after.is_empty() {
            break;
        }
    }
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
    print(context, serde_json::Value::Array(rows.clone()), || {
        if rows.is_empty() {
            outln!("There are no grains. `{} grain create --app APPID` makes one.", called());
        }
        for row in &rows {
            outln!(
                "{}  {:8} {:12} {:>9} {}  {}",
                text(row, "grainId"),
                text(row, "state"),
                text(row, "owner"),
                format!("{:.1} MB", row["size"].as_f64().unwrap_or(0.0) / 1e6),
                text(row, "title"),
                match (kept_by(row), text(row, "trouble")) {
                    (kinds, trouble) if kinds.is_empty() => trouble,
                    (kinds, _) => format!("(limited by {kinds})"),
                }
            );
        }
    });
    Ok(())
}

/// What limits a running grain, one object a limit.
fn limits(
    rows: capnp::struct_list::Reader<'_, limit_state::Owned>,
) -> capnp::Result<serde_json::Value> {
    rows.iter()
        .map(|row| {
            Ok(serde_json::json!({
                "name": row.get_name()?.to_string()?,
                "value": row.get_value(),
                "by": row.get_by()?.to_string()?,
                "used": row.get_used(),
                "hits": row.get_hits(),
            }))
        })
        .collect::<capnp::Result<Vec<_>>>()
        .map(serde_json::Value::Array)
}

/// The same in one word each: what keeps memory, processes, processor and disk.
fn kept_by(row: &serde_json::Value) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for limit in row["limits"].as_array().into_iter().flatten() {
        let by = limit["by"].as_str().unwrap_or_default();
        let told =
            ["memory", "pids", "cpu", "disk"].contains(&limit["name"].as_str().unwrap_or(""));
        if told && !kinds.contains(&by) {
            kinds.push(by);
        }
    }
    kinds.join(", ")
}

async fn log(
    control: &control::Client,
    grain: &str,
    follow: bool,
    bytes: u64,
) -> capnp::Result<()> {
    let (stream, mut receiver) = pipe();
    let mut request = control.grain_log_request();
    let mut params = request.get();
    params.set_grain_id(grain);
    params.set_backlog(bytes);
    params.set_follow(follow);
    params.set_stream(stream);
    let response = request.send().promise.await?;
    let _handle = response.get()?.get_handle()?;
    let out = std::io::stdout().lock();
    let gone = reader_gone();
    if out.is_terminal() {
        let mut shown = Shown::new(out);
        copy(&mut receiver, &mut shown, gone).await?;
        let _ = shown.finish();
        return Ok(());
    }
    let mut out = out;
    copy(&mut receiver, &mut out, gone).await
}

/// Comes when nobody reads stdout any more; without it that would show with the next write, which in
/// a quiet log never comes.
fn reader_gone() -> impl Future<Output = ()> {
    let (say, gone) = tokio::sync::oneshot::channel();
    // Not one of the runtime's threads, whose end the runtime waits for.
    let watching = std::thread::Builder::new().spawn(move || {
        let stdout = std::io::stdout();
        // Errors and hang-ups are told though nothing is asked for.
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        while let Err(nix::errno::Errno::EINTR) = poll(&mut fds, PollTimeout::NONE) {}
        let _ = say.send(());
    });
    async move {
        if watching.is_err() || gone.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Until the log ends, or its reader leaves (`| head`): they have seen enough.
async fn copy(
    from: &mut BodyReceiver,
    to: &mut impl Write,
    gone: impl Future<Output = ()>,
) -> capnp::Result<()> {
    tokio::pin!(gone);
    loop {
        let chunk = tokio::select! {
            // What has come is written first: a reader that is gone shows there, too.
            biased;
            chunk = from.next() => chunk,
            () = &mut gone => return Ok(()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        match to.write_all(&chunk?).and_then(|()| to.flush()) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => return Err(failed(format!("cannot write to stdout: {e}"))),
        }
    }
}
