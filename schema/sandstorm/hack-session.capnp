# Interfaces that were made in a hurry, and are still called by apps. New apps should not.

@0xbf6889795837d1e0;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "email.capnp".EmailAddress;
using import "email.capnp".EmailSendPort;
using import "grain.capnp".SessionContext;
using import "grain.capnp".UiSession;
using import "grain.capnp".UiView;
using import "identity.capnp".UserInfo;
using import "ip.capnp".IpInterface;
using import "ip.capnp".IpNetwork;

interface HackSessionContext @0xe14c1f5321159b8f extends(SessionContext, EmailSendPort) {
  # A SessionContext may be cast to this.

  getPublicId @0 () -> (publicId :Text, hostname :Text, autoUrl :Text, isDemoUser :Bool);
  # Switches on publishing of the grain's /var/www as a static web site. `autoUrl` shows it at once;
  # a domain of the user's own needs a CNAME to `autoUrl`'s host and a TXT record with `publicId` at
  # `sandstorm-www.<domain>`. `hostname` is the server's own name. On a demonstration server
  # `isDemoUser` says that all this will be gone soon.

  obsoleteHttpGet @1 (url :Text) -> (mimeType :Text, content :Data);
  # Ask the powerbox for an ApiSession instead.

  getUserAddress @2 () -> EmailAddress;
  # The address that this user's mail comes from when sent through this object.

  obsoleteGenerateApiToken @3 (petname :Text, userInfo :UserInfo, expires :UInt64 = 0)
      -> (token :Text, endpointUrl :Text, tokenId :Text);
  obsoleteListApiTokens @4 () -> (tokens :List(TokenInfo));
  obsoleteRevokeApiToken @5 (tokenId :Text) -> ();
  # Offer templates (`renderTemplate` by postMessage) took their place.

  obsoleteGetIpNetwork @6 () -> (network :IpNetwork);
  obsoleteGetIpInterface @7 () -> (interface :IpInterface);
  # Ask the powerbox instead.

  obsoleteGetUiViewForEndpoint @8 (url :Text) -> (view :UiView);

  struct TokenInfo @0xf910658ae8c6674d {
    tokenId @0 :Text;
    petname @1 :Text;
    userInfo @2 :UserInfo;
  }
}

interface HackEmailSession @0xc3b5ced7344b04a6 extends(UiSession, EmailSendPort) {
  # A session type for `UiView.newSession` by which mail reaches a grain.
}
