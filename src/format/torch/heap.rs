//! What a pickle makes: values that refer to each other by number.
//!
//! Numbers and not pointers, because a pickle may tie its lists and dicts into cycles,
//! and nest them as deep as it is long: nothing here is walked or dropped recursively.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::mem::size_of;

use crate::format::torch::PickleError;
use crate::format::torch::SparseView;
use crate::format::torch::Unread;
use crate::format::torch::View;
use crate::format::torch::global::Global;
use crate::format::torch::global::StorageType;
use crate::tensor::Dtype;

/// Most bytes of a module's or an object's name in a message.
const MOST_SHOWN: usize = 200;

/// A value. Text is borrowed from the pickle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number that takes more than 64 bits: its bytes, the lowest first.
    Long(&'a [u8]),
    Float,
    Text(&'a str),
    Bytes,
    Device,
    Tuple(Span),
    List(u32),
    Dict(u32),
    Global(Global),
    Storage(u32),
    Tensor(u32),
    Sparse(u32),
    /// Something that is not known, and of which nothing but the name is used.
    Opaque(u32),
}

impl Value<'_> {
    /// What it is, for a message.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Long(_) | Self::Float => "a number",
            Self::Text(_) => "text",
            Self::Bytes => "bytes",
            Self::Device => "a device",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Global(Global::Dtype(_)) => "an element type",
            Self::Global(Global::Layout(_)) => "a layout",
            Self::Global(_) => "a class or function",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Sparse(_) => "a sparse tensor",
            Self::Opaque(_) => "an object",
        }
    }
}

/// The items of a tuple, which never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// A piece of memory that tensors look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StorageRef<'a> {
    pub(super) key: &'a str,
    pub(super) storage_type: StorageType,
    /// Length in elements of the type.
    pub(super) numel: u64,
}

/// A tensor: a storage, and how to look into it. Nothing is checked but the kinds.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorRef {
    pub(super) storage: u32,
    pub(super) dtype: Dtype,
    /// Elements of the storage before the first.
    pub(super) offset: u64,
    /// Of whole numbers that are not negative, as many as in `strides`.
    pub(super) sizes: Span,
    pub(super) strides: Span,
    /// Whether it has attributes of its own, which are not kept.
    pub(super) has_attributes: bool,
}

/// A tensor that stores some of its elements, and where these are. Nothing is checked but
/// the kinds.
#[derive(Clone, Copy, Debug)]
pub(super) struct SparseRef {
    /// Tensors.
    pub(super) places: PlacesRef,
    pub(super) values: u32,
    /// Of whole numbers that are not negative.
    pub(super) sizes: Span,
    pub(super) has_attributes: bool,
}

/// Tensors that say where elements are.
#[derive(Clone, Copy, Debug)]
pub(super) enum PlacesRef {
    /// One index of each dimension.
    Coordinates(u32),
    /// Where each row begins among the columns, and the columns.
    Rows(u32, u32),
}

/// Something that is not known: a class or function, or what one was asked to make.
#[derive(Debug)]
pub(super) struct Opaque<'a> {
    pub(super) module: &'a str,
    pub(super) name: &'a str,
    pub(super) what: What,
    /// All that it was given: in these, tensors may be hidden.
    pub(super) parts: Vec<Value<'a>>,
}

/// What an unknown thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The class or function itself.
    Name,
    /// An object.
    Object,
    /// A tensor that is not read.
    Tensor(Unread),
}

/// Everything that a pickle has made.
#[derive(Debug)]
pub(super) struct Heap<'a> {
    items: Vec<Value<'a>>,
    lists: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<StorageRef<'a>>,
    storages_by_key: BTreeMap<&'a str, u32>,
    tensors: Vec<TensorRef>,
    sparse: Vec<SparseRef>,
    opaques: Vec<Opaque<'a>>,
    limit: u64,
    used: u64,
}

impl<'a> Heap<'a> {
    /// An empty heap that takes about `limit` bytes at most.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            items: Vec::new(),
            lists: Vec::new(),
            dicts: Vec::new(),
            storages: Vec::new(),
            storages_by_key: BTreeMap::new(),
            tensors: Vec::new(),
            sparse: Vec::new(),
            opaques: Vec::new(),
            limit,
            used: 0,
        }
    }

    /// Counts memory for `count` more values of type `T`.
    pub(super) fn charge<T>(&mut self, count: usize) -> Result<(), PickleError> {
        self.used = self.used.saturating_add((size_of::<T>() * count) as u64);
        if self.used > self.limit {
            return Err(PickleError::Memory { limit: self.limit });
        }
        Ok(())
    }

    pub(super) fn new_tuple(&mut self, items: &[Value<'a>]) -> Result<Value<'a>, PickleError> {
        self.charge::<Value<'_>>(items.len())?;
        let start = self.number(self.items.len())?;
        let len = self.number(items.len())?;
        self.items.extend_from_slice(items);
        Ok(Value::Tuple(Span { start, len }))
    }

    pub(super) fn new_list(&mut self) -> Result<Value<'a>, PickleError> {
        self.charge::<Vec<Value<'_>>>(1)?;
        let number = self.number(self.lists.len())?;
        self.lists.push(Vec::new());
        Ok(Value::List(number))
    }

    pub(super) fn new_dict(&mut self) -> Result<Value<'a>, PickleError> {
        self.charge::<Vec<(Value<'_>, Value<'_>)>>(1)?;
        let number = self.number(self.dicts.len())?;
        self.dicts.push(Vec::new());
        Ok(Value::Dict(number))
    }

    pub(super) fn new_tensor(&mut self, tensor: TensorRef) -> Result<Value<'a>, PickleError> {
        // What the state dict makes of it is counted with it: its extents may be a tuple
        // that stands in the pickle once for any number of tensors.
        self.charge::<(TensorRef, View)>(1)?;
        self.charge::<u64>(tensor.sizes.len as usize + tensor.strides.len as usize)?;
        let number = self.number(self.tensors.len())?;
        self.tensors.push(tensor);
        Ok(Value::Tensor(number))
    }

    pub(super) fn new_sparse(&mut self, tensor: SparseRef) -> Result<Value<'a>, PickleError> {
        self.charge::<(SparseRef, SparseView)>(1)?;
        self.charge::<u64>(tensor.sizes.len as usize)?;
        let number = self.number(self.sparse.len())?;
        self.sparse.push(tensor);
        Ok(Value::Sparse(number))
    }

    pub(super) fn new_opaque(
        &mut self,
        (module, name): (&'a str, &'a str),
        what: What,
        parts: &[Value<'a>],
    ) -> Result<Value<'a>, PickleError> {
        self.charge::<Opaque<'_>>(1)?;
        self.charge::<Value<'_>>(parts.len())?;
        let number = self.number(self.opaques.len())?;
        self.opaques.push(Opaque {
            module,
            name,
            what,
            parts: parts.to_vec(),
        });
        Ok(Value::Opaque(number))
    }

    /// Gives more to something unknown.
    pub(super) fn extend_opaque(
        &mut self,
        opaque: u32,
        parts: &[Value<'a>],
    ) -> Result<(), PickleError> {
        self.charge::<Value<'_>>(parts.len())?;
        self.opaques[opaque as usize].parts.extend_from_slice(parts);
        Ok(())
    }

    pub(super) fn opaque(&self, opaque: u32) -> &Opaque<'a> {
        &self.opaques[opaque as usize]
    }

    pub(super) fn sparse(&self, number: u32) -> SparseRef {
        self.sparse[number as usize]
    }

    /// Notes that a tensor has attributes.
    pub(super) fn set_attributes(&mut self, tensor: Value<'a>) {
        match tensor {
            Value::Tensor(number) => self.tensors[number as usize].has_attributes = true,
            Value::Sparse(number) => self.sparse[number as usize].has_attributes = true,
            _ => {}
        }
    }

    /// The storage of that key, the same one for the same key.
    pub(super) fn storage_of(&mut self, storage: StorageRef<'a>) -> Result<Value<'a>, PickleError> {
        if let Some(&number) = self.storages_by_key.get(storage.key) {
            if self.storages[number as usize] != storage {
                let key = storage.key.to_owned();
                return Err(PickleError::StorageTwice { key });
            }
            return Ok(Value::Storage(number));
        }
        // The vector's entry, and one of the map with its share of a node.
        self.charge::<StorageRef<'_>>(2)?;
        let number = self.number(self.storages.len())?;
        self.storages.push(storage);
        self.storages_by_key.insert(storage.key, number);
        Ok(Value::Storage(number))
    }

    pub(super) fn append(&mut self, list: u32, items: &[Value<'a>]) -> Result<(), PickleError> {
        self.charge::<Value<'_>>(items.len())?;
        self.lists[list as usize].extend_from_slice(items);
        Ok(())
    }

    pub(super) fn insert(
        &mut self,
        dict: u32,
        key: Value<'a>,
        value: Value<'a>,
    ) -> Result<(), PickleError> {
        self.charge::<(Value<'_>, Value<'_>)>(1)?;
        self.dicts[dict as usize].push((key, value));
        Ok(())
    }

    pub(super) fn tuple(&self, span: Span) -> &[Value<'a>] {
        &self.items[span.start as usize..][..span.len as usize]
    }

    pub(super) fn list(&self, list: u32) -> &[Value<'a>] {
        &self.lists[list as usize]
    }

    /// Keys and values in the order in which they were set.
    pub(super) fn dict(&self, dict: u32) -> &[(Value<'a>, Value<'a>)] {
        &self.dicts[dict as usize]
    }

    /// The value that was last set under a text, if there is one.
    pub(super) fn get(&self, dict: u32, key: &str) -> Option<Value<'a>> {
        let entries = self.dict(dict).iter().rev();
        let mut found =
            entries.filter(|(name, _)| matches!(name, Value::Text(name) if *name == key));
        found.next().map(|&(_, value)| value)
    }

    pub(super) fn storage(&self, number: u32) -> StorageRef<'a> {
        self.storages[number as usize]
    }

    /// The storages, in the order in which they were first named.
    pub(super) fn storages(&self) -> &[StorageRef<'a>] {
        &self.storages
    }

    /// Number of the storage of that key.
    pub(super) fn find_storage(&self, key: &str) -> Option<usize> {
        self.storages_by_key.get(key).map(|&number| number as usize)
    }

    pub(super) fn tensor(&self, number: u32) -> TensorRef {
        self.tensors[number as usize]
    }

    pub(super) fn n_lists(&self) -> usize {
        self.lists.len()
    }

    pub(super) fn n_dicts(&self) -> usize {
        self.dicts.len()
    }

    pub(super) fn n_items(&self) -> usize {
        self.items.len()
    }

    pub(super) fn n_opaques(&self) -> usize {
        self.opaques.len()
    }

    /// About as many bytes as all of it may take.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// What a value is, for a message: of something unknown, its name.
    pub(super) fn kind(&self, value: Value<'a>) -> Cow<'static, str> {
        let Value::Opaque(number) = value else {
            return value.kind().into();
        };
        // A name may be as long as the pickle.
        let shown = |name: &'a str| &name[..name.floor_char_boundary(MOST_SHOWN)];
        let opaque = self.opaque(number);
        let is_numpy = opaque.module == "numpy" || opaque.module.starts_with("numpy.");
        match (shown(opaque.module), shown(opaque.name)) {
            (_, "scalar") if is_numpy => "a numpy number".into(),
            (_, "_reconstruct" | "_frombuffer") if is_numpy => "a numpy array".into(),
            ("", name) => name.to_owned().into(),
            ("builtins" | "__builtin__", name) => match name {
                "complex" => "a number".into(),
                "xrange" => "a range".into(),
                "bytearray" | "frozenset" | "range" | "set" | "slice" => format!("a {name}").into(),
                name => name.to_owned().into(),
            },
            (module, name) => format!("{module}.{name}").into(),
        }
    }

    fn number(&self, number: usize) -> Result<u32, PickleError> {
        u32::try_from(number).map_err(|_| PickleError::Memory { limit: self.limit })
    }
}
