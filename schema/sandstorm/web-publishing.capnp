# Web sites that a grain publishes to the world, entity by entity.

@0xd5d3e63bd0a552b6;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "util.capnp".Assignable;
using import "util.capnp".Blob;
using import "util.capnp".ByteStream;

interface WebSite @0xdddcca47803e2377 {
  # A site, or the part of it below some path.

  getUrl @0 () -> (path :Text);
  # Where its root is found.

  getEntities @1 (path :Text) -> (entities :Assignable(List(Entity)));
  # What is served at `path`: several entities are alternatives, chosen by the client's languages
  # and types. An empty list removes the path.

  getNotFoundEntities @2 () -> (entities :Assignable(List(Entity)));
  # What is served, with 404, where there is nothing.

  uploadBlob @3 () -> (blob :Blob, stream :ByteStream);
  # Takes content too large for one message. The blob may be used at once; requests for it wait
  # until the stream is done.

  getSubsite @4 (prefix :Text) -> (site :WebSite);
  # The part below `prefix`, to hand to someone who may change only that.

  listResources @5 (shallow :Bool) -> (names :List(Text));
  # The paths that have entities; with `shallow` only those that are not below another directory.

  struct Entity @0xd019dd3e3c0e7e68 {
    mimeType @0 :Text;
    language @1 :Text;
    encoding @2 :Text;
    # The headers Content-Type, Content-Language and Content-Encoding; null leaves one out.

    body :union {
      bytes @3 :Data;
      blob @4 :Blob;
    }

    redirectTo @5 :Text;
    # If not null: answer with a redirect to here.
  }
}
