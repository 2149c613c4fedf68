//! From a package file or address to an installed app.

#[derive(Clone)]
pub struct Installer(std::sync::Arc<()>);
