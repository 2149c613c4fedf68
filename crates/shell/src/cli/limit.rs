//! `shell limit …`

use std::process::ExitCode;

use sandstorm_schema::ext_control_capnp::{control, limit_subject};
use sandstorm_schema::grain_limits;
use sandstorm_schema::rpc::error::failed;

use super::output::outln;
use super::{Context, client, print};
use crate::error::Result;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Show what limits grains and what people may install: the server's values, and exceptions by
    /// app and by account
    List,
    /// Make an exception; a grain's holds from its next start on
    Set {
        #[command(flatten)]
        subject: Subject,
        /// Such as memory=2G; `shell limit list` shows the names
        #[arg(value_name = "NAME=VALUE")]
        assignment: String,
    },
    /// Take exceptions back
    Clear {
        #[command(flatten)]
        subject: Subject,
        /// Only this one [default: all]
        name: Option<String>,
    },
}

/// Whose exception.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Subject {
    /// All grains of this app, as `shell app list` names it
    #[arg(long, value_name = "APPID")]
    app: Option<String>,
    /// All grains that this person owns, and what they install
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

impl Subject {
    fn write(&self, mut to: limit_subject::Builder<'_>) {
        match (&self.app, &self.account) {
            (Some(app), _) => to.set_app(&**app),
            (None, Some(account)) => to.set_account(&**account),
            (None, None) => to.set_server(()),
        }
    }
}

pub fn run(context: &Context, command: Command) -> Result<ExitCode> {
    client::run(&context.home, async |control| match command {
        Command::List => list(context, &control).await,
        Command::Set { subject, assignment } => {
            let (name, value) = assignment
                .split_once('=')
                .ok_or_else(|| failed(format!("write NAME=VALUE, not {assignment:?}")))?;
            let mut request = control.limit_set_request();
            let mut params = request.get();
            params.set_name(name.trim());
            params.set_value(value.trim());
            subject.write(params.init_subject());
            request.send().promise.await?;
            let persons = grain_limits::find_any(name.trim()).is_some_and(grain_limits::is_persons);
            print(context, serde_json::json!({}), || match persons {
                true => outln!("Set."),
                false => outln!("Set. It holds from the next start of a grain on."),
            });
            Ok(())
        }
        Command::Clear { subject, name } => {
            let mut request = control.limit_clear_request();
            let mut params = request.get();
            params.set_name(name.as_deref().unwrap_or_default());
            subject.write(params.init_subject());
            let cleared = request.send().promise.await?.get()?.get_cleared();
            print(context, serde_json::json!({ "cleared": cleared }), || match cleared {
                0 => outln!("There was none."),
                1 => outln!("Taken back."),
                n => outln!("{n} taken back."),
            });
            Ok(())
        }
    })
}

async fn list(context: &Context, control: &control::Client) -> capnp::Result<()> {
    let response = control.limit_list_request().send().promise.await?;
    let mut rows = Vec::new();
    for row in response.get()?.get_limits()? {
        let (kind, who) = match row.get_subject()?.which()? {
            limit_subject::Which::Server(()) => ("server", String::new()),
            limit_subject::Which::App(id) => ("app", id?.to_string()?),
            limit_subject::Which::Account(name) => ("account", name?.to_string()?),
        };
        rows.push(serde_json::json!({
            "for": kind,
            "who": who,
            "name": row.get_name()?.to_string()?,
            "value": row.get_value(),
            "unit": row.get_unit()?.to_string()?,
            "ceiling": row.get_ceiling(),
        }));
    }
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
    print(context, serde_json::Value::Array(rows.clone()), || {
        for row in &rows {
            let whose = match text(row, "for").as_str() {
                "server" => "everybody".to_owned(),
                kind => format!("{kind} {}", text(row, "who")),
            };
            let value = row["value"].as_u64().unwrap_or(0);
            outln!("{whose:12} {:15} {value} {}", text(row, "name"), text(row, "unit"));
        }
    });
    Ok(())
}
