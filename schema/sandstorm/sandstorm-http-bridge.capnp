# What the bridge offers to the web app behind it, beyond HTTP. The app connects to the Unix socket
# /tmp/sandstorm-api (Cap'n Proto two-party RPC); the bootstrap object is SandstormHttpBridge.

@0xac137d236832bb1e;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "grain.capnp".SandstormApi;
using import "grain.capnp".SessionContext;
using import "grain.capnp".UiView;
using import "identity.capnp".Identity;
using import "powerbox.capnp".PowerboxDescriptor;

interface SandstormHttpBridge @0xad678f0d09bdd98a {
  # `id` is the value of the request header X-Sandstorm-Session-Id. An id whose session has ended is
  # an error.

  getSandstormApi @0 () -> (api :SandstormApi);

  getSessionContext @1 (id :Text) -> (context :SessionContext);

  getSavedIdentity @2 (identityId :Text) -> (identity :Identity);
  # A visitor of earlier, by the value of X-Sandstorm-User-Id. Needs `saveIdentityCaps` in the
  # bridge's configuration, or an earlier `saveIdentity`.

  saveIdentity @3 (identity :Identity) -> ();

  getSessionRequest @4 (id :Text) -> (requestInfo :List(PowerboxDescriptor));
  # What is asked for, in a session of type `request`.

  getSessionOffer @5 (id :Text) -> (offer :Capability, descriptor :PowerboxDescriptor);
  # What is offered, in a session of type `offer`.
}

interface AppHooks @0xcb12390f1429f70f (AppObjectId) {
  # With `expectAppHooks` in the bridge's configuration, the bridge asks the first client of its
  # socket for a bootstrap object of this type.

  getViewInfo @0 () -> UiView.ViewInfo;
  # Used instead of the configuration's. `unimplemented` falls back to that.

  restore @1 (objectId :AppObjectId) -> (cap :Capability);
  drop @2 (objectId :AppObjectId) -> ();
  # As in MainView.
}
