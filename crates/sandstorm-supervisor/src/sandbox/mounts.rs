//! The file system of a grain: package as `/`, data as `/var`, fresh `/tmp`, and the old root gone.
//!
//! Trust: the package's tree is hostile. Mount points are opened below its root following no link,
//! so a `tmp -> /etc` in a package is an error, and mounted on by descriptor. The caller's
//! directories are only used through the descriptors that `home` opened.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::time::{ClockId, clock_gettime};
use rustix::fs::OFlags;

use super::devices;
use super::limits::Limits;
use crate::error::{StepError, step};
use crate::home::{self, GrainDirs};
use crate::layers::{self, Layer, off};
use crate::sys::{fd, mount};

/// Detached mounts, ready to be attached inside.
#[derive(Debug)]
pub struct Trees {
    package: OwnedFd,
    data: OwnedFd,
}

impl Trees {
    /// That root made outside.
    pub fn received(package: OwnedFd, data: OwnedFd) -> Trees {
        Trees { package, data }
    }
}

/// What a grain gets fresh, whatever its package is: detached still.
#[derive(Debug)]
pub struct Fresh {
    dev: OwnedFd,
    pub shm: OwnedFd,
    pub tmp: OwnedFd,
}

impl Fresh {
    /// Inside, with the ids that the app's are inside: theirs the files then are.
    ///
    /// # Errors
    /// The step that failed.
    pub fn make(limits: &Limits) -> Result<Fresh, StepError> {
        step("make all mounts private", mount::make_all_private())?;
        let tmpfs = || tmpfs(limits.tmpfs);
        Ok(Fresh {
            dev: step("make /dev", devices::make_empty())?,
            shm: step("make /dev/shm", tmpfs())?,
            tmp: step("make /tmp", tmpfs())?,
        })
    }
}

/// Inside a user namespace of ours, without root: the directories are found again in this mount
/// namespace (a tree of another one cannot be cloned) and must be the very same.
///
/// # Errors
/// The step that failed.
pub fn prepare_inside(dirs: &GrainDirs) -> Result<Trees, StepError> {
    let path = CString::new(dirs.home_path.as_os_str().as_bytes())
        .map_err(|e| ("name the home", io::Error::other(e)))?;
    let home = step(
        "open the home again inside the namespace",
        fd::open(&path, OFlags::PATH | OFlags::DIRECTORY),
    )?;
    let walk = |names: &[&CStr]| -> io::Result<OwnedFd> {
        let mut dir = home.try_clone()?;
        for name in names {
            dir = home::open_below(dir.as_fd(), name, OFlags::PATH)?;
        }
        Ok(dir)
    };
    let package =
        step("open the package inside the namespace", walk(&[c"apps", &dirs.package_name]))?;
    let sandbox = step(
        "open the grain's data inside the namespace",
        walk(&[c"grains", &dirs.grain_name, c"sandbox"]),
    )?;
    for (first, second) in [(&dirs.package, &package), (&dirs.sandbox, &sandbox)] {
        let (a, b) = (
            step("examine a directory", rustix::fs::fstat(first))?,
            step("examine a directory", rustix::fs::fstat(second))?,
        );
        if (a.st_dev, a.st_ino) != (b.st_dev, b.st_ino) {
            return Err((
                "find the same directories again: the home was moved during the start",
                io::Error::from_raw_os_error(libc::ESTALE),
            ));
        }
    }
    Ok(Trees {
        package: step(
            "copy the package's mount",
            mount::copy(&package, layers::package_flags(), None),
        )?,
        data: step(
            "copy the mount of the grain's data",
            mount::copy(&sandbox, layers::data_flags(), None),
        )?,
    })
}

/// Inside: attaches everything and leaves the old root.
///
/// # Errors
/// The step that failed.
pub fn assemble(trees: &Trees, fresh: &Fresh, limits: &Limits) -> Result<(), StepError> {
    let proc_files = ProcFiles::wanted(trees.package.as_fd(), limits);

    let old_root = step("open the old root", fd::open(c"/", OFlags::PATH | OFlags::DIRECTORY))?;
    step("attach the package", mount::attach(&trees.package, &old_root))?;
    if off(Layer::Descriptors) {
        step("keep a descriptor of the old root", fd::leak(&old_root))?;
    }
    drop(old_root);
    let root = trees.package.as_fd();

    if let Some(dev) = mount_point(root, c"dev")? {
        let nodes = fresh.dev.as_fd();
        step("attach /dev", mount::attach(nodes, &dev))?;
        step("bind the device nodes", devices::bind_nodes(nodes))?;
        if let Some(shm) = mount_point(nodes, c"shm")? {
            step("attach /dev/shm", mount::attach(&fresh.shm, &shm))?;
        }
    }
    if let Some(tmp) = mount_point(root, c"tmp")? {
        step("attach /tmp", mount::attach(&fresh.tmp, &tmp))?;
    }
    if let Some(var) = mount_point(root, c"var")? {
        step("attach /var", mount::attach(&trees.data, &var))?;
    }
    if let (Some(files), Some(proc)) = (proc_files, mount_point(root, c"proc")?) {
        step("make the files of /proc", files.attach(proc.as_fd()))?;
    }

    #[cfg(feature = "unsafe-disable")]
    if off(Layer::NoProc) {
        for (kind, name) in [(c"proc", c"proc"), (c"sysfs", c"sys")] {
            if let Some(dir) = mount_point(root, name)? {
                let made =
                    mount::fresh(kind, &[], mount::NONE).and_then(|fs| mount::attach(&fs, &dir));
                step("mount what a grain must not have", made)?;
            }
        }
    }

    step("enter the package", rustix::process::fchdir(root))?;
    if off(Layer::Pivot) {
        return Ok(());
    }
    step("leave the old root", mount::pivot_to_working_directory())?;
    step("enter the new root", rustix::process::chdir(c"/"))
}

/// A directory of the tree to mount on; `None` where the package has none.
fn mount_point(root: BorrowedFd<'_>, name: &'static CStr) -> Result<Option<OwnedFd>, StepError> {
    match home::open_below(root, name, OFlags::PATH) {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err((
            "use a mount point of the package: dev, tmp, var and proc must be real directories",
            e,
        )),
    }
}

fn tmpfs(size: u64) -> io::Result<OwnedFd> {
    let text = |n: u64| CString::new(n.to_string()).unwrap_or_default();
    // An inode costs about a kilobyte of kernel memory; as many files as the original allows for
    // each 16 MiB.
    mount::tmpfs(
        &[
            (c"size", &text(size)),
            (c"nr_inodes", &text((size / 4096).clamp(64, 1 << 20))),
            (c"mode", c"0770"),
        ],
        layers::data_flags(),
    )
}

/// Contents for the single files of /proc that a package asks for by an empty file of that name.
#[derive(Debug)]
struct ProcFiles(Vec<(&'static CStr, Vec<u8>)>);

/// No machine's cpuinfo is larger; the rest is cut.
const MAX_CPUINFO: usize = 1 << 20;

impl ProcFiles {
    /// Looks which files the package has, and reads what they need while the host's /proc is there.
    fn wanted(package: BorrowedFd<'_>, limits: &Limits) -> Option<ProcFiles> {
        let proc = home::open_below(package, c"proc", OFlags::PATH).ok()?;
        let asked = |name: &CStr| {
            fd::open_in(&proc, name, OFlags::PATH | OFlags::NOFOLLOW)
                .and_then(|f| Ok(rustix::fs::fstat(f)?))
                .is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFREG && s.st_size == 0)
        };
        let mut files = Vec::new();
        if asked(c"cpuinfo") {
            files.push((c"cpuinfo", read_host(c"/proc/cpuinfo")));
        }
        if asked(c"meminfo") {
            files.push((c"meminfo", meminfo(limits.memory).into_bytes()));
        }
        if asked(c"stat") {
            files.push((c"stat", stat_file().into_bytes()));
        }
        (!files.is_empty()).then_some(ProcFiles(files))
    }

    /// A read-only tmpfs with these files over `proc`. It hides what else a package may have there.
    fn attach(&self, proc: BorrowedFd<'_>) -> io::Result<()> {
        let fs = mount::tmpfs(
            &[(c"size", c"2m"), (c"nr_inodes", c"8"), (c"mode", c"0555")],
            mount::NOSUID | mount::NODEV | mount::NOEXEC,
        )?;
        for (name, bytes) in &self.0 {
            let file = fd::create_in(&fs, name, OFlags::WRONLY | OFlags::EXCL, 0o444)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let n = rustix::io::write(&file, rest)?;
                rest = &rest[n..];
            }
            rustix::fs::fchmod(&file, 0o444.into())?;
        }
        mount::set_attributes(&fs, mount::RDONLY, None)?;
        mount::attach(&fs, proc)
    }
}

fn read_host(path: &CStr) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = fd::open(path, OFlags::RDONLY) {
        let mut chunk = vec![0; 16 << 10];
        while bytes.len() < MAX_CPUINFO {
            match fd::read(&file, &mut chunk) {
                Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
                _ => break,
            }
        }
    }
    bytes.truncate(MAX_CPUINFO);
    bytes
}

/// The grain's own limit as its machine's memory.
fn meminfo(memory: u64) -> String {
    let kib = memory / 1024;
    format!(
        "MemTotal:       {kib:8} kB\nMemFree:        {kib:8} kB\nMemAvailable:   {kib:8} kB\n\
         Buffers:               0 kB\nCached:                0 kB\nSwapTotal:             0 kB\n\
         SwapFree:              0 kB\n"
    )
}

/// One idle processor line for each processor, booted when the grain was started.
fn stat_file() -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec());
    let mut text = String::from("cpu  0 0 0 0 0 0 0 0 0 0\n");
    for n in 0..processors {
        text.push_str(&format!("cpu{n} 0 0 0 0 0 0 0 0 0 0\n"));
    }
    text.push_str(&format!(
        "intr 0\nctxt 0\nbtime {now}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n"
    ));
    text
}
