# The heart of the platform: what an app offers to the server (UiView), what the server offers to
# the app (SandstormApi, SessionContext), and how permissions, sharing and saved capabilities work.
#
# An app starts with one connection, on file descriptor 3: Cap'n Proto two-party RPC. It exports a
# UiView (or MainView) as its bootstrap object, and the peer's bootstrap object is SandstormApi.

@0xc8d91463cfc4fb4a;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "activity.capnp".ActivityEvent;
using import "activity.capnp".ActivityTypeDef;
using import "activity.capnp".NotificationDisplayInfo;
using import "activity.capnp".OngoingNotification;
using import "identity.capnp".Identity;
using import "identity.capnp".Profile;
using import "identity.capnp".UserInfo;
using import "powerbox.capnp".PowerboxDescriptor;
using import "powerbox.capnp".PowerboxDisplayInfo;
using import "util.capnp".Assignable;
using import "util.capnp".Handle;
using import "util.capnp".LocalizedText;
using import "util.capnp".StaticAsset;

# What the app implements.

interface UiView @0xdbb4d798ea67e2e7 {
  # Something that a person can open and share: a grain, or a part of one. Called by the server.

  getViewInfo @0 () -> ViewInfo;
  # What the server must know before it opens the view. May be kept between calls. An app that
  # answers `unimplemented` has no permissions of its own.

  newSession @1 (userInfo :UserInfo, context :SessionContext, sessionType :UInt64,
                 sessionParams :AnyPointer, tabId :Data)
      -> (session :UiSession);
  # Someone opens the view. Called once for each tab; the session ends when the server drops it.
  #
  # `sessionType` is the type id of the interface that the session must implement: WebSession,
  # ApiSession and so on. An unknown one is an error. `sessionParams` is that interface's `Params`.
  # `tabId` is the same for all sessions of one browser tab, also after a reconnect; it tells
  # nothing about who sits there.

  newRequestSession @2 (userInfo :UserInfo, context :SessionContext, sessionType :UInt64,
                        sessionParams :AnyPointer, requestInfo :List(PowerboxDescriptor),
                        tabId :Data)
      -> (session :UiSession);
  # The user was asked for a capability and chose this view to provide it: the session should let
  # them pick, and call `context.fulfillRequest`. Only called if ViewInfo's `matchRequests` fits.

  newOfferSession @3 (userInfo :UserInfo, context :SessionContext, sessionType :UInt64,
                      sessionParams :AnyPointer, offer :Capability,
                      descriptor :PowerboxDescriptor, tabId :Data)
      -> (session :UiSession);
  # The user was offered a capability and chose this view to take it. Only called if ViewInfo's
  # `matchOffers` fits.

  struct ViewInfo @0xbc5e354741a8e665 {
    permissions @0 :List(PermissionDef);
    # What people may be allowed or not. Referred to by index: append, never remove or reorder.

    roles @1 :List(RoleDef);
    # Bundles of permissions under names that people understand; what the sharing page offers. Same
    # rule.

    deniedPermissions @2 :List(Bool);
    # Permissions that nobody has, the owner included, by index.

    matchRequests @3 :List(PowerboxDescriptor);
    matchOffers @4 :List(PowerboxDescriptor);
    # What this view can provide, and what it can take.

    appTitle @5 :LocalizedText;
    # The app's name, where it depends on the grain.

    grainIcon @6 :StaticAsset;
    # A picture for this grain; null for the app's.

    eventTypes @7 :List(ActivityTypeDef);
    # Referred to by index: append, never remove or reorder.
  }

  struct PowerboxTag @0x982790c08b1958ec {
    # In a powerbox query: let the user choose a grain.

    title @0 :Text;
    # The grain's title, in an answer.
  }
}

interface MainView @0xc277e9822ae2c8fc (AppObjectId) extends(UiView) {
  # A UiView that can also find the app's saved objects again. `AppObjectId` is a type of the app's
  # own; the server stores it and does not look inside. Only the server can call these two.

  restore @0 (objectId :AppObjectId) -> (cap :Capability);
  # The object that `AppPersistent.save` gave this id for.

  drop @1 (objectId :AppObjectId) -> ();
  # Nobody can restore this id any more.
}

interface AppPersistent @0xaffa789add8747b8 (AppObjectId) {
  # An object of the app that can be saved. The server calls `save` when someone outside saves a
  # reference to it, keeps the id, and gives the other side a token.

  save @0 () -> (objectId :AppObjectId, label :LocalizedText);
  # `label` says to the grain's owner what was handed out.
}

interface UiSession @0xf63241ee58b5166f {
  # One visitor in one tab. What it can do is said by the interfaces that extend this one.
}

# What the server implements.

interface SandstormApi @0xd2654fcf2a7002cb (AppObjectId) {
  # The app's way to the server, independent of who visits. `AppObjectId` as in MainView.

  deprecatedPublish @0 () -> ();
  deprecatedRegisterAction @1 () -> ();
  # Never worked.

  shareCap @2 (cap :Capability, displayInfo :PowerboxDisplayInfo)
      -> (sharedCap :Capability, link :SharingLink);
  # Makes a share of a capability: `sharedCap` works until `link` is dropped or revoked.

  shareView @3 (view :UiView) -> (sharedView :UiView, link :ViewSharingLink);
  # The same for a view, whose link says with which role.

  restore @4 (token :Data) -> (cap :Capability);
  # A capability saved before by this grain. Fails if access to it was taken away since.

  drop @5 (token :Data) -> ();
  # The app will not restore this token again.

  deleted @6 (ref :AppObjectId) -> ();
  # The object of this id is gone from the grain: references to it may be forgotten.

  stayAwake @7 (displayInfo :NotificationDisplayInfo, notification :OngoingNotification)
      -> (handle :Handle);
  # Keeps the grain running with nobody in it, until the handle is dropped. The owner sees
  # `displayInfo` and can call `notification.cancel`. Lost when the grain ends for another reason.

  save @8 (cap :Capability, label :LocalizedText) -> (token :Data);
  # Makes a capability from outside last beyond this run: store the token, `restore` it later. The
  # token is of use to this grain alone. `label` tells the owner what it is for.

  backgroundActivity @9 (event :ActivityEvent) -> ();
  # Something happened that no visitor did.

  getIdentityId @10 (identity :Identity) -> (id :Data);
  # The 32 bytes that UserInfo has for this person.

  schedule @11 ScheduledJob -> ();
  # Calls back at a time to come, waking the grain if need be.
}

struct ScheduledJob @0xa34f0cfe24c69d74 {
  name @0 :LocalizedText;
  # Shown to the owner.

  callback @1 :Callback;
  # Must be an object that can be saved (AppPersistent): the grain may have slept in between.

  schedule :union {
    oneShot :group {
      when @2 :Int64;
      # Nanoseconds since 1970-01-01 UTC.

      slack @3 :UInt64;
      # The job may run this many nanoseconds later, so that jobs can share a wake-up. At least
      # `minimumSchedulingSlack`.
    }

    periodic @4 :SchedulingPeriod;
  }

  interface Callback @0xab619ad5a8fb7e11 {
    run @0 () -> (cancelFutureRuns :Bool = false);
    # It is time. The grain is kept awake until this answers. After a failure it is tried again
    # later.
  }
}

enum SchedulingPeriod @0x8478a37e9456409d {
  hourly @0;
  daily @1;
  monthly @2;
  annually @3;
  weekly @4;
}

const minimumSchedulingSlack @0xeecac1be25f73248 :UInt64 = 300000000000;
# Five minutes, in nanoseconds.

interface SessionContext @0xbf3e401d5a63f336 {
  # The app's way to the person behind one session. `requiredPermissions` are, by index, those that
  # the user must hold for the capability to go on working; a capability that was passed on is cut
  # off when they lose one.

  getSharedPermissions @0 () -> (var :Assignable(List(Bool)).Getter);
  # The permissions that the user has now; changes can be watched.

  tieToUser @1 (cap :Capability, requiredPermissions :List(Bool),
                displayInfo :PowerboxDisplayInfo)
      -> (tiedCap :Capability);
  # The same capability, working only as long as this user has the permissions.

  offer @2 (cap :Capability, requiredPermissions :List(Bool), descriptor :PowerboxDescriptor,
            displayInfo :PowerboxDisplayInfo) -> ();
  # Offers a capability to the user, who may take it to another app, or as a link.

  request @3 (query :List(PowerboxDescriptor), requiredPermissions :List(Bool))
      -> (cap :Capability, descriptor :PowerboxDescriptor);
  # Asks the user to choose a capability. Web apps do this in the browser instead, by postMessage,
  # and finish with `claimRequest`.

  fulfillRequest @4 (cap :Capability, requiredPermissions :List(Bool),
                     descriptor :PowerboxDescriptor, displayInfo :PowerboxDisplayInfo) -> ();
  # In a request session: the answer. The session ends.

  close @5 () -> ();
  # The session is finished; the server may close its frame.

  openView @6 (view :UiView, path :Text, newTab :Bool = false) -> ();
  # Shows another view to the user, at `path`.

  claimRequest @7 (requestToken :Text, requiredPermissions :List(Bool)) -> (cap :Capability);
  # Trades the token that the browser got from a powerbox request for the capability. Works once.

  activity @8 (event :ActivityEvent) -> ();
  # This user did something.
}

# Permissions and sharing.

struct PermissionDef @0xf144a5e58889dafb {
  title @0 :LocalizedText;
  # "can edit", say; shown in lists of what somebody may do.

  description @1 :LocalizedText;

  obsolete @2 :Bool;
  # No longer used; kept for its index.

  name @3 :Text;
  # For programs: what the bridge writes into X-Sandstorm-Permissions. Letters, digits, `_`, `-`.
}

struct RoleDef @0xcb3f7064eae4dc5a {
  title @0 :LocalizedText;
  # A noun: "editor".

  verbPhrase @1 :LocalizedText;
  # To follow a name: "can edit".

  description @2 :LocalizedText;

  permissions @3 :List(Bool);
  # Which of ViewInfo's permissions the role gives, by index.

  obsolete @4 :Bool;
  # Not offered any more; kept for its index, and still valid where it was given.

  default @5 :Bool;
  # Offered first. At most one role should be.
}

interface SharingLink @0xc05520c9b0994ad3 {
  # A share that was made. It lasts until it is revoked or nobody holds it.

  getPetname @0 () -> (name :Assignable(LocalizedText));
  # What the giver calls it.
}

interface ViewSharingLink @0xa4f82f764dc3fee8 extends(SharingLink) {
  getRoleAssignment @0 () -> (var :Assignable(RoleAssignment));
  # With what role the view was shared; setting it changes the share.

  struct RoleAssignment @0xf020f2be35e8e2b5 {
    union {
      none @0 :Void;
      # No role: only `addPermissions`.

      allAccess @1 :Void;
      # Everything the giver may do.

      roleId @2 :UInt16;
      # Index into ViewInfo's roles.
    }

    addPermissions @3 :List(Bool);
    removePermissions @4 :List(Bool);
    # Exceptions to the role, by index; removing wins.
  }
}

# Backups.

struct GrainInfo @0xb5fcc0e153671d68 {
  # What a backup says about its grain: the file `metadata` in the zip.

  appId @0 :Text;
  appVersion @1 :UInt32;
  # The app that wrote the data, and its manifest's version number: an older app must not open it.

  title @2 :Text;

  ownerIdentityId @3 :Text;
  users @4 :List(User);
  originalGrainId @5 :Text;
  # For a move between servers; null in a personal backup.

  struct User @0x9f07b75928ba4e20 {
    identityId @0 :Text;
    # What the app knew this person by.

    credentialIds @1 :List(Text);
    # By which a server may recognise them.

    profile @2 :Profile;
  }
}
