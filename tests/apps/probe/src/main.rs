//! A web server whose every answer is scripted by the test that asks. It stands in for all the
//! well- and ill-behaved apps of the world: no framework, one thread a connection, no opinion.
//!
//! `probe-app ADDR:PORT [--single] [--listen-after MS]`
//! `--single` serves one connection at a time, as many small servers do.
//!
//! Paths (all take `&tag=NAME`; `/stats?tag=NAME` then tells what became of that request):
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | JSON of the request as it came in: request line, headers, raw head, body |
//! | `/last` | JSON of the requests so far, newest last (without `/last` and `/stats`) |
//! | `/run?s=SCRIPT` | runs a script, see `script.rs`; `PUT /scripts/NAME` stores one, `/run/NAME` runs it |
//! | `/file?size=N` | a file that knows ranges, HEAD, ETag and Last-Modified |
//! | `/upload` | reads the body, however framed; JSON with length and hash; `?slow=MS` a pause each 64 KiB, `?early=CODE` answers first |
//! | `/endless` | bytes without end; `?chunked=1`, `?piece=N` |
//! | `/drip?n=N&ms=M` | a byte each M ms |
//! | `/sse?first=MS&every=MS&n=N` | server-sent events; `bell=NAME`: one each time `/ring/NAME` is asked for |
//! | `/never` | reads, never answers |
//! | `/ws` | WebSocket, see `websocket.rs` |
//! | `/store/NAME` | PUT keeps a file in `/var`, GET reads it |
//! | `/exit?code=N` | the whole app ends |
//! | `/stats` | JSON: connections, and one entry a tag |

mod answers;
mod record;
mod request;
mod script;
mod websocket;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use record::Record;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let single = args.iter().any(|a| a == "--single");
    if let Some(at) = args.iter().position(|a| a == "--listen-after") {
        let ms = args.get(at + 1).and_then(|v| v.parse().ok()).unwrap_or(0);
        std::thread::sleep(Duration::from_millis(ms));
    }
    let Some(addr) = args.first() else {
        eprintln!("usage: probe-app ADDR:PORT [--single] [--listen-after MS]");
        std::process::exit(2);
    };
    let listener = match TcpListener::bind(addr) {
        Ok(listener) => listener,
        Err(e) => {
            eprintln!("probe-app: cannot listen on {addr}: {e}");
            std::process::exit(1);
        }
    };
    let record = Arc::new(Record::default());
    for stream in listener.incoming().flatten() {
        record.connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let record = Arc::clone(&record);
        if single {
            serve(stream, &record);
        } else {
            std::thread::spawn(move || serve(stream, &record));
        }
    }
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, record: &Record) {
    let _ = stream.set_nodelay(true);
    let open = record.open_guard();
    let mut conn = request::Conn::new(stream);
    while let Ok(Some(request)) = conn.read_head() {
        match answers::answer(&mut conn, request, record) {
            Ok(true) => {}
            Ok(false) | Err(_) => break,
        }
    }
    drop(open);
}
