//! Attacks from inside a grain, in both modes, and the same attacks outside: a refusal counts only
//! where the attack would otherwise succeed, or where the row says that it was not shown here.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::rpc::connect::{Trust, Vat};
use sandstorm_schema::supervisor_capnp::supervisor;
use sandstorm_tests::{Installation, Mode, built, eventually, top};

/// One line of `hostile-app list`.
struct Row {
    layer: String,
    tries: String,
    /// `off LAYER…` or `none WHY`.
    proof: String,
}

/// What an attempt came to: verdict and detail, by the attack's name.
type Answers = BTreeMap<String, (String, String)>;

const PACKAGE: &str = "0123456789abcdef0123456789abcdef";
const GRAIN: &str = "hostilegrain2222222222";

fn program() -> PathBuf {
    built::beside("hostile-app")
}

fn table() -> Result<BTreeMap<String, Row>> {
    let listed =
        Command::new(program()).arg("list").output().context("hostile-app is not built")?;
    let text = String::from_utf8(listed.stdout)?;
    text.lines()
        .map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut next = || fields.next().context("a short line");
            let (name, layer, _bare, tries) = (next()?, next()?, next()?, next()?);
            Ok((name, Row { layer, tries, proof: next()? }))
        })
        .collect()
}

fn parse(output: &str) -> Answers {
    output
        .lines()
        .filter_map(|line| {
            // The log may put a prefix in front of a line.
            let mut fields = line[line.find("ATTACK\t")?..].splitn(4, '\t').skip(1);
            let name = fields.next()?.to_owned();
            Some((name, (fields.next()?.to_owned(), fields.next().unwrap_or("").to_owned())))
        })
        .collect()
}

/// Things of the host that the attacks look for; they live as long as this value.
struct Outside {
    tcp: std::net::TcpListener,
    _abstract_socket: std::os::unix::net::UnixListener,
    abstract_name: String,
    shm: i32,
    key: i32,
}

impl Outside {
    fn new() -> Result<Self> {
        use std::os::linux::net::SocketAddrExt;
        let abstract_name =
            format!("hostile-{}-{:?}", std::process::id(), std::thread::current().id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name)?;
        let key = 0x5a00_0000 | (std::process::id() as i32 & 0xffff) << 4 | next_nibble();
        // SAFETY: makes a new segment by number; no memory of ours is touched.
        let shm = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o666) };
        ensure!(shm != -1, "no shared memory: {}", std::io::Error::last_os_error());
        Ok(Outside {
            tcp: std::net::TcpListener::bind("127.0.0.1:0")?,
            _abstract_socket: std::os::unix::net::UnixListener::bind_addr(&address)?,
            abstract_name,
            shm,
            key,
        })
    }

    fn words(&self) -> Result<Vec<String>> {
        Ok(vec![
            format!("tcp={}", self.tcp.local_addr()?.port()),
            format!("abstract={}", self.abstract_name),
            format!("shm={}", self.key),
        ])
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // SAFETY: removes our own segment by number.
        unsafe { libc::shmctl(self.shm, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// Another one for each test of this process.
fn next_nibble() -> i32 {
    static NEXT: AtomicI32 = AtomicI32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) & 15
}

/// Lays out the hostile package and the grain's place in an installation.
fn lay_out(installation: &Installation) -> Result<()> {
    let package = installation.home().join("apps").join(PACKAGE);
    for dir in ["", "dev", "tmp", "var", "proc", "sys"] {
        let path = package.join(dir);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    fs::copy(program(), package.join("hostile-app"))?;
    let done = Command::new("chown")
        .arg("-R")
        .arg(format!("{}:{}", installation.uid, installation.gid))
        .arg(installation.home().join("apps"))
        .status()?;
    ensure!(done.success());
    fs::create_dir_all(installation.home().join("grains"))?;
    std::os::unix::fs::chown(
        installation.home().join("grains"),
        Some(installation.uid),
        Some(installation.gid),
    )?;
    Ok(())
}

/// Runs attacks as a grain and returns what its log says. `off`: layers that are left out, by the
/// supervisor that can do that.
fn boxed(mode: Mode, which: &[&str], words: &[String], off: &[&str]) -> Result<Option<Answers>> {
    let Some(installation) = Installation::new(mode)? else { return Ok(None) };
    lay_out(&installation)?;
    if !off.is_empty() {
        let program = installation.program("sandstorm-supervisor");
        fs::copy(built::unsafe_supervisor()?, &program)?;
        std::os::unix::fs::chown(&program, Some(0), Some(installation.gid))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4750))?;
    }
    let mut supervisor = installation
        .command("sandstorm-supervisor")
        .arg("--home")
        .arg(installation.home())
        .args(off.iter().map(|layer| format!("--unsafe-disable={layer}")))
        .args(["--new", PACKAGE, GRAIN, "--", "/hostile-app"])
        .args(which)
        .args(words)
        .arg("hold=2")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let grain = installation.grain_dir(GRAIN);
    let log =
        || String::from_utf8_lossy(&fs::read(grain.join("log")).unwrap_or_default()).into_owned();
    eventually("the supervisor listens", Duration::from_secs(20), || {
        // The file is there a moment before anybody listens.
        std::os::unix::net::UnixStream::connect(grain.join("socket")).ok().map(drop)
    })?;
    wake(&grain.join("socket"))?;
    let done = eventually("every attack was tried", Duration::from_secs(120), || {
        log().contains("ATTACKS-DONE").then_some(())
    });
    let _ = supervisor.kill();
    let _ = supervisor.wait();
    done.with_context(|| format!("the grain's log:\n{}", log()))?;
    Ok(Some(parse(&log())))
}

/// The first call that needs the app starts it.
fn wake(socket: &std::path::Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::UnixStream::connect(socket).await?;
        let vat = Vat::spawn(stream, Side::Client, None, Trust::Peer);
        let client: supervisor::Client = vat.bootstrap();
        client.keep_alive_request().send().promise.await?;
        // The app never answers on fd 3; that it is asked is enough.
        let asked = client.get_main_view_request().send().promise;
        let _ = tokio::time::timeout(Duration::from_secs(1), asked).await;
        anyhow::Ok(())
    })
}

fn judge(mode: Mode) -> Result<()> {
    let table = table()?;
    let outside = Outside::new()?;
    let Some(inside) = boxed(mode, &["all"], &outside.words()?, &[])? else { return Ok(()) };
    let mut broke_out = Vec::new();
    for (name, row) in &table {
        let (verdict, detail) =
            inside.get(name).with_context(|| format!("{name} was not tried"))?;
        println!("{mode:?} {name}: {verdict} ({detail})");
        if !matches!(verdict.as_str(), "refused" | "killed") {
            broke_out.push(format!("{name} ({}; {}): {verdict}: {detail}", row.tries, row.layer));
        }
    }
    ensure!(broke_out.is_empty(), "these got out:\n{}", broke_out.join("\n"));
    Ok(())
}

/// How a kernel answers that does not know what is attacked: EAFNOSUPPORT, EPROTONOSUPPORT,
/// ESOCKTNOSUPPORT, ENOSYS.
const LACKING: &[&str] = &["(os error 97)", "(os error 93)", "(os error 94)", "(os error 38)"];

/// Every attack succeeds outside the sandbox, or inside without the layers that its row names, or
/// its row says why that is not shown: no refusal above is for the wrong reason.
#[test]
fn attacks_succeed_without_what_stops_them() -> Result<()> {
    let table = table()?;
    let outside = Outside::new()?;
    let words = outside.words()?;
    let bare_run = Command::new(program()).arg("all").arg("bare=1").args(&words).output()?;
    let bare = parse(&String::from_utf8_lossy(&bare_run.stdout));
    let succeeds =
        |answers: &Answers, name: &str| answers.get(name).is_some_and(|(v, _)| v == "succeeded");

    // One run for each set of layers.
    let mut sets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, row) in &table {
        if let Some(layers) = row.proof.strip_prefix("off ") {
            sets.entry(layers).or_default().push(name);
        }
    }
    let mut without = Answers::new();
    for (layers, names) in &sets {
        let off: Vec<_> = layers.split(' ').collect();
        let names = names.join(",");
        let Some(answers) = boxed(Mode::Setuid, &["some", &names], &words, &off)? else {
            return Ok(());
        };
        without.extend(answers);
    }
    let (mut by_layer, mut by_bare, mut none, mut wrong) = (0, 0, Vec::new(), Vec::new());
    for (name, row) in &table {
        if succeeds(&without, name) {
            by_layer += 1;
        } else if succeeds(&bare, name) {
            by_bare += 1;
            println!("{name}: only outside ({}: {:?})", row.proof, without.get(name));
        } else if without.get(name).is_some_and(|(_, why)| LACKING.iter().any(|e| why.contains(e)))
        {
            none.push(format!("{name}: no proof here: this kernel has no such thing"));
        } else if let Some(why) = row.proof.strip_prefix("none ") {
            none.push(format!("{name}: no proof here: {why}"));
        } else {
            wrong.push(format!("{name}: {} and yet {:?}", row.proof, without.get(name)));
        }
    }
    println!("{}", none.join("\n"));
    println!(
        "{} attacks: {by_layer} succeed without the layer that stops them, {by_bare} more outside, \
         {} without a proof here",
        table.len(),
        none.len()
    );
    ensure!(wrong.is_empty(), "these fail for another reason:\n{}", wrong.join("\n"));
    Ok(())
}

/// The page counts the attacks, and what each comes to on two kernels: a new one changes it too.
#[test]
fn the_page_counts_every_attack() -> Result<()> {
    let attacks = table()?.len();
    let page = fs::read_to_string(top().join("docs/security.md"))?.replace('\n', " ");
    let mut rest = page.as_str();
    let mut number_after = |words: &str| -> Result<usize> {
        let at = rest.find(words).with_context(|| format!("no \"{words}\" in its place"))?;
        rest = &rest[at + words.len()..];
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().with_context(|| format!("no number after \"{words}\""))
    };
    let all = number_after("`tests/tests/hostile.rs` runs all ")?;
    ensure!(all == attacks, "{attacks} attacks, {all} on the page");
    for [alone, outside, unproven] in [
        ["there it must succeed (", "was written; ", "For the other "],
        ["to the error number; ", "without their layer and ", "of the other "],
    ] {
        let sum = number_after(alone)? + number_after(outside)? + number_after(unproven)?;
        ensure!(sum == attacks, "{attacks} attacks, {sum} from \"{alone}\" on");
    }
    Ok(())
}

/// What the tests may leave out, nobody else can.
#[test]
fn the_real_program_does_not_know_the_flag() -> Result<()> {
    let real = sandstorm_tests::program("sandstorm-supervisor");
    let done = Command::new(&real).args(["--unsafe-disable=seccomp", "--version"]).output()?;
    ensure!(done.status.code() == Some(2), "{:?}", done.status);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(said.contains("unknown option"), "{said}");
    let bytes = fs::read(&real)?;
    ensure!(
        !bytes.windows(b"unsafe-disable".len()).any(|w| w == b"unsafe-disable"),
        "the flag's name stands in the program"
    );
    Ok(())
}

#[test]
fn attacks_stay_inside_in_setuid_mode() -> Result<()> {
    judge(Mode::Setuid)
}

#[test]
fn attacks_stay_inside_in_user_namespace_mode() -> Result<()> {
    judge(Mode::UserNamespace)
}
