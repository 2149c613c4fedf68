//! A short walk of what the fuzz target `rpc_guard` does for longer.

mod rpc_support;

use proptest::prelude::*;

use rpc_support::script::play;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_script_makes_a_guarded_vat_fall(script in prop::collection::vec(any::<u8>(), 0..400)) {
        play(&script);
    }
}
