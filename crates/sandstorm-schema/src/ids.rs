//! The identifiers of packages, apps and grains: parsing is strict, so that a value of one of these
//! types is always safe as a file name and in a log line.

use std::fmt;
use std::str::FromStr;

/// Why a text is not an identifier. The text itself is left out: it may be hostile or secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("a package id is 32 hexadecimal digits")]
    Package,
    #[error("an app id is 52 characters of 0-9 a-z without b, i, l, o, ending in 0 or h")]
    App,
    #[error("a grain id is 8 to 64 letters and digits")]
    Grain,
}

/// First 16 bytes of the SHA-256 of a package file. Written as 32 lower-case hex digits; parsing
/// ignores case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageId(pub [u8; 16]);

impl PackageId {
    /// From a finished SHA-256 over the whole file.
    pub fn from_sha256(digest: &[u8; 32]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        PackageId(id)
    }
}

impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for PackageId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| IdError::Package)?;
        Ok(PackageId(id))
    }
}

/// An app's Ed25519 public key. Written in base32, most significant bit first, 52 characters whose
/// last four bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(pub [u8; 32]);

/// Length of an app id's text: 256 bits in groups of five.
const APP_ID_CHARS: usize = 52;

const BASE32: &[u8; 32] = b"0123456789acdefghjkmnpqrstuvwxyz";

/// The value of a base32 digit. Case does not count, and letters that look like a digit stand for
/// it (`o` 0, `i` and `l` 1, `b` 8).
fn base32_value(digit: u8) -> Option<u32> {
    let digit = match digit.to_ascii_lowercase() {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        b'b' => b'8',
        other => other,
    };
    BASE32.iter().position(|&d| d == digit).map(|value| value as u32)
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(APP_ID_CHARS);
        let (mut bits, mut count) = (0u32, 0);
        for byte in self.0 {
            bits = bits << 8 | u32::from(byte);
            count += 8;
            while count >= 5 {
                count -= 5;
                text.push(char::from(BASE32[(bits >> count & 31) as usize]));
            }
            bits &= (1 << count) - 1;
        }
        // 256 = 51 * 5 + 1: one bit is left, padded with four zeros.
        text.push(char::from(BASE32[(bits << (5 - count) & 31) as usize]));
        f.write_str(&text)
    }
}

impl FromStr for AppId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != APP_ID_CHARS {
            return Err(IdError::App);
        }
        let mut key = [0; 32];
        let mut filled = 0;
        let (mut bits, mut count) = (0u32, 0);
        for digit in text.bytes() {
            bits = bits << 5 | base32_value(digit).ok_or(IdError::App)?;
            count += 5;
            if count >= 8 {
                count -= 8;
                key[filled] = (bits >> count) as u8;
                filled += 1;
                bits &= (1 << count) - 1;
            }
        }
        // The spare bits are zero, or two texts would name one app.
        if bits != 0 { Err(IdError::App) } else { Ok(AppId(key)) }
    }
}

/// Name of a grain: 22 characters when made here, and any 8 to 64 letters and digits when read
/// (ids of restored grains and of older servers differ in length).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrainId(String);

/// Without letters and digits that look alike.
const GRAIN_ALPHABET: &[u8; 55] = b"23456789ABCDEFGHJKLMNPQRSTWXYZabcdefghijkmnopqrstuvwxyz";

impl GrainId {
    /// Characters of an id made here: 127 bits.
    pub const LENGTH: usize = 22;

    /// Longest id accepted, so that one is always a fine file name.
    pub const MAX_LENGTH: usize = 64;

    /// An id from random bytes. Bytes that would make some letters likelier are passed over, so
    /// `random` is asked again until 22 letters have come; it must fill its argument with
    /// unpredictable bytes.
    pub fn generate<E>(mut random: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut id = String::with_capacity(Self::LENGTH);
        let unbiased = 256 - 256 % GRAIN_ALPHABET.len();
        while id.len() < Self::LENGTH {
            let mut bytes = [0; 2 * Self::LENGTH];
            random(&mut bytes)?;
            for byte in bytes.into_iter().map(usize::from).filter(|&byte| byte < unbiased) {
                if id.len() < Self::LENGTH {
                    id.push(char::from(GRAIN_ALPHABET[byte % GRAIN_ALPHABET.len()]));
                }
            }
        }
        Ok(GrainId(id))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GrainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GrainId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let length_fits = (8..=Self::MAX_LENGTH).contains(&text.len());
        if length_fits && text.bytes().all(|c| c.is_ascii_alphanumeric()) {
            Ok(GrainId(text.to_owned()))
        } else {
            Err(IdError::Grain)
        }
    }
}

impl AsRef<str> for GrainId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

macro_rules! debug_as_display {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}

debug_as_display!(PackageId AppId GrainId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Key bytes and the app id that other implementations give for them.
    fn app_id_vectors() -> Vec<(Vec<u8>, &'static str)> {
        let from_hex = |text| hex::decode(text).unwrap();
        vec![
            (vec![0xff; 32], "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzh"),
            ((0..32).collect(), "000h40s40n30f209185hs38f1w8124hm2hajd5ss34e1q70x3sgh"),
            (
                from_hex("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"),
                "7ep2gg6fquk2usp3p382nvsefekm45cr3rj479jus14a32utv8nh",
            ),
            (
                from_hex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"),
                "0fhhggzmts8cw7chvndffky0m5my9pjhmfkhursxvk3684kp66w0",
            ),
        ]
    }

    #[test]
    fn app_id_test_vectors() {
        for (key, text) in app_id_vectors() {
            let id = AppId(key.try_into().unwrap());
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse::<AppId>(), Ok(id));
            assert_eq!(text.to_uppercase().parse::<AppId>(), Ok(id));
        }
    }

    #[test]
    fn app_id_reads_letters_that_look_like_digits() {
        let id: AppId = "000h40s40n30f209185hs38f1w8124hm2hajd5ss34e1q70x3sgh".parse().unwrap();
        assert_eq!("oOoh40s40n30f209iB5hs38fLw8I24hm2hajd5ss34elq70x3sgh".parse(), Ok(id));
    }

    #[test]
    fn app_id_refuses_what_is_not_one() {
        let good = "000h40s40n30f209185hs38f1w8124hm2hajd5ss34e1q70x3sgh";
        for bad in [
            "",
            &good[..51],
            &format!("{good}0"),
            // Spare bits set: would be a second name for the same key.
            &format!("{}j", &good[..51]),
            &format!("{}1", &good[..51]),
            &format!("{}-", &good[..51]),
            &format!("{}é", &good[..50]),
        ] {
            assert_eq!(bad.parse::<AppId>(), Err(IdError::App), "{bad:?}");
        }
    }

    #[test]
    fn package_id_text() {
        let text = "b5bb9d8014a0f9b1d61e21e796d78dcc";
        let id: PackageId = text.parse().unwrap();
        assert_eq!(id.0[..3], [0xb5, 0xbb, 0x9d]);
        assert_eq!(id.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        for bad in ["", &text[1..], &format!("{text}0"), "g5bb9d8014a0f9b1d61e21e796d78dcc"] {
            assert_eq!(bad.parse::<PackageId>(), Err(IdError::Package), "{bad:?}");
        }
    }

    #[test]
    fn package_id_is_half_of_the_hash() {
        use sha2::{Digest, Sha256};
        // SHA-256 of "abc", FIPS 180-2 appendix B.1.
        let digest: [u8; 32] = Sha256::digest(b"abc").into();
        let id = PackageId::from_sha256(&digest);
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223");
    }

    #[test]
    fn grain_id_refuses_what_could_be_a_path() {
        for good in ["abcdefgh", "23456789ABCDEFGHJKLMNP", "0OIl1uVv"] {
            assert_eq!(good.parse::<GrainId>().unwrap().as_str(), good);
        }
        let long = "a".repeat(65);
        for bad in [
            "",
            "abcdefg",
            "abc/defgh",
            "../../../etc",
            ".abcdefgh",
            "abcdefg\0",
            "abcdéfgh",
            &long,
        ] {
            assert_eq!(bad.parse::<GrainId>(), Err(IdError::Grain), "{bad:?}");
        }
    }

    #[test]
    fn grain_id_skips_bytes_that_would_bias_it() {
        // 220..=255 must not be used: 256 is no multiple of 55.
        let mut calls = 0u8;
        let id = GrainId::generate(|bytes| {
            bytes.fill(if calls == 0 { 220 } else { 219 });
            calls += 1;
            Ok::<_, ()>(())
        });
        assert_eq!((id.unwrap().as_str(), calls), ("zzzzzzzzzzzzzzzzzzzzzz", 2));
    }

    proptest! {
        #[test]
        fn app_id_round_trip(key: [u8; 32]) {
            let text = AppId(key).to_string();
            prop_assert_eq!(text.len(), 52);
            prop_assert!(text.ends_with(['0', 'h']));
            prop_assert_eq!(text.parse(), Ok(AppId(key)));
        }

        #[test]
        fn package_id_round_trip(id: [u8; 16]) {
            prop_assert_eq!(PackageId(id).to_string().parse(), Ok(PackageId(id)));
        }

        #[test]
        fn every_parser_survives_any_text(text in "\\PC*") {
            // What parses is again written as something that parses to the same.
            if let Ok(id) = text.parse::<AppId>() { prop_assert_eq!(id.to_string().parse(), Ok(id)); }
            if let Ok(id) = text.parse::<PackageId>() { prop_assert_eq!(id.to_string().parse(), Ok(id)); }
            if let Ok(id) = text.parse::<GrainId>() { prop_assert_eq!(id.as_str(), text); }
        }

        #[test]
        fn generated_grain_ids_parse(seed: u64) {
            let mut state = seed;
            let id = GrainId::generate(|bytes| {
                for byte in bytes { state = state.wrapping_mul(6364136223846793005).wrapping_add(1); *byte = (state >> 33) as u8; }
                Ok::<_, ()>(())
            }).unwrap();
            prop_assert_eq!(id.as_str().len(), GrainId::LENGTH);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
