//! Keys that were replaced: an app whose signing key was lost or leaked goes on under its old id
//! while a new key signs its packages. The list is part of the format.

use sandstorm_schema::ids::{AppId, PackageId};

/// One replaced key.
pub struct Replacement {
    /// The app's id, which stays.
    pub original: &'static str,
    /// The key that signs now.
    pub replacement: &'static str,
    /// `None`: packages signed by the old key stay valid. `Some`: only these do.
    pub revoked_except: Option<&'static [&'static str]>,
}

/// Every replacement that readers know.
pub const REPLACEMENTS: &[Replacement] = &[
    // The documentation's example.
    Replacement {
        original: "vjvekechd398fn1t1kn1dgdnmaekqq9jkjv3zsgzymc4z913ref0",
        replacement: "wq95qmutckc0yfmecv0ky96cqxgp156up8sv81yxvmery58q87jh",
        revoked_except: Some(&["b5bb9d8014a0f9b1d61e21e796d78dcc"]),
    },
    // Paperwork.
    Replacement {
        original: "vxe8awcxvtj6yu0vgjpm1tsaeu7x8v8tfp71tyvnm6ykkephu9q0",
        replacement: "n8cn71407n4mezn7mg0k5kkm21juuphhecc24hdf9kf56zyxm4ah",
        revoked_except: None,
    },
    // draw.io.
    Replacement {
        original: "nfqhx83vvzm80edpgkpax8mhqp176qj2vwg67rgq5e3kjc5r4cyh",
        replacement: "a3w50h1435gsxczugm16q0amwkqm9f4crykzea53sv61pt7phk8h",
        revoked_except: Some(&[
            "1450e0caa29b59ec938b3795bf17cb02",
            "738f0e56a9ca462e77245e3f392686d7",
        ]),
    },
    // Wekan.
    Replacement {
        original: "m86q05rdvj14yvn78ghaxynqz7u2svw6rnttptxx49g1785cdv1h",
        replacement: "6jz1aawur7kga7tdsj9kgpxx1yzh6xz1qmrpnqukcp1rekprd9f0",
        revoked_except: None,
    },
    // WordPress.
    Replacement {
        original: "aax9j672p6z8n7nyupzvj2nmumeqd4upa0f7mgu8gprwmy53x04h",
        replacement: "zp00qqrha6gp8515ju84ys91syyq8ezv77g9s1r0t3urz92uzmqh",
        revoked_except: None,
    },
];

/// The app that a package signed by `signer` belongs to; `None` when that key was revoked.
pub fn app_of(signer: AppId, package: PackageId) -> Option<AppId> {
    app_by(REPLACEMENTS, signer, package)
}

fn app_by(table: &[Replacement], signer: AppId, package: PackageId) -> Option<AppId> {
    let is = |text: &str, id: AppId| text.parse() == Ok(id);
    let revoked = table.iter().filter(|r| is(r.original, signer)).any(|r| {
        r.revoked_except.is_some_and(|kept| !kept.iter().any(|text| text.parse() == Ok(package)))
    });
    if revoked {
        return None;
    }
    let mut id = signer;
    // A well-formed table has no circle; the bound keeps a bad one from hanging us.
    for _ in 0..table.len() {
        match table.iter().find(|r| is(r.replacement, id)) {
            Some(r) => id = r.original.parse().unwrap_or(id),
            None => break,
        }
    }
    Some(id)
}

/// The key that signs packages of `app` today.
pub fn signer_of(app: AppId) -> AppId {
    let mut id = app;
    for _ in 0..REPLACEMENTS.len() {
        match REPLACEMENTS.iter().find(|r| r.original.parse() == Ok(id)) {
            Some(r) => id = r.replacement.parse().unwrap_or(id),
            None => break,
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_PACKAGE: PackageId = PackageId([0; 16]);

    #[test]
    fn the_table_is_well_formed() {
        for r in REPLACEMENTS {
            let (old, new): (AppId, AppId) =
                (r.original.parse().unwrap(), r.replacement.parse().unwrap());
            assert_eq!(old.to_string(), r.original);
            assert_eq!(new.to_string(), r.replacement);
            for package in r.revoked_except.unwrap_or_default() {
                assert_eq!(package.parse::<PackageId>().unwrap().to_string(), *package);
            }
            assert_eq!(signer_of(old), new);
            assert_eq!(app_of(new, NO_PACKAGE), Some(old));
            // Null exceptions mean "not revoked", a list means that nothing else passes.
            assert_eq!(app_of(old, NO_PACKAGE), r.revoked_except.is_none().then_some(old));
        }
    }

    #[test]
    fn excepted_packages_and_strangers_pass() {
        let old: AppId = REPLACEMENTS[0].original.parse().unwrap();
        let kept: PackageId = REPLACEMENTS[0].revoked_except.unwrap()[0].parse().unwrap();
        assert_eq!(app_of(old, kept), Some(old));
        let stranger = AppId([7; 32]);
        assert_eq!(app_of(stranger, NO_PACKAGE), Some(stranger));
        assert_eq!(signer_of(stranger), stranger);
    }

    #[test]
    fn chains_are_followed_to_their_ends() {
        let ids = [AppId([1; 32]), AppId([2; 32]), AppId([3; 32])];
        let text: Vec<&'static str> =
            ids.iter().map(|id| &*Box::leak(id.to_string().into_boxed_str())).collect();
        let link = |a: usize, b: usize| Replacement {
            original: text[a],
            replacement: text[b],
            revoked_except: None,
        };
        assert_eq!(app_by(&[link(1, 2), link(0, 1)], ids[2], NO_PACKAGE), Some(ids[0]));
        // A circle ends.
        assert!(app_by(&[link(0, 1), link(1, 0)], ids[0], NO_PACKAGE).is_some());
    }
}
