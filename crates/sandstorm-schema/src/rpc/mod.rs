//! The guarded RPC connection, the membrane and body streams.
