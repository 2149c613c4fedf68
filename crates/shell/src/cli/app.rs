//! `shell app …`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use sandstorm_schema::ext_control_capnp::{InstallStep, control, install_progress, installed_app};
use sandstorm_schema::limits::BODY_CHUNK;
use sandstorm_schema::rpc::body::BodyWriter;
use sandstorm_schema::rpc::error::failed;
use tokio::io::AsyncReadExt;

use super::output::{called, outln};
use super::{Context, client, print};
use crate::error::Result;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Install an app from a package file or an http(s) address
    ///
    /// The server fetches the address. Other than for links in a browser it may be one of a private
    /// network, whatever ALLOW_PRIVATE_DOWNLOADS says; an address elsewhere may not redirect to one.
    Install {
        // A file may have any name, UTF-8 or not.
        #[arg(value_name = "FILE.spk|URL", value_parser = clap::builder::PathBufValueParser::new())]
        from: PathBuf,
    },
    /// List the installed apps
    List,
    /// Remove an app, or one version of it, that no grain uses
    Delete {
        /// A package id, or an app id for all its versions
        #[arg(value_name = "PACKAGE|APP", value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
}

pub fn run(context: &Context, command: Command) -> Result<ExitCode> {
    client::run(&context.home, async |control| match command {
        Command::Install { from } => install(context, &control, &from).await,
        Command::List => list(context, &control).await,
        Command::Delete { id } => delete(context, &control, &id).await,
    })
}

async fn install(context: &Context, control: &control::Client, path: &Path) -> capnp::Result<()> {
    let bar = Bar::new(context.json);
    let progress: install_progress::Client = capnp_rpc::new_client(bar.clone());
    let from = path.to_str().unwrap_or_default();
    let scheme = from.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if let Some(scheme) = scheme.filter(|scheme| scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
    {
        if scheme != "http" && scheme != "https" {
            return Err(failed(format!(
                "{from}: only http and https addresses can be fetched; download the file and name it"
            )));
        }
        let mut request = control.app_install_url_request();
        request.get().set_url(from);
        request.get().set_progress(progress);
        let response = request.send().promise.await;
        bar.bar.finish_and_clear();
        return told(context, response?.get()?.get_app()?);
    }
    let say = |e: std::io::Error| failed(format!("{}: {e}", path.display()));
    let mut file = tokio::fs::File::open(path).await.map_err(say)?;
    let metadata = file.metadata().await.map_err(say)?;
    if !metadata.is_file() {
        return Err(failed(format!(
            "{} is no file; name a package file, or an http(s) address",
            path.display()
        )));
    }
    let mut request = control.app_install_request();
    request.get().set_name(path.file_name().unwrap_or_default().to_string_lossy().as_ref());
    request.get().set_size(metadata.len());
    request.get().set_progress(progress);
    let upload = request.send().promise.await?.get()?.get_upload()?;
    let stream = capnp::capability::FromClientHook::new(
        capnp::capability::FromClientHook::as_client_hook(&upload).add_ref(),
    );
    // Asked for before the bytes are sent: an early refusal ends the sending.
    let finish = upload.finish_request().send().promise;
    let send = async {
        let mut writer = BodyWriter::new(stream);
        let mut sent = 0;
        loop {
            let mut chunk = bytes::BytesMut::with_capacity(BODY_CHUNK);
            if file.read_buf(&mut chunk).await.map_err(say)? == 0 {
                return writer.done().await;
            }
            sent += chunk.len() as u64;
            writer.write(chunk.freeze()).await?;
            bar.show(InstallStep::Get, sent, metadata.len());
        }
    };
    tokio::pin!(finish);
    tokio::pin!(send);
    let response = tokio::select! {
        // The server's words say more than a broken stream.
        biased;
        response = &mut finish => response,
        sent = &mut send => match sent {
            Ok(()) => finish.await,
            Err(error) => match tokio::time::timeout(std::time::Duration::from_secs(2), finish).await {
                Ok(Err(why)) => Err(why),
                _ => Err(error),
            },
        },
    };
    bar.bar.finish_and_clear();
    let response = response?;
    told(context, response.get()?.get_app()?)
}

fn told(context: &Context, app: installed_app::Reader<'_>) -> capnp::Result<()> {
    let (package, id) = (app.get_package_id()?.to_string()?, app.get_app_id()?.to_string()?);
    let (title, version) = (app.get_title()?.to_string()?, app.get_version()?.to_string()?);
    let newer = app.get_newer()?.to_string()?;
    let (this, other) =
        (numbered(&version, app.get_number()), numbered(&newer, app.get_newer_number()));
    let mut json = serde_json::json!({ "packageId": package, "appId": id });
    if !newer.is_empty() {
        json["newer"] = newer.as_str().into();
    }
    print(context, json, || {
        outln!("Installed {title} {version}\napp     {id}\npackage {package}");
        if !newer.is_empty() {
            outln!(
                "Version {other} is newer and stays installed, but new grains are made with \
                 {this} from now on.\nInstall the package of version {other} again to change that."
            );
        }
    });
    Ok(())
}

/// A version in the author's words, with the number that they may not tell.
fn numbered(words: &str, number: u32) -> String {
    match number.to_string() {
        number if number == words => number,
        number => format!("{words} (number {number})"),
    }
}

async fn delete(context: &Context, control: &control::Client, id: &str) -> capnp::Result<()> {
    let mut request = control.app_delete_request();
    request.get().set_id(id);
    let response = request.send().promise.await?;
    let mut removed = Vec::new();
    for id in response.get()?.get_package_ids()? {
        removed.push(id?.to_string()?);
    }
    print(context, serde_json::json!({ "packageIds": removed }), || {
        for id in &removed {
            outln!("Removed package {id}.");
        }
    });
    Ok(())
}

async fn list(context: &Context, control: &control::Client) -> capnp::Result<()> {
    let response = control.app_list_request().send().promise.await?;
    let mut rows = Vec::new();
    for app in response.get()?.get_apps()? {
        let mut actions = Vec::new();
        for action in app.get_actions()? {
            actions.push(action?.to_string()?);
        }
        rows.push(serde_json::json!({
            "appId": app.get_app_id()?.to_string()?,
            "packageId": app.get_package_id()?.to_string()?,
            "title": app.get_title()?.to_string()?,
            "version": app.get_version()?.to_string()?,
            "actions": actions,
        }));
    }
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
    print(context, serde_json::Value::Array(rows.clone()), || {
        if rows.is_empty() {
            outln!("No app is installed. Install one with `{} app install FILE.spk`.", called());
        }
        for row in &rows {
            outln!("{}  {} {}", text(row, "appId"), text(row, "title"), text(row, "version"));
        }
    });
    Ok(())
}

/// Progress on a terminal.
#[derive(Clone)]
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new(quiet: bool) -> Bar {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        if let Ok(style) = ProgressStyle::with_template("{msg:8} {wide_bar} {bytes}/{total_bytes}")
        {
            bar.set_style(style);
        }
        Bar { bar }
    }

    fn show(&self, step: InstallStep, done: u64, total: u64) {
        self.bar.set_message(match step {
            InstallStep::Get => "Get it",
            InstallStep::Verify => "Check",
            InstallStep::Extract => "Unpack",
            InstallStep::Sync => "Write",
        });
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl install_progress::Server for Bar {
    async fn report(
        self: Rc<Self>,
        params: install_progress::ReportParams,
        _: install_progress::ReportResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        if let Ok(step) = params.get_step() {
            self.show(step, params.get_done(), params.get_total());
        }
        Ok(())
    }
}
