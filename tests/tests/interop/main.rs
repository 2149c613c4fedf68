//! Programs that share no code with ours, in Python, against ours: the RPC interfaces from the
//! tables of the wire format, and package files from the description of the format.

mod client;
mod grain;
mod spk;
mod wire;
