//! The HTTP edge: accept, limit, and dispatch by host.
