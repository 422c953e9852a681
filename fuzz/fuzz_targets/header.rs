//! Arbitrary bytes walk in as a file and as a header. Nothing may panic; what
//! is accepted must survive a round trip and be accepted by the crate as well.
#![no_main]

use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;
use sms_merge::format::safetensors::DEFAULT_HEADER_LIMIT;
use sms_merge::format::safetensors::Entry;
use sms_merge::format::safetensors::Header;
use sms_merge::format::safetensors::Layout;
use sms_merge::format::safetensors::header_len;
use sms_merge::format::safetensors::parse;

fuzz_target!(|bytes: &[u8]| {
    as_file(bytes);
    // The length in front is hard to hit by chance, so the same bytes are also
    // taken as the size of a small data buffer and the JSON that belongs to it.
    if let Some((&[low, high], json)) = bytes.split_first_chunk::<2>() {
        let data_bytes = usize::from(u16::from_le_bytes([low, high]) % 512);
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(json);
        file.resize(file.len() + data_bytes, 0);
        as_file(&file);
        // Offsets near 2^64 need a data buffer that no memory holds.
        let _ = parse(json, u64::MAX);
    }
});

fn as_file(file: &[u8]) {
    let Ok(header_bytes) = header_len(file, file.len() as u64, DEFAULT_HEADER_LIMIT) else {
        return;
    };
    let (json, data) = file[8..].split_at(header_bytes as usize);
    let header = match parse(json, data.len() as u64) {
        Ok(header) => header,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let theirs = SafeTensors::deserialize(file).expect("accepted here, refused by the crate");
    assert_eq!(theirs.len(), header.tensors.len());
    for tensor in &header.tensors {
        let view = theirs
            .tensor(&tensor.name)
            .expect("a tensor is missing in the crate's view");
        assert_eq!(view.data().len() as u64, tensor.end - tensor.begin);
        assert_eq!(view.dtype().to_string(), tensor.dtype.name());
        assert!(
            view.shape()
                .iter()
                .map(|&dim| dim as u64)
                .eq(tensor.shape.dims().iter().copied())
        );
    }
    round_trip(&header);
}

fn round_trip(header: &Header) {
    let entries = header.tensors.iter().map(|tensor| Entry {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
    });
    let layout = Layout::new(entries.collect()).expect("an accepted header has a layout");
    assert_eq!(layout.tensors(), header.tensors);
    let bytes = layout
        .header(&header.metadata)
        .expect("an accepted header can be written");
    let again = parse(&bytes[8..], layout.data_bytes()).expect("a written header can be read");
    assert_eq!(&again, header);
}
