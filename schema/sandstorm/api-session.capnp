# Access for programs: phone apps, sync clients, other grains.

@0xeb014c0c3413cbfb;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "ip.capnp".IpAddress;
using import "web-session.capnp".WebSession;

interface ApiSession @0xc879e379c625cdc7 extends(WebSession) {
  # An HTTP session without a browser. An app gets it by `UiView.newSession` with this interface's
  # id as session type, for requests that carry a token instead of a cookie. It has no base path and
  # no cookies; answers should not be pages.
  #
  # It is also what an app asks the powerbox for in order to speak to a web service.

  struct Params @0xfee82d8d4c4ff597 {
    remoteAddress @0 :IpAddress;
    # The client's address. Null unless the client asked for it to be told.
  }

  struct PowerboxTag @0x93e1f7ca567dee32 {
    canonicalUrl @0 :Text;
    # The service that is meant, by the address where everybody finds it. A local stand-in may
    # serve it just as well.

    oauthScopes @1 :List(OAuthScope);
    # What the one who asks needs to be allowed to do, in the service's own words.

    authentication @2 :Text;
    # How the request is to be authenticated, for services known to take several ways. Null or
    # empty: whatever the giver knows.

    struct OAuthScope @0xbb95f31093b1fd88 {
      name @0 :Text;
    }
  }
}
