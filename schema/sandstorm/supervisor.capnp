@0xb16ffde83e26f11a;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "/capnp/persistent.capnp".Persistent;
using import "activity.capnp".ActivityEvent;
using import "activity.capnp".NotificationTarget;
using import "activity.capnp".OngoingNotification;
using import "grain.capnp".ScheduledJob;
using import "grain.capnp".UiView;
using import "identity.capnp".Identity;
using import "util.capnp".ByteStream;
using import "util.capnp".Handle;
using import "util.capnp".LocalizedText;

interface Supervisor @0x9951c12163385530 {
  getMainView @0 () -> (view :UiView);
  keepAlive @1 (core :SandstormCore) -> ();
  shutdown @2 () -> ();
  obsoleteGetGrainSize @3 () -> (size :UInt64);
  obsoleteGetGrainSizeWhenDifferent @4 (oldSize :UInt64) -> (size :UInt64);
  restore @5 (ref :SupervisorObjectId, obsolete :List(MembraneRequirement), parentToken :Data)
      -> (cap :Capability);
  drop @6 (ref :SupervisorObjectId) -> ();
  watchLog @7 (backlogAmount :UInt64, stream :ByteStream) -> (handle :Handle);
  syncStorage @8 () -> ();
  getWwwFileHack @9 (path :Text, stream :ByteStream) -> (status :WwwFileStatus);

  enum WwwFileStatus @0x85ccf31fc4aff09c {
    file @0;
    directory @1;
    notFound @2;
  }
}

interface SandstormCore @0x9ba45778a294b60c {
  restore @0 (token :Data) -> (cap :Capability);
  makeToken @1 (ref :SupervisorObjectId, owner :ApiTokenOwner, requirements :List(MembraneRequirement))
      -> (token :Data);
  getOwnerNotificationTarget @2 () -> (owner :NotificationTarget);
  drop @3 (token :Data) -> ();
  obsoleteCheckRequirements @4 () -> ();
  makeChildToken @5 (parent :Data, owner :ApiTokenOwner, requirements :List(MembraneRequirement))
      -> (token :Data);
  claimRequest @6 (requestToken :Text, requiredPermissions :List(Bool)) -> (cap :Capability);
  backgroundActivity @7 (event :ActivityEvent) -> ();
  reportGrainSize @8 (bytes :UInt64) -> ();
  getIdentityId @9 (identity :Identity) -> (id :Data);
  schedule @10 ScheduledJob -> ();
}

struct MembraneRequirement @0x918db9a721f13886 {
  union {
    tokenValid @0 :Text;
    permissionsHeld :group {
      userId @1 :Text;
      grainId @2 :Text;
      permissions @3 :List(Bool);
      union {
        accountId @5 :Text;
        tokenId @6 :Text;
      }
    }
    userIsAdmin @4 :Text;
  }
}

interface SystemPersistent @0xc38cedd77cbed5b4 extends(Persistent(Data, ApiTokenOwner)) {
  addRequirements @0 (requirements :List(MembraneRequirement), observer :RevocationObserver)
      -> (cap :SystemPersistent);

  interface RevocationObserver @0xcdda9d1436d7d206 {
    dropWhenRevoked @0 (handle :Handle) -> ();
  }
}

interface PersistentHandle @0xc22ce229c18c0a02 extends(SystemPersistent, Handle) {
}

interface PersistentOngoingNotification @0xdbbdcec8587dd355 extends(SystemPersistent, OngoingNotification) {
}

struct DenormalizedGrainMetadata @0xbdd9bea5585df6c5 {
  appTitle @0 :LocalizedText;
  union {
    icon :group {
      format @1 :Text;
      assetId @2 :Text;
      assetId2xDpi @3 :Text;
    }
    appId @4 :Text;
  }
}

struct ApiTokenOwner @0xda970537e2a8a9a9 {
  union {
    webkey @0 :Void;
    grain :group {
      grainId @1 :Text;
      saveLabel @2 :LocalizedText;
      introducerUser @5 :Text;
      introducerIdentity @9 :Text;
    }
    internet @3 :AnyPointer;
    frontend @4 :Void;
    user :group {
      userId @6 :Text;
      title @7 :Text;
      denormalizedGrainMetadata @8 :DenormalizedGrainMetadata;
      identityId @10 :Text;
      upstreamTitle @11 :Text;
      renamed @12 :Bool;
      seenAllActivity @16 :Bool;
      accountId @18 :Text;
    }
    clientPowerboxRequest :group {
      grainId @13 :Text;
      introducerIdentity @14 :Text;
      sessionId @15 :Text;
    }
    clientPowerboxOffer :group {
      sessionId @17 :Text;
    }
  }
}

struct SupervisorObjectId @0x8e74650737dbb840 (AppObjectId) {
  union {
    appRef @0 :AppObjectId;
    wakeLockNotification @1 :UInt32;
  }
}
