//! Files that torch wrote before 1.6, or writes when asked to: five pickles, and then
//! the storages, each behind its length.
//!
//! Source: `_legacy_save` in `torch/serialization.py` and `THPStorage_writeFileRaw` in
//! `torch/csrc/serialization.cpp` of torch 2.15.

use crate::format::torch::LegacyError;
use crate::format::torch::StateDict;
use crate::format::torch::TorchError;
use crate::format::torch::heap::Value;
use crate::format::torch::machine::Pickle;
use crate::format::torch::machine::unpickle;
use crate::format::torch::state::state_dict;

/// `0x1950a86a20f9469cfc6c`, which the first pickle holds, the lowest byte first.
const MAGIC_NUMBER: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// What the second pickle holds.
const PROTOCOL_VERSION: i64 = 1001;

/// The pickles of a legacy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Legacy {
    /// The state dict.
    pub state_dict: StateDict,
    /// The storages in the order of their bytes, as indices into those of the state dict.
    pub order: Vec<usize>,
    /// Where the length of the first storage begins.
    pub begin: u64,
}

impl Legacy {
    /// Bytes of the length in front of each storage.
    pub const LENGTH_BYTES: usize = 8;

    /// The byte after storage `idx`, whose length stands in `length` and whose first
    /// byte is `begin`, in a file of `file_bytes`.
    ///
    /// # Errors
    /// [`LegacyError::Length`] and [`LegacyError::PastEnd`].
    pub fn storage_end(
        &self,
        idx: usize,
        length: [u8; Self::LENGTH_BYTES],
        begin: u64,
        file_bytes: u64,
    ) -> Result<u64, LegacyError> {
        let storage = &self.state_dict.storages[idx];
        let key = || storage.key.clone();
        let found = u64::from_le_bytes(length);
        if found != storage.numel {
            return Err(LegacyError::Length {
                key: key(),
                expected: storage.numel,
                found,
            });
        }
        let end = storage.bytes().and_then(|bytes| begin.checked_add(bytes));
        end.filter(|&end| end <= file_bytes)
            .ok_or_else(|| LegacyError::PastEnd { key: key() })
    }
}

/// The pickles at the front of a legacy file; `key` and `limit` as for
/// [`parse_state_dict`](crate::format::torch::parse_state_dict), the limit for each.
///
/// # Errors
/// [`TorchError`]. [`PickleError::CutShort`](crate::format::torch::PickleError::CutShort)
/// may mean that `front` is not all of the pickles.
pub fn parse_legacy(front: &[u8], key: Option<&str>, limit: u64) -> Result<Legacy, TorchError> {
    let mut rest = front;
    let mut next = || {
        let pickle = unpickle(rest, limit)?;
        rest = &rest[pickle.len..];
        Ok::<_, TorchError>(pickle)
    };
    let not_torch = |_| LegacyError::NotTorch;
    if next().map_err(not_torch)?.root != Value::Long(&MAGIC_NUMBER) {
        return Err(LegacyError::NotTorch.into());
    }
    if next()?.root != Value::Int(PROTOCOL_VERSION) {
        return Err(LegacyError::Version.into());
    }
    let system = next()?;
    let is_little = match system.root {
        Value::Dict(dict) => system.heap.get(dict, "little_endian"),
        _ => None,
    };
    match is_little {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Err(LegacyError::BigEndian.into()),
        _ => return Err(LegacyError::Version.into()),
    }
    let pickle = next()?;
    let order = order(&next()?, &pickle)?;
    Ok(Legacy {
        state_dict: state_dict(&pickle, key)?,
        order,
        begin: (front.len() - rest.len()) as u64,
    })
}

/// The storages of `pickle` in the order in which `keys` lists them.
fn order(keys: &Pickle<'_>, pickle: &Pickle<'_>) -> Result<Vec<usize>, LegacyError> {
    let Value::List(list) = keys.root else {
        return Err(LegacyError::Keys);
    };
    let storages = pickle.heap.storages();
    let mut is_listed = vec![false; storages.len()];
    let order = keys.heap.list(list).iter().map(|key| {
        let Value::Text(key) = key else {
            return Err(LegacyError::Keys);
        };
        let idx = pickle.heap.find_storage(key);
        match idx.filter(|&idx| !std::mem::replace(&mut is_listed[idx], true)) {
            Some(idx) => Ok(idx),
            None => Err(LegacyError::Key {
                key: (*key).to_owned(),
            }),
        }
    });
    let order = order.collect::<Result<Vec<usize>, _>>()?;
    match is_listed.iter().position(|&listed| !listed) {
        Some(idx) => Err(LegacyError::Key {
            key: storages[idx].key.to_owned(),
        }),
        None => Ok(order),
    }
}
