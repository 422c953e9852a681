//! The machine that reads a pickle: instructions walk in, inert values walk out.
//!
//! It knows every instruction that Python pickles with, protocols 0 to 5. A name is looked
//! up in a table when it is read. What is not in that table is opaque: it keeps its name
//! and what it is given, and whatever is made of it is as inert as itself.

mod call;
mod reader;
mod stack;
mod tensor;

use std::collections::BTreeMap;
use std::mem::size_of;

use crate::format::torch::PickleError;
use crate::format::torch::global::Global;
use crate::format::torch::heap::Heap;
use crate::format::torch::heap::Value;
use crate::format::torch::heap::What;
use crate::format::torch::machine::reader::Reader;

/// Memory that values may take, as a multiple of the bytes that a pickle may have. A
/// tensor takes about 250 bytes of pickle and 1 kB of memory.
const MEMORY_FACTOR: u64 = 8;
/// Most values on the stack: a pickle puts at most a thousand items of each container
/// that is open there.
const MOST_STACKED: usize = 1 << 20;
/// Longest module, item, and key of a storage. Python's own names and torch's keys take
/// a few dozen bytes.
const LONGEST_NAME: usize = 1024;
/// The last protocol there is.
const LAST_PROTOCOL: u8 = 5;

/// What a pickle stands for.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub(super) heap: Heap<'a>,
    pub(super) root: Value<'a>,
    /// Bytes of the pickle; what follows was not looked at.
    pub(super) len: usize,
}

/// Reads the pickle that `bytes` begins with. `limit` is the number of bytes that a
/// pickle may have, from which follows what its values may take.
pub(super) fn unpickle(bytes: &[u8], limit: u64) -> Result<Pickle<'_>, PickleError> {
    let mut machine = Machine {
        reader: Reader::new(bytes),
        offset: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        heap: Heap::new(limit.saturating_mul(MEMORY_FACTOR)),
    };
    loop {
        machine.offset = machine.reader.at();
        let [opcode] = machine.reader.array()?;
        if opcode == STOP {
            let root = machine.pop()?;
            return Ok(Pickle {
                heap: machine.heap,
                root,
                len: machine.reader.at(),
            });
        }
        machine.step(opcode)?;
    }
}

// Source of these bytes: `Lib/pickle.py` of Python 3.
const PROTO: u8 = 0x80;
const STOP: u8 = b'.';

/// What a persistent id that is no storage is called.
const OUTSIDE: (&str, &str) = ("", "something outside the pickle");

struct Machine<'a> {
    reader: Reader<'a>,
    /// Where the instruction that is carried out stands.
    offset: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at which a container was opened.
    marks: Vec<usize>,
    /// By number. Python 3 counts from 0, Python 2 from 1.
    memo: BTreeMap<u64, Value<'a>>,
    heap: Heap<'a>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            // MARK
            b'(' => self.mark(),
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT
            b'J' => {
                let number = self.reader.array().map(i32::from_le_bytes)?;
                self.push(Value::Int(number.into()))
            }
            b'K' => {
                let [number] = self.reader.array()?;
                self.push(Value::Int(number.into()))
            }
            b'M' => {
                let number = self.reader.array().map(u16::from_le_bytes)?;
                self.push(Value::Int(number.into()))
            }
            0x8a => self.reader.u8().and_then(|len| self.long(len)),
            0x8b => self.reader.u32().and_then(|len| self.long(len)),
            b'G' => {
                self.reader.take(8)?;
                self.push(Value::Float)
            }
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8; BINSTRING, SHORT_BINSTRING
            b'X' | b'T' => self.reader.u32().and_then(|len| self.text(len)),
            0x8c | b'U' => self.reader.u8().and_then(|len| self.text(len)),
            0x8d => self.reader.u64().and_then(|len| self.text(len)),
            // BINBYTES, SHORT_BINBYTES, BINBYTES8
            b'B' => self.reader.u32().and_then(|len| self.skip_bytes(len)),
            b'C' => self.reader.u8().and_then(|len| self.skip_bytes(len)),
            0x8e => self.reader.u64().and_then(|len| self.skip_bytes(len)),
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.tuple_of(0),
            0x85 => self.tuple_of(1),
            0x86 => self.tuple_of(2),
            0x87 => self.tuple_of(3),
            b't' => {
                let start = self.pop_mark()?;
                self.tuple_from(start)
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => {
                let list = self.heap.new_list()?;
                self.push(list)
            }
            b'a' => self.append(self.stack.len().saturating_sub(1)),
            b'e' => {
                let start = self.pop_mark()?;
                self.append(start)
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => {
                let dict = self.heap.new_dict()?;
                self.push(dict)
            }
            b's' => self.set_items(self.stack.len().saturating_sub(2)),
            b'u' => {
                let start = self.pop_mark()?;
                self.set_items(start)
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => self.reader.u8().and_then(|number| self.put(number)),
            b'r' => self.reader.u32().and_then(|number| self.put(number)),
            0x94 => self.put(self.memo.len() as u64),
            b'h' => self.reader.u8().and_then(|number| self.get(number)),
            b'j' => self.reader.u32().and_then(|number| self.get(number)),
            // GLOBAL, STACK_GLOBAL, REDUCE, NEWOBJ, BUILD, BINPERSID
            b'c' => {
                let (module, name) = (self.reader.line()?, self.reader.line()?);
                self.global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (module, name) {
                    (Value::Text(module), Value::Text(name)) => self.global(module, name),
                    (Value::Text(_), other) | (other, _) => Err(self.unexpected("a name", other)),
                }
            }
            b'R' | 0x81 => self.call(),
            b'b' => self.build(),
            b'Q' => self.persistent_id(),
            // FRAME: how far a buffered reader may read ahead.
            0x95 => self.reader.u64().map(|_| ()),
            _ => self.step_of_python(opcode),
        }
    }

    /// Instructions for what torch does not write and other parts of a checkpoint need.
    fn step_of_python(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            // PROTO, which protocols 0 and 1 do without
            PROTO => match self.reader.array()? {
                [0..=LAST_PROTOCOL] => Ok(()),
                [found] => Err(PickleError::Protocol { found }),
            },
            // EMPTY_SET, ADDITEMS, FROZENSET
            0x8f => self.opaque(("builtins", "set"), What::Object, &[]),
            0x90 => {
                let start = self.pop_mark()?;
                self.append(start)
            }
            0x91 => {
                let start = self.pop_mark()?;
                self.opaque_from(("builtins", "frozenset"), start)
            }
            // NEWOBJ_EX, OBJ, INST
            0x92 => self.call_with_keywords(),
            b'o' => {
                let start = self.pop_mark()?;
                self.call_on_stack(start)
            }
            b'i' => {
                let names = (self.reader.line()?, self.reader.line()?);
                let start = self.pop_mark()?;
                self.instance(names, start)
            }
            // BYTEARRAY8, NEXT_BUFFER, READONLY_BUFFER
            0x96 => self.reader.u64().and_then(|len| self.skip_bytes(len)),
            0x97 => self.push(Value::Bytes),
            0x98 => Ok(()),
            // EXT1, EXT2, EXT4: names that a program has registered under numbers
            0x82 => self.reader.u8().and_then(|_| self.extension()),
            0x83 => self.reader.array::<2>().and_then(|_| self.extension()),
            0x84 => self.reader.u32().and_then(|_| self.extension()),
            // INT, LONG, FLOAT, STRING, UNICODE, PERSID
            b'I' => {
                let line = self.reader.long_line()?;
                self.push(match line {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    digits => decimal(digits),
                })
            }
            b'L' => {
                let line = self.reader.long_line()?;
                self.push(decimal(line.strip_suffix(b"L").unwrap_or(line)))
            }
            b'F' => self
                .reader
                .long_line()
                .and_then(|_| self.push(Value::Float)),
            b'S' => {
                let line = self.reader.long_line()?;
                let quoted = line.get(1..line.len().saturating_sub(1));
                self.push(literal(quoted.unwrap_or_default()))
            }
            b'V' => {
                let line = self.reader.long_line()?;
                self.push(literal(line))
            }
            b'P' => {
                self.reader.long_line()?;
                self.opaque(OUTSIDE, What::Object, &[])
            }
            // DICT, LIST
            b'd' => {
                let start = self.pop_mark()?;
                self.dict_from(start)
            }
            b'l' => {
                let start = self.pop_mark()?;
                self.list_from(start)
            }
            // POP, POP_MARK, DUP
            b'0' => self.drop_last(),
            b'1' => {
                let start = self.pop_mark()?;
                self.stack.truncate(start);
                Ok(())
            }
            b'2' => {
                let value = self.pop()?;
                self.push(value)?;
                self.push(value)
            }
            // PUT, GET
            b'p' => self.line_number().and_then(|number| self.put(number)),
            b'g' => self.line_number().and_then(|number| self.get(number)),
            _ => Err(PickleError::Opcode {
                opcode,
                offset: self.offset,
            }),
        }
    }

    /// The number that fills a line.
    fn line_number(&mut self) -> Result<u64, PickleError> {
        let offset = self.offset;
        let digits = self.reader.line()?.parse();
        digits.map_err(|_| PickleError::Nothing { offset })
    }

    fn unexpected(&self, expected: &'static str, found: Value<'_>) -> PickleError {
        PickleError::Unexpected {
            expected,
            found: found.kind(),
            offset: self.offset,
        }
    }

    fn long(&mut self, len: u64) -> Result<(), PickleError> {
        let bytes = self.reader.take(len)?;
        let Some(&highest) = bytes.last() else {
            return self.push(Value::Int(0));
        };
        if bytes.len() > size_of::<i64>() {
            return self.push(Value::Long(bytes));
        }
        let sign = if highest & 0x80 == 0 { 0 } else { 0xff };
        let mut whole = [sign; size_of::<i64>()];
        whole[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(whole)))
    }

    /// Text; or bytes, if it is a byte string of Python 2 or has half a character.
    fn text(&mut self, len: u64) -> Result<(), PickleError> {
        let bytes = self.reader.take(len)?;
        let text = std::str::from_utf8(bytes);
        self.push(text.map_or(Value::Bytes, Value::Text))
    }

    fn skip_bytes(&mut self, len: u64) -> Result<(), PickleError> {
        self.reader.take(len)?;
        self.push(Value::Bytes)
    }

    /// Notes the uppermost value under a number.
    fn put(&mut self, number: u64) -> Result<(), PickleError> {
        let value = self.pop()?;
        self.push(value)?;
        // An entry, and its share of a node.
        self.heap.charge::<(u64, Value<'_>)>(2)?;
        self.memo.insert(number, value);
        Ok(())
    }

    fn get(&mut self, number: u64) -> Result<(), PickleError> {
        match self.memo.get(&number) {
            Some(&value) => self.push(value),
            None => Err(PickleError::Memo {
                number,
                known: self.memo.len(),
            }),
        }
    }

    fn global(&mut self, module: &'a str, name: &'a str) -> Result<(), PickleError> {
        match Global::find(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => self.opaque((module, name), What::Name, &[]),
        }
    }

    fn extension(&mut self) -> Result<(), PickleError> {
        self.opaque(("copyreg", "extension"), What::Name, &[])
    }

    fn opaque(
        &mut self,
        names: (&'a str, &'a str),
        what: What,
        parts: &[Value<'a>],
    ) -> Result<(), PickleError> {
        let value = self.heap.new_opaque(names, what, parts)?;
        self.push(value)
    }
}

/// A whole number in decimal digits. One that takes more than 64 bits is a number and no
/// more: nothing here needs it.
fn decimal(digits: &[u8]) -> Value<'_> {
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok());
    number.map_or(Value::Float, Value::Int)
}

/// Text as Python writes it in a program. With escapes in it, it can be no name here.
fn literal(text: &[u8]) -> Value<'_> {
    match std::str::from_utf8(text) {
        Ok(text) if !text.contains('\\') => Value::Text(text),
        _ => Value::Bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 20;

    fn pickle(body: &[u8]) -> Vec<u8> {
        [b"\x80\x02", body, b"."].concat()
    }

    fn root(body: &[u8]) -> Result<String, PickleError> {
        let bytes = pickle(body);
        let pickle = unpickle(&bytes, LIMIT)?;
        assert_eq!(pickle.len, bytes.len());
        Ok(format!("{:?}", pickle.root))
    }

    #[test]
    fn numbers_of_every_width() {
        let check = |body: &[u8], expected: &str| assert_eq!(root(body).unwrap(), expected);
        check(b"K\xff", "Int(255)");
        check(b"M\x01\x02", "Int(513)");
        check(b"J\xff\xff\xff\xff", "Int(-1)");
        check(b"\x8a\x00", "Int(0)");
        check(b"\x8a\x01\x80", "Int(-128)");
        check(b"\x8a\x02\xe9\x03", "Int(1001)");
        check(
            b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
            "Int(9223372036854775807)",
        );
        check(b"\x8b\x01\x00\x00\x00\x07", "Int(7)");
        check(
            b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01",
            "Long([0, 0, 0, 0, 0, 0, 0, 0, 1])",
        );
        check(b"G\x3f\xf0\x00\x00\x00\x00\x00\x00", "Float");
    }

    #[test]
    fn instructions_of_the_oldest_protocols() {
        let check = |body: &[u8], expected: &str| {
            assert_eq!(root(body).unwrap(), expected);
            let bytes = [body, b"."].concat();
            let bare = unpickle(&bytes, LIMIT).unwrap();
            assert_eq!(format!("{:?}", bare.root), expected);
        };
        check(b"I7\n", "Int(7)");
        check(b"I-7\n", "Int(-7)");
        check(b"I01\n", "Bool(true)");
        check(b"L12L\n", "Int(12)");
        check(
            &[b"L", b"9".repeat(5000).as_slice(), b"L\n"].concat(),
            "Float",
        );
        check(b"F1.5\n", "Float");
        check(b"S'ab'\n", "Text(\"ab\")");
        check(b"S'a\\n'\n", "Bytes");
        check(b"S\n", "Text(\"\")");
        check(b"Vab\n", "Text(\"ab\")");
        check(b"(I1\nI2\nl", "List(0)");
        check(b"(I1\nI2\nd", "Dict(0)");
        check(b"I1\np3\n0g3\n", "Int(1)");
        check(b"I1\n(NN1", "Int(1)");
        check(b"I1\n(0", "Int(1)");
        check(b"I1\n2", "Int(1)");
        check(b"Pkey\n", "Opaque(0)");
        check(b"(ios\nsystem\n", "Opaque(1)");
        assert!(matches!(root(b"gx\n"), Err(PickleError::Nothing { .. })));
        assert!(matches!(root(b"(I1\nd"), Err(PickleError::Nothing { .. })));
    }

    #[test]
    fn containers_may_hold_themselves() {
        let bytes = pickle(b"]q\x00h\x00a");
        let found = unpickle(&bytes, LIMIT).unwrap();
        assert_eq!(found.root, Value::List(0));
        assert_eq!(found.heap.list(0), [Value::List(0)]);
        let bytes = pickle(b"}q\x00h\x00h\x00s");
        let found = unpickle(&bytes, LIMIT).unwrap();
        assert_eq!(found.heap.dict(0), [(Value::Dict(0), Value::Dict(0))]);
    }

    #[test]
    fn what_stays_open_is_limited() {
        for open in [b"N", b"("] {
            let bytes = pickle(&open.repeat(MOST_STACKED + 1));
            assert!(matches!(
                unpickle(&bytes, u64::MAX),
                Err(PickleError::Stack { .. })
            ));
        }
        // Deep, and still few at once.
        let deep = [b"]".repeat(300_000), b"a".repeat(299_999)].concat();
        assert_eq!(
            unpickle(&pickle(&deep), 64 << 20).unwrap().root,
            Value::List(0)
        );
    }

    #[test]
    fn memory_is_limited_by_the_limit_of_the_pickle() {
        let check = |body: &[u8]| {
            let bytes = pickle(body);
            let found = unpickle(&bytes, 1000);
            assert!(matches!(found, Err(PickleError::Memory { limit: 8000 })));
        };
        check(&b"]".repeat(1000));
        check(&b"}".repeat(1000));
        check(&[b"(".as_slice(), &b"N".repeat(1000), b"t"].concat());
        check(&[b"](".as_slice(), &b"N".repeat(1000), b"e"].concat());
        check(&[b"}(".as_slice(), &b"N".repeat(1000), b"u"].concat());
        check(&[b"N".as_slice(), &b"\x94".repeat(1000)].concat());
    }
}
