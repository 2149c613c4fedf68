@0xd5d3e63bd0a552b6;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "util.capnp".Assignable;
using import "util.capnp".Blob;
using import "util.capnp".ByteStream;

interface WebSite @0xdddcca47803e2377 {
  getUrl @0 () -> (path :Text);
  getEntities @1 (path :Text) -> (entities :Assignable(List(Entity)));
  getNotFoundEntities @2 () -> (entities :Assignable(List(Entity)));
  uploadBlob @3 () -> (blob :Blob, stream :ByteStream);
  getSubsite @4 (prefix :Text) -> (site :WebSite);
  listResources @5 (shallow :Bool) -> (names :List(Text));

  struct Entity @0xd019dd3e3c0e7e68 {
    mimeType @0 :Text;
    language @1 :Text;
    encoding @2 :Text;
    body :union {
      bytes @3 :Data;
      blob @4 :Blob;
    }
    redirectTo @5 :Text;
  }
}
