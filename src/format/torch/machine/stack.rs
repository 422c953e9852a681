//! The stack of the machine, and the containers that are made of what lies on it.

use crate::format::torch::PickleError;
use crate::format::torch::heap::Value;
use crate::format::torch::heap::What;
use crate::format::torch::machine::MOST_STACKED;
use crate::format::torch::machine::Machine;

impl<'a> Machine<'a> {
    pub(super) fn push(&mut self, value: Value<'a>) -> Result<(), PickleError> {
        if self.stack.len() >= MOST_STACKED {
            return Err(PickleError::Stack {
                limit: MOST_STACKED,
            });
        }
        self.stack.push(value);
        Ok(())
    }

    /// The uppermost value, if it lies above the last mark.
    pub(super) fn pop(&mut self) -> Result<Value<'a>, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = (self.stack.len() > floor).then(|| self.stack.pop());
        value.flatten().ok_or(PickleError::Nothing {
            offset: self.offset,
        })
    }

    pub(super) fn mark(&mut self) -> Result<(), PickleError> {
        if self.marks.len() >= MOST_STACKED {
            return Err(PickleError::Stack {
                limit: MOST_STACKED,
            });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    pub(super) fn pop_mark(&mut self) -> Result<usize, PickleError> {
        self.marks.pop().ok_or(PickleError::Nothing {
            offset: self.offset,
        })
    }

    /// Checks that what lies from height `start` up lies above the last mark.
    pub(super) fn require_above(&self, start: usize) -> Result<(), PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let is_above = (floor..=self.stack.len()).contains(&start);
        is_above.then_some(()).ok_or(PickleError::Nothing {
            offset: self.offset,
        })
    }

    /// Height of the value below `start`, if both lie above the last mark.
    pub(super) fn below(&self, start: usize) -> Result<usize, PickleError> {
        let below = start.checked_sub(1).ok_or(PickleError::Nothing {
            offset: self.offset,
        })?;
        self.require_above(start)?;
        self.require_above(below)?;
        Ok(below)
    }

    pub(super) fn tuple_of(&mut self, len: usize) -> Result<(), PickleError> {
        let start = self.stack.len().checked_sub(len);
        let start = start.ok_or(PickleError::Nothing {
            offset: self.offset,
        })?;
        self.tuple_from(start)
    }

    pub(super) fn tuple_from(&mut self, start: usize) -> Result<(), PickleError> {
        self.require_above(start)?;
        let tuple = self.heap.new_tuple(&self.stack[start..])?;
        self.stack.truncate(start);
        self.push(tuple)
    }

    /// Appends what lies from height `start` up to the list below.
    pub(super) fn append(&mut self, start: usize) -> Result<(), PickleError> {
        let below = self.below(start)?;
        let items = &self.stack[start..];
        match self.stack[below] {
            Value::List(list) => self.heap.append(list, items)?,
            Value::Opaque(opaque) => self.heap.extend_opaque(opaque, items)?,
            other => return Err(self.unexpected("a list", other)),
        }
        self.stack.truncate(start);
        Ok(())
    }

    /// Sets keys and values from height `start` up in the dict below.
    pub(super) fn set_items(&mut self, start: usize) -> Result<(), PickleError> {
        let below = self.below(start)?;
        if !(self.stack.len() - start).is_multiple_of(2) {
            return Err(PickleError::Nothing {
                offset: self.offset,
            });
        }
        match self.stack[below] {
            Value::Dict(dict) => {
                for at in (start..self.stack.len()).step_by(2) {
                    self.heap.insert(dict, self.stack[at], self.stack[at + 1])?;
                }
            }
            Value::Opaque(opaque) => self.heap.extend_opaque(opaque, &self.stack[start..])?,
            other => return Err(self.unexpected("a dict", other)),
        }
        self.stack.truncate(start);
        Ok(())
    }

    /// A list of what lies from height `start` up.
    pub(super) fn list_from(&mut self, start: usize) -> Result<(), PickleError> {
        self.require_above(start)?;
        let list = self.heap.new_list()?;
        if let Value::List(number) = list {
            self.heap.append(number, &self.stack[start..])?;
        }
        self.stack.truncate(start);
        self.push(list)
    }

    /// A dict of the keys and values from height `start` up.
    pub(super) fn dict_from(&mut self, start: usize) -> Result<(), PickleError> {
        self.require_above(start)?;
        let dict = self.heap.new_dict()?;
        let pairs = self.stack.split_off(start);
        self.push(dict)?;
        self.stack.extend_from_slice(&pairs);
        self.set_items(start + 1)
    }

    /// Something unknown of what lies from height `start` up.
    pub(super) fn opaque_from(
        &mut self,
        names: (&'a str, &'a str),
        start: usize,
    ) -> Result<(), PickleError> {
        self.require_above(start)?;
        let value = self
            .heap
            .new_opaque(names, What::Object, &self.stack[start..])?;
        self.stack.truncate(start);
        self.push(value)
    }

    /// Drops the uppermost value, or the mark above it.
    pub(super) fn drop_last(&mut self) -> Result<(), PickleError> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(|_| ())
    }
}
