//! The names of things: who (accounts, sign-ins) and what (packages, grains).

use std::fmt;

/// A row of the accounts table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct AccountId(pub i64);

/// A row of the login sessions table: one signed-in browser, or one `grain session` of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct LoginId(pub i64);

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LoginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// Until the shared crate has them: same shape (FromStr, Display) as `sandstorm_schema::ids`.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                let ok: fn(&str) -> bool = $ok;
                if ok(s) { Ok(Self(s.to_owned())) } else { Err(format!("not a {}", stringify!($name))) }
            }
        }
    };
}
text_id!(
    /// A grain: 22 characters.
    GrainId, |s| (8..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric()));
text_id!(
    /// A package: 32 hex digits.
    PackageId, |s| s.len() == 32 && s.bytes().all(|b| b.is_ascii_hexdigit()));
