# Between the shell's sub-commands and the running server, over `shell.socket` in the home.
#
# The socket answers the server's own uid and root (checked by the kernel's peer credentials), so
# holding a connection is the permission. Every method may fail with `failed` and a sentence for
# the person at the terminal; `unimplemented` means that the server is older than the command.
# Later commands get new ordinals; those here never change.

@0xf0d35f0aa8d7ae5f;

$import "/capnp/c++.capnp".namespace("sandstorm::ext");

using import "/sandstorm/util.capnp".ByteStream;
using import "/sandstorm/util.capnp".Handle;
using import "report.capnp".LimitState;

interface Control @0xad128e32e9be397e {
  # The bootstrap object.

  serverInfo @0 () -> (info :ServerInfo);
  # Who answers.

  adminLink @1 () -> (url :Text, expires :Int64);
  # A fresh one-time link that signs its opener in as an administrator. `expires` is in seconds
  # since 1970. A secret: it goes to the caller's terminal and into no log.

  appInstall @2 (name :Text, size :UInt64, progress :InstallProgress) -> (upload :AppUpload);
  # Begins an installation from a file that the caller streams. `name` is the file's name for
  # messages only; `size` in bytes, 0 if unknown. `progress` may be null.

  appInstallUrl @3 (url :Text, packageId :Text, progress :InstallProgress) -> (app :InstalledApp);
  # The server downloads the package itself. The address may be of a private network, since whoever
  # reaches this socket could fetch it, too; where it redirects to may not. `packageId` is 32 hex
  # digits, or empty when any content will do.

  appList @4 () -> (apps :List(AppInfo));
  # Every installed app in the version that new grains are made from (the one that was installed for
  # everybody last; else the newest), ordered by title.

  grainCreate @5 (appId :Text, action :UInt32, title :Text, owner :Text) -> (grainId :Text);
  # A new grain by the app's action number (from 0). Empty `title` takes the action's; empty
  # `owner` is the local operator account, made if missing. The grain is started once so that the
  # app can set itself up.

  grainList @6 (after :Text, limit :UInt32) -> (grains :List(GrainInfo), next :Text);
  # All grains, ordered by id, in pages: at most `limit` (the server may give fewer; 0 leaves it to
  # the server) with an id after `after`. A non-empty `next` is the `after` of the next page.

  grainOpen @7 (grainId :Text) -> (url :Text, expires :Int64);
  # A one-time link that signs its opener in as the grain's owner and opens the grain. A secret.

  grainSession @8 (grainId :Text, permissions :PermissionChoice)
      -> (origin :Text, cookie :Text, expires :Int64);
  # A session of the grain for curl and scripts, written to the audit log. `origin` is scheme, host
  # and port; `cookie` a ready value of a Cookie header, and a secret; `expires` in seconds since
  # 1970.

  grainStop @9 (grainId :Text, now :Bool);
  # Ends the running app, and returns when it is gone. `now` does not ask it first.

  grainLog @10 (grainId :Text, backlog :UInt64, follow :Bool, stream :ByteStream)
      -> (handle :Handle);
  # Writes the last `backlog` bytes of the app's output to `stream`. Without `follow` it then calls
  # `done`; with it, new output follows until the handle is dropped.

  grainDelete @11 (grainId :Text, now :Bool) -> (already :Bool);
  # To the trash; with `now` it is destroyed and cannot come back. `already`: it was in the trash, and
  # nothing has changed.

  check @12 () -> (problems :List(Problem));
  # The server's own health check; an empty list is good news.

  limitList @13 () -> (limits :List(LimitRow));
  # The server's value of every limit, then every exception: by app, then by account.

  limitSet @14 (subject :LimitSubject, name :Text, value :Text);
  # An exception. `value` is a number, or one with K, M, G or T. It holds from the next start of a
  # grain on. Where several apply, the account's beats the app's, and both beat the server's.

  limitClear @15 (subject :LimitSubject, name :Text) -> (cleared :UInt32);
  # Takes exceptions back: one, or with an empty `name` all of the subject's; how many there were.

  appDelete @16 (id :Text) -> (packageIds :List(Text));
  # Removes a package (32 hex digits), or every package of an app (its id), from the server and from
  # everybody's list. Fails, and changes nothing, while a grain uses one, also one in the trash. The
  # id of a package that is unknown but has left files removes those.
}

struct LimitSubject @0xd49c34d4f8b8e40e {
  union {
    server @0 :Void;
    # Everybody who has no exception. Set in the server's settings, not here.

    app @1 :Text;
    # An app id.

    account @2 :Text;
    # A handle.
  }
}

struct LimitRow @0xb58dd2d4ad1e4e9f {
  subject @0 :LimitSubject;
  name @1 :Text;
  value @2 :UInt64;
  unit @3 :Text;

  ceiling @4 :UInt64;
  # The most that can be set.
}

struct ServerInfo @0xf67590feb7b8b820 {
  version @0 :Text;
  pid @1 :UInt32;
  rootUrl @2 :Text;
  home @3 :Text;
}

interface AppUpload @0xf5b307e56068baa4 extends(ByteStream) {
  # Takes the package file: `write` in chunks of up to 64 KiB, then `done`, then `finish`. Dropping
  # it before `finish` throws away what was sent.

  finish @0 () -> (app :InstalledApp);
  # Verifies, unpacks and installs. Installing a package that is there already is a success.
}

interface InstallProgress @0xbd29c9b7bbad9c5d {
  report @0 (step :InstallStep, done :UInt64, total :UInt64);
  # `done` of `total` bytes of this step; `total` is 0 while it is unknown.
}

enum InstallStep @0x9963ffe64a3e0d9f {
  # A reader shows a step that it does not know as "working".

  get @0;
  verify @1;
  extract @2;
  sync @3;
}

struct InstalledApp @0xdb9f8121308a8b50 {
  packageId @0 :Text;
  appId @1 :Text;
  title @2 :Text;
  version @3 :Text;

  newer @4 :Text;
  # The newest version that is installed, when that is not this one; else empty. New grains are of
  # the version that was installed last.

  number @5 :UInt32;
  newerNumber @6 :UInt32;
  # The numbers that order these two: authors give several versions the same words.
}

struct AppInfo @0xcf56ef7c6f6b45cb {
  appId @0 :Text;
  packageId @1 :Text;
  title @2 :Text;

  version @3 :Text;
  # As people know it ("1.4.2"); the number where the author gives no words.

  appVersion @4 :UInt32;
  # The number that orders packages of one app.

  actions @5 :List(Text);
  # Titles, in the order of their numbers.
}

struct GrainInfo @0x82279beafa44d29f {
  grainId @0 :Text;
  title @1 :Text;
  appId @2 :Text;

  owner @3 :Text;
  # The owner's handle.

  state @4 :State;

  enum State @0x980c9a12fd78c885 {
    asleep @0;
    running @1;
    trash @2;
  }

  limits @5 :List(LimitState);
  # Of a running grain: what limits it. Empty when it does not run, or does not say.

  size @6 :UInt64;
  # Bytes on disk, as last measured.

  trouble @7 :Text;
  # Why it last ended by itself, in a sentence; empty when it did not, or has run since.
}

struct PermissionChoice @0xf65aa71e56c481f3 {
  union {
    all @0 :Void;
    # Everything the owner may do.

    named @1 :List(Text);
    # These names of the app's permissions; an unknown one is an error that lists those there are.
  }
}

struct Problem @0x91db8008bc388e6d {
  what @0 :Text;
  # What is wrong, in a sentence.

  fix @1 :Text;
  # What to do about it.
}
