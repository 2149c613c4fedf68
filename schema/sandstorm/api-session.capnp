@0xeb014c0c3413cbfb;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "ip.capnp".IpAddress;
using import "web-session.capnp".WebSession;

interface ApiSession @0xc879e379c625cdc7 extends(WebSession) {

  struct Params @0xfee82d8d4c4ff597 {
    remoteAddress @0 :IpAddress;
  }

  struct PowerboxTag @0x93e1f7ca567dee32 {
    canonicalUrl @0 :Text;
    oauthScopes @1 :List(OAuthScope);
    authentication @2 :Text;

    struct OAuthScope @0xbb95f31093b1fd88 {
      name @0 :Text;
    }
  }
}
