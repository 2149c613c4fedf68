//! The hogs: each takes one thing without end, and counts what it got and how often it was
//! refused. One line a fifth of a second on stdout: `got refused errno`.
//!
//! A hog that is killed for what it does has been stopped too; its last line says how far it came.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

const MIB: usize = 1 << 20;
/// After a refusal: a hog goes on, but shows what it met rather than how fast it can meet it.
const BREATH: Duration = Duration::from_millis(5);
/// Children of the fork bomb and of the processor hog count here too.
const SPINNERS: usize = 16;

/// Shared by all processes of one hog.
#[derive(Debug)]
pub struct Counters {
    got: AtomicU64,
    refused: AtomicU64,
    errno: AtomicI32,
}

impl Counters {
    fn shared() -> &'static Counters {
        // SAFETY: a fresh page of zeros, shared with children and never unmapped; all-zero is
        // valid for these atomics.
        unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(page, libc::MAP_FAILED, "a page of memory");
            &*page.cast::<Counters>()
        }
    }

    fn got(&self, n: u64) {
        self.got.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts a refusal, with the reason that the kernel gave.
    fn refused(&self) {
        self.refused_for(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }

    fn refused_for(&self, errno: i32) {
        self.errno.store(errno, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(BREATH);
    }

    fn take(&self, result: std::io::Result<u64>) {
        match result {
            Ok(n) => self.got(n),
            Err(e) => self.refused_for(e.raw_os_error().unwrap_or(0)),
        }
    }
}

type Hog = fn(&'static Counters);

pub const HOGS: &[(&str, Hog)] = &[
    ("fork", fork_bomb),
    ("memory", memory_bomb),
    ("disk", disk_filler),
    ("inodes", inode_filler),
    ("hidden", hidden_filler),
    ("mapped", mapped_filler),
    ("names", name_filler),
    ("files", fd_hog),
    ("log", log_flood),
    ("tmp", tmp_filler),
    ("inotify", inotify_hog),
    ("pipes", pipe_hog),
    ("cpu", spin),
];

pub fn main(name: &str) {
    let Some((_, hog)) = HOGS.iter().find(|(known, _)| *known == name) else {
        eprintln!("no hog is called {name}");
        std::process::exit(2);
    };
    let counters = Counters::shared();
    std::thread::spawn(move || {
        loop {
            let (got, refused) = (&counters.got, &counters.refused);
            let line = format!(
                "{} {} {}\n",
                got.load(Ordering::Relaxed),
                refused.load(Ordering::Relaxed),
                counters.errno.load(Ordering::Relaxed)
            );
            // Whoever started it may be gone.
            let _ = std::io::stdout().write_all(line.as_bytes());
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    hog(counters);
}

fn fork_bomb(counters: &'static Counters) {
    loop {
        // SAFETY: the child touches the shared counters and makes system calls, nothing else.
        match unsafe { libc::fork() } {
            -1 => counters.refused(),
            0 => {}
            _ => {
                counters.got(1);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn memory_bomb(counters: &'static Counters) {
    loop {
        // SAFETY: a fresh private mapping, written to within its length and never used again.
        unsafe {
            let block = libc::mmap(
                std::ptr::null_mut(),
                MIB,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if block == libc::MAP_FAILED {
                counters.refused();
                continue;
            }
            libc::memset(block, 1, MIB);
        }
        counters.got(MIB as u64);
    }
}

/// Files of 64 MiB in `dir`, one after the other; what fails is tried again.
fn fill(counters: &'static Counters, dir: &str) {
    let _ = fs::create_dir_all(dir);
    let block = vec![7u8; MIB];
    for n in 0u64.. {
        let mut file = match fs::File::create(format!("{dir}/{n}")) {
            Ok(file) => file,
            Err(e) => {
                counters.refused_for(e.raw_os_error().unwrap_or(0));
                continue;
            }
        };
        for _ in 0..64 {
            counters.take(file.write(&block).map(|n| n as u64));
        }
    }
}

fn disk_filler(counters: &'static Counters) {
    fill(counters, "/var/filled");
}

/// The same in a directory that only this uid's processes know the names of.
fn hidden_filler(counters: &'static Counters) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::create_dir_all("/var/shut/inner");
    let _ = fs::set_permissions("/var/shut", fs::Permissions::from_mode(0o300));
    fill(counters, "/var/shut/inner");
}

fn tmp_filler(counters: &'static Counters) {
    fill(counters, "/tmp/filled");
}

fn inode_filler(counters: &'static Counters) {
    for dir in 0u64.. {
        let dir = format!("/var/many/{dir}");
        counters.take(fs::create_dir_all(&dir).map(|()| 1));
        for n in 0..1000 {
            counters.take(fs::write(format!("{dir}/{n}"), "x").map(|()| 1));
        }
    }
}

/// Fills a file without a write: it is one large hole, mapped, and a page is touched at a time.
fn mapped_filler(counters: &'static Counters) {
    const LENGTH: usize = 1 << 40;
    let file = match fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open("/var/mapped")
    {
        Ok(file) => file,
        Err(e) => return counters.refused_for(e.raw_os_error().unwrap_or(0)),
    };
    // Where writes fail already, a length that was given before stays.
    let length = file.metadata().map_or(0, |m| m.len()) as usize;
    if length < LENGTH && file.set_len(LENGTH as u64).is_err() {
        counters.refused();
    }
    // SAFETY: a shared mapping of a file that only grows; each byte written lies within both.
    unsafe {
        let start = libc::mmap(
            std::ptr::null_mut(),
            LENGTH,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        if start == libc::MAP_FAILED {
            return counters.refused();
        }
        for page in (0..LENGTH).step_by(4096) {
            *start.cast::<u8>().add(page) = 7;
            counters.got(4096);
            if page % (8 * MIB) == 0 {
                // So that what is dirty gets its blocks, and the test its turn.
                libc::msync(start.cast::<u8>().add(page).cast(), 4096, libc::MS_ASYNC);
                libc::fdatasync(file.as_raw_fd());
            }
        }
    }
}

/// Directories, links and empty files: names alone.
fn name_filler(counters: &'static Counters) {
    for n in 0u64.. {
        let dir = format!("/var/names-{n}");
        counters.take(fs::create_dir_all(&dir).map(|()| 1));
        for n in 0..500 {
            counters.take(fs::create_dir(format!("{dir}/d{n}")).map(|()| 1));
            counters.take(std::os::unix::fs::symlink("x", format!("{dir}/s{n}")).map(|()| 1));
            counters.take(fs::File::create(format!("{dir}/f{n}")).map(|_| 1));
        }
    }
}

fn fd_hog(counters: &'static Counters) {
    let mut held = Vec::new();
    // The soft limit is the process's own to raise.
    let most = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: the structures outlive the calls.
    unsafe {
        let mut now = most;
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut now);
        now.rlim_cur = now.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const now);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const most);
    }
    loop {
        match fs::File::open("/dev/null") {
            Ok(file) => {
                counters.got(1);
                held.push(file);
            }
            Err(e) => counters.refused_for(e.raw_os_error().unwrap_or(0)),
        }
    }
}

fn log_flood(counters: &'static Counters) {
    let line = [b"flood ".repeat(682), b"\n".to_vec()].concat();
    loop {
        counters.take(std::io::stderr().write(&line).map(|n| n as u64));
    }
}

fn inotify_hog(counters: &'static Counters) {
    loop {
        // SAFETY: no pointers; the descriptor stays open for ever.
        match unsafe { libc::inotify_init1(libc::IN_NONBLOCK) } {
            -1 => counters.refused(),
            _ => counters.got(1),
        }
    }
}

/// Pipes as large as the kernel allows, full of bytes that nobody reads.
fn pipe_hog(counters: &'static Counters) {
    let block = vec![1u8; MIB];
    loop {
        let mut ends = [0; 2];
        // SAFETY: `ends` takes two descriptors, which stay open for ever; the write reads `block`
        // within its length.
        unsafe {
            if libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK) == -1 {
                counters.refused();
                continue;
            }
            if libc::fcntl(ends[1], libc::F_SETPIPE_SZ, MIB) == -1 {
                counters.refused();
            }
            let n = libc::write(ends[1], block.as_ptr().cast(), MIB);
            counters.got(u64::try_from(n).unwrap_or(0));
        }
    }
}

fn spin(counters: &'static Counters) {
    for _ in 1..SPINNERS {
        // SAFETY: the child touches the shared counters only.
        if unsafe { libc::fork() } == 0 {
            break;
        }
    }
    let mut x = std::io::stdout().as_raw_fd() as u64;
    loop {
        for _ in 0..1_000_000 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        counters.got(1);
    }
}
