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

interface HackEmailSession @0xc3b5ced7344b04a6 extends(UiSession, EmailSendPort) {
}

interface HackSessionContext @0xe14c1f5321159b8f extends(SessionContext, EmailSendPort) {
  getPublicId @0 () -> (publicId :Text, hostname :Text, autoUrl :Text, isDemoUser :Bool);
  obsoleteHttpGet @1 (url :Text) -> (mimeType :Text, content :Data);
  getUserAddress @2 () -> EmailAddress;
  obsoleteGenerateApiToken @3 (petname :Text, userInfo :UserInfo, expires :UInt64 = 0)
      -> (token :Text, endpointUrl :Text, tokenId :Text);
  obsoleteListApiTokens @4 () -> (tokens :List(TokenInfo));
  obsoleteRevokeApiToken @5 (tokenId :Text) -> ();
  obsoleteGetIpNetwork @6 () -> (network :IpNetwork);
  obsoleteGetIpInterface @7 () -> (interface :IpInterface);
  obsoleteGetUiViewForEndpoint @8 (url :Text) -> (view :UiView);

  struct TokenInfo @0xf910658ae8c6674d {
    tokenId @0 :Text;
    petname @1 :Text;
    userInfo @2 :UserInfo;
  }
}
