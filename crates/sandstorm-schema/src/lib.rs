//! What every program of this project shares: the interfaces they speak, identifiers, limits, the
//! HTTP tables, and the guarded RPC connection.
//!
//! The modules named `*_capnp` are generated from the files in `/schema` by `cargo xtask gen` and
//! committed; they refer to each other by `crate::NAME_capnp`, so they stand at the crate's root.
//! Nothing in this crate trusts bytes from a peer: what a peer controls is parsed here with a
//! stated limit, or not at all.
#![deny(unsafe_code)]

macro_rules! generated {
    ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {$(
        $(#[$doc])*
        #[path = $path]
        #[allow(clippy::all, clippy::unimplemented, unused, rust_2018_idioms, unreachable_pub)]
        #[rustfmt::skip]
        pub mod $name;
    )*};
}

generated! {
    /// Notifications and activity events.
    activity_capnp = "gen/sandstorm/activity_capnp.rs";
    /// Sessions for programs instead of browsers.
    api_session_capnp = "gen/sandstorm/api_session_capnp.rs";
    /// E-mail as an app sends and receives it.
    email_capnp = "gen/sandstorm/email_capnp.rs";
    /// The heart: `UiView`, `SandstormApi`, `SessionContext`, permissions and roles.
    grain_capnp = "gen/sandstorm/grain_capnp.rs";
    /// Interfaces that were never meant to last, and are still called.
    hack_session_capnp = "gen/sandstorm/hack_session_capnp.rs";
    /// Who a person is, as far as an app may know.
    identity_capnp = "gen/sandstorm/identity_capnp.rs";
    /// Raw network access.
    ip_capnp = "gen/sandstorm/ip_capnp.rs";
    /// Packages: archive, signature, manifest, bridge configuration.
    package_capnp = "gen/sandstorm/package_capnp.rs";
    /// Cap'n Proto's `Persistent`.
    persistent_capnp = "gen/capnp/persistent_capnp.rs";
    /// How capabilities are described when people hand them on.
    powerbox_capnp = "gen/sandstorm/powerbox_capnp.rs";
    /// What the bridge offers to the app behind it.
    sandstorm_http_bridge_capnp = "gen/sandstorm/sandstorm_http_bridge_capnp.rs";
    /// Between shell and supervisor.
    supervisor_capnp = "gen/sandstorm/supervisor_capnp.rs";
    /// `ByteStream`, `Handle`, `LocalizedText` and other small parts.
    util_capnp = "gen/sandstorm/util_capnp.rs";
    /// Published web sites.
    web_publishing_capnp = "gen/sandstorm/web_publishing_capnp.rs";
    /// HTTP as RPC.
    web_session_capnp = "gen/sandstorm/web_session_capnp.rs";
    /// Ours: the shell's sub-commands. Also reachable as `ext_control_capnp`.
    control_capnp = "gen/ext/control_capnp.rs";
    /// Ours: HTTP that `WebSession` cannot carry. Also reachable as `ext_http_capnp`.
    http_capnp = "gen/ext/http_capnp.rs";
    /// Ours: what a supervisor knows of its grain's limits. Also reachable as `ext_report_capnp`.
    report_capnp = "gen/ext/report_capnp.rs";
    /// Ours: the unpacking process. Also reachable as `ext_unpack_capnp`.
    unpack_capnp = "gen/ext/unpack_capnp.rs";
}

pub use control_capnp as ext_control_capnp;
pub use http_capnp as ext_http_capnp;
pub use report_capnp as ext_report_capnp;
pub use unpack_capnp as ext_unpack_capnp;

pub mod grain_limits;
pub mod http_map;
pub mod ids;
pub mod limits;
pub mod memory;
pub mod pace;
pub mod rpc;
