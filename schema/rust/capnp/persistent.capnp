# Only for generating our Rust code; authors get Cap'n Proto's own file of this name.
#
# The standard file defines an interface and an annotation whose names differ in case alone, which
# the Rust generator maps to one module. This file holds the interface by itself, under the same
# type ids, so that what goes over the wire is the same. Its two structs stand outside of the
# interface, so that each has one type parameter: with two, the generator's output differs from run
# to run.

@0xf1154e3a736750ff;

interface Persistent @0xc8cb212fcd9f5691 (SturdyRef, Owner) {
  # An object that can be found again after its connection is gone.

  save @0 SaveParams(Owner) -> SaveResults(SturdyRef);
  # Asks for a reference that outlives this connection.
}

struct SaveParams @0xf76fba59183073a5 (Owner) {
  sealFor @0 :Owner;
  # Who alone may restore the reference. Null means: whoever holds it.
}

struct SaveResults @0xb76848c18c40efbf (SturdyRef) {
  sturdyRef @0 :SturdyRef;
  # What to store, and to hand to the realm's `restore` later.
}
