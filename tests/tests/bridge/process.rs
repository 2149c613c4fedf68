//! Start, configuration, end: the bridge as a process.

use std::process::{Command, Stdio};
use std::time::Duration;

use sandstorm_schema::api_session_capnp::api_session;
use sandstorm_schema::grain_capnp::ui_view;
use sandstorm_schema::hack_session_capnp::hack_email_session;
use sandstorm_schema::package_capnp::bridge_config;
use sandstorm_schema::web_session_capnp::web_session::response;
use sandstorm_tests::server::free_port;

use crate::client::{Session, WEB_SESSION, open};
use crate::grain::{Grain, Setup, into_chroot, program, story};

fn config(fill: impl FnOnce(bridge_config::Builder<'_>)) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    fill(message.init_root());
    capnp::serialize::write_message_to_words(&message)
}

fn with_permissions(config: bridge_config::Builder<'_>, api_path: &str) {
    let mut config = config;
    config.set_api_path(api_path);
    let mut info = config.init_view_info();
    info.reborrow().init_app_title().set_default_text("The Probe");
    let mut permissions = info.init_permissions(2);
    permissions.reborrow().get(0).set_name("view");
    permissions.reborrow().get(1).set_name("edit");
}

#[test]
fn both_command_lines_serve() {
    story(async {
        for (todays_form, name) in
            [(false, "legacy-bridge"), (true, "legacy-bridge"), (true, "sandstorm-http-bridge")]
        {
            let setup = Setup { todays_form, name, ..Setup::default() };
            let grain = Grain::with(setup, &[]);
            assert_eq!(grain.session().await.get("echo").await.status, 200);
            let warned = grain.log().contains("going on without permissions");
            assert_eq!(warned, name == "sandstorm-http-bridge", "{}", grain.log());
        }
    });
}

#[test]
fn a_command_without_a_slash_is_found_in_path() {
    story(async {
        let port = free_port().unwrap();
        let command = vec!["probe-app".into(), format!("127.0.0.1:{port}")];
        let grain = Grain::spawn(Setup { command, ..Setup::default() }, port);
        assert_eq!(grain.session().await.get("echo").await.status, 200);
    });
}

/// Node's `listen(port, "localhost")` ends up there.
#[test]
fn an_app_on_the_other_loopback_is_found() {
    story(async {
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            sandstorm_tests::skip::announce(
                "an_app_on_the_other_loopback_is_found",
                "this machine has no ::1",
            );
            return;
        }
        let grain = Grain::on("[::1]", Setup::default(), &[]);
        assert_eq!(grain.session().await.get("echo").await.status, 200);
        grain.wait_for_log("not on 127.0.0.1").await;
    });
}

#[test]
fn requests_wait_for_a_slow_start() {
    story(async {
        let grain = Grain::with(Setup::default(), &["--listen-after", "1500"]);
        let begin = std::time::Instant::now();
        // The session itself is there at once.
        let session = grain.session().await;
        assert!(begin.elapsed() < Duration::from_millis(1000));
        assert_eq!(session.get("echo").await.status, 200);
        assert!(begin.elapsed() >= Duration::from_millis(1400));
    });
}

#[test]
fn an_app_that_never_listens_ends_the_grain_with_a_reason() {
    story(async {
        let setup =
            Setup { options: vec!["--start-timeout".into(), "1".into()], ..Setup::default() };
        let mut grain = Grain::with(setup, &["--listen-after", "100000"]);
        assert_eq!(grain.wait().await.code(), Some(1));
        let log = grain.wait_for_log("did not accept connections").await;
        assert!(log.contains("** HTTP-BRIDGE: "), "{log}");
        assert!(log.contains("--start-timeout"), "{log}");
    });
}

#[test]
fn the_apps_end_is_the_bridges_and_the_log_says_why() {
    story(async {
        let mut grain = Grain::start().await;
        let session = grain.session().await;
        assert_eq!(session.get("echo").await.status, 200);
        let _ = session.try_get("exit?code=3", |_| {}).await;
        assert_eq!(grain.wait().await.code(), Some(3));
        grain.wait_for_log("** HTTP-BRIDGE: the app exited with status 3\n").await;

        let mut grain = Grain::start().await;
        let session = grain.session().await;
        assert_eq!(session.get("echo").await.status, 200);
        let _ = session.try_get("exit?code=0", |_| {}).await;
        assert_eq!(grain.wait().await.code(), Some(1));
        grain.wait_for_log("status 0 (it must stay in the foreground").await;

        let mut grain = Grain::start().await;
        grain.session().await.get("echo").await;
        let children = format!("/proc/{0}/task/{0}/children", grain.child.id());
        let app: i32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        let app = nix::unistd::Pid::from_raw(app);
        nix::sys::signal::kill(app, nix::sys::signal::Signal::SIGKILL).unwrap();
        assert_eq!(grain.wait().await.code(), Some(137));
        grain.wait_for_log("the app was killed by signal 9 (SIGKILL)").await;
    });
}

#[test]
fn a_program_that_cannot_start_is_named() {
    story(async {
        for (command, words) in [
            ("/no/such/program", "there is no such file"),
            ("nowhere", "in no directory of PATH (/)"),
            ("/var", "not executable"),
        ] {
            let setup = Setup { command: vec![command.into()], ..Setup::default() };
            let mut grain = Grain::spawn(setup, free_port().unwrap());
            assert_eq!(grain.wait().await.code(), Some(127), "{command}");
            let log = grain.wait_for_log(words).await;
            assert!(log.contains(&format!("cannot start {command:?}")), "{log}");
        }
    });
}

#[test]
fn the_supervisors_end_is_the_bridges_and_the_apps() {
    story(async {
        let mut grain = Grain::start().await;
        grain.session().await.get("echo").await;
        grain.hang_up().await;
        assert_eq!(grain.wait().await.code(), Some(0));
        assert!(
            std::net::TcpStream::connect(("127.0.0.1", grain.port)).is_err(),
            "the app lives on"
        );
    });
}

#[test]
fn the_app_inherits_nothing_of_the_bridge() {
    story(async {
        let grain = Grain::start().await;
        grain.session().await.get("echo").await;
        let children = format!("/proc/{0}/task/{0}/children", grain.child.id());
        let app = std::fs::read_to_string(children).unwrap().trim().to_owned();
        let mut fds: Vec<String> = std::fs::read_dir(format!("/proc/{app}/fd"))
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| std::fs::read_link(e.path()).unwrap().display().to_string())
            .filter(|target| !target.starts_with("/dev/null") && !target.starts_with("pipe:"))
            .collect();
        fds.sort();
        // stdout is the test's own; the rest are the app's listener and connections, none of
        // them a Unix socket like fd 3.
        let unix = std::fs::read_to_string("/proc/net/unix").unwrap();
        for fd in fds.iter().filter_map(|f| f.strip_prefix("socket:[")?.strip_suffix(']')) {
            let known = unix.lines().any(|l| l.split_whitespace().nth(6) == Some(fd));
            assert!(!known, "the app holds a Unix socket");
        }
        let status = std::fs::read_to_string(format!("/proc/{app}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|l| l.starts_with(name)).unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        assert_eq!(field("SigBlk:"), 0);
    });
}

/// Rust's runtime ignores SIGPIPE in the bridge, and exec hands that on; the probe's own runtime
/// would hide it. So a program in C is looked at: with the signal ignored, its pipes never end.
#[test]
fn the_app_is_killed_by_a_broken_pipe_as_everywhere() {
    story(async {
        let busybox = std::path::Path::new("/bin/busybox");
        if !busybox.exists() {
            sandstorm_tests::skip::announce(
                "the_app_is_killed_by_a_broken_pipe_as_everywhere",
                "busybox-static is not installed",
            );
            return;
        }
        let command = ["/busybox", "sleep", "60"].map(str::to_owned).to_vec();
        let files = vec![busybox.to_owned()];
        let grain =
            Grain::spawn(Setup { command, files, ..Setup::default() }, free_port().unwrap());
        let children = format!("/proc/{0}/task/{0}/children", grain.child.id());
        // Between fork and exec it is still the bridge.
        let status = loop {
            let app = std::fs::read_to_string(&children).unwrap_or_default();
            let status = std::fs::read_to_string(format!("/proc/{}/status", app.trim()));
            match status {
                Ok(status) if status.starts_with("Name:\tbusybox\n") => break status,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        for (field, signals) in [("SigIgn:", 1 << (libc::SIGPIPE - 1)), ("SigBlk:", u64::MAX)] {
            let line = status.lines().find(|l| l.starts_with(field)).unwrap();
            let set = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            assert_eq!(set & signals, 0, "{line}");
        }
    });
}

#[test]
fn todays_configuration_is_honoured() {
    story(async {
        let bytes = config(|c| with_permissions(c, "/api/v1/"));
        let setup = Setup {
            todays_form: true,
            name: "sandstorm-http-bridge",
            config: Some(bytes),
            ..Setup::default()
        };
        let grain = Grain::with(setup, &[]);
        let view: ui_view::Client =
            capnp::capability::FromClientHook::new(grain.view().client.hook.add_ref());
        let info = view.get_view_info_request().send().promise.await.unwrap();
        let info = info.get().unwrap();
        assert_eq!(info.get_app_title().unwrap().get_default_text().unwrap(), "The Probe");
        assert_eq!(info.get_permissions().unwrap().get(1).get_name().unwrap(), "edit");

        // Bits by name, in declared order; Ada has the first and a third that nobody knows.
        let request = grain.session().await.get("echo").await.json().await;
        let text = request["raw"].as_str().unwrap().to_owned();
        assert!(text.contains("X-Sandstorm-Permissions: view\r\n"), "{text}");

        // A program with a token finds the API's root.
        let type_id = <api_session::Client as capnp::traits::HasTypeId>::TYPE_ID;
        let web = open(&grain.view(), type_id, |params| {
            let mut params: api_session::params::Builder<'_> =
                params.init_session_params().init_as();
            let mut address = params.reborrow().init_remote_address();
            address.set_lower64(0xffff_0102_0304);
        })
        .await
        .unwrap();
        let api = Session { web };
        let request = api.get("things?x=1").await.json().await;
        assert_eq!(request["target"], "/api/v1/things?x=1");
        let text = request["raw"].as_str().unwrap().to_owned();
        assert!(text.contains("X-Real-IP: 1.2.3.4\r\n"), "{text}");
        assert!(text.contains("Host: sandbox\r\n"), "{text}");
        assert!(text.contains("X-Sandstorm-Username: Anonymous%20User\r\n"), "{text}");
        for absent in ["Cookie", "Base-Path", "User-Id", "Forwarded"] {
            assert!(!text.contains(absent), "{absent} in {text}");
        }
        // And nothing else of the app.
        let before = grain.probe("/last").to_string();
        for path in ["../v2/things", "%2e%2e/", "a/..%2f..%2fadmin", "x/../../../", ".."] {
            let mut refused = api.get(path).await;
            assert_eq!(refused.status, 400, "{path}");
            assert!(refused.html.take().unwrap().contains("out of the app"), "{path}");
            assert_eq!(api.post(path, "text/plain", b"x").await.status, 400, "{path}");
            assert!(api.request("DELETE", path, b"").await.status == 400, "{path}");
            let mut call = api.web.move_request();
            call.get().set_path("things");
            call.get().set_destination(path);
            let answer = call.send().promise.await.unwrap();
            assert!(
                matches!(answer.get().unwrap().which(), Ok(response::ClientError(_))),
                "{path}"
            );
            let mut call = api.web.put_streaming_request();
            call.get().set_path(path);
            let upload = call.send().promise.await;
            assert!(upload.is_err(), "{path}");
        }
        assert_eq!(grain.probe("/last").to_string(), before, "the app was asked");
        assert_eq!(
            api.get("a/./b?back=../..").await.json().await["target"],
            "/api/v1/a/./b?back=../.."
        );
    });
}

/// Failing requests cost a few lines, and a count of the others.
#[test]
fn many_failures_are_few_lines() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for _ in 0..40 {
            assert_eq!(session.run("w nonsense\\r\\n\\r\\n").await.status, 502);
        }
        let log = grain.wait_for_log("37 more lines like this in 10 s: 502").await;
        assert_eq!(log.matches("; the browser gets 502").count(), 3, "{log}");
        assert_eq!(session.run("w nonsense\\r\\n\\r\\n").await.status, 502);
        for _ in 0..100 {
            if grain.log().matches("; the browser gets 502").count() == 4 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nothing is told any more: {}", grain.log());
    });
}

#[test]
fn without_configuration_there_is_no_api_and_never_mail() {
    story(async {
        let grain = Grain::start().await;
        let api = <api_session::Client as capnp::traits::HasTypeId>::TYPE_ID;
        let mail = <hack_email_session::Client as capnp::traits::HasTypeId>::TYPE_ID;
        for (type_id, words) in [(api, "apiPath"), (mail, "e-mail"), (7, "0x7")] {
            let error = open(&grain.view(), type_id, |_| {}).await.err().unwrap();
            assert_eq!(error.kind, capnp::ErrorKind::Unimplemented);
            assert!(error.extra.contains(words), "{error}");
        }
    });
}

#[test]
fn a_session_without_a_name_or_an_address() {
    story(async {
        let grain = Grain::start().await;
        let web = open(&grain.view(), WEB_SESSION, |_| {}).await.unwrap();
        let request = Session { web }.get("echo").await.json().await;
        let text = request["raw"].as_str().unwrap();
        assert!(text.contains("Host: sandbox\r\n"), "{text}");
        assert!(text.contains("X-Sandstorm-Username: Anonymous%20User\r\n"), "{text}");
        assert!(!text.contains("Base-Path") && !text.contains("User-Agent"), "{text}");
    });
}

#[test]
fn bad_configurations_end_the_start_with_a_sentence() {
    story(async {
        let good = config(|c| with_permissions(c, "/api/"));
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (b"{\"viewInfo\": {}}".to_vec(), "sandstorm-http-bridge-config"),
            (good[..good.len() / 2].to_vec(), "sandstorm-http-bridge-config"),
            ([good.clone(), vec![0; 8]].concat(), "bytes after the message"),
            (config(|c| with_permissions(c, "api")), "begin and end with a slash"),
            (
                config(|c| {
                    let mut p = c.init_view_info().init_permissions(1);
                    p.reborrow().get(0).set_name("a,b");
                }),
                "commas",
            ),
        ];
        for (bytes, words) in cases {
            let setup = Setup { config: Some(bytes), ..Setup::default() };
            let mut grain = Grain::with(setup, &[]);
            assert_eq!(grain.wait().await.code(), Some(1));
            grain.wait_for_log(words).await;
        }
        let ignored = config(|mut c| {
            c.set_expect_app_hooks(true);
            c.set_save_identity_caps(true);
        });
        let grain = Grain::with(Setup { config: Some(ignored), ..Setup::default() }, &[]);
        grain.session().await.get("echo").await;
        let log = grain.wait_for_log("not supported yet and ignored").await;
        assert!(log.contains("expectAppHooks, saveIdentityCaps"), "{log}");
    });
}

#[test]
fn help_and_misuse() {
    let run = |args: &[&str]| {
        let out = Command::new(program("legacy-bridge"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("Examples:") && out.lines().all(|l| l.len() <= 80), "{out}");
    // Nobody reads it, or nobody can: neither is a panic.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let help = Command::new(program("legacy-bridge")).arg("--help").stdout(full).output().unwrap();
    assert_eq!((help.status.code(), &*help.stderr), (Some(1), &b""[..]));
    let (code, _, err) = run(&["8000", "server"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("8000 -- COMMAND"), "{err}");

    // Started by hand, without the supervisor.
    let root = tempfile::tempdir().unwrap();
    std::fs::copy(program("legacy-bridge"), root.path().join("b")).unwrap();
    let mut command = Command::new("/b");
    command.args(["127.0.0.1:1", "/b"]);
    into_chroot(&mut command, root.path(), None);
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(err.contains("fd 3 is not a socket") && err.contains("supervisor"), "{err}");
}

/// The goal is 2 MB.
#[test]
fn an_idle_bridge_is_small() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for _ in 0..20 {
            session.get("echo").await;
        }
        let busy = grain.memory_kib();
        tokio::time::sleep(Duration::from_millis(5700)).await;
        let idle = grain.memory_kib();
        println!("a bridge takes {busy} KiB after a few requests, {idle} KiB when idle");
        assert!(idle < 2 * 1024, "an idle bridge takes {idle} KiB");
        // It works on afterwards.
        assert_eq!(session.get("echo").await.status, 200);
    });
}
