//! The independent client speaks to real grains, through the real supervisor: once to an app that
//! speaks RPC itself, once to a web server behind the real bridge.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sandstorm_tests::supervisor::{Bench, native_app};
use sandstorm_tests::{Mode, program};
use serde_json::Value;

use super::client::ask;

const GRAIN: &str = "InteropGrain23456789ab";

fn wait<T>(story: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(story)
}

/// A program that cargo built beside the native app.
fn beside_native_app(name: &str) -> Result<PathBuf> {
    let path = native_app()?.with_file_name(name);
    ensure!(path.is_file(), "{name} is not built: cargo build --release -p {name}");
    Ok(path)
}

fn an_app_that_speaks_rpc(mode: Mode) -> Result<()> {
    let Some(bench) = Bench::new(mode)? else { return Ok(()) };
    let grain = bench.start(&["--new"], GRAIN)?;
    let socket = grain.grain_dir.join("socket");
    wait(async {
        let answer = ask(&socket, &["", "--permissions", "11"]).await?;
        ensure!(answer["status"] == 200, "{answer}");
        ensure!(answer["text"].as_str().context("text")?.contains("Ada Lovelace"), "{answer}");
        let answer = ask(&socket, &["", "--method", "post", "--body", "from Python"]).await?;
        ensure!(answer["text"] == "stored 1\n", "{answer}");
        let again = ["text", "--method", "put", "--stream", "--body", "streamed"];
        let answer = ask(&socket, &again).await?;
        ensure!(answer["text"] == "stored 2\n", "{answer}");
        let answer = ask(&socket, &["text"]).await?;
        ensure!(answer["text"] == "streamed", "{answer}");
        // A verb that this app has no method for.
        let answer = ask(&socket, &["text", "--method", "delete"]).await?;
        ensure!(answer["type"] == "UNIMPLEMENTED", "{answer}");
        Ok(())
    })
}

/// A package with the bridge and the probe app, unpacked.
fn bridged_package(bench: &Bench) -> Result<&'static str> {
    let name = "bridged";
    let top = bench.package(name, &["dev", "tmp", "var"])?;
    let programs = [
        ("legacy-bridge", program("legacy-bridge")),
        ("probe-app", beside_native_app("probe-app")?),
    ];
    for (name, from) in programs {
        let to = top.join(name);
        std::fs::copy(from, &to)?;
        bench.give(&to)?;
    }
    Ok(name)
}

/// By which the probe app says what it received.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The text of an answer as JSON.
fn json(answer: &Value) -> Result<Value> {
    let text = answer["text"].as_str().with_context(|| format!("no text: {answer}"))?;
    serde_json::from_str(text).with_context(|| text.to_owned())
}

async fn through_the_bridge(socket: &Path, scratch: &Path) -> Result<()> {
    let asked = ["echo?x=a%2Fb", "--cookie", "s=1", "--header", "x-csrf-token=q"];
    let answer = ask(socket, &asked).await?;
    ensure!(answer["status"] == 200, "{answer}");
    // The request as the web server saw it.
    let head = json(&answer)?["raw"].as_str().context("raw")?.to_lowercase();
    for line in [
        "get /echo?x=a%2fb http/1.1\r\n",
        "\r\nhost: ui-test.localhost:3000\r\n",
        "\r\nx-sandstorm-username: ada%20lovelace\r\n",
        "\r\nx-sandstorm-user-id: 000102030405060708090a0b0c0d0e0f\r\n",
        "\r\nx-sandstorm-tab-id: 000102030405060708090a0b0c0d0e0f\r\n",
        "\r\nuser-agent: independent\r\n",
        "\r\ncookie: s=1\r\n",
        "\r\nx-csrf-token: q\r\n",
    ] {
        ensure!(head.contains(line), "{line:?} is not in {head:?}");
    }

    // A body beyond every buffer, in pieces and at once.
    let body: Vec<u8> =
        (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = scratch.join("body");
    std::fs::write(&file, &body)?;
    let at_file = format!("@{}", file.display());
    for extra in [&["--stream"][..], &[]] {
        let mut args = vec!["upload", "--method", "post", "--body", &at_file];
        args.extend(extra);
        let answer = ask(socket, &args).await?;
        ensure!(answer["status"] == 200, "{answer}");
        let got = &json(&answer)?["body"];
        ensure!(got["bytes"] == body.len() && got["complete"] == true, "{extra:?}: {got:.200}");
        ensure!(got["hash"] == format!("{:016x}", fnv1a(&body)), "{extra:?}: {}", got["hash"]);
    }

    // A file comes in pieces, and a range of it by the header that only our ends carry.
    let answer = ask(socket, &["file?size=500000"]).await?;
    ensure!(answer["status"] == 200 && answer["streamed"] == true, "{answer:.300}");
    ensure!(answer["expectedSize"] == 500_000, "{answer:.300}");
    let answer = ask(socket, &["file?size=5000", "--header", "range=bytes=1000-1999"]).await?;
    ensure!(answer["status"] == 206, "{answer}");
    let headers = answer["headers"].to_string();
    ensure!(headers.contains("bytes 1000-1999/5000"), "{headers}");

    // HEAD has no body, a missing page is a client's error.
    let answer = ask(socket, &["file?size=5000", "--method", "head"]).await?;
    ensure!(answer["status"] == 200 && answer["text"].as_str() == Some(""), "{answer}");
    let answer = ask(socket, &["run/nothing-here"]).await?;
    ensure!(answer["kind"] == "clientError" && answer["status"] == 404, "{answer}");
    ensure!(answer["mimeType"] == "text/plain" && answer["text"] == "no such script", "{answer}");
    Ok(())
}

fn a_web_server_behind_the_bridge(mode: Mode) -> Result<()> {
    let Some(bench) = Bench::new(mode)? else { return Ok(()) };
    let package = bridged_package(&bench)?;
    let command = ["/legacy-bridge", "127.0.0.1:8000", "/probe-app", "127.0.0.1:8000"];
    let grain = bench.start_app(&["--new"], package, GRAIN, &command)?;
    let scratch = tempfile::tempdir()?;
    let talked = wait(through_the_bridge(&grain.grain_dir.join("socket"), scratch.path()));
    talked.with_context(|| format!("the grain's log:\n{}", grain.log()))
}

mod setuid {
    use super::*;

    #[test]
    fn rpc() -> Result<()> {
        an_app_that_speaks_rpc(Mode::Setuid)
    }

    #[test]
    fn bridge() -> Result<()> {
        a_web_server_behind_the_bridge(Mode::Setuid)
    }
}

mod userns {
    use super::*;

    #[test]
    fn rpc() -> Result<()> {
        an_app_that_speaks_rpc(Mode::UserNamespace)
    }

    #[test]
    fn bridge() -> Result<()> {
        a_web_server_behind_the_bridge(Mode::UserNamespace)
    }
}
