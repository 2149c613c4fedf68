# HTTP as calls. A web app (or the bridge in front of it) implements WebSession; the server calls it
# for each request of the browser. Both ends keep only what is named here: headers that have a
# field, and those on the lists.

@0xa8cb0f2f1a756b32;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "grain.capnp".UiSession;
using import "util.capnp".ByteStream;
using import "util.capnp".Handle;
using import "util.capnp".KeyValue;

interface WebSession @0xa50711a14d35a8ce extends(UiSession) {
  # A browser tab with the app in it.
  #
  # `path` is what follows the slash after the host, query included, exactly as the browser sent it:
  # no leading slash, nothing decoded. Every method may fail with an exception, which the browser
  # sees as an error page of the server's.

  get @0 (path :Text, context :Context, ignoreBody :Bool) -> Response;
  # GET, or HEAD with `ignoreBody`: then the answer should be the same without its body.

  post @1 (path :Text, content :PostContent, context :Context) -> Response;

  openWebSocket @2 (path :Text, context :Context, protocol :List(Text),
                    clientStream :WebSocketStream)
      -> (protocol :List(Text), serverStream :WebSocketStream);
  # Opens a WebSocket. `protocol`: the subprotocols that the browser would speak, and the one that
  # the app chose. What the app sends to `clientStream` reaches the browser, and what the browser
  # sends arrives at `serverStream`.

  put @3 (path :Text, content :PutContent, context :Context) -> Response;

  delete @4 (path :Text, context :Context) -> Response;

  postStreaming @5 (path :Text, mimeType :Text, context :Context, encoding :Text)
      -> (stream :RequestStream);
  putStreaming @6 (path :Text, mimeType :Text, context :Context, encoding :Text)
      -> (stream :RequestStream);
  # POST and PUT of a body that is large or of unknown length. An app that answers `unimplemented`
  # gets `post` or `put` with the whole body instead.

  propfind @7 (path :Text, xmlContent :Text, depth :PropfindDepth, context :Context) -> Response;
  proppatch @8 (path :Text, xmlContent :Text, context :Context) -> Response;
  mkcol @9 (path :Text, content :PostContent, context :Context) -> Response;
  copy @10 (path :Text, destination :Text, noOverwrite :Bool, shallow :Bool, context :Context)
      -> Response;
  move @11 (path :Text, destination :Text, noOverwrite :Bool, context :Context) -> Response;
  lock @12 (path :Text, xmlContent :Text, shallow :Bool, context :Context) -> Response;
  unlock @13 (path :Text, lockToken :Text, context :Context) -> Response;
  acl @14 (path :Text, xmlContent :Text, context :Context) -> Response;
  report @15 (path :Text, content :PostContent, context :Context) -> Response;
  # WebDAV's verbs and their headers: `depth` and `shallow` are Depth (shallow is 0, else infinity),
  # `noOverwrite` is Overwrite: F, `destination` is the path part of Destination in the form of
  # `path`.

  options @16 (path :Text, context :Context) -> Options;

  patch @17 (path :Text, content :PostContent, context :Context) -> Response;

  struct Params @0xd7051b9757f6b096 {
    # `sessionParams` of UiView.newSession: what stays the same for the whole session.

    basePath @0 :Text;
    # Scheme, host and port that the browser sees, without a trailing slash.

    userAgent @1 :Text;
    # The browser's User-Agent.

    acceptableLanguages @2 :List(Text);
    # The parts of Accept-Language, best first.
  }

  struct Context @0xf5cae52becabc767 {
    # What comes with every request.

    cookies @0 :List(KeyValue);
    # The app's own; the server keeps back its.

    responseStream @1 :ByteStream;
    # Where the body goes when the answer says `stream`.

    accept @2 :List(AcceptedType);
    # Accept. Empty: anything.

    additionalHeaders @3 :List(Header);
    # Further headers of the request, only those that `headerWhitelist` matches. Names in lower
    # case.

    eTagPrecondition :union {
      # If-Match and If-None-Match.

      none @4 :Void;

      exists @5 :Void;
      # `If-Match: *`

      matchesOneOf @6 :List(ETag);
      # `If-Match` with a list.

      matchesNoneOf @7 :List(ETag);
      # `If-None-Match` with a list.

      doesntExist @8 :Void;
      # `If-None-Match: *`
    }

    acceptEncoding @9 :List(AcceptedEncoding);
    # Accept-Encoding. Empty: the client did not say.

    struct Header @0xb4e5f4cccb748429 {
      name @0 :Text;
      value @1 :Text;
    }

    const headerWhitelist @0xbaace870544663eb :List(Text) = [
      "x-sandstorm-app-*",
      "oc-total-length",
      "oc-chunk-size",
      "x-oc-mtime",
      "oc-fileid",
      "oc-chunked",
      "oc-checksum",
      "oc-chunk-offset",
      "oc-lazyops",
      "x-hgarg-*",
      "x-phabricator-*",
      "x-requested-with",
      "x-csrftoken",
      "x-csrf-token",
    ];
    # In lower case, compared without case; `*` at the end stands for any ending.
  }

  struct AcceptedType @0xaaf9021b627cc1f9 {
    mimeType @0 :Text;
    # Without parameters; may have `*` parts.

    qValue @1 :Float32 = 1.0;
    # From 0 (not at all) to 1.
  }

  struct AcceptedEncoding @0xbda585bffe1dc7e8 {
    contentCoding @0 :Text;
    # `gzip`, `br`, `identity`, `*`.

    qValue @1 :Float32 = 1.0;
  }

  struct PostContent @0xb7d82eac416ab63e {
    mimeType @0 :Text;
    # Content-Type with its parameters.

    content @1 :Data;
    # The whole body, as sent.

    encoding @2 :Text;
    # Content-Encoding; empty for none.
  }

  struct PutContent @0xd7aff1fe39659132 {
    # As PostContent.

    mimeType @0 :Text;
    content @1 :Data;
    encoding @2 :Text;
  }

  interface RequestStream @0x99ffc2f3f69a6a9f extends(ByteStream) {
    # Takes the body of a request.

    getResponse @0 () -> Response;
    # The answer. Call it once, before or while the body is written: an app may answer early.
  }

  interface WebSocketStream @0xf001fc1d5e574a07 {
    # One direction of a WebSocket. Dropping it closes the connection.

    sendBytes @0 (message :Data) -> stream;
    # The next bytes of the connection after its handshake: frames as they are on the wire, cut
    # anywhere.
  }

  enum PropfindDepth @0xb39cc44599b3a41b {
    infinity @0;
    zero @1;
    one @2;
  }

  struct Options @0xe9ff06beec4e73d6 {
    # The header `DAV` of an answer to OPTIONS.

    davClass1 @0 :Bool;
    davClass2 @1 :Bool;
    davClass3 @2 :Bool;
    davExtensions @3 :List(Text);
  }

  struct ETag @0xd22c0be5b9c16558 {
    value @0 :Text;
    # Without quotes.

    weak @1 :Bool;
  }

  struct Cookie @0xa87d65bed9b60243 {
    # A Set-Cookie. A cookie never leaves the session's host.

    name @0 :Text;
    value @1 :Text;

    expires :union {
      none @2 :Void;
      # With the browser's session.

      absolute @3 :Int64;
      # Seconds since 1970-01-01 UTC.

      relative @4 :UInt64;
      # Seconds from now.
    }

    httpOnly @5 :Bool;
    # Hidden from scripts.

    path @6 :Text;
    # Null: as the browser's rule says.
  }

  struct CachePolicy @0xb37b21e300864885 {
    # For whom an answer may be kept. Servers of today do not act on it.

    withCheck @0 :Scope;
    # May be kept, but asked for again before each use.

    permanent @1 :Scope;
    # Never changes.

    variesOnCookie @2 :Bool;
    variesOnAccept @3 :Bool;

    enum Scope @0x81535505f60de028 {
      none @0;
      perSession @1;
      perUser @2;
      perAppVersion @3;
      universal @4;
    }
  }

  struct Response @0x8193ac6cb5429c83 {
    setCookies @0 :List(Cookie);

    union {
      content :group {
        # 2xx with a body.

        statusCode @10 :SuccessCode;

        encoding @2 :Text;
        language @3 :Text;
        mimeType @4 :Text;
        # Content-Encoding, Content-Language, Content-Type; null leaves one out.

        eTag @17 :ETag;
        # Null for none.

        body :union {
          bytes @5 :Data;
          # All of it.

          stream @6 :Handle;
          # It will be written to the context's `responseStream`. The server drops the handle when
          # nobody wants the rest, and the app should then stop. A stream that is dropped without
          # `done` shows as a broken transfer.
        }

        disposition :union {
          normal @13 :Void;
          # Show it.

          download @14 :Text;
          # Save it under this name.
        }
      }

      noContent :group {
        # 204, or 205 if the form is to be cleared.

        shouldResetForm @15 :Bool;
        eTag @19 :ETag;
      }

      preconditionFailed :group {
        # 304 if it was If-None-Match (or a date) that did not hold for a GET or HEAD, else 412.

        matchingETag @18 :ETag;
        # The tag that matched, if one did.
      }

      redirect :group {
        # 301, 303, 307 or 308.

        isPermanent @1 :Bool;

        switchToGet @12 :Bool;
        # The browser goes on with GET; else it repeats its request.

        location @11 :Text;
        # As in the header: may be relative.
      }

      clientError :group {
        # 4xx.

        statusCode @7 :ClientErrorCode;
        descriptionHtml @8 :Text;
        # A page. Null: the server shows one of its own.

        nonHtmlBody @21 :ErrorBody;
        # If not null, stands in for `descriptionHtml`.
      }

      serverError :group {
        # 500.

        descriptionHtml @9 :Text;
        nonHtmlBody @22 :ErrorBody;
      }
    }

    cachePolicy @16 :CachePolicy;

    additionalHeaders @20 :List(Header);
    # Further headers of the answer, only those that `headerWhitelist` matches.

    struct Header @0xb4b873147ab5ce5e {
      name @0 :Text;
      value @1 :Text;
    }

    const headerWhitelist @0xef174541b62cac82 :List(Text) = [
      "x-sandstorm-app-*",
      "x-oc-mtime",
    ];
    # Same form as the request's list.

    struct ErrorBody @0x9497e63b399a2c01 {
      data @0 :Data;
      encoding @1 :Text;
      language @2 :Text;
      mimeType @3 :Text;
    }

    enum SuccessCode @0x82130007ccd2888f {
      ok @0 $httpStatus(id = 200, title = "OK");
      created @1 $httpStatus(id = 201, title = "Created");
      accepted @2 $httpStatus(id = 202, title = "Accepted");
      noContent @3 $httpStatus(id = 204, title = "No Content");
      partialContent @4 $httpStatus(id = 206, title = "Partial Content");
      multiStatus @5 $httpStatus(id = 207, title = "Multi-Status");
      notModified @6 $httpStatus(id = 304, title = "Not Modified");
    }

    enum ClientErrorCode @0x8ea31bdb4c044f01 {
      # A status that is not here is said as `badRequest`.

      badRequest @0 $httpStatus(id = 400, title = "Bad Request");
      forbidden @1 $httpStatus(id = 403, title = "Forbidden");
      notFound @2 $httpStatus(id = 404, title = "Not Found");
      methodNotAllowed @3 $httpStatus(id = 405, title = "Method Not Allowed");
      notAcceptable @4 $httpStatus(id = 406, title = "Not Acceptable");
      conflict @5 $httpStatus(id = 409, title = "Conflict");
      gone @6 $httpStatus(id = 410, title = "Gone");
      requestEntityTooLarge @7 $httpStatus(id = 413, title = "Request Entity Too Large");
      requestUriTooLong @8 $httpStatus(id = 414, title = "Request-URI Too Long");
      unsupportedMediaType @9 $httpStatus(id = 415, title = "Unsupported Media Type");
      imATeapot @10 $httpStatus(id = 418, title = "I'm a teapot");
      preconditionFailed @11 $httpStatus(id = 412, title = "Precondition Failed");
      unprocessableEntity @12 $httpStatus(id = 422, title = "Unprocessable Entity");
    }
  }
}

struct HttpStatusDescriptor @0xbc353583a3731ade {
  id @0 :UInt16;
  title @1 :Text;
}

annotation httpStatus @0xaf480a0c6cab8887 (enumerant) :HttpStatusDescriptor;
# The status that an enumerant stands for.

const httpStatusAnnotationId @0x9ea7265092c11606 :UInt64 = 0xaf480a0c6cab8887;
# For programs that look the annotation up.
