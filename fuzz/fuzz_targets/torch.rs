//! Arbitrary bytes walk in as a pickle, as a legacy file and as an archive. Nothing may
//! panic or take long; what is accepted must lie within its storages and the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sms_merge::format::torch::ArchiveKind;
use sms_merge::format::torch::Legacy;
use sms_merge::format::torch::SparseView;
use sms_merge::format::torch::StateDict;
use sms_merge::format::torch::TAIL_BYTES;
use sms_merge::format::torch::TorchError;
use sms_merge::format::torch::find_directory;
use sms_merge::format::torch::parse_directory;
use sms_merge::format::torch::parse_legacy;
use sms_merge::format::torch::parse_state_dict;

/// Larger than any input, so that it bounds memory alone.
const LIMIT: u64 = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    for key in [None, Some("model"), Some("a.b"), Some(".")] {
        said(parse_state_dict(bytes, key, LIMIT).map(|state_dict| check(&state_dict)));
    }
    said(parse_legacy(bytes, None, LIMIT).map(|legacy| as_legacy(&legacy, bytes)));
    said(as_archive(bytes));
});

fn said<T>(outcome: Result<T, TorchError>) {
    if let Err(error) = outcome {
        assert!(!error.to_string().is_empty());
    }
}

fn check(state_dict: &StateDict) {
    assert!(!state_dict.tensors.is_empty() || !state_dict.sparse.is_empty());
    let names = state_dict.tensors.iter().map(|view| &view.name);
    assert!(
        names.is_sorted_by(|a, b| a < b),
        "names are sorted and differ"
    );
    let names = state_dict.sparse.iter().map(|view| &view.name);
    assert!(
        names.is_sorted_by(|a, b| a < b),
        "names are sorted and differ"
    );
    for sparse in &state_dict.sparse {
        let numel = sparse.shape.numel();
        let count = sparse.values.shape.numel();
        assert!(numel <= 1 << 24 || numel >> 14 <= count);
        assert_eq!(sparse.values.shape.rank(), 1);
    }
    let parts = state_dict.sparse.iter().flat_map(SparseView::parts);
    for view in state_dict.tensors.iter().chain(parts) {
        let width = view.dtype.bits() / 8;
        let storage = &state_dict.storages[view.storage];
        let stored = storage
            .bytes()
            .expect("the bytes of its storage can be counted");
        assert_eq!(view.strides.len(), view.shape.rank());
        assert!(view.shape.numel() * width <= stored);
        let pairs = view.shape.dims().iter().zip(&view.strides);
        if view.shape.numel() > 0 {
            let reach: u64 = pairs.map(|(dim, stride)| (dim - 1) * stride).sum();
            assert!(view.begin + (reach + 1) * width <= stored);
        }
        if view.is_contiguous() {
            assert!(view.begin + view.shape.numel() * width <= stored);
        }
    }
}

fn as_legacy(legacy: &Legacy, file: &[u8]) {
    check(&legacy.state_dict);
    assert_eq!(legacy.order.len(), legacy.state_dict.storages.len());
    let file_bytes = file.len() as u64;
    let mut end = legacy.begin;
    for &idx in &legacy.order {
        let Some(length) = file[end as usize..].first_chunk::<{ Legacy::LENGTH_BYTES }>() else {
            return;
        };
        let begin = end + Legacy::LENGTH_BYTES as u64;
        match legacy.storage_end(idx, *length, begin, file_bytes) {
            Ok(next) => end = next,
            Err(_) => return,
        }
        assert!(begin <= end && end <= file_bytes);
    }
}

fn as_archive(file: &[u8]) -> Result<(), TorchError> {
    let tail = &file[file.len().saturating_sub(TAIL_BYTES)..];
    let directory = find_directory(tail, file.len() as u64, LIMIT)?;
    let range = directory.range.start as usize..directory.range.end as usize;
    let archive = parse_directory(&file[range], &directory)?;
    let ArchiveKind::Torch(folder) = archive.kind()? else {
        return Ok(());
    };
    let entry = archive.pickle(&folder)?;
    entry.require_within(LIMIT)?;
    let bytes = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
    let pickle = bytes(entry.range(bytes(entry.local_range()))?);
    // A sum is hard to hit by chance: what would be refused is read all the same.
    let _ = entry.check(pickle);
    let state_dict = parse_state_dict(pickle, None, LIMIT)?;
    check(&state_dict);
    for storage in &state_dict.storages {
        let entry = archive.storage(&folder, storage)?;
        let range = entry.range(bytes(entry.local_range()))?;
        assert_eq!(Some(bytes(range).len() as u64), storage.bytes());
    }
    Ok(())
}
