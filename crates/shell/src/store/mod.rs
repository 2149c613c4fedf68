//! All the SQL.

#[derive(Clone)]
pub struct Store(std::sync::Arc<()>);
