# E-mail.

@0xdd10df585a82c6d8;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "util.capnp".Handle;

struct EmailAddress @0xacaddcee86563ee1 {
  address @0 :Text;
  # `name@host`, without brackets.

  name @1 :Text;
  # The display name, may be empty.
}

struct EmailAttachment @0xb309c51a9d28244f {
  contentType @0 :Text;
  # With its parameters.

  contentDisposition @1 :Text;
  # With its parameters, the file's name among them.

  contentId @2 :Text;
  # For links from `html`; may be empty.

  content @3 :Data;
  # Decoded bytes.
}

struct EmailMessage @0xcff459e769562d2f {
  # A message taken apart. Header fields that have no place here are not carried.

  date @0 :Int64;
  # Nanoseconds since 1970-01-01 UTC.

  from @1 :EmailAddress;
  to @2 :List(EmailAddress);
  cc @3 :List(EmailAddress);
  bcc @4 :List(EmailAddress);
  replyTo @5 :EmailAddress;

  messageId @6 :Text;
  references @7 :List(Text);
  inReplyTo @8 :List(Text);
  # Message ids, without angle brackets.

  subject @9 :Text;

  text @10 :Text;
  html @11 :Text;
  # The body as plain text and as HTML; one of them may be empty.

  attachments @12 :List(EmailAttachment);
}

interface EmailSendPort @0xec831dbf4cc9bcca {
  # Somewhere a message can be handed in: a way out to the world, or an app's mailbox.

  send @0 (email :EmailMessage) -> ();
  # Answered when the message was accepted, which is not yet delivery.

  hintAddress @1 (address :EmailAddress) -> ();
  # Tells the owner of the port under which address it is used. A hint; nothing depends on it.

  struct PowerboxTag @0x90790c61fc899dd3 {
    fromHint @0 :EmailAddress;
    # The address that messages will come from, if known.

    listIdHint @1 :Text;
    # The mailing list's id (RFC 2919), if it is one.
  }
}

interface EmailAgent @0x8b6f158d70cbc773 {
  # A mail account: sends and receives under addresses of its own.

  send @0 (email :EmailMessage) -> ();
  # As in EmailSendPort; the sender's address is put right by the agent.

  addReceiver @1 (port :EmailSendPort) -> (handle :Handle);
  # Hands incoming messages to `port` until the handle is dropped.
}

interface EmailVerifier @0xd458f7ca9d1ba9ff {
  # Vouches for e-mail addresses. The user proves to the verifier, not to the app, that an address
  # is theirs, and hands the app the proof.

  getId @0 () -> (id :Data);
  # Names this verifier. Compare it before believing a proof.

  verifyEmail @1 (tabId :Data, verification :VerifiedEmail) -> (address :Text);
  # The address that `verification` proves, if this verifier made it and it was made in the browser
  # tab of that id (see UiView.newSession); fails otherwise, so that a proof cannot be used by those
  # who got hold of it elsewhere.
}

interface VerifiedEmail @0xf88bf102464dfa5a {
  # A proof that an address is someone's. Only its maker can read it, by EmailVerifier.verifyEmail.

  struct PowerboxTag @0x97469291ac5bb892 {
    verifierId @0 :Data;
    # Whose proof is wanted. Empty: anyone's.

    address @1 :Text;
    # The address to prove; null: the user chooses.

    domain @2 :Text;
    # Any address of this domain; null: any.
  }
}

interface VerifiedEmailSendPort @0xa3cc885445aed8e9 extends(VerifiedEmail, EmailSendPort) {
  # A port that sends to an address which its owner has proven to be theirs.

  struct PowerboxTag @0x8f555bd4141fbb3b {
    verification @0 :VerifiedEmail.PowerboxTag;
    port @1 :EmailSendPort.PowerboxTag;
  }
}
