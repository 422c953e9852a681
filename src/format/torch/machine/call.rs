//! What functions and classes make of their arguments: of the few that are known what
//! they stand for, of every other an object that has a name.

use crate::format::torch::PickleError;
use crate::format::torch::Unread;
use crate::format::torch::global::Global;
use crate::format::torch::global::Layout;
use crate::format::torch::global::Rebuild;
use crate::format::torch::global::why_unread;
use crate::format::torch::heap::Span;
use crate::format::torch::heap::Value;
use crate::format::torch::heap::What;
use crate::format::torch::machine::Machine;

impl<'a> Machine<'a> {
    /// A function and its arguments become what the function stands for.
    pub(super) fn call(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let value = self.apply(function, arguments)?;
        self.push(value)
    }

    /// The same with a dict of arguments by name, which nothing that is known takes.
    pub(super) fn call_with_keywords(&mut self) -> Result<(), PickleError> {
        let (keywords, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
        let value = self.apply(function, arguments)?;
        if let Value::Opaque(number) = value {
            self.heap.extend_opaque(number, &[keywords])?;
        }
        self.push(value)
    }

    /// A function at height `start`, and its arguments above it.
    pub(super) fn call_on_stack(&mut self, start: usize) -> Result<(), PickleError> {
        self.require_above(start)?;
        let Some((&function, arguments)) = self.stack[start..].split_first() else {
            return Err(PickleError::Nothing {
                offset: self.offset,
            });
        };
        let arguments = self.heap.new_tuple(arguments)?;
        self.stack.truncate(start);
        let value = self.apply(function, arguments)?;
        self.push(value)
    }

    /// An object of the class of that name, whose arguments lie from height `start` up.
    pub(super) fn instance(
        &mut self,
        (module, name): (&'a str, &'a str),
        start: usize,
    ) -> Result<(), PickleError> {
        self.tuple_from(start)?;
        let arguments = self.pop()?;
        self.global(module, name)?;
        self.push(arguments)?;
        self.call()
    }

    fn apply(
        &mut self,
        function: Value<'a>,
        arguments: Value<'a>,
    ) -> Result<Value<'a>, PickleError> {
        let Value::Tuple(span) = arguments else {
            return Err(self.unexpected("arguments", arguments));
        };
        match function {
            Value::Global(known) => self.apply_known(known, span),
            Value::Opaque(number) => self.apply_unknown(number, span),
            other => Err(self.unexpected("a function", other)),
        }
    }

    /// An object that has the name of what made it.
    fn apply_unknown(&mut self, function: u32, span: Span) -> Result<Value<'a>, PickleError> {
        let opaque = self.heap.opaque(function);
        let names = (opaque.module, opaque.name);
        let what = why_unread(names.0, names.1).map_or(What::Object, What::Tensor);
        // What it was made of may be an object that hides tensors.
        let parts = [Value::Opaque(function), Value::Tuple(span)];
        self.heap.new_opaque(names, what, &parts)
    }

    fn apply_known(&mut self, function: Global, span: Span) -> Result<Value<'a>, PickleError> {
        match (function, self.heap.tuple(span)) {
            (Global::Dict | Global::DefaultDict, &[]) => self.heap.new_dict(),
            (Global::Dict, &[dict @ Value::Dict(_)]) => Ok(dict),
            (Global::Dict, &[Value::List(pairs)]) => self.dict_of_pairs(pairs),
            (Global::DefaultDict, &[_]) => self.heap.new_dict(),
            (Global::DefaultDict, &[_, dict @ Value::Dict(_)]) => Ok(dict),
            (Global::Size, &[]) => Ok(Value::Tuple(span)),
            (Global::Size, &[sizes @ Value::Tuple(_)]) => Ok(sizes),
            (Global::Device, &[Value::Text(_), ..]) => Ok(Value::Device),
            (Global::Encode, &[_, ..]) => Ok(Value::Bytes),
            (Global::GetLayout, &[Value::Text(name)]) => {
                let layout = Layout::find(name).unwrap_or(Layout::Other);
                Ok(Value::Global(Global::Layout(layout)))
            }
            (Global::Reconstruct, &[class, ..]) => self.reconstruct(class, span),
            (Global::FromType, &[function, class, arguments, state, ..]) => {
                self.typed_tensor((function, class), arguments, state)
            }
            (Global::Rebuild(rebuild), _) => self.rebuild(rebuild, span),
            _ => Err(PickleError::Call {
                function: Value::Global(function).kind(),
                offset: self.offset,
            }),
        }
    }

    /// A tensor by one of torch's functions.
    fn rebuild(&mut self, function: Rebuild, span: Span) -> Result<Value<'a>, PickleError> {
        match (function, self.heap.tuple(span)) {
            (
                Rebuild::Parameter,
                &[
                    tensor @ (Value::Tensor(_) | Value::Sparse(_) | Value::Opaque(_)),
                    _,
                    _,
                    ref state @ ..,
                ],
            ) => {
                let state = state.first().copied();
                self.note_attributes(tensor, state.unwrap_or(Value::None));
                Ok(tensor)
            }
            (Rebuild::Sparse, _) => self.sparse(span),
            _ => self.tensor(function, span),
        }
    }

    /// An object of a class, by a function of Python's that makes any.
    fn reconstruct(&mut self, class: Value<'a>, span: Span) -> Result<Value<'a>, PickleError> {
        match class {
            Value::Opaque(number) => self.apply_unknown(number, span),
            Value::Global(Global::Dict | Global::DefaultDict) => self.heap.new_dict(),
            _ => {
                let names = ("builtins", "object");
                self.heap
                    .new_opaque(names, What::Object, &[Value::Tuple(span)])
            }
        }
    }

    /// A tensor with a class and attributes. Of torch's own classes it is what is in it.
    fn typed_tensor(
        &mut self,
        (function, class): (Value<'a>, Value<'a>),
        arguments: Value<'a>,
        state: Value<'a>,
    ) -> Result<Value<'a>, PickleError> {
        let (inner, why) = match (function, arguments) {
            (Value::Global(Global::Rebuild(function)), Value::Tuple(span)) => {
                (self.rebuild(function, span)?, Unread::Subclass)
            }
            (Value::Opaque(number), Value::Tuple(span)) => {
                (self.apply_unknown(number, span)?, Unread::Other)
            }
            (other, _) => return Err(self.unexpected("a function", other)),
        };
        match class {
            Value::Global(Global::TensorClass) => {
                self.note_attributes(inner, state);
                Ok(inner)
            }
            Value::Opaque(number) => {
                let opaque = self.heap.opaque(number);
                let names = (opaque.module, opaque.name);
                let what = What::Tensor(why_unread(names.0, names.1).unwrap_or(why));
                self.heap.new_opaque(names, what, &[inner, state])
            }
            other => Err(self.unexpected("a class of tensors", other)),
        }
    }

    /// Notes that a tensor has attributes, but for those by which torch tells buffers.
    fn note_attributes(&mut self, tensor: Value<'a>, state: Value<'a>) {
        let is_told = |key: Value<'a>| match key {
            Value::Text(name) => !name.starts_with('_') && name != "persistent",
            _ => true,
        };
        let mut pending = vec![state];
        if let Value::Tuple(span) = state {
            pending.clone_from(&self.heap.tuple(span).to_vec());
        }
        let has_attributes = pending.into_iter().any(|part| match part {
            Value::None => false,
            Value::Dict(dict) => self.heap.dict(dict).iter().any(|&(key, _)| is_told(key)),
            _ => true,
        });
        if has_attributes {
            self.heap.set_attributes(tensor);
        }
    }

    /// An `OrderedDict` as Python 2 pickled it: from a list of pairs.
    fn dict_of_pairs(&mut self, pairs: u32) -> Result<Value<'a>, PickleError> {
        let dict = self.heap.new_dict()?;
        let Value::Dict(number) = dict else {
            return Ok(dict);
        };
        for at in 0..self.heap.list(pairs).len() {
            let pair = self.heap.list(pairs)[at];
            let items = match pair {
                Value::List(list) => self.heap.list(list),
                Value::Tuple(span) => self.heap.tuple(span),
                _ => &[],
            };
            let &[key, value] = items else {
                return Err(self.unexpected("a pair", pair));
            };
            self.heap.insert(number, key, value)?;
        }
        Ok(dict)
    }

    /// The state of an object. What is known keeps none, such as `_metadata` of a state
    /// dict.
    pub(super) fn build(&mut self) -> Result<(), PickleError> {
        let state = self.pop()?;
        let value = self.pop()?;
        match value {
            Value::Dict(_) | Value::List(_) => {}
            Value::Tensor(_) | Value::Sparse(_) => self.note_attributes(value, state),
            Value::Opaque(number) => self.heap.extend_opaque(number, &[state])?,
            other => return Err(self.unexpected("an object", other)),
        }
        self.push(value)
    }
}
