# Small parts that all the other files use.

@0xecd50d792c3d9992;

$import "/capnp/c++.capnp".namespace("sandstorm");

struct KeyValue @0x94a081e4abb13424 {
  # A pair of texts: a cookie, an environment variable.

  key @0 :Text;
  value @1 :Text;
}

struct LocalizedText @0x8b5db772377be249 {
  # A text for people, in one language or more.

  defaultText @0 :Text;
  # Shown when no localization fits. Always give it.

  localizations @1 :List(Localization);

  struct Localization @0xa4f5ae06dd1b7791 {
    locale @0 :Text;
    # A language tag of BCP 47, such as `de` or `pt-BR`.

    text @1 :Text;
  }
}

interface Handle @0x98f424ac606042e0 {
  # Stands for something that goes on as long as somebody holds the handle: a subscription, an open
  # port, a wake lock. Dropping the last reference ends it; there is no other way to end it.

  ping @0 () -> ();
  # Does nothing. Success shows that what the handle stands for is still there.
}

interface ByteStream @0xcd57387729cfe35f {
  # A receiver of bytes: a request body, a file, a log. The sender calls `write` any number of times
  # and then `done`. Dropping the stream without `done` tells the receiver that the end is missing,
  # and it must not take the bytes for the whole.
  #
  # Each call is answered when the receiver has room for more, so a sender that keeps only a few
  # calls unanswered is slowed down to the receiver's pace. After one failed call all later ones
  # fail.

  write @0 (data :Data) -> stream;
  # The next bytes, in order. Chunks of some 64 KiB travel best.

  done @1 () -> ();
  # No more bytes will come. Answered when the receiver has taken them all.

  expectSize @2 (size :UInt64) -> ();
  # How many bytes will come from here on, told before they do. Optional; a sender that tells it
  # must keep to it. A receiver may use it to show progress or to announce a length of its own.
}

interface Blob @0xe53527a75d90198f {
  # Bytes that do not change, to be read any number of times.

  getSize @0 () -> (size :UInt64);
  # In bytes.

  writeTo @1 (stream :ByteStream, startAtOffset :UInt64 = 0) -> (handle :Handle);
  # Sends everything from the offset (in bytes) on to `stream`. Dropping the handle stops it.

  getSlice @2 (offset :UInt64, size :UInt32) -> (data :Data);
  # The bytes from `offset` on, `size` of them, or fewer where the blob ends.
}

interface Assignable @0xeaf255b498229199 (T) {
  # A variable that others may read, watch and set.

  get @0 () -> (value :T, setter :Setter);
  # The present value, and a setter for exactly this change: its `set` fails if somebody else has
  # set the variable since. Read, compute and set with it, and on failure begin anew.

  asGetter @1 () -> (getter :Getter);
  # The same variable for someone who may not set it.

  asSetter @2 () -> (setter :Setter);
  # The same variable for someone who may only set it. This setter always wins.

  interface Getter @0x80f2f65360d64224 {
    get @0 () -> (value :T);

    subscribe @1 (setter :Setter) -> (handle :Handle);
    # Calls `setter.set` with the present value and with each later one, until the handle is
    # dropped. While a call is unanswered values may be skipped, but never the last.
  }

  interface Setter @0xd5256a3f93589d2f {
    set @0 (value :T) -> ();
  }
}

interface StaticAsset @0xfabb5e621fa9a23f {
  # A file that a browser can fetch without signing in, such as a picture.

  getUrl @0 () -> (protocol :Protocol, hostPath :Text);
  # Where it is, in two parts: put `://` between them. The address stays the same for the same
  # content.

  enum Protocol @0x9714437546d80c39 {
    https @0;
    http @1;
  }
}
