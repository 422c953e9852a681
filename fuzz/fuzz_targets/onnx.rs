//! Arbitrary bytes walk in as a model. Nothing may panic or take more than the limit
//! allows; every element of what is accepted can be read, the model can be compared with
//! itself and with another, and with other elements it is accepted again and has them.
#![no_main]

use std::convert::Infallible;

use libfuzzer_sys::fuzz_target;
use sms_merge::format::onnx::read::Elements;
use sms_merge::format::onnx::read::Model;
use sms_merge::format::onnx::read::Place;
use sms_merge::format::onnx::read::ReadError;
use sms_merge::format::onnx::read::Scattered;
use sms_merge::format::onnx::read::Values;
use sms_merge::format::onnx::read::first_difference;
use sms_merge::format::onnx::read::parse;
use sms_merge::format::onnx::splice::Piece;
use sms_merge::format::onnx::splice::Room;
use sms_merge::format::onnx::splice::splice;

/// Bytes that may be looked at.
const LIMIT: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let model = match parse(bytes, LIMIT) {
        Ok(model) => model,
        Err(ReadError::Onnx(error)) => {
            assert!(!error.to_string().is_empty());
            return;
        }
        Err(ReadError::Source(never)) => match never {},
    };
    let same = first_difference((bytes, &model), (bytes, &model), LIMIT).map_err(|_| ());
    assert_eq!(same, Ok(None), "a model differs from itself");
    for initializer in &model.initializers {
        let read = |values: &Values| elements(values, bytes);
        match &initializer.elements {
            Elements::Dense(values) => drop(read(values)),
            _ if is_beside(&initializer.elements) => {}
            _ => scattered(bytes, initializer),
        }
    }
    neighbour(bytes, &model);
    again(bytes, &model);
});

/// Compares a model with one of which a byte is another, if that is accepted too.
fn neighbour(bytes: &[u8], model: &Model) {
    let sum: usize = bytes.iter().map(|&byte| usize::from(byte)).sum();
    let mut changed = bytes.to_vec();
    changed[sum % bytes.len()] ^= 1 << (sum % 8);
    let changed = changed.as_slice();
    let Ok(other) = parse(changed, LIMIT) else {
        return;
    };
    let compare = |first, other| match first_difference(first, other, LIMIT) {
        Ok(difference) => difference.is_some(),
        Err(_) => panic!("what was accepted can be compared"),
    };
    let differ = compare((bytes, model), (changed, &other));
    assert_eq!(differ, compare((changed, &other), (bytes, model)));
}

/// Whether a part lies in another file, which there is none of here.
fn is_beside(elements: &Elements) -> bool {
    let is_beside = |values: &Values| matches!(values.place, Place::External { .. });
    match elements {
        Elements::Dense(values) => is_beside(values),
        Elements::Sparse { values, places, .. } => is_beside(values) || is_beside(places),
        Elements::Bitmask { values, bitmask } => is_beside(values) || is_beside(bitmask),
        Elements::Gaps { values, gaps } => is_beside(values) || is_beside(gaps),
    }
}

/// All elements, if they are in the model.
fn elements(values: &Values, bytes: &[u8]) -> Option<Vec<u8>> {
    if matches!(values.place, Place::External { .. }) {
        return None;
    }
    let mut out = vec![0; usize::try_from(values.bytes()).unwrap()];
    let read = values.read(|_| bytes, 0, &mut out);
    read.expect("what was accepted can be read");
    Some(out)
}

fn scattered(bytes: &[u8], initializer: &sms_merge::format::onnx::read::Initializer) {
    let Ok(Some(scattered)) = Scattered::new(initializer, |_| bytes) else {
        return;
    };
    // A stretch at a time, as everything is read; a shape may be far larger than memory.
    let numel = initializer.shape.numel();
    let mut seen = 0;
    for begin in (0..numel.min(1 << 12)).step_by(100) {
        let count = 100.min(numel - begin);
        let mut words = [0; 2];
        let range = scattered.read_words(|_| bytes, begin, &mut words, count);
        let range = range.expect("what was accepted can be read");
        let bits = words.iter().map(|word| word.count_ones()).sum::<u32>();
        assert_eq!(range.end - range.start, u64::from(bits));
        assert_eq!(range.start, seen);
        seen = range.end;
    }
    if numel <= 1 << 12 {
        assert_eq!(seen, scattered.values().count);
    }
}

/// Puts other elements into the model, and reads them back.
fn again(bytes: &[u8], model: &Model) {
    let replaced: Vec<&Values> = model
        .initializers
        .iter()
        .map(|initializer| match &initializer.elements {
            Elements::Dense(values)
            | Elements::Sparse { values, .. }
            | Elements::Bitmask { values, .. }
            | Elements::Gaps { values, .. } => values,
        })
        .collect();
    let spliced: Result<_, ReadError<Infallible>> =
        splice(bytes, model, &replaced, &["sms_merge"], "data");
    let Ok(spliced) = spliced else {
        panic!("an accepted model can be spliced");
    };
    let mut file = Vec::new();
    for piece in &spliced.pieces {
        match piece {
            Piece::Copy(range) => file.extend(&bytes[range.start as usize..range.end as usize]),
            Piece::Bytes(new) => file.extend(new),
            Piece::Hole(len) => file.resize(file.len() + *len as usize, 0),
        }
    }
    assert_eq!(file.len() as u64, spliced.model_bytes);
    for (values, room) in replaced.iter().zip(&spliced.rooms) {
        if let Room::Model { offset } = room {
            let len = usize::try_from(values.bytes()).unwrap();
            file[*offset as usize..][..len].fill(1);
        }
    }
    // Decoded tensors depend on constants, which are elements too; and so does BOOL.
    let Ok(second) = parse(file.as_slice(), 4 * LIMIT) else {
        panic!("a spliced model is accepted");
    };
    if model.decoders.is_empty() {
        assert_eq!(second.initializers.len(), model.initializers.len());
        for initializer in &second.initializers {
            if let Elements::Dense(values) = &initializer.elements
                && let Some(found) = elements(values, &file)
            {
                assert!(found.iter().all(|&byte| byte == 1));
            }
        }
    }
}
