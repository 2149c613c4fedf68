//! A web server that starts hogs, and whose answers are hogs of their own.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a few words: what the well-behaved neighbour serves |
//! | `/hog/NAME` | starts that hog beside the server |
//! | `/status` | the hog's last line, and `yes` while it lives; bytes of endless answers taken |
//! | `/free` | deletes everything in `/var`, then as `/write` |
//! | `/write` | writes a small file in `/var`: `written`, or `refused` and the error's number |
//! | `/slow-head` | a header, a byte at a time, without end |
//! | `/giant-head` | headers without end |
//! | `/endless` | a body without end |

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Default)]
struct State {
    hog: Mutex<Option<Child>>,
    line: Mutex<String>,
    endless: AtomicU64,
}

/// Connections at once: the test holds forty.
const WORKERS: usize = 64;
/// Where the package has this program: there is no /proc to ask.
const SELF: &str = "/bin/greedy-app";

pub fn main(address: &str) {
    let listener = TcpListener::bind(address).unwrap_or_else(|e| {
        eprintln!("greedy-app: cannot listen on {address}: {e}");
        std::process::exit(1);
    });
    let state = Arc::new(State::default());
    // All threads at the start: beside a hog there may be none to be had later.
    let workers: Vec<_> = (0..WORKERS)
        .filter_map(|_| {
            let (listener, state) = (listener.try_clone().ok()?, state.clone());
            let work = move || {
                for stream in listener.incoming().flatten() {
                    let _ = serve(stream, &state);
                }
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn(work).ok()
        })
        .collect();
    for worker in workers {
        let _ = worker.join();
    }
}

fn serve(mut stream: TcpStream, state: &Arc<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        match path.as_str() {
            "/" => say(&mut stream, "a well-behaved answer\n")?,
            "/status" => say(&mut stream, &status(state))?,
            "/free" => say(&mut stream, &free())?,
            "/write" => say(&mut stream, &write())?,
            "/slow-head" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ")?;
                loop {
                    stream.write_all(b"x")?;
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
            "/giant-head" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
                for n in 0u64.. {
                    write!(stream, "X-Giant-{n}: {}\r\n", "x".repeat(4000))?;
                }
            }
            "/endless" => {
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n",
                )?;
                let block = vec![b'e'; 64 << 10];
                loop {
                    let n = stream.write(&block)?;
                    state.endless.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
            _ => match path.strip_prefix("/hog/") {
                Some(name) => {
                    let started = start(state, name);
                    say(
                        &mut stream,
                        &started.map_or_else(|e| e.to_string(), |()| "started".into()),
                    )?;
                }
                None => say(&mut stream, "no such page\n")?,
            },
        }
    }
}

fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{text}", text.len()).as_bytes())
}

fn start(state: &Arc<State>, name: &str) -> std::io::Result<()> {
    let (output, input) = std::io::pipe()?;
    // Before the hog: a fork bomb leaves no room for one more thread.
    let of_thread = state.clone();
    std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            *of_thread.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
        }
    })?;
    let child =
        Command::new(SELF).args(["hog", name]).stdin(Stdio::null()).stdout(input).spawn()?;
    *state.hog.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    Ok(())
}

fn status(state: &State) -> String {
    let line = state.line.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut hog = state.hog.lock().unwrap_or_else(PoisonError::into_inner);
    let lives = hog.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
    let lives = if lives { "yes" } else { "no" };
    format!("{line} {lives} {}\n", state.endless.load(Ordering::Relaxed))
}

fn free() -> String {
    for entry in fs::read_dir("/var").into_iter().flatten().flatten() {
        let _ = fs::remove_dir_all(entry.path());
        let _ = fs::remove_file(entry.path());
    }
    write()
}

fn write() -> String {
    match fs::write("/var/small", "room") {
        Ok(()) => "written\n".into(),
        Err(e) => format!("refused {}\n", e.raw_os_error().unwrap_or(0)),
    }
}
