//! `spk unpack-server` as the shell uses it: descriptors 3, 4 and 5, RPC, locked down.

mod spk_support;

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::rpc::connect::{GuardLimits, Trust, Vat};
use sandstorm_schema::unpack_capnp::{Step, progress, unpacker};

use spk_support::*;

type Report = (Step, u64, u64);
type Reports = Rc<RefCell<Vec<Report>>>;

struct ProgressImpl(Reports);

impl progress::Server for ProgressImpl {
    async fn report(
        self: Rc<Self>,
        params: progress::ReportParams,
        _: progress::ReportResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        self.0.borrow_mut().push((params.get_step()?, params.get_done(), params.get_total()));
        Ok(())
    }
}

struct Info {
    app: String,
    package: String,
    title: String,
    fingerprint: String,
    bytes: u64,
    entries: u64,
}

fn spawn(socket: UnixStream, package: File, work: File) -> Child {
    let fds: [OwnedFd; 3] = [socket.into(), package.into(), work.into()];
    // Out of the way of 3, 4 and 5.
    let fds = fds.map(|fd| rustix::io::fcntl_dupfd_cloexec(&fd, 20).unwrap());
    let raw = fds.each_ref().map(AsRawFd::as_raw_fd);
    let mut command = Command::new(sandstorm_tests::program("spk"));
    command
        .arg("unpack-server")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    // SAFETY: only dup2, on descriptors that stay open in the parent until after the spawn.
    unsafe {
        command.pre_exec(move || {
            for (target, source) in (3..).zip(raw) {
                if libc::dup2(source, target) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn().unwrap()
}

/// Runs a package through the server; `watch` sees the process while it waits for its call.
fn unpack(
    package: &Path,
    work: &Path,
    watch: impl FnOnce(u32),
) -> (Result<Info, capnp::Error>, Vec<Report>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = spawn(theirs, File::open(package).unwrap(), File::open(work).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let reports: Reports = Rc::default();
    let told = reports.clone();
    let pid = child.id();
    let result = local.block_on(&runtime, async move {
        ours.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(ours).unwrap();
        let vat = Vat::spawn(stream, Side::Client, None, Trust::Hostile(GuardLimits::unpacker()));
        let unpacker: unpacker::Client = vat.bootstrap();
        // It confines itself before it reads from the socket.
        for _ in 0..500 {
            if std::fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|status| status.contains("Seccomp:\t2"))
            {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        watch(pid);
        let mut request = unpacker.unpack_request();
        request.get().set_progress(capnp_rpc::new_client(ProgressImpl(told)));
        let answer = request.send().promise.await;
        let info = answer.and_then(|answer| {
            let info = answer.get()?.get_info()?;
            Ok(Info {
                app: info.get_app_id()?.to_string().unwrap(),
                package: info.get_package_id()?.to_string().unwrap(),
                title: info
                    .get_manifest()?
                    .get_app_title()?
                    .get_default_text()?
                    .to_string()
                    .unwrap(),
                fingerprint: info.get_author_pgp_key_fingerprint()?.to_string().unwrap(),
                bytes: info.get_unpacked_bytes(),
                entries: info.get_entry_count(),
            })
        });
        drop(unpacker);
        vat.disconnect().await;
        info
    });
    let ended = child.wait().unwrap();
    assert!(ended.success(), "unpack-server: {ended}");
    (result, reports.take())
}

#[test]
fn sixty_directories_deep_installs() {
    let home = tempfile::tempdir().unwrap();
    let work = home.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let innermost = dir("d", vec![file("f", "innermost")]);
    let nested = (1..60).fold(innermost, |inner, _| dir("d", vec![inner]));
    let package = home.path().join("p.spk");
    std::fs::write(&package, signed(&[tree(), vec![nested]].concat())).unwrap();
    let (info, _) = unpack(&package, &work, |_| ());
    assert_eq!(info.unwrap().entries, 4 + 61);
    let file = work.join(vec!["d"; 60].join("/")).join("f");
    assert_eq!(std::fs::read(file).unwrap(), b"innermost");
}

#[test]
fn a_good_package_is_unpacked_and_described() {
    let home = tempfile::tempdir().unwrap();
    let work = home.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let mut entries = tree();
    entries.push(program("run", "#!/bin/sh\n"));
    entries.push(link("up", "../../etc/passwd"));
    entries.push(dir("big", vec![file("zeros", vec![0; 5 << 20])]));
    let bytes = signed(&entries);
    let package = home.path().join("p.spk");
    std::fs::write(&package, &bytes).unwrap();

    let (info, reports) = unpack(&package, &work, |pid| {
        // It waits for its call, and is confined already.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        assert!(status.contains("Seccomp:\t2"), "{status}");
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        assert!(limits.contains("Max open files            128"), "{limits}");
    });
    let info = info.unwrap();
    assert_eq!((&*info.app, &*info.title, &*info.fingerprint), (APP, "Test", ""));
    let hash = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
    assert_eq!(info.package, hex::encode(&hash[..16]));
    assert_eq!(info.entries, 8);
    assert_eq!(info.bytes, (5 << 20) + 10 + manifest().len() as u64);

    assert_eq!(names(&work), ["big", "dev", "run", "sandstorm-manifest", "tmp", "up", "var"]);
    let mode = |name: &str| work.join(name).symlink_metadata().unwrap().permissions().mode();
    assert_eq!((mode("run") & 0o7777, mode("var") & 0o7777), (0o755, 0o755));
    assert_eq!(mode("sandstorm-manifest") & 0o7777, 0o644);
    assert_eq!(std::fs::read_link(work.join("up")).unwrap(), Path::new("../../etc/passwd"));
    assert_eq!(work.join("big/zeros").metadata().unwrap().size(), 5 << 20);
    assert_eq!(names(home.path()), ["p.spk", "work"]);

    // Steps go forward, and within a step so do the numbers.
    assert!(!reports.is_empty());
    let flat: Vec<(u16, u64)> =
        reports.iter().map(|(step, done, _)| (*step as u16, *done)).collect();
    assert!(flat.is_sorted(), "{flat:?}");
    assert!(reports.iter().all(|(_, done, total)| *total == 0 || done <= total), "{reports:?}");
}

#[test]
fn a_refused_package_is_told_in_one_line_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let work = home.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let package = home.path().join("p.spk");
    let mut bad_name = tree();
    bad_name.push(dir("a", vec![file("..", "x")]));
    let mut no_manifest = tree();
    no_manifest.remove(1);
    for (bytes, words) in [
        (signed(&bad_name), "a/..: the name `.` or `..` is not allowed"),
        (signed(&no_manifest), "sandstorm-manifest: missing"),
        (b"hello, I am no package".to_vec(), "not a package"),
    ] {
        std::fs::write(&package, bytes).unwrap();
        let (info, _) = unpack(&package, &work, |_| {});
        let error = info.err().unwrap();
        assert_eq!(error.kind, capnp::ErrorKind::Failed);
        assert!(error.extra.contains(words), "{}", error.extra);
        assert!(!error.extra.contains('\n'));
        assert_eq!(names(&work), [""; 0]);
    }
}

#[test]
fn a_full_disk_is_the_machines_fault() {
    // A tiny tmpfs as the home's file system.
    if !sandstorm_tests::is_root() {
        sandstorm_tests::skip!("mounting a tmpfs needs root");
    }
    let home = tempfile::tempdir().unwrap();
    let work = home.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
        .arg(&work)
        .status()
        .unwrap();
    assert!(mounted.success());
    let mut entries = tree();
    entries.push(file("big", vec![7; 2 << 20]));
    let package = home.path().join("p.spk");
    std::fs::write(&package, signed(&entries)).unwrap();
    // The archive waits in a file of 2 MiB, then the same again does not fit.
    let (info, _) = unpack(&package, &work, |_| {});
    let left = names(&work);
    let unmounted = Command::new("umount").arg(&work).status().unwrap();
    assert!(unmounted.success());
    let error = info.err().unwrap();
    assert_eq!(error.kind, capnp::ErrorKind::Overloaded, "{}", error.extra);
    assert!(error.extra.contains("No space left"), "{}", error.extra);
    assert_eq!(left, [""; 0]);
}

#[test]
fn without_the_shell_it_does_nothing() {
    let output = Command::new(sandstorm_tests::program("spk"))
        .arg("unpack-server")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("descriptor 3"), "{}", stderr(&output));
}
