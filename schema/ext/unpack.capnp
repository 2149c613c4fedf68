# Between the shell and the process that takes a package apart (`spk unpack-server`).
#
# That process handles hostile bytes, so it is locked down and inherits all it may touch: fd 3 is
# this RPC connection, fd 4 the package file (read only), fd 5 an empty directory on the home's
# file system. It exports Unpacker as its bootstrap, serves one `unpack` and ends with the
# connection. The shell treats every answer as hostile.

@0xad4e3fdd2de2adef;

$import "/capnp/c++.capnp".namespace("sandstorm::ext");

using import "/sandstorm/package.capnp".Manifest;

interface Unpacker @0xbe91ccf4d32db3c4 {
  unpack @0 (progress :Progress) -> (info :UnpackedInfo);
  # Verifies the package on fd 4 and writes its files below fd 5. Nothing is written before the
  # signature and the hash hold.
  #
  # Fails with `failed` and one line that names the entry and the reason when the package is
  # refused (trying again is of no use), with `overloaded` when the machine is at fault (disk full,
  # no memory). After a failure the directory's content is worthless and is the shell's to delete.
  # `progress` may be null.
}

interface Progress @0xbbadf220405072fc {
  # Told now and then; a report that fails does not stop the work.

  report @0 (step :Step, done :UInt64, total :UInt64);
  # `done` of `total` bytes of this step; `total` is 0 while it is unknown. `done` never falls
  # within a step, and steps only go forward.
}

enum Step @0xef4229e664fa261c {
  # Numbers only grow; a reader shows a step that it does not know as "working".

  verify @0;
  # Reads and decompresses the package and compares hash and signature. Compressed bytes.

  extract @1;
  # Writes the files. Bytes of the archive.

  sync @2;
  # Waits for the disk. `total` is 0.
}

struct UnpackedInfo @0xccaa92f0d8588419 {
  # What the package says of itself, all of it checked for form but none of it for truth.

  appId @0 :Text;
  # 52 characters: the signing key in base32, after key replacement.

  packageId @1 :Text;
  # 32 lower-case hex digits: first half of the SHA-256 of the file on fd 4.

  manifest @2 :Manifest;
  # The root's `sandstorm-manifest`.

  authorPgpKeyFingerprint @3 :Text;
  # 40 hex digits when the manifest carries a valid PGP statement, else empty.

  unpackedBytes @4 :UInt64;
  # Sum of the sizes of all regular files.

  entryCount @5 :UInt64;
  # Files, links and directories written.
}
