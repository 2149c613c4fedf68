@0xdf9bc20172856a3a;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "api-session.capnp".ApiSession;
using import "grain.capnp".UiView;
using import "powerbox.capnp".PowerboxDescriptor;
using import "powerbox.capnp".PowerboxDisplayInfo;
using import "util.capnp".KeyValue;
using import "util.capnp".LocalizedText;

struct AppId @0x880c6c7782a33310 {
  id0 @0 :UInt64;
  id1 @1 :UInt64;
  id2 @2 :UInt64;
  id3 @3 :UInt64;
}

struct Archive @0xf153ba7dee1c9118 {
  files @0 :List(File);

  struct File @0xd92313d72a1ab4d0 {
    name @0 :Text;
    lastModificationTimeNs @5 :Int64;
    union {
      regular @1 :Data;
      executable @2 :Data;
      symlink @3 :Text;
      directory @4 :List(File);
    }
  }
}

struct BridgeConfig @0xdd8c82383168c096 {
  viewInfo @0 :UiView.ViewInfo;
  apiPath @1 :Text;
  saveIdentityCaps @2 :Bool;
  powerboxApis @3 :List(PowerboxApi);
  expectAppHooks @4 :Bool;

  struct PowerboxApi @0xc9702c7dbfc6d7e4 {
    name @0 :Text;
    displayInfo @1 :PowerboxDisplayInfo;
    path @2 :Text;
    tag @3 :ApiSession.PowerboxTag;
    permissions @4 :List(Bool);
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

struct KeyFile @0xe47ce2b3aab90f74 {
  publicKey @0 :Data;
  privateKey @1 :Data;
}

struct Manifest @0x855f296a69e6e1ca {
  minApiVersion @0 :UInt32;
  maxApiVersion @1 :UInt32;
  actions @2 :List(Action);
  continueCommand @3 :Command;
  appVersion @4 :UInt32;
  minUpgradableAppVersion @5 :UInt32;
  appMarketingVersion @6 :LocalizedText;
  appTitle @7 :LocalizedText;
  metadata @8 :Metadata;

  struct Action @0xe5c59b9296375a00 {
    input :union {
      none @0 :Void;
      capability @1 :List(PowerboxDescriptor);
    }
    command @2 :Command;
    title @3 :LocalizedText;
    description @4 :LocalizedText;
    nounPhrase @5 :LocalizedText;
  }

  struct Command @0xc64951b2a02886cf {
    deprecatedExecutablePath @0 :Text;
    argv @1 :List(Text);
    environ @2 :List(KeyValue);
  }

  const sizeLimitInWords @0xd9bd68bd9dba918f :UInt64 = 1048576;
}

struct Metadata @0xe0c5892a5448f4ee {
  icons :group {
    appGrid @0 :Icon;
    grain @1 :Icon;
    market @2 :Icon;
    marketBig @18 :Icon;
  }
  website @3 :Text;
  codeUrl @4 :Text;
  license :group {
    notices @9 :LocalizedText;
    union {
      none @5 :Void;
      openSource @6 :OpenSourceLicense;
      proprietary @7 :LocalizedText;
      publicDomain @8 :LocalizedText;
    }
  }
  categories @10 :List(Category);
  author :group {
    contactEmail @11 :Text;
    pgpSignature @12 :Data;
    upstreamAuthor @19 :Text;
  }
  pgpKeyring @13 :Data;
  description @14 :LocalizedText;
  shortDescription @15 :LocalizedText;
  screenshots @16 :List(Screenshot);
  changeLog @17 :LocalizedText;

  struct Icon @0xe492a2981208ad0b {
    union {
      unknown @0 :Void;
      svg @1 :Text;
      png :group {
        dpi1x @2 :Data;
        dpi2x @3 :Data;
      }
    }
  }

  struct Screenshot @0x8bc9f4365959348e {
    width @0 :UInt32;
    height @1 :UInt32;
    union {
      unknown @2 :Void;
      png @3 :Data;
      jpeg @4 :Data;
    }
  }
}

enum OpenSourceLicense @0xd86e43f42c8b0f74 {
  invalid @0;
  mit @1 $osiInfo(id = "MIT", title = "MIT License");
  apache2 @2 $osiInfo(id = "Apache-2.0", title = "Apache License 2.0");
  gpl3 @3 $osiInfo(id = "GPL-3.0", title = "GNU General Public License version 3", requireSource = true);
  agpl3 @4 $osiInfo(id = "AGPL-3.0", title = "GNU Affero General Public License version 3", requireSource = true);
  bsd3Clause @5 $osiInfo(id = "BSD-3-Clause", title = "BSD 3-Clause License");
  bsd2Clause @6 $osiInfo(id = "BSD-2-Clause", title = "BSD 2-Clause License");
  gpl2 @7 $osiInfo(id = "GPL-2.0", title = "GNU General Public License version 2", requireSource = true);
  lgpl2 @8 $osiInfo(id = "LGPL-2.1", title = "GNU Lesser General Public License version 2.1", requireSource = true);
  lgpl3 @9 $osiInfo(id = "LGPL-3.0", title = "GNU Lesser General Public License version 3", requireSource = true);
  isc @10 $osiInfo(id = "ISC", title = "ISC License");
  artistic2 @11 $osiInfo(id = "Artistic-2.0", title = "Artistic License 2.0");
  python2 @12 $osiInfo(id = "Python-2.0", title = "Python License 2.0");
  php3 @13 $osiInfo(id = "PHP-3.0", title = "PHP License 3.0");
  mpl2 @14 $osiInfo(id = "MPL-2.0", title = "Mozilla Public License 2.0", requireSource = true);
  cddl @15 $osiInfo(id = "CDDL-1.0", title = "Common Development and Distribution License 1.0", requireSource = true);
  epl @16 $osiInfo(id = "EPL-1.0", title = "Eclipse Public License 1.0", requireSource = true);
  cpal @17 $osiInfo(id = "CPAL-1.0", title = "Common Public Attribution License 1.0", requireSource = true);
  zlib @18 $osiInfo(id = "Zlib", title = "zlib License");
}

struct OsiLicenseInfo @0xb755d258845a4a8f {
  id @0 :Text;
  title @1 :Text;
  requireSource @2 :Bool;
}

struct PackageDefinition @0x9f149fa71489be0b {
  id @0 :Text;
  manifest @1 :Manifest;
  sourceMap @2 :SourceMap;
  fileList @3 :Text;
  alwaysInclude @4 :List(Text);
  bridgeConfig @5 :BridgeConfig;
}

struct PackageId @0xe2e344d346ffda6b {
  id0 @0 :UInt64;
  id1 @1 :UInt64;
}

struct Signature @0xeca8b9277cb36488 {
  publicKey @0 :Data;
  signature @1 :Data;
}

struct SourceMap @0xe3d7ba482b2e470b {
  searchPath @0 :List(Mapping);

  struct Mapping @0x87dcf1b1edcb3eaf {
    packagePath @0 :Text;
    sourcePath @1 :Text;
    hidePaths @2 :List(Text);
  }
}

struct VerifiedInfo @0x987ef3040a0342a9 {
  appId @0 :AppId;
  packageId @1 :PackageId;
  title @2 :LocalizedText;
  version @3 :UInt32;
  marketingVersion @4 :LocalizedText;
  authorPgpKeyFingerprint @5 :Text;
  metadata @6 :Metadata;
}

annotation categoryInfo @0x8d51dd236606d205 (enumerant) :CategoryInfo;

const magicNumber @0x82bdd60d2cf486c9 :Data = 0x"8f c6 cd ef 45 1a ea 96";

annotation osiInfo @0x9476412d0315d869 (enumerant) :OsiLicenseInfo;
