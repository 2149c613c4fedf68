//! What can go wrong in the shell, one variant a kind, each with words that say what to do.
//!
//! Pages turn an [`Error`] into a page by [`Error::status`] and [`Error::code`]; sub-commands
//! print its `Display`. Log or return, never both.

use http::StatusCode;

use crate::grains::Pause;
use crate::install::failure::Failure;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot work; the text names the setting and the remedy.
    #[error("{0}")]
    Config(String),
    /// Not there, or not for this person (the two are told apart in the log only).
    #[error("no such {0}, or it is not shared with you")]
    NotFound(&'static str),
    #[error("{0}")]
    Forbidden(String),
    /// What was asked for makes no sense as it stands; the text says what would.
    #[error("{0}")]
    BadRequest(String),
    /// More bytes than can be taken.
    #[error("{0}")]
    TooLarge(String),
    /// A body of a kind that cannot be taken.
    #[error("{0}")]
    MediaType(String),
    #[error("{0}")]
    Conflict(String),
    /// Too much of this kind is under way already; later it works.
    #[error("{0}")]
    Busy(String),
    /// What a client began to send did not come in time.
    #[error("{0}")]
    Late(String),
    /// An app file that was not taken.
    #[error("{} ({})", .0.words, .0.code)]
    NotInstalled(Failure),
    /// The grain did not start or ended; `reason` is fit for its owner.
    #[error("the app did not start: {reason}")]
    GrainFailed { reason: String, code: String, log_tail: String },
    /// The grain ended several times in a row soon after its start; for a while only people start
    /// it. `reason` is that of the last end, fit for its owner.
    #[error("the app stopped {} times in a row soon after its start: {reason}", .pause.times)]
    GrainPaused { reason: String, code: String, log_tail: String, pause: Pause },
    /// A supervisor or app broke the rules of the connection, or went away.
    #[error("the app's connection ended: {0}")]
    Disconnected(String),
    #[error("this app does not offer that: {0}")]
    Unimplemented(String),
    #[error("the app is overloaded: {0}")]
    Overloaded(String),
    /// The app itself says that it failed; its words, which may be a trace, are for its owner.
    #[error("the app reported an error: {0}")]
    AppFailed(String),
    /// An app's answer that cannot be passed on.
    #[error("the app's answer makes no sense: {0}")]
    BadGateway(String),
    #[error("{0} took too long")]
    Timeout(&'static str),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error("{0}")]
    Internal(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::NotInstalled(failure)
    }
}

impl Error {
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// Whether it is only that the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Error::Store(error) => error.is_disk_full(),
            Error::Io { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
            }
            _ => false,
        }
    }

    /// The HTTP status a page or API answer carries.
    pub fn status(&self) -> StatusCode {
        match self {
            error if error.is_disk_full() => StatusCode::INSUFFICIENT_STORAGE,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::BadRequest(_) => StatusCode::BAD_REQUEST,
            Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Error::Conflict(_) => StatusCode::CONFLICT,
            Error::Late(_) => StatusCode::REQUEST_TIMEOUT,
            Error::Unimplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Error::NotInstalled(failure) => failure.status(),
            Error::Busy(_) | Error::Overloaded(_) | Error::GrainPaused { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::GrainFailed { .. } | Error::Disconnected(_) | Error::BadGateway(_) => {
                StatusCode::BAD_GATEWAY
            }
            Error::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Error::AppFailed(_)
            | Error::Config(_)
            | Error::Io { .. }
            | Error::Store(_)
            | Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Short kind for the error code shown on pages and in the log (`G-START`, `S-DB`, …);
    /// callers append a random suffix per occurrence.
    pub fn code(&self) -> &'static str {
        match self {
            error if error.is_disk_full() => "S-DISK",
            Error::Config(_) => "S-CONF",
            Error::NotFound(_) => "S-404",
            Error::Forbidden(_) => "S-403",
            Error::BadRequest(_) => "S-400",
            Error::TooLarge(_) => "S-SIZE",
            Error::MediaType(_) => "S-415",
            Error::Conflict(_) => "S-409",
            Error::Busy(_) => "S-BUSY",
            Error::Late(_) => "S-408",
            Error::NotInstalled(failure) => match failure.status() {
                StatusCode::SERVICE_UNAVAILABLE => "S-BUSY",
                StatusCode::INSUFFICIENT_STORAGE => "S-DISK",
                StatusCode::PAYLOAD_TOO_LARGE => "S-413",
                StatusCode::UNPROCESSABLE_ENTITY => "S-422",
                _ => "S-INST",
            },
            Error::GrainFailed { .. } => "G-START",
            Error::GrainPaused { .. } => "G-PAUSE",
            Error::Disconnected(_) => "G-GONE",
            Error::Unimplemented(_) => "G-NOIMPL",
            Error::Overloaded(_) => "G-BUSY",
            Error::AppFailed(_) => "G-ERR",
            Error::BadGateway(_) => "G-ANSWER",
            Error::Timeout(_) => "G-TIME",
            Error::Io { .. } => "S-IO",
            Error::Store(_) => "S-DB",
            Error::Internal(_) => "S-INT",
        }
    }
}
