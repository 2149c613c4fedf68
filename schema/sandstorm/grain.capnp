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

interface AppPersistent @0xaffa789add8747b8 (AppObjectId) {
  save @0 () -> (objectId :AppObjectId, label :LocalizedText);
}

struct GrainInfo @0xb5fcc0e153671d68 {
  appId @0 :Text;
  appVersion @1 :UInt32;
  title @2 :Text;
  ownerIdentityId @3 :Text;
  users @4 :List(User);
  originalGrainId @5 :Text;

  struct User @0x9f07b75928ba4e20 {
    identityId @0 :Text;
    credentialIds @1 :List(Text);
    profile @2 :Profile;
  }
}

interface MainView @0xc277e9822ae2c8fc (AppObjectId) extends(UiView) {
  restore @0 (objectId :AppObjectId) -> (cap :Capability);
  drop @1 (objectId :AppObjectId) -> ();
}

struct PermissionDef @0xf144a5e58889dafb {
  title @0 :LocalizedText;
  description @1 :LocalizedText;
  obsolete @2 :Bool;
  name @3 :Text;
}

struct RoleDef @0xcb3f7064eae4dc5a {
  title @0 :LocalizedText;
  verbPhrase @1 :LocalizedText;
  description @2 :LocalizedText;
  permissions @3 :List(Bool);
  obsolete @4 :Bool;
  default @5 :Bool;
}

interface SandstormApi @0xd2654fcf2a7002cb (AppObjectId) {
  deprecatedPublish @0 () -> ();
  deprecatedRegisterAction @1 () -> ();
  shareCap @2 (cap :Capability, displayInfo :PowerboxDisplayInfo)
      -> (sharedCap :Capability, link :SharingLink);
  shareView @3 (view :UiView) -> (sharedView :UiView, link :ViewSharingLink);
  restore @4 (token :Data) -> (cap :Capability);
  drop @5 (token :Data) -> ();
  deleted @6 (ref :AppObjectId) -> ();
  stayAwake @7 (displayInfo :NotificationDisplayInfo, notification :OngoingNotification)
      -> (handle :Handle);
  save @8 (cap :Capability, label :LocalizedText) -> (token :Data);
  backgroundActivity @9 (event :ActivityEvent) -> ();
  getIdentityId @10 (identity :Identity) -> (id :Data);
  schedule @11 ScheduledJob -> ();
}

struct ScheduledJob @0xa34f0cfe24c69d74 {
  name @0 :LocalizedText;
  callback @1 :Callback;
  schedule :union {
    oneShot :group {
      when @2 :Int64;
      slack @3 :UInt64;
    }
    periodic @4 :SchedulingPeriod;
  }

  interface Callback @0xab619ad5a8fb7e11 {
    run @0 () -> (cancelFutureRuns :Bool = false);
  }
}

enum SchedulingPeriod @0x8478a37e9456409d {
  hourly @0;
  daily @1;
  monthly @2;
  annually @3;
  weekly @4;
}

interface SessionContext @0xbf3e401d5a63f336 {
  getSharedPermissions @0 () -> (var :Assignable(List(Bool)).Getter);
  tieToUser @1 (cap :Capability, requiredPermissions :List(Bool), displayInfo :PowerboxDisplayInfo)
      -> (tiedCap :Capability);
  offer @2 (cap :Capability, requiredPermissions :List(Bool), descriptor :PowerboxDescriptor, displayInfo :PowerboxDisplayInfo)
      -> ();
  request @3 (query :List(PowerboxDescriptor), requiredPermissions :List(Bool))
      -> (cap :Capability, descriptor :PowerboxDescriptor);
  fulfillRequest @4 (cap :Capability, requiredPermissions :List(Bool), descriptor :PowerboxDescriptor, displayInfo :PowerboxDisplayInfo)
      -> ();
  close @5 () -> ();
  openView @6 (view :UiView, path :Text, newTab :Bool = false) -> ();
  claimRequest @7 (requestToken :Text, requiredPermissions :List(Bool)) -> (cap :Capability);
  activity @8 (event :ActivityEvent) -> ();
}

interface SharingLink @0xc05520c9b0994ad3 {
  getPetname @0 () -> (name :Assignable(LocalizedText));
}

interface UiSession @0xf63241ee58b5166f {
}

interface UiView @0xdbb4d798ea67e2e7 {
  getViewInfo @0 () -> ViewInfo;
  newSession @1 (userInfo :UserInfo, context :SessionContext, sessionType :UInt64, sessionParams :AnyPointer, tabId :Data)
      -> (session :UiSession);
  newRequestSession @2 (userInfo :UserInfo, context :SessionContext, sessionType :UInt64, sessionParams :AnyPointer, requestInfo :List(PowerboxDescriptor), tabId :Data)
      -> (session :UiSession);
  newOfferSession @3 (userInfo :UserInfo, context :SessionContext, sessionType :UInt64, sessionParams :AnyPointer, offer :Capability, descriptor :PowerboxDescriptor, tabId :Data)
      -> (session :UiSession);

  struct PowerboxTag @0x982790c08b1958ec {
    title @0 :Text;
  }

  struct ViewInfo @0xbc5e354741a8e665 {
    permissions @0 :List(PermissionDef);
    roles @1 :List(RoleDef);
    deniedPermissions @2 :List(Bool);
    matchRequests @3 :List(PowerboxDescriptor);
    matchOffers @4 :List(PowerboxDescriptor);
    appTitle @5 :LocalizedText;
    grainIcon @6 :StaticAsset;
    eventTypes @7 :List(ActivityTypeDef);
  }
}

interface ViewSharingLink @0xa4f82f764dc3fee8 extends(SharingLink) {
  getRoleAssignment @0 () -> (var :Assignable(RoleAssignment));

  struct RoleAssignment @0xf020f2be35e8e2b5 {
    addPermissions @3 :List(Bool);
    removePermissions @4 :List(Bool);
    union {
      none @0 :Void;
      allAccess @1 :Void;
      roleId @2 :UInt16;
    }
  }
}

const minimumSchedulingSlack @0xeecac1be25f73248 :UInt64 = 300000000000;
