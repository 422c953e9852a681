//! Protobuf messages that are written once and never read: fields walk in, bytes with
//! holes for payloads walk out.
//!
//! A message knows its length, so that the message around it can say it without a second
//! pass. A payload is only a length: its bytes are written straight to their place in
//! the file, however many they are.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use std::ops::Range;

/// Wire types: how long a field is.
const VARINT: u64 = 0;
const DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

/// A message under construction.
#[derive(Debug, Default)]
pub(super) struct Message {
    parts: Vec<Part>,
    bytes: u64,
}

#[derive(Debug)]
enum Part {
    Bytes(Vec<u8>),
    Payload { payload: usize, bytes: u64 },
}

/// The bytes of a file, but for its payloads.
#[derive(Debug, PartialEq, Eq)]
pub struct FileLayout {
    /// Length of the file.
    pub bytes: u64,
    /// Bytes and where they stand, in the order of the file.
    pub chunks: Vec<(u64, Vec<u8>)>,
    /// Payloads and where their bytes go, in the order of the file.
    pub payloads: Vec<(usize, Range<u64>)>,
}

impl Message {
    /// A whole number.
    pub(super) fn varint(&mut self, field: u64, value: u64) {
        self.key(field, VARINT);
        self.push_varint(value);
    }

    /// A number of 32 bits.
    pub(super) fn float(&mut self, field: u64, value: f32) {
        self.key(field, FIXED32);
        self.push(&value.to_le_bytes());
    }

    /// Text, or bytes.
    pub(super) fn delimited(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, DELIMITED);
        self.push_varint(bytes.len() as u64);
        self.push(bytes);
    }

    /// A message inside this one.
    pub(super) fn message(&mut self, field: u64, inner: Self) {
        self.key(field, DELIMITED);
        self.push_varint(inner.bytes);
        for part in inner.parts {
            match part {
                Part::Bytes(bytes) => self.push(&bytes),
                Part::Payload { payload, bytes } => self.push_payload(payload, bytes),
            }
        }
    }

    /// A hole of `bytes` bytes for `payload`.
    pub(super) fn payload(&mut self, field: u64, payload: usize, bytes: u64) {
        self.key(field, DELIMITED);
        self.push_varint(bytes);
        self.push_payload(payload, bytes);
    }

    /// This message as a file.
    pub(super) fn into_layout(self) -> FileLayout {
        let mut layout = FileLayout {
            bytes: self.bytes,
            chunks: Vec::new(),
            payloads: Vec::new(),
        };
        let mut offset = 0;
        for part in self.parts {
            match part {
                Part::Bytes(bytes) => {
                    let length = bytes.len() as u64;
                    layout.chunks.push((offset, bytes));
                    offset += length;
                }
                Part::Payload { payload, bytes } => {
                    layout.payloads.push((payload, offset..offset + bytes));
                    offset += bytes;
                }
            }
        }
        layout
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.push_varint(field << 3 | wire_type);
    }

    fn push_varint(&mut self, mut value: u64) {
        let mut bytes = [0; 10];
        let mut length = 0;
        while value >= 0x80 {
            bytes[length] = value as u8 | 0x80;
            value >>= 7;
            length += 1;
        }
        bytes[length] = value as u8;
        self.push(&bytes[..=length]);
    }

    fn push_payload(&mut self, payload: usize, bytes: u64) {
        self.parts.push(Part::Payload { payload, bytes });
        self.bytes += bytes;
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        match self.parts.last_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.parts.push(Part::Bytes(bytes.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(message: Message) -> Vec<u8> {
        let layout = message.into_layout();
        assert_eq!(layout.chunks.len(), 1);
        layout.chunks[0].1.clone()
    }

    #[test]
    fn fields_are_those_of_the_specification() {
        let mut message = Message::default();
        // The examples of the encoding guide: 08 96 01, and 12 07 "testing".
        message.varint(1, 150);
        message.delimited(2, b"testing");
        message.float(3, 1.0);
        message.varint(4, (-2_i64) as u64);
        let expected = [
            b"\x08\x96\x01\x12\x07testing\x1d\0\0\x80\x3f".as_slice(),
            b"\x20\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ];
        assert_eq!(bytes(message), expected.concat());
    }

    #[test]
    fn holes_are_counted_and_placed() {
        let mut inner = Message::default();
        inner.varint(1, 7);
        inner.payload(9, 5, 300);
        inner.varint(2, 8);
        let mut outer = Message::default();
        outer.message(7, inner);
        outer.payload(3, 6, 0);
        let layout = outer.into_layout();
        // Inside: 2 bytes, a key, 2 bytes of length, 300, 2 bytes.
        assert_eq!(layout.bytes, 3 + 307 + 2);
        assert_eq!(
            layout.chunks,
            [
                (0, b"\x3a\xb3\x02\x08\x07\x4a\xac\x02".to_vec()),
                (308, b"\x10\x08\x1a\x00".to_vec()),
            ]
        );
        assert_eq!(layout.payloads, [(5, 8..308), (6, 312..312)]);
    }
}
