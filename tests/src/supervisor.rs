//! A supervisor without a shell: one grain of the tiny native app, and its socket.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::grain_capnp::ui_view;
use sandstorm_schema::rpc::connect::{self, Trust, Vat};
use sandstorm_schema::supervisor_capnp::supervisor;
use sandstorm_schema::web_session_capnp::web_session;

use crate::{Installation, Mode, eventually, processes};

/// The package that `Bench` makes: /app, and the usual empty directories.
pub const PACKAGE: &str = "native";
/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A home with the native app unpacked, and a user who may run the supervisor there.
pub struct Bench {
    pub installation: Installation,
}

/// What ended a supervisor that did not get as far as `Listening...`.
#[derive(Debug)]
pub struct Refusal {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Bench {
    /// `None` when this machine cannot (announced).
    pub fn new(mode: Mode) -> Result<Option<Bench>> {
        let Some(installation) = Installation::new(mode)? else {
            return Ok(None);
        };
        let bench = Bench { installation };
        for dir in ["apps", "grains"] {
            let dir = bench.home().join(dir);
            if !dir.exists() {
                fs::create_dir(&dir)?;
            }
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            bench.give(&dir)?;
        }
        bench.package(PACKAGE, &["dev", "tmp", "var"])?;
        Ok(Some(bench))
    }

    pub fn home(&self) -> PathBuf {
        self.installation.home()
    }

    /// Makes a package of the native app with these empty directories.
    pub fn package(&self, name: &str, dirs: &[&str]) -> Result<PathBuf> {
        let top = self.home().join("apps").join(name);
        fs::create_dir(&top)?;
        self.give(&top)?;
        for dir in dirs {
            fs::create_dir(top.join(dir))?;
            self.give(&top.join(dir))?;
        }
        let app = top.join("app");
        fs::copy(native_app()?, &app)?;
        fs::set_permissions(&app, fs::Permissions::from_mode(0o755))?;
        self.give(&app)?;
        Ok(top)
    }

    /// Makes the installation's user the owner.
    pub fn give(&self, path: &Path) -> Result<()> {
        chown(path, Some(self.installation.uid), Some(self.installation.gid))
            .with_context(|| format!("chown {}", path.display()))
    }

    /// The command line of the contract; options before the names, then the app's command.
    pub fn command(&self, options: &[&str], package: &str, grain: &str, app: &[&str]) -> Command {
        let mut command = self.installation.command("sandstorm-supervisor");
        command
            .arg("--home")
            .arg(self.home())
            .args(options)
            .args([package, grain, "--"])
            .args(app)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts the native app's grain and waits for `Listening...`.
    pub fn start(&self, options: &[&str], grain: &str) -> Result<Running> {
        self.start_app(options, PACKAGE, grain, &["/app"])
    }

    /// The same with another package and command.
    pub fn start_app(
        &self,
        options: &[&str],
        package: &str,
        grain: &str,
        app: &[&str],
    ) -> Result<Running> {
        let child = self.command(options, package, grain, app).spawn()?;
        Running::wait(child, self.installation.grain_dir(grain))
    }

    /// Runs to the end and expects a refusal.
    pub fn refused(&self, options: &[&str], package: &str, grain: &str) -> Result<Refusal> {
        let done = self.command(options, package, grain, &["/app"]).output()?;
        ensure!(!done.status.success(), "it was not refused");
        Ok(Refusal {
            status: done.status.code(),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }
}

/// The tiny app's program, as cargo built it beside this test.
pub fn native_app() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    for dir in exe.ancestors().skip(1).take(3) {
        let app = dir.join("native-app");
        if app.is_file() {
            return Ok(app);
        }
    }
    bail!("native-app is not built: cargo build --release -p native-app")
}

/// A running supervisor.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    stdout: BufReader<ChildStdout>,
    pub grain_dir: PathBuf,
}

impl Running {
    pub fn wait(mut child: Child, grain_dir: PathBuf) -> Result<Running> {
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        if line != "Listening...\n" {
            let mut stderr = String::new();
            if let Some(mut pipe) = child.stderr.take() {
                pipe.read_to_string(&mut stderr)?;
            }
            let status = child.wait()?;
            bail!("no `Listening...` but {line:?}, {status}: {stderr}");
        }
        Ok(Running { child, stdout, grain_dir })
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whatever it printed after the first line, up to its end.
    pub fn rest_of_stdout(&mut self) -> Result<String> {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        Ok(rest)
    }

    /// Its exit status, once it has ended; an error when it does not within `limit`.
    pub fn exit_within(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let child = &mut self.child;
        eventually("the supervisor's end", limit, || child.try_wait().ok().flatten())
    }

    /// The grain's log.
    pub fn log(&self) -> String {
        fs::read(self.grain_dir.join("log"))
            .map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b).into_owned())
    }

    /// pid 1 of the grain and all processes in its pid namespace.
    pub fn inside(&self) -> Vec<processes::Process> {
        let all = processes::all();
        let Some(init) = all.iter().find(|p| p.parent == self.pid()) else {
            return Vec::new();
        };
        let namespace = init.pid_namespace;
        all.into_iter().filter(|p| p.pid_namespace == namespace && namespace != 0).collect()
    }

    /// A connection to its socket. Inside a `LocalSet`.
    pub async fn connect(&self) -> Result<Connection> {
        let dir = fs::File::open(&self.grain_dir)?;
        let stream = connect::connect_at(dir.as_fd(), "socket").await?;
        let vat = Vat::spawn(stream, Side::Client, None, Trust::Peer);
        Ok(Connection { supervisor: vat.bootstrap(), vat })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to a supervisor.
pub struct Connection {
    pub supervisor: supervisor::Client,
    pub vat: Vat,
}

impl Connection {
    /// `keepAlive` without a core.
    pub async fn keep_alive(&self) -> Result<()> {
        within(self.supervisor.keep_alive_request().send().promise).await?;
        Ok(())
    }

    /// The grain's main view (starts the app).
    pub async fn view(&self) -> Result<ui_view::Client> {
        let response = within(self.supervisor.get_main_view_request().send().promise).await?;
        Ok(response.get()?.get_view()?)
    }

    /// One of the native app's objects, by its id and, perhaps, a token's bytes.
    pub async fn restore(&self, id: &str, token: &[u8]) -> Result<capnp::capability::Client> {
        let mut request = self.supervisor.restore_request();
        request.get().init_ref().init_app_ref().set_as(id)?;
        request.get().set_parent_token(token);
        let response = within(request.send().promise).await?;
        Ok(response.get()?.get_cap().get_as_capability()?)
    }

    /// A session of a person of this name with both of the native app's permissions.
    pub async fn session(&self, name: &str) -> Result<Session> {
        let view = self.view().await?;
        let mut request = view.new_session_request();
        let mut params = request.get();
        let mut user = params.reborrow().init_user_info();
        user.reborrow().init_display_name().set_default_text(name);
        user.set_identity_id(&[0xab; 16]);
        let mut permissions = user.init_permissions(2);
        permissions.set(0, true);
        permissions.set(1, true);
        params.set_session_type(<web_session::Client as capnp::traits::HasTypeId>::TYPE_ID);
        let response = within(request.send().promise).await?;
        let session = response.get()?.get_session()?;
        Ok(Session(capnp::capability::FromClientHook::cast_to(session)))
    }
}

/// A web session of the native app.
pub struct Session(pub web_session::Client);

impl Session {
    /// Body of a successful answer.
    pub async fn get(&self, path: &str) -> Result<String> {
        let mut request = self.0.get_request();
        request.get().set_path(path);
        request.get().init_context();
        let response = within(request.send().promise).await?;
        body(response.get()?)
    }

    /// Stores a text.
    pub async fn post(&self, text: &str) -> Result<String> {
        let mut request = self.0.post_request();
        request.get().init_context();
        let mut content = request.get().init_content();
        content.set_mime_type("text/plain");
        content.set_content(text.as_bytes());
        let response = within(request.send().promise).await?;
        body(response.get()?)
    }
}

fn body(
    response: sandstorm_schema::web_session_capnp::web_session::response::Reader<'_>,
) -> Result<String> {
    use sandstorm_schema::web_session_capnp::web_session::response::{Which, content::body};
    match response.which()? {
        Which::Content(content) => match content.get_body().which()? {
            body::Which::Bytes(bytes) => Ok(String::from_utf8_lossy(bytes?).into_owned()),
            body::Which::Stream(_) => bail!("the native app does not stream"),
        },
        Which::ClientError(_) => bail!("client error"),
        _ => bail!("another kind of answer"),
    }
}

/// No call of a test takes longer.
pub async fn within<T>(call: impl Future<Output = Result<T, capnp::Error>>) -> Result<T> {
    Ok(tokio::time::timeout(START, call).await.context("no answer in time")??)
}

/// Runs a test's async part on one thread, as capabilities want it.
pub fn on_one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// What a shell would offer to a supervisor, recording what is asked of it.
#[derive(Default)]
pub struct FakeCore {
    pub sizes: std::cell::RefCell<Vec<u64>>,
    /// Notifications that are being shown now, by their captions.
    pub shown: std::rc::Rc<std::cell::RefCell<Vec<String>>>,
    /// The newest notification, as the owner could cancel it.
    pub notification: std::rc::Rc<
        std::cell::RefCell<Option<sandstorm_schema::activity_capnp::ongoing_notification::Client>>,
    >,
    /// Object ids (texts, as the native app uses) for which tokens were made.
    pub saved: std::cell::RefCell<Vec<String>>,
}

/// Shares a `FakeCore` between the test and the connection.
pub struct Core(pub std::rc::Rc<FakeCore>);

mod core_impl {
    use std::cell::RefCell;
    use std::rc::Rc;

    use capnp::Error;
    use sandstorm_schema::activity_capnp::notification_target;
    use sandstorm_schema::supervisor_capnp::{sandstorm_core, supervisor_object_id};
    use sandstorm_schema::util_capnp::handle;

    impl sandstorm_core::Server for super::Core {
        async fn report_grain_size(
            self: Rc<Self>,
            params: sandstorm_core::ReportGrainSizeParams,
            _: sandstorm_core::ReportGrainSizeResults,
        ) -> Result<(), Error> {
            self.0.sizes.borrow_mut().push(params.get()?.get_bytes());
            Ok(())
        }

        async fn make_token(
            self: Rc<Self>,
            params: sandstorm_core::MakeTokenParams,
            mut results: sandstorm_core::MakeTokenResults,
        ) -> Result<(), Error> {
            let id = match params.get()?.get_ref()?.which()? {
                supervisor_object_id::AppRef(id) => {
                    id?.get_as::<capnp::text::Reader<'_>>()?.to_string()?
                }
                supervisor_object_id::WakeLockNotification(n) => format!("wake lock {n}"),
            };
            results.get().set_token(format!("token of {id}").as_bytes());
            self.0.saved.borrow_mut().push(id);
            Ok(())
        }

        async fn make_child_token(
            self: Rc<Self>,
            params: sandstorm_core::MakeChildTokenParams,
            mut results: sandstorm_core::MakeChildTokenResults,
        ) -> Result<(), Error> {
            let parent = String::from_utf8_lossy(params.get()?.get_parent()?).into_owned();
            results.get().set_token(format!("child of {parent}").as_bytes());
            Ok(())
        }

        async fn get_owner_notification_target(
            self: Rc<Self>,
            _: sandstorm_core::GetOwnerNotificationTargetParams,
            mut results: sandstorm_core::GetOwnerNotificationTargetResults,
        ) -> Result<(), Error> {
            results.get().set_owner(capnp_rpc::new_client(Target(self.0.clone())));
            Ok(())
        }
    }

    struct Target(Rc<super::FakeCore>);

    impl notification_target::Server for Target {
        async fn add_ongoing(
            self: Rc<Self>,
            params: notification_target::AddOngoingParams,
            mut results: notification_target::AddOngoingResults,
        ) -> Result<(), Error> {
            let params = params.get()?;
            let caption =
                params.get_display_info()?.get_caption()?.get_default_text()?.to_string()?;
            self.0.shown.borrow_mut().push(caption.clone());
            *self.0.notification.borrow_mut() = Some(params.get_notification()?);
            results
                .get()
                .set_handle(capnp_rpc::new_client(Shown { caption, list: self.0.shown.clone() }));
            Ok(())
        }
    }

    struct Shown {
        caption: String,
        list: Rc<RefCell<Vec<String>>>,
    }

    impl handle::Server for Shown {}

    impl Drop for Shown {
        fn drop(&mut self) {
            self.list.borrow_mut().retain(|c| *c != self.caption);
        }
    }
}

impl Connection {
    /// Hands a core over, as the shell does with `keepAlive`.
    pub async fn give_core(&self, core: &std::rc::Rc<FakeCore>) -> Result<()> {
        let mut request = self.supervisor.keep_alive_request();
        request.get().set_core(capnp_rpc::new_client(Core(core.clone())));
        within(request.send().promise).await?;
        Ok(())
    }
}
