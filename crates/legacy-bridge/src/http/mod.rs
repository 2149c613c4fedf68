//! Translation between WebSession's structures and HTTP headers.

pub mod cookies;
pub mod request;
pub mod response;
pub mod values;
