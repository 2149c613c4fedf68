//! Signing keys on disk: `KeyFile` messages end to end, unencrypted, so every file is made for its
//! owner alone and none is ever overwritten. A key file of 2014 is a keyring with one key.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use capnp::message::{Builder, Reader, ReaderOptions};
use ed25519_dalek::SigningKey;
use nix::fcntl::{Flock, FlockArg};
use sandstorm_schema::ids::AppId;
use sandstorm_schema::package_capnp::key_file;

use crate::error::{Error, Result, display_path};
use crate::format::{frame, limits};
use crate::sys::placed::Placed;
use crate::sys::scratch::{fill_random, sync_parent, working_name};

/// Bytes of a keyring that are read at most: some hundred thousand keys.
const MAX_KEYRING_BYTES: u64 = 16 << 20;

/// Bytes of the private half of a key, as it stands in a file: the seed, then the public half.
pub const PRIVATE_BYTES: usize = 64;

/// One key.
#[derive(Clone)]
pub struct Key(SigningKey);

impl Key {
    /// A new key from the kernel's random bytes.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn generate() -> Result<Key> {
        let mut seed = [0; 32];
        fill_random(&mut seed)?;
        Ok(Key(SigningKey::from_bytes(&seed)))
    }

    /// A key from its 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Key {
        Key(SigningKey::from_bytes(seed))
    }

    /// The app id that packages signed with it have, key replacement aside.
    pub fn app_id(&self) -> AppId {
        AppId(self.0.verifying_key().to_bytes())
    }

    /// For signing.
    pub fn signing(&self) -> &SigningKey {
        &self.0
    }

    /// The private half as it stands in a file.
    pub fn private_bytes(&self) -> [u8; PRIVATE_BYTES] {
        self.0.to_keypair_bytes()
    }

    /// The key as it stands in a file, 128 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut message = Builder::new_default();
        let mut root = message.init_root::<key_file::Builder<'_>>();
        root.set_public_key(self.0.verifying_key().as_bytes());
        root.set_private_key(&self.private_bytes());
        capnp::serialize::write_message_to_words(&message)
    }
}

/// The keys of a file, in order.
pub struct Keyring {
    path: PathBuf,
    keys: Vec<Key>,
}

impl Keyring {
    /// Reads a key file or keyring.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn load(path: &Path) -> Result<Keyring> {
        let file = File::open(path).map_err(Error::io(display_path(path)))?;
        Keyring::read(path, file)
    }

    fn read(path: &Path, file: File) -> Result<Keyring> {
        Keyring::parse(path, &read_bytes(path, &file)?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Keyring> {
        let bad = |fault: String| Error::Key { path: display_path(path), fault };
        let mut rest = bytes;
        let mut keys = Vec::new();
        loop {
            let frame = match frame::read_or_end(&mut rest, limits::MAX_KEY_WORDS) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(fault) => return Err(bad(format!("not a key file: {fault}"))),
            };
            let number = keys.len() + 1;
            let key = parse(&Reader::new(frame, ReaderOptions::new()))
                .map_err(|fault| bad(format!("key {number}: {fault}")))?;
            keys.push(key);
        }
        Ok(Keyring { path: path.to_owned(), keys })
    }

    /// All keys.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The first key.
    ///
    /// # Errors
    /// There is none.
    pub fn first(&self) -> Result<&Key> {
        self.keys.first().ok_or_else(|| self.fault("no key in it"))
    }

    /// The key of this app id.
    ///
    /// # Errors
    /// It is not in this file.
    pub fn find(&self, id: AppId) -> Result<&Key> {
        self.keys.iter().find(|key| key.app_id() == id).ok_or_else(|| Error::Key {
            path: display_path(&self.path),
            fault: format!("it has no key for app {id}; `spk listkeys` lists what it has"),
        })
    }

    /// The one key of a 2014 key file.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn only(&self) -> Result<&Key> {
        match &self.keys[..] {
            [key] => Ok(key),
            [] => Err(self.fault("no key in it")),
            _ => Err(self.fault("several keys in it; `spk getkey APPID` writes one alone")),
        }
    }

    fn fault(&self, fault: &str) -> Error {
        Error::Key { path: display_path(&self.path), fault: fault.into() }
    }
}

fn read_bytes(path: &Path, file: &File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_KEYRING_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io(display_path(path)))?;
    if bytes.len() as u64 > MAX_KEYRING_BYTES {
        let fault = "too large to be a key file".into();
        return Err(Error::Key { path: display_path(path), fault });
    }
    Ok(bytes)
}

fn parse(message: &Reader<frame::OwnedFrame>) -> std::result::Result<Key, String> {
    let root = message.get_root::<key_file::Reader<'_>>().map_err(|e| e.to_string())?;
    let public = root.get_public_key().map_err(|e| e.to_string())?;
    let private = root.get_private_key().map_err(|e| e.to_string())?;
    let public: &[u8; 32] = public.try_into().map_err(|_| "its public key is not 32 bytes")?;
    let private: &[u8; PRIVATE_BYTES] =
        private.try_into().map_err(|_| "its private key is not 64 bytes")?;
    match SigningKey::from_keypair_bytes(private) {
        Ok(key) if key.verifying_key().as_bytes() == public => Ok(Key(key)),
        _ => Err("its private and its public half do not belong together".into()),
    }
}

/// The error for a name that is taken.
pub fn exists(path: &Path) -> Error {
    let fault = "it exists, and a key file is never overwritten".into();
    Error::Key { path: display_path(path), fault }
}

/// Writes a key to a file of its own.
///
/// # Errors
/// The file exists: a key is never overwritten.
pub fn create(path: &Path, key: &Key) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match opened {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(exists(path));
        }
        other => other.map_err(Error::io(display_path(path)))?,
    };
    let written = file
        .write_all(&key.to_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_parent(path));
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written.map_err(Error::io(display_path(path)))
}

/// Adds a key to a keyring, which is made if it is missing. The file is replaced by a longer one: a
/// power cut in the middle of an append would leave a part of a key, and every key before it unread.
///
/// Then `tell` says so, and the key is only kept if it can.
///
/// # Errors
/// What is there is not a keyring; those of writing and of `tell`, after which it is what it was.
pub fn append(path: &Path, key: &Key, tell: impl FnOnce() -> Result<()>) -> Result<()> {
    let failed = |e| Error::io(display_path(path))(e);
    let missing = path.symlink_metadata().is_err();
    let old = lock(path).map_err(failed)?;
    let bytes = read_bytes(path, &old)?;
    let appended = append_to(path, &old, &bytes, key, tell);
    if appended.is_err() && missing && bytes.is_empty() {
        // The lock has made it. Whoever waits for it makes another one.
        let _ = std::fs::remove_file(path);
    }
    appended
}

fn append_to(
    path: &Path,
    old: &File,
    bytes: &[u8],
    key: &Key,
    tell: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let failed = |e| Error::io(display_path(path))(e);
    Keyring::parse(path, bytes)?;
    let bytes = [bytes, &key.to_bytes()].concat();
    // Through a link to the file that it names.
    let target = std::fs::canonicalize(path).map_err(failed)?;
    let name = target.file_name().unwrap_or_default();
    let working = target.with_file_name(working_name(name.as_encoded_bytes())?);
    let written = write_beside(old, &bytes, &working).map_err(failed).and_then(|()| {
        let placed = Placed::put(&working, &target).map_err(failed)?;
        sync_parent(&target).map_err(failed)?;
        tell()?;
        placed.keep();
        Ok(())
    });
    // What was written, or the keyring as it was before.
    let _ = std::fs::remove_file(&working);
    written
}

/// Opens a keyring that nobody else changes as long as the result lives.
fn lock(path: &Path) -> std::io::Result<Flock<File>> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        // Whoever had the lock before us has put another file there.
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let named = std::fs::metadata(path).map(identity);
        if matches!(named, Ok(named) if named == identity(file.metadata()?)) {
            return Ok(file);
        }
    }
}

/// Writes a file that is to replace another one, with the same owner and mode.
fn write_beside(old: &File, bytes: &[u8], working: &Path) -> std::io::Result<()> {
    let before = old.metadata()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(working)?;
    let ours = file.metadata()?;
    if (ours.uid(), ours.gid()) != (before.uid(), before.gid()) {
        std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()))?;
    }
    file.set_permissions(before.permissions())?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A warning when others may read a key file.
pub fn exposure(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode();
    (mode & 0o077 != 0)
        .then(|| format!("{}: others can read this key; `chmod 600` it", display_path(path)))
}

/// The keyring to use: the one that was asked for, else `~/.sandstorm-keyring`.
///
/// # Errors
/// No home directory.
pub fn path(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = asked {
        return Ok(path.to_owned());
    }
    match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Ok(Path::new(&home).join(".sandstorm-keyring")),
        None => Err(Error::Usage("HOME is not set; name the keyring with -k".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_has_128_bytes_and_the_known_id() {
        let key = Key::from_seed(&[0; 32]);
        assert_eq!(key.to_bytes().len(), 128);
        assert_eq!(
            key.app_id().to_string(),
            "7ep2gg6fquk2usp3p382nvsefekm45cr3rj479jus14a32utv8nh"
        );
    }

    #[test]
    fn files_are_private_and_never_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("k");
        create(&path, &Key::from_seed(&[1; 32])).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let before = std::fs::read(&path).unwrap();
        assert!(create(&path, &Key::from_seed(&[2; 32])).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn keyrings_grow_and_damage_is_told() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("ring");
        let keys = [Key::from_seed(&[1; 32]), Key::from_seed(&[2; 32])];
        keys.iter().for_each(|key| append(&path, key, || Ok(())).unwrap());
        let ring = Keyring::load(&path).unwrap();
        assert_eq!(ring.keys().len(), 2);
        assert!(ring.only().is_err());
        assert_eq!(ring.find(keys[1].app_id()).unwrap().to_bytes(), keys[1].to_bytes());
        assert!(ring.find(AppId([0; 32])).is_err());

        let whole = std::fs::read(&path).unwrap();
        for (bytes, ok) in
            [(&whole[..128], true), (&whole[..127], false), (&whole[..200], false), (&[][..], true)]
        {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Keyring::load(&path).is_ok(), ok, "{}", bytes.len());
        }
        let mut swapped = whole[..128].to_vec();
        swapped[40] ^= 1;
        std::fs::write(&path, swapped).unwrap();
        assert!(Keyring::load(&path).is_err());
        // Appending to something else changes nothing.
        std::fs::write(&path, b"not a keyring").unwrap();
        assert!(append(&path, &keys[0], || Ok(())).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"not a keyring");
    }

    #[test]
    fn a_keyring_is_replaced_and_never_written_into() {
        let home = tempfile::tempdir().unwrap();
        let (path, link) = (home.path().join("ring"), home.path().join("link"));
        std::os::unix::fs::symlink("ring", &link).unwrap();
        append(&link, &Key::from_seed(&[1; 32]), || Ok(())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let mut before = File::open(&path).unwrap();
        append(&link, &Key::from_seed(&[2; 32]), || Ok(())).unwrap();
        // A reader who was there has the keyring that it was.
        let mut bytes = Vec::new();
        before.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 128);
        assert_eq!(Keyring::load(&path).unwrap().keys().len(), 2);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2);
    }

    #[test]
    fn keys_that_are_made_at_once_are_all_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("ring");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for number in 0..8 {
                        append(path, &Key::from_seed(&[8 * thread + number; 32]), || Ok(()))
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(Keyring::load(&path).unwrap().keys().len(), 64);
    }
}
