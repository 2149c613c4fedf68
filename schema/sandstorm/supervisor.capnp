# Between the server and the supervisor of one grain, over the Unix socket in the grain's directory.
# System interfaces: apps see none of them.

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
  # The bootstrap object of the grain's socket; called by the server.

  getMainView @0 () -> (view :UiView);
  # The app's view. Starts the app if it does not run yet.

  keepAlive @1 (core :SandstormCore) -> ();
  # The grain is still wanted: without such a call the supervisor ends it after its time-out. A
  # `core` that is not null takes the place of the one before; until there is one, what needs it
  # waits.

  shutdown @2 () -> ();
  # Ends the grain now. Success is a broken connection, not an answer.

  obsoleteGetGrainSize @3 () -> (size :UInt64);
  obsoleteGetGrainSizeWhenDifferent @4 (oldSize :UInt64) -> (size :UInt64);
  # SandstormCore.reportGrainSize took their place.

  restore @5 (ref :SupervisorObjectId, obsolete :List(MembraneRequirement), parentToken :Data)
      -> (cap :Capability);
  # An object of the grain that was saved. `parentToken` is the token it is restored by, from which
  # tokens for what it leads to are derived.

  drop @6 (ref :SupervisorObjectId) -> ();
  # The reference is forgotten.

  watchLog @7 (backlogAmount :UInt64, stream :ByteStream) -> (handle :Handle);
  # Writes the last `backlogAmount` bytes of the grain's log, then what is added, until the handle
  # is dropped. Does not start the app.

  syncStorage @8 () -> ();
  # Answers when all that the app has written is on the disk.

  getWwwFileHack @9 (path :Text, stream :ByteStream) -> (status :WwwFileStatus);
  # Writes a file of the grain's `/var/www` to `stream`. Does not start the app. `path` has no
  # leading slash and no `..`; a link may not lead out of the directory.

  enum WwwFileStatus @0x85ccf31fc4aff09c {
    file @0;
    # It was written to the stream.

    directory @1;
    notFound @2;
    # Nothing was written.
  }
}

interface SandstormCore @0x9ba45778a294b60c {
  # What the server does for one grain; called by its supervisor, mostly for SandstormApi's methods
  # of the same names.

  restore @0 (token :Data) -> (cap :Capability);

  makeToken @1 (ref :SupervisorObjectId, owner :ApiTokenOwner,
                requirements :List(MembraneRequirement)) -> (token :Data);
  # Registers an object of this grain that is being saved by `owner`.

  getOwnerNotificationTarget @2 () -> (owner :NotificationTarget);

  drop @3 (token :Data) -> ();

  obsoleteCheckRequirements @4 () -> ();

  makeChildToken @5 (parent :Data, owner :ApiTokenOwner,
                     requirements :List(MembraneRequirement)) -> (token :Data);
  # A token for the same object as `parent`; it ends with it.

  claimRequest @6 (requestToken :Text, requiredPermissions :List(Bool)) -> (cap :Capability);

  backgroundActivity @7 (event :ActivityEvent) -> ();

  reportGrainSize @8 (bytes :UInt64) -> ();
  # How much disk the grain takes now.

  getIdentityId @9 (identity :Identity) -> (id :Data);

  schedule @10 ScheduledJob -> ();
}

struct MembraneRequirement @0x918db9a721f13886 {
  # A condition on which a capability that crossed a grain's border works.

  union {
    tokenValid @0 :Text;
    # This token has not been revoked. By the token's record.

    permissionsHeld :group {
      # Someone holds permissions on a grain.

      userId @1 :Text;
      grainId @2 :Text;
      permissions @3 :List(Bool);

      union {
        accountId @5 :Text;
        # The account...

        tokenId @6 :Text;
        # ... or the holder of this token.
      }
    }

    userIsAdmin @4 :Text;
    # This account is an administrator.
  }
}

interface SystemPersistent @0xc38cedd77cbed5b4 extends(Persistent(Data, ApiTokenOwner)) {
  # A capability that can be saved, as it looks outside of grains: `save` seals for an owner and
  # gives a token.

  addRequirements @0 (requirements :List(MembraneRequirement), observer :RevocationObserver)
      -> (cap :SystemPersistent);
  # The same capability under more conditions. `observer`, which may be null, learns when one fails.

  interface RevocationObserver @0xcdda9d1436d7d206 {
    dropWhenRevoked @0 (handle :Handle) -> ();
    # The observer keeps `handle` and drops it when the capability is revoked.
  }
}

interface PersistentHandle @0xc22ce229c18c0a02 extends(SystemPersistent, Handle) {
}

interface PersistentOngoingNotification @0xdbbdcec8587dd355
    extends(SystemPersistent, OngoingNotification) {
}

struct DenormalizedGrainMetadata @0xbdd9bea5585df6c5 {
  # What is shown of a grain to people whom it was shared with, as of the time of sharing.

  appTitle @0 :LocalizedText;

  union {
    icon :group {
      format @1 :Text;
      # `png` or `svg`.

      assetId @2 :Text;
      assetId2xDpi @3 :Text;
    }

    appId @4 :Text;
    # No icon: one is drawn from this.
  }
}

struct ApiTokenOwner @0xda970537e2a8a9a9 {
  # Who may use a token.

  union {
    webkey @0 :Void;
    # Whoever has it: a link or an API token.

    grain :group {
      # This grain, by SandstormApi.restore.

      grainId @1 :Text;
      saveLabel @2 :LocalizedText;
      introducerUser @5 :Text;
      introducerIdentity @9 :Text;
      # The person through whom the grain got it.
    }

    internet @3 :AnyPointer;
    # Someone outside, named by the network's own kind of name.

    frontend @4 :Void;
    # The server itself.

    user :group {
      # This account: a share that was accepted.

      userId @6 :Text;
      title @7 :Text;
      denormalizedGrainMetadata @8 :DenormalizedGrainMetadata;
      identityId @10 :Text;
      upstreamTitle @11 :Text;
      renamed @12 :Bool;
      # Own title and the sharer's; whether the own one was chosen by hand.

      seenAllActivity @16 :Bool;
      accountId @18 :Text;
    }

    clientPowerboxRequest :group {
      # A powerbox request in a browser, until the app claims it.

      grainId @13 :Text;
      introducerIdentity @14 :Text;
      sessionId @15 :Text;
    }

    clientPowerboxOffer :group {
      # An offer in a browser, until the user takes it.

      sessionId @17 :Text;
    }
  }
}

struct SupervisorObjectId @0x8e74650737dbb840 (AppObjectId) {
  # What a saved reference into a grain refers to.

  union {
    appRef @0 :AppObjectId;
    # An object of the app.

    wakeLockNotification @1 :UInt32;
    # The notification of a wake lock, by the supervisor's number.
  }
}
