# Who a person is, as far as an app may know.

@0xc822108a5c3d7d25;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "util.capnp".LocalizedText;
using import "util.capnp".StaticAsset;

interface Identity @0xc084987aa951dd18 {
  # A person. An app gets one for each of its visitors who is signed in and shows who they are, and
  # can save it to recognise or notify them later.

  getProfile @0 () -> (profile :Profile);
  # What they say of themselves now.

  struct PowerboxTag @0xf35052cfb1d3bbe8 {
    # In a powerbox query: let the user choose a person.

    permissions @0 :List(Bool);
    # Permissions of this grain that the chosen person is to have, by index. People who lack them
    # are offered too, and choosing one shares the grain with them.
  }
}

struct Profile @0xd3d0c34d7201fcef {
  displayName @0 :LocalizedText;
  # Free text for showing, not unique and not to be trusted.

  preferredHandle @1 :Text;
  # Short name without blanks, for use as a user name. Not unique: two visitors may want the same,
  # and one visitor may change it.

  picture @2 :StaticAsset;
  # Square. Null when there is none.

  pronouns @3 :Pronouns;

  enum Pronouns @0x84752dcf8539ab01 {
    neutral @0;
    male @1;
    female @2;
    robot @3;
  }
}

struct UserInfo @0x94b9d1efb35d11d3 {
  # What an app is told when someone opens one of its grains. All of it describes this visitor at
  # the time of opening; a later change of permissions ends the session and begins another.

  displayName @0 :LocalizedText;
  # As in Profile. For a visitor who is not signed in, a stand-in such as "Anonymous User".

  deprecatedPermissionsBlob @1 :Data;
  # `permissions` as bits, for apps of the first year. Use `permissions`.

  identityId @2 :Data;
  # 32 bytes that stay the same for this person in this grain. Empty for a visitor who is not
  # signed in or does not show who they are. Do not compare ids across grains.

  permissions @3 :List(Bool);
  # Which of the permissions in ViewInfo this visitor holds, by index. A missing entry is false.

  preferredHandle @4 :Text;
  pronouns @5 :Profile.Pronouns;
  # As in Profile.

  pictureUrl @6 :Text;
  # Address of the profile's picture, or null.

  identity @7 :Identity;
  # Null exactly when `identityId` is empty.
}
