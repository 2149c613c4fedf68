# The powerbox: how one app asks for a thing that another app, or the server, can give, and the user
# chooses. Nobody but the user learns what there was to choose from.

@0xf6c200ab14cd53e4;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "util.capnp".LocalizedText;

struct PowerboxDescriptor @0xedcf0fa3bfc71c58 {
  # Describes a kind of capability, for asking ("I want something like this") and for offering ("I
  # have something like this"). A query is a list of descriptors, each an alternative.

  tags @0 :List(Tag);
  # What the capability can do. All tags of a query's descriptor must be met by the one offered;
  # tags beyond those asked for do no harm.

  quality @1 :MatchQuality;
  # How well this alternative suits the one who asks.

  enum MatchQuality @0xbb1afa45d25ce8de {
    acceptable @0;
    # It will do.

    preferred @1;
    # Rather this; shown first.

    unacceptable @2;
    # Not this, even though another descriptor would match.
  }

  struct Tag @0xbe3d16a8df03c418 {
    id @0 :UInt64;
    # Type id of the interface that is meant, as a rule.

    value @1 :AnyPointer;
    # Details whose meaning the id defines, such as that interface's `PowerboxTag`. Null matches
    # everything. Two structs match when every field that is set in both matches; of lists it is
    # enough that the one asked for is met.
  }
}

struct PowerboxDisplayInfo @0xa553a209bee32bec {
  # How a capability is shown to people who choose it or look at what they gave away.

  title @0 :LocalizedText;
  # A noun phrase: "calendar", "chat room".

  verbPhrase @1 :LocalizedText;
  # What the holder can do with it, to follow a name: "can read your calendar".

  description @2 :LocalizedText;
  # A sentence or two.
}
