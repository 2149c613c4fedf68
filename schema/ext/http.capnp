# What HTTP needs and WebSession cannot say. Spoken between our shell and our bridge only.

@0xc9949422a562b4b4;

$import "/capnp/c++.capnp".namespace("sandstorm::ext");

using import "/sandstorm/web-session.capnp".WebSession;

interface HttpExt @0xe1dc7515e192b5d7 {
  # A second face of a web session. The shell casts the session it got from `UiView.newSession` to
  # this interface and calls it; an answer of `unimplemented` means that the app is not behind our
  # bridge, and the shell falls back to what WebSession offers (`Allow` built from its verbs, 501
  # for every other verb).

  request @0 (method :Text, path :Text, mimeType :Text, encoding :Text, content :Data,
              context :WebSession.Context) -> WebSession.Response;
  # Sends one request with any verb and returns the app's whole answer, status and headers
  # included: OPTIONS (whose `Allow` and `DAV` WebSession drops), MKCALENDAR and whatever a later
  # standard invents.
  #
  # `method` is an HTTP token in its exact spelling; CONNECT and TRACE are refused with `failed`.
  # `path` is as in WebSession: no leading slash, query included, nothing decoded. `content` is the
  # whole body, at most 16 MiB, empty for none; `mimeType` and `encoding` are empty when the client
  # sent none. Verbs that WebSession has a method for must go through that method; the bridge
  # answers them here too, but without streaming.
}

interface BridgeSession @0xc19bf449d7ea5450 extends(WebSession, HttpExt) {
  # What the bridge's session object really is. Never sent in this type: the shell casts.
}
