# The package format under the names that it had in 2014, for manifests written then:
#
#     capnp eval -I .../sandstorm-2014 -b manifest.capnp manifest > my-pkg/sandstorm-manifest
#
# Type ids, ordinals and layout are those of today's package.capnp, and so are the bytes that come
# out. Only `executablePath` and `args` differ in name. New apps should use today's.

@0xdf9bc20172856a3a;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "powerbox.capnp".PowerboxDescriptor;
using import "util.capnp".KeyValue;
using import "util.capnp".LocalizedText;

struct Manifest @0x855f296a69e6e1ca {
  # What the server must know of an app. The file `sandstorm-manifest` at the package's root: one
  # message, ordinary framing.

  const sizeLimitInWords @0xd9bd68bd9dba918f :UInt64 = 1048576;
  # Words of eight bytes.

  minApiVersion @0 :UInt32;
  maxApiVersion @1 :UInt32;
  # The platform's versions that the app runs on; both 0 today.

  actions @2 :List(Action);
  # The ways to begin a new grain, the best first.

  continueCommand @3 :Command;
  # Starts a grain that is there already.

  appVersion @4 :UInt32;
  # Counts up with every release. Never shown.

  minUpgradableAppVersion @5 :UInt32;
  # Grains of versions below this one must not be opened by this one.

  appMarketingVersion @6 :LocalizedText;
  # The version as people know it: "1.4.2".

  appTitle @7 :LocalizedText;
  # The app's name. Unknown in 2014; may be used all the same.

  metadata @8 :AnyPointer;
  # Unknown in 2014. Here so that the layout is today's; leave it out.

  struct Command @0xc64951b2a02886cf {
    # A program to run in the sandbox, where the package is the root directory. No shell, no search
    # path.

    executablePath @0 :Text;
    # The program, an absolute path in the package.

    args @1 :List(Text);
    # Its arguments, without the program's own name.

    environ @2 :List(KeyValue);
    # The whole environment.
  }

  struct Action @0xe5c59b9296375a00 {
    input :union {
      none @0 :Void;
      # Begins with nothing.

      capability @1 :List(PowerboxDescriptor);
      # Begins with something that the user has and that fits this.
    }

    command @2 :Command;
    # Starts the new grain, this one time.

    title @3 :LocalizedText;
    # "New notebook".

    description @4 :LocalizedText;
    nounPhrase @5 :LocalizedText;
    # Unknown in 2014; may be used all the same.
  }
}

const magicNumber @0x82bdd60d2cf486c9 :Data = 0x"8f c6 cd ef 45 1a ea 96";
# The first bytes of an .spk file.

struct Signature @0xeca8b9277cb36488 {
  publicKey @0 :Data;
  # 32 bytes, Ed25519.

  signature @1 :Data;
  # 128 bytes: the signature (64 bytes), then what was signed, the SHA-512 of the rest of the
  # stream.
}

struct Archive @0xf153ba7dee1c9118 {
  # A tree of files.

  files @0 :List(File);
  # The root directory.

  struct File @0xd92313d72a1ab4d0 {
    name @0 :Text;
    # One component of a path: no slash, not `.` or `..`, unique in its directory.

    union {
      regular @1 :Data;
      executable @2 :Data;
      # Content of a file, by whether its owner may execute it.

      symlink @3 :Text;
      # Where it points, which matters in the sandbox only.

      directory @4 :List(File);
    }

    lastModificationTimeNs @5 :Int64;
    # Nanoseconds since 1970-01-01 UTC.
  }
}

struct KeyFile @0xe47ce2b3aab90f74 {
  # An app's key pair as `spk keygen` writes it; a keyring is several such messages in a row.
  # Whoever has it can make packages that replace the app.

  publicKey @0 :Data;
  # 32 bytes, Ed25519.

  privateKey @1 :Data;
  # 64 bytes: the seed, then the public key.
}
