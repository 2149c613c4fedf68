# Telling people that something happened: activity events and notifications.

@0xa4e001d4cbcf33fa;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "identity.capnp".Identity;
using import "util.capnp".Handle;
using import "util.capnp".LocalizedText;

struct ActivityEvent @0xa7c0b6eaa98c6c4b {
  # Something that happened in a grain. The app reports it by `SessionContext.activity` when a
  # visitor did it, and by `SandstormApi.backgroundActivity` otherwise; who is told is settled by
  # the event's type and by what people subscribed to.

  path @0 :Text;
  # What to open to see it, relative to the grain's root, without a leading slash.

  notification @1 :NotificationDisplayInfo;
  # How to show it. Null: only mark the grain as changed.

  type @2 :UInt16;
  # Index into ViewInfo's `eventTypes`.

  users @3 :List(User);
  # People for whom this is special.

  thread @4 :ThreadInfo;
  # What the event belongs to, when people can follow that by itself. Null otherwise.

  struct User @0xbb4d119bbcd89677 {
    identity @0 :Identity;

    mentioned @1 :Bool;
    # The event speaks of them: tell them, whatever they subscribed to.

    canView @2 :Bool;
    # They may see it although they lack the permission that the type asks for.

    subscribed @3 :Bool;
    # They follow this by the app's own knowledge.
  }

  struct ThreadInfo @0xf3902b5a86ffba44 {
    path @0 :Text;
    # Names the thread; opening it shows the thread. Same form as the event's path.

    title @1 :LocalizedText;
  }
}

struct ActivityTypeDef @0xe638de0ad7c89a2b {
  # A kind of event. The list in ViewInfo only grows, for events refer to it by index.

  name @0 :Text;
  # For programs; letters and digits.

  verbPhrase @1 :LocalizedText;
  # What happened, to follow a person's name: "edited the document".

  description @2 :LocalizedText;
  # For a page of settings.

  requiredPermission :union {
    # Who may know of it.

    everyone @3 :Void;
    # Everybody with access to the grain.

    permissionIndex @4 :UInt16;
    # Those who hold this permission of ViewInfo.

    explicitList @5 :Void;
    # Those whom the event lists with `canView`.
  }

  obsolete @6 :Bool;
  # No longer used; kept for its index.

  notifySubscribers @7 :Bool;
  # Tell those who follow the grain or the thread.

  autoSubscribeToThread @8 :Bool;
  # Whoever does this follows the thread from now on.

  autoSubscribeToGrain @9 :Bool;
  # Whoever does this follows the grain from now on.

  suppressUnread @10 :Bool;
  # Too small to mark the grain as changed for those who see it later.
}

struct NotificationDisplayInfo @0xd3b9f2ca42d4f783 {
  caption @0 :LocalizedText;
  # One line.
}

interface NotificationTarget @0xf0f87337d73020f0 {
  # Someone who can be notified.

  addOngoing @0 (displayInfo :NotificationDisplayInfo, notification :OngoingNotification)
      -> (handle :Handle);
  # Shows that something is going on, with a button to cancel it, until the handle is dropped.
}

interface OngoingNotification @0xfe851ddbb88940cd {
  # Given by whoever does something in the background.

  cancel @0 () -> ();
  # The user wants it to stop.
}
