//! Arbitrary bytes walk in as a shard index. Nothing may panic; what is
//! accepted must survive a round trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sms_merge::format::shard_index::parse;
use sms_merge::format::shard_index::render;
use sms_merge::format::sniff::sniff;

fuzz_target!(|bytes: &[u8]| {
    if let Some(foreign) = sniff(bytes) {
        assert!(!foreign.to_string().is_empty());
    }
    match parse(bytes) {
        Ok(index) => {
            let text = render(&index.weight_map, u64::MAX);
            let again = parse(text.as_bytes()).expect("a written index can be read");
            assert_eq!(again.weight_map, index.weight_map);
            assert_eq!(again.metadata["total_size"], u64::MAX);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
