# Packages: the .spk file, the manifest in it, and what `spk pack` reads to make one.
#
# An .spk file is the eight bytes of `magicNumber`, then an .xz stream that holds two messages in
# Cap'n Proto's ordinary framing: a Signature and an Archive. The signature is over the SHA-512 of
# every byte after it. An app is known by its public key (AppId), a package by the SHA-256 of the
# whole file (PackageId).

@0xdf9bc20172856a3a;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "api-session.capnp".ApiSession;
using import "grain.capnp".UiView;
using import "powerbox.capnp".PowerboxDescriptor;
using import "powerbox.capnp".PowerboxDisplayInfo;
using import "util.capnp".KeyValue;
using import "util.capnp".LocalizedText;

# What an author writes.

struct PackageDefinition @0x9f149fa71489be0b {
  # The constant `pkgdef` of a file `sandstorm-pkgdef.capnp`, the input of `spk pack`.

  id @0 :Text;
  # The app id, whose key must be in the keyring.

  manifest @1 :Manifest;

  sourceMap @2 :SourceMap;
  # Where the package's files come from.

  fileList @3 :Text;
  # A file that lists the package's paths, one a line, `#` for comments; relative to the current
  # directory. A directory stands for itself alone.

  alwaysInclude @4 :List(Text);
  # Paths that go in with all that is below them, whatever the list says. `.` is everything.

  bridgeConfig @5 :BridgeConfig;
  # For apps behind the bridge. Null is taken as the default values.
}

struct SourceMap @0xe3d7ba482b2e470b {
  searchPath @0 :List(Mapping);
  # Tried in order; the first that has a path gives it.

  struct Mapping @0x87dcf1b1edcb3eaf {
    packagePath @0 :Text;
    # Where in the package, without a leading slash. Empty or null: the root.

    sourcePath @1 :Text;
    # Where on the author's disk; relative to the definition's file.

    hidePaths @2 :List(Text);
    # Paths below `sourcePath` to leave out, with all that is below them.
  }
}

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
  # The app's name.

  metadata @8 :Metadata;
  # Description, pictures, licence and so on.

  struct Command @0xc64951b2a02886cf {
    # A program to run in the sandbox, where the package is the root directory. No shell, no search
    # path.

    deprecatedExecutablePath @0 :Text;
    # If set, stands in front of `argv`. Packages of 2014 call it `executablePath`.

    argv @1 :List(Text);
    # The program, then its arguments.

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
    # "New notebook". Packages of 2014 have only this.

    nounPhrase @5 :LocalizedText;
    # What one gets, to follow "New": "notebook".

    description @4 :LocalizedText;
    # Helps to choose between several actions.
  }
}

struct Metadata @0xe0c5892a5448f4ee {
  # For the pages on which people look at apps.

  icons :group {
    # Square pictures. One that is missing is replaced by the one it stands beside.

    appGrid @0 :Icon;
    # 128 pixels: lists of apps. Some 64 kB at most.

    grain @1 :Icon;
    # 24 pixels: beside a grain's title. Some 4 kB at most. Else `appGrid`.

    market @2 :Icon;
    # 150 pixels: catalogues. Some 64 kB at most. Else `appGrid`.

    marketBig @18 :Icon;
    # 300 pixels. Some 256 kB at most. Else `market`.
  }

  website @3 :Text;
  codeUrl @4 :Text;
  # Addresses with http: or https:.

  license :group {
    union {
      none @5 :Void;
      # All rights reserved.

      openSource @6 :OpenSourceLicense;

      proprietary @7 :LocalizedText;
      # Terms that the user must agree to.

      publicDomain @8 :LocalizedText;
      # Words that say so.
    }

    notices @9 :LocalizedText;
    # Of the parts that others wrote.
  }

  categories @10 :List(Category);
  # Best first.

  author :group {
    contactEmail @11 :Text;

    pgpSignature @12 :Data;
    # A signed PGP message (not a detached signature) whose text ties the app id to the key's owner.
    # The key is in `pgpKeyring`.

    upstreamAuthor @19 :Text;
    # Who wrote the app, where it is not who packaged it.
  }

  pgpKeyring @13 :Data;

  description @14 :LocalizedText;
  # Markdown, without HTML and pictures.

  shortDescription @15 :LocalizedText;
  # One to three words: "Notebook".

  screenshots @16 :List(Screenshot);

  changeLog @17 :LocalizedText;
  # Markdown, newest first.

  struct Icon @0xe492a2981208ad0b {
    union {
      unknown @0 :Void;

      svg @1 :Text;

      png :group {
        dpi1x @2 :Data;
        dpi2x @3 :Data;
        # The same at twice as many pixels a side.
      }
    }
  }

  struct Screenshot @0x8bc9f4365959348e {
    width @0 :UInt32;
    height @1 :UInt32;
    # Size to show it at, in CSS pixels.

    union {
      unknown @2 :Void;
      png @3 :Data;
      jpeg @4 :Data;
    }
  }
}

enum Category @0x938e7e53b106e1c0 {
  other @0 $categoryInfo(title = "Other");
  productivity @1 $categoryInfo(title = "Productivity");
  communications @2 $categoryInfo(title = "Communications");
  social @3 $categoryInfo(title = "Social");
  webPublishing @4 $categoryInfo(title = "Web Publishing");
  office @5 $categoryInfo(title = "Office");
  developerTools @6 $categoryInfo(title = "Developer Tools");
  science @7 $categoryInfo(title = "Science");
  media @8 $categoryInfo(title = "Media");
  games @9 $categoryInfo(title = "Games");
  graphics @10 $categoryInfo(title = "Graphics");
}

struct CategoryInfo @0xb9d2951d34ca391c {
  title @0 :Text;
}

annotation categoryInfo @0x8d51dd236606d205 (enumerant) :CategoryInfo;
# How a category is called.

enum OpenSourceLicense @0xd86e43f42c8b0f74 {
  invalid @0;
  mit @1 $osiInfo(id = "MIT", title = "MIT License");
  apache2 @2 $osiInfo(id = "Apache-2.0", title = "Apache License 2.0");
  gpl3 @3 $osiInfo(
      id = "GPL-3.0", title = "GNU General Public License version 3", requireSource = true);
  agpl3 @4 $osiInfo(
      id = "AGPL-3.0", title = "GNU Affero General Public License version 3",
      requireSource = true);
  bsd3Clause @5 $osiInfo(id = "BSD-3-Clause", title = "BSD 3-Clause License");
  bsd2Clause @6 $osiInfo(id = "BSD-2-Clause", title = "BSD 2-Clause License");
  gpl2 @7 $osiInfo(
      id = "GPL-2.0", title = "GNU General Public License version 2", requireSource = true);
  lgpl2 @8 $osiInfo(
      id = "LGPL-2.1", title = "GNU Lesser General Public License version 2.1",
      requireSource = true);
  lgpl3 @9 $osiInfo(
      id = "LGPL-3.0", title = "GNU Lesser General Public License version 3",
      requireSource = true);
  isc @10 $osiInfo(id = "ISC", title = "ISC License");
  artistic2 @11 $osiInfo(id = "Artistic-2.0", title = "Artistic License 2.0");
  python2 @12 $osiInfo(id = "Python-2.0", title = "Python License 2.0");
  php3 @13 $osiInfo(id = "PHP-3.0", title = "PHP License 3.0");
  mpl2 @14 $osiInfo(
      id = "MPL-2.0", title = "Mozilla Public License 2.0", requireSource = true);
  cddl @15 $osiInfo(
      id = "CDDL-1.0", title = "Common Development and Distribution License 1.0",
      requireSource = true);
  epl @16 $osiInfo(id = "EPL-1.0", title = "Eclipse Public License 1.0", requireSource = true);
  cpal @17 $osiInfo(
      id = "CPAL-1.0", title = "Common Public Attribution License 1.0", requireSource = true);
  zlib @18 $osiInfo(id = "Zlib", title = "zlib License");
}

struct OsiLicenseInfo @0xb755d258845a4a8f {
  id @0 :Text;
  # The licence's short name, as the Open Source Initiative lists it.

  title @1 :Text;

  requireSource @2 :Bool;
  # Whoever passes the app on must offer its source: give `codeUrl`.
}

annotation osiInfo @0x9476412d0315d869 (enumerant) :OsiLicenseInfo;
# Which licence an enumerant means.

struct BridgeConfig @0xdd8c82383168c096 {
  # The file `sandstorm-http-bridge-config` at the package's root, read by the bridge: one message,
  # ordinary framing.

  viewInfo @0 :UiView.ViewInfo;
  # What the bridge answers to UiView.getViewInfo; its permissions' names go into the header
  # X-Sandstorm-Permissions.

  apiPath @1 :Text;
  # Requests with a token are sent to paths below this one; must end in a slash. Empty or null:
  # there is no API. It does not keep such requests out of the rest: the app must check.

  saveIdentityCaps @2 :Bool;
  # Remember every visitor, for `getSavedIdentity` (see sandstorm-http-bridge.capnp).

  powerboxApis @3 :List(PowerboxApi);
  # Interfaces of the app that other apps may ask for.

  expectAppHooks @4 :Bool;
  # The app connects to the bridge's socket and gives AppHooks (see sandstorm-http-bridge.capnp).

  struct PowerboxApi @0xc9702c7dbfc6d7e4 {
    name @0 :Text;
    # For programs: the header X-Sandstorm-Api of its requests.

    displayInfo @1 :PowerboxDisplayInfo;

    path @2 :Text;
    # Requests are sent to paths below this one; must end in a slash.

    tag @3 :ApiSession.PowerboxTag;
    # What it is, in words that others ask with.

    permissions @4 :List(Bool);
    # What those who got it may do, by index into `viewInfo`.
  }
}

# The file format.

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

struct AppId @0x880c6c7782a33310 {
  # The public key's 32 bytes, in order.

  id0 @0 :UInt64;
  id1 @1 :UInt64;
  id2 @2 :UInt64;
  id3 @3 :UInt64;
}

struct PackageId @0xe2e344d346ffda6b {
  # The first 16 bytes of the hash, in order.

  id0 @0 :UInt64;
  id1 @1 :UInt64;
}

struct VerifiedInfo @0x987ef3040a0342a9 {
  # What `spk verify` found out.

  appId @0 :AppId;
  packageId @1 :PackageId;
  title @2 :LocalizedText;
  version @3 :UInt32;
  marketingVersion @4 :LocalizedText;

  authorPgpKeyFingerprint @5 :Text;
  # Null when the manifest has no PGP signature.

  metadata @6 :Metadata;
}
