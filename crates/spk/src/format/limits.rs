//! Every bound that a package has to keep, in one place. The packer and the reader use the same
//! numbers, so what is packed here can be unpacked everywhere.

/// The first eight bytes of every package, uncompressed.
pub const MAGIC: [u8; 8] = [0x8f, 0xc6, 0xcd, 0xef, 0x45, 0x1a, 0xea, 0x96];

/// Bytes of the archive part: everything after the signature message, decompressed.
pub const MAX_ARCHIVE_BYTES: u64 = 1 << 30;

/// Bytes of one file: the element count of a Cap'n Proto list has 29 bits.
pub const MAX_FILE_BYTES: u64 = (1 << 29) - 1;

/// Bytes of one name: what Linux file systems store.
pub const MAX_NAME_BYTES: usize = 255;

/// Bytes of a symbolic link's target: what `symlink(2)` accepts.
pub const MAX_LINK_BYTES: usize = 4095;

/// Levels of directories. A directory costs two of the 128 levels of pointers that readers allow.
pub const MAX_DEPTH: usize = 63;

/// Entries of all directories together. The format itself has no such bound; without one a
/// 1 GiB archive could ask for 33 million inodes.
pub const MAX_ENTRIES: u64 = 1 << 20;

/// Segments of one message.
pub const MAX_SEGMENTS: usize = 512;

/// Words of the signature message (the library's default; a real one has 26).
pub const MAX_SIGNATURE_WORDS: u64 = 8 << 20;

/// Words of the manifest and of the bridge's configuration.
pub const MAX_MANIFEST_WORDS: u64 = 1 << 20;

/// Words of one key in a key file (a real one has 15).
pub const MAX_KEY_WORDS: u64 = 1 << 10;

/// Levels of pointers while reading an archive.
pub const ARCHIVE_NESTING: i32 = 128;

/// Bytes that the decompressor may use: enough for a 64 MiB dictionary.
pub const DECODER_MEMORY: u64 = 128 << 20;

/// Compression: the preset, its dictionary and the size of the independent blocks.
pub const XZ_PRESET: u32 = 6;
/// See [`XZ_PRESET`].
pub const XZ_DICTIONARY: u32 = 4 << 20;
/// See [`XZ_PRESET`].
pub const XZ_BLOCK: u64 = 8 << 20;
/// Bytes that the compressor may use; decides the number of threads.
pub const ENCODER_MEMORY: u64 = 160 << 20;

/// The newest API version that this system speaks (`minApiVersion`, `maxApiVersion`).
pub const API_VERSION: u32 = 0;

/// Where the manifest stands in a package.
pub const MANIFEST_NAME: &str = "sandstorm-manifest";
/// Where the bridge program stands in a package that was made from a definition.
pub const BRIDGE_NAME: &str = "sandstorm-http-bridge";
/// Where the bridge's configuration stands.
pub const BRIDGE_CONFIG_NAME: &str = "sandstorm-http-bridge-config";
