//! Ed25519 as packages use it: libsodium's combined form over the SHA-512 of the archive.
//!
//! As strict as libsodium: canonical S, no small-order and no non-canonical key.

use std::io::Write;

use capnp::message::{Builder, Reader, ReaderOptions};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sandstorm_schema::ids::AppId;
use sandstorm_schema::package_capnp::signature;

use super::frame::OwnedFrame;

/// Bytes of the digest that is signed.
pub const DIGEST_BYTES: usize = 64;

/// Why a signature message was refused.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error("its signature message is malformed: {0}")]
    Malformed(capnp::Error),
    #[error("its public key has {0} bytes instead of 32")]
    KeySize(usize),
    #[error("its signature has {0} bytes instead of 128")]
    SignatureSize(usize),
    #[error("its public key is not a valid Ed25519 key")]
    Key,
    #[error("its signature does not belong to its public key")]
    Forged,
}

/// A signature message that holds: who signed, and which digest.
#[derive(Debug)]
pub struct Signed {
    pub signer: AppId,
    pub digest: [u8; DIGEST_BYTES],
}

/// Checks a signature message.
///
/// # Errors
/// See [`SignatureError`].
pub fn open(frame: OwnedFrame) -> Result<Signed, SignatureError> {
    let message = Reader::new(frame, ReaderOptions::new());
    let root = message.get_root::<signature::Reader<'_>>().map_err(SignatureError::Malformed)?;
    let key = root.get_public_key().map_err(SignatureError::Malformed)?;
    let signed = root.get_signature().map_err(SignatureError::Malformed)?;
    let key: [u8; 32] = key.try_into().map_err(|_| SignatureError::KeySize(key.len()))?;
    let signed: [u8; 128] =
        signed.try_into().map_err(|_| SignatureError::SignatureSize(signed.len()))?;
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&signed[64..]);
    let mut signature = [0; 64];
    signature.copy_from_slice(&signed[..64]);

    let verifier = checked_key(&key).ok_or(SignatureError::Key)?;
    verifier
        .verify_strict(&digest, &Signature::from_bytes(&signature))
        .map_err(|_| SignatureError::Forged)?;
    Ok(Signed { signer: AppId(key), digest })
}

/// A public key that libsodium would take: canonical, on the curve, not of small order.
pub fn checked_key(key: &[u8; 32]) -> Option<VerifyingKey> {
    // Decompression reduces y modulo p, so 19 values of y have a second spelling; compressing
    // again shows it.
    let parsed = VerifyingKey::from_bytes(key).ok()?;
    let canonical = parsed.to_edwards().compress().to_bytes() == *key;
    (canonical && !parsed.is_weak()).then_some(parsed)
}

/// Writes the signature message for an archive with this digest.
///
/// # Errors
/// Those of `sink`.
pub fn write(
    key: &SigningKey,
    digest: &[u8; DIGEST_BYTES],
    sink: &mut impl Write,
) -> capnp::Result<()> {
    let mut message = Builder::new_default();
    let mut root = message.init_root::<signature::Builder<'_>>();
    root.set_public_key(key.verifying_key().as_bytes());
    let combined = root.init_signature(64 + DIGEST_BYTES as u32);
    combined[..64].copy_from_slice(&key.sign(digest).to_bytes());
    combined[64..].copy_from_slice(digest);
    capnp::serialize::write_message(sink, &message)
}

#[cfg(test)]
mod tests {
    use super::super::{frame, limits};
    use super::*;

    fn opened(bytes: &[u8]) -> Result<Signed, SignatureError> {
        open(frame::read(&mut &bytes[..], limits::MAX_SIGNATURE_WORDS).unwrap())
    }

    fn message(key: &[u8], signed: &[u8]) -> Vec<u8> {
        let mut message = Builder::new_default();
        let mut root = message.init_root::<signature::Builder<'_>>();
        root.set_public_key(key);
        root.set_signature(signed);
        capnp::serialize::write_message_to_words(&message)
    }

    fn sample() -> (Vec<u8>, Vec<u8>) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let digest = [9; 64];
        let signed = [&key.sign(&digest).to_bytes()[..], &digest].concat();
        (key.verifying_key().as_bytes().to_vec(), signed)
    }

    #[test]
    fn what_is_written_can_be_opened() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut bytes = Vec::new();
        write(&key, &[9; 64], &mut bytes).unwrap();
        let signed = opened(&bytes).unwrap();
        assert_eq!(signed.signer.0, key.verifying_key().to_bytes());
        assert_eq!(signed.digest, [9; 64]);
        let (key, signed) = sample();
        opened(&message(&key, &signed)).unwrap();
    }

    #[test]
    fn sizes_and_bits_count() {
        let (key, signed) = sample();
        use SignatureError::*;
        assert!(matches!(opened(&message(&key[..31], &signed)), Err(KeySize(31))));
        assert!(matches!(opened(&message(&key, &signed[..127])), Err(SignatureSize(127))));
        for bit in [0, 64 * 8 - 4, 64 * 8, 128 * 8 - 1] {
            let mut bad = signed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(opened(&message(&key, &bad)), Err(Forged)), "bit {bit}");
        }
        // S + L is the same number modulo L: only strict readers refuse it.
        let order = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10u8,
        ];
        let mut twin = signed.clone();
        let mut carry = 0u16;
        for (s, l) in twin[32..64].iter_mut().zip(order) {
            carry += u16::from(*s) + u16::from(l);
            *s = carry as u8;
            carry >>= 8;
        }
        assert!(matches!(opened(&message(&key, &twin)), Err(Forged)));
    }

    #[test]
    fn weak_and_non_canonical_keys_are_refused() {
        let y = |low: u8, rest: u8, top: u8| {
            let mut key = [rest; 32];
            (key[0], key[31]) = (low, top);
            key
        };
        for weak in [y(1, 0, 0), y(0, 0, 0), y(0xec, 0xff, 0x7f), y(0xee, 0xff, 0x7f)] {
            assert!(checked_key(&weak).is_none(), "{weak:?}");
        }
        // y = p + 3 is a second spelling of y = 3, which is on the curve and not weak.
        assert!(checked_key(&y(3, 0, 0)).is_some());
        assert!(checked_key(&y(0xf0, 0xff, 0x7f)).is_none());
        assert!(checked_key(SigningKey::from_bytes(&[1; 32]).verifying_key().as_bytes()).is_some());
    }
}
