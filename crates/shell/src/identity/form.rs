//! The bodies of forms, read before anything is known of what is in them.
//!
//! Whoever sends one may send it byte by byte, or begin it and never end it. So its size, its time
//! and the number that are read at once are bounded: for all together, for each person who is
//! signed in, and for each address of those who are not.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http::header;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::edge::ClientAddr;
use crate::error::{Error, Result};
use crate::ids::AccountId;
use crate::shares::{Share, Shares, holder};

/// Bytes of a form of somebody who is signed in: names and ids; 1,000 ticked rows fit with room to
/// spare.
pub const MAX_BYTES: usize = 256 * 1024;
/// Bytes of a form of anybody: a name, and a path to go on to.
pub const MAX_OPEN_BYTES: usize = 8 * 1024;
/// Bytes of an upload's form up to its file; the beginning of the file comes in the same piece,
/// and the edge reads pieces of up to 1 MiB.
const MAX_PROLOGUE: usize = (1 << 20) + 64 * 1024;
/// From one piece of a form to the next. A browser sends a form at once; what takes long is a
/// network that repeats what was lost.
const PAUSE: Duration = Duration::from_secs(10);
/// For the whole of a form: [`MAX_BYTES`] at 4 kB/s.
const LONGEST: Duration = Duration::from_secs(60);
/// Forms that one person, or one address, may be sending at once: an office behind one address,
/// each press of a button taking some milliseconds.
const EACH: usize = 16;
/// Those of all people who are signed in, so that they hold 64 MiB at most.
const ALL: usize = 256;
/// Those of all who are not: 8 MiB, and a sixteenth of the connections.
const ALL_OPEN: usize = 1024;

/// The forms that are being read.
pub struct Forms {
    known: Arc<Shares<AccountId>>,
    open: Arc<Shares<IpAddr>>,
}

/// The right to read one.
pub enum Turn {
    Known { _share: Share<AccountId> },
    Open { _share: Share<IpAddr> },
}

impl Forms {
    pub fn new() -> Forms {
        Forms { known: Shares::new(EACH, ALL), open: Shares::new(EACH, ALL_OPEN) }
    }

    /// For a form of this person.
    pub fn known(&self, who: AccountId) -> Result<Turn> {
        self.known.enter(who).map(|share| Turn::Known { _share: share }).ok_or_else(busy)
    }

    /// For a form of anybody.
    pub fn open(&self, request: &Request) -> Result<Turn> {
        let who = holder(ClientAddr::of(request.extensions()).0);
        self.open.enter(who).map(|share| Turn::Open { _share: share }).ok_or_else(busy)
    }
}

fn busy() -> Error {
    Error::Busy("Too many forms are on their way at once. Wait a moment, then send it again".into())
}

fn late() -> Error {
    Error::Late("The form did not come in time, so nothing was done. Send it again".into())
}

fn too_long() -> Error {
    Error::TooLarge("The form is too long, so nothing was done".into())
}

/// The whole body of a form; `turn` is given back at its end.
pub async fn read(request: Request, limit: usize, turn: Turn) -> Result<Bytes> {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|v| v.as_bytes());
    if !kind.is_some_and(|kind| kind.starts_with(b"application/x-www-form-urlencoded")) {
        return Err(Error::BadRequest("Send this as an ordinary form".into()));
    }
    let mut body = request.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(too_long());
    }
    let end = Instant::now() + LONGEST;
    // Copied, since a piece keeps more than its own bytes: the connection's buffer, and 32 bytes
    // to refer to it.
    let mut whole = BytesMut::new();
    while let Some(piece) = next(&mut body, end).await? {
        if piece.len() > limit - whole.len() {
            return Err(too_long());
        }
        whole.extend_from_slice(&piece);
    }
    drop(turn);
    Ok(whole.freeze())
}

/// The next piece, if it comes in time.
async fn next(body: &mut Body, end: Instant) -> Result<Option<Bytes>> {
    loop {
        let due = end.min(Instant::now() + PAUSE);
        // What is there already would be read past the end, too: by a peer that never pauses.
        let frame = match tokio::time::timeout_at(due, body.frame()).await {
            Ok(frame) if Instant::now() < end => frame,
            _ => return Err(late()),
        };
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
            Some(Err(_)) => return Err(Error::BadRequest("The form ended early".into())),
        }
    }
}

/// What comes before the file in an upload's form: bounded like a form, while the file has the
/// installer's own limits.
pub struct Prologue(Arc<State>);

struct State {
    over: AtomicBool,
    late: AtomicBool,
    turn: Mutex<Option<Turn>>,
}

struct Upload {
    body: Body,
    end: Instant,
    left: usize,
    state: Arc<State>,
}

impl Prologue {
    /// The request, whose body fails where the prologue does not keep to the limits.
    pub fn guard(request: Request, turn: Turn) -> (Prologue, Request) {
        let state = Arc::new(State {
            over: AtomicBool::new(false),
            late: AtomicBool::new(false),
            turn: Mutex::new(Some(turn)),
        });
        let end = Instant::now() + LONGEST;
        let request = request.map(|body| {
            let upload = Upload { body, end, left: MAX_PROLOGUE, state: state.clone() };
            Body::from_stream(futures::stream::try_unfold(upload, Upload::next))
        });
        (Prologue(state), request)
    }

    /// The file begins.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::Relaxed);
        *self.0.turn.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Why the body failed, if it was for its time.
    pub fn late(&self) -> Option<Error> {
        self.0.late.load(Ordering::Relaxed).then(late)
    }
}

impl Upload {
    async fn next(mut self) -> Result<Option<(Bytes, Upload)>> {
        if !self.is_over() {
            // Whoever takes the form apart takes all that is there before it looks for the file.
            tokio::task::yield_now().await;
        }
        if !self.is_over() {
            match next(&mut self.body, self.end).await {
                // It ended while this piece was waited for.
                Err(Error::Late(_)) if self.is_over() => {}
                Err(error) => {
                    let late = matches!(error, Error::Late(_));
                    self.state.late.store(late, Ordering::Relaxed);
                    return Err(error);
                }
                Ok(None) => return Ok(None),
                Ok(Some(piece)) => {
                    if !self.is_over() {
                        self.left = self.left.checked_sub(piece.len()).ok_or_else(too_long)?;
                    }
                    return Ok(Some((piece, self)));
                }
            }
        }
        match self.body.frame().await {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some((frame.into_data().unwrap_or_default(), self))),
            Some(Err(error)) => Err(Error::BadRequest(error.to_string())),
        }
    }

    fn is_over(&self) -> bool {
        self.state.over.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;

    fn form(pieces: impl futures::Stream<Item = Bytes> + Send + 'static) -> Request {
        let body = Body::from_stream(pieces.map(Ok::<_, std::io::Error>));
        Request::post("/")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body)
            .unwrap()
    }

    fn x() -> Bytes {
        Bytes::from_static(b"x")
    }

    fn every(pause: Duration) -> impl futures::Stream<Item = Bytes> + Send + 'static {
        stream::repeat(()).then(move |()| async move {
            tokio::time::sleep(pause).await;
            x()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_form_comes_in_time_or_not_at_all() {
        let forms = Forms::new();
        let begin = Instant::now();
        let read = async |pieces| {
            let request = form(pieces);
            let turn = forms.open(&request).unwrap();
            super::read(request, MAX_OPEN_BYTES, turn).await
        };
        let boxed = |s: futures::stream::BoxStream<'static, Bytes>| s;
        let silent = boxed(stream::iter([x()]).chain(stream::pending()).boxed());
        assert!(matches!(read(silent).await, Err(Error::Late(_))));
        assert_eq!(begin.elapsed(), PAUSE);
        // Nor is it enough to send a byte in each pause.
        let begin = Instant::now();
        let trickle = every(PAUSE - Duration::from_secs(1)).boxed();
        assert!(matches!(read(trickle).await, Err(Error::Late(_))));
        assert_eq!(begin.elapsed(), LONGEST);
        let slow = every(PAUSE - Duration::from_secs(1)).take(5).boxed();
        assert_eq!(read(slow).await.unwrap(), "xxxxx");
        assert!(matches!(read(stream::repeat(x()).boxed()).await, Err(Error::TooLarge(_))));
        let announced = Request::post("/")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(vec![b'x'; MAX_OPEN_BYTES + 1]))
            .unwrap();
        let turn = forms.open(&announced).unwrap();
        let refused = super::read(announced, MAX_OPEN_BYTES, turn).await;
        assert!(matches!(refused, Err(Error::TooLarge(_))));
        assert_eq!(forms.open.taken(), 0);
    }

    #[tokio::test]
    async fn a_form_keeps_its_bytes_and_nothing_else() {
        // Each piece is a view of a large buffer, as the connection's are.
        let large = Bytes::from(vec![b'x'; 1 << 20]);
        let pieces: Vec<Bytes> = (0..1000).map(|i| large.slice(i..=i)).collect();
        let forms = Forms::new();
        let request = form(stream::iter(pieces).chain(stream::pending()));
        let turn = forms.open(&request).unwrap();
        let mut reading = Box::pin(super::read(request, MAX_OPEN_BYTES, turn));
        assert!(futures::poll!(&mut reading).is_pending());
        assert!(large.is_unique(), "the pieces are kept");
    }

    #[test]
    fn unfinished_forms_of_one_leave_room_for_others() {
        let from = |address: &str| {
            let mut request = form(stream::pending());
            request.extensions_mut().insert(ClientAddr(address.parse().unwrap()));
            request
        };
        let forms = Forms::new();
        let held: Vec<Turn> = (0..EACH).map(|_| forms.open(&from("192.0.2.1")).unwrap()).collect();
        assert!(matches!(forms.open(&from("192.0.2.1")), Err(Error::Busy(_))));
        assert!(forms.open(&from("192.0.2.2")).is_ok());
        // Many addresses take nothing from who is signed in.
        let all: Vec<Turn> = (0..ALL_OPEN - EACH)
            .map(|i| forms.open(&from(&format!("10.0.{}.{}", i / 256, i % 256))).unwrap())
            .collect();
        assert!(forms.open(&from("192.0.2.2")).is_err());
        let mine: Vec<Turn> = (0..EACH).map(|_| forms.known(AccountId(1)).unwrap()).collect();
        assert!(forms.known(AccountId(1)).is_err() && forms.known(AccountId(2)).is_ok());
        drop((held, all, mine));
        assert_eq!((forms.open.taken(), forms.known.taken()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_uploads_form_is_bounded_up_to_its_file() {
        let forms = Forms::new();
        let guard = |pieces| {
            let turn = forms.known(AccountId(1)).unwrap();
            let (prologue, request) = Prologue::guard(form(pieces), turn);
            (prologue, request.into_body())
        };
        let (prologue, mut body) = guard(every(PAUSE - Duration::from_secs(1)).boxed());
        let begin = Instant::now();
        while let Some(Ok(_)) = body.frame().await {}
        assert_eq!(begin.elapsed(), LONGEST);
        assert!(prologue.late().is_some());
        drop((prologue, body));
        // Endless.
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        let (prologue, mut body) = guard(stream::repeat(piece).boxed());
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.into_data().unwrap().len();
        }
        assert_eq!(bytes, MAX_PROLOGUE);
        assert!(prologue.late().is_none());
        drop((prologue, body));
        // A file may be slow, also where its first piece is waited for already, and holds no place.
        let (prologue, mut body) = guard(every(2 * PAUSE).take(9).boxed());
        let begin = Instant::now();
        // The first time it only lets others look at what is there.
        for _ in 0..2 {
            assert!(futures::poll!(Box::pin(body.frame())).is_pending());
        }
        tokio::time::sleep(PAUSE / 2).await;
        assert_eq!(forms.known.taken(), 1);
        prologue.end();
        assert_eq!(forms.known.taken(), 0);
        for _ in 0..9 {
            body.frame().await.unwrap().unwrap();
        }
        assert!(body.frame().await.is_none());
        assert!(begin.elapsed() > LONGEST);
    }
}
