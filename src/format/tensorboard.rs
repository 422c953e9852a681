//! Event files of TensorBoard: numbers walk in, the bytes of records walk out.
//!
//! A record is the length of an `Event` message, the message, and a masked CRC-32C of
//! each. Messages are encoded here, as only three of their many fields are written.
//! Source: `tensorboard/compat/proto/{event,summary}.proto` and
//! `tensorboard/summary/writer/record_writer.py` of <https://github.com/tensorflow/tensorboard>.

/// The first record of a file.
pub fn file_version(wall_time: f64) -> Vec<u8> {
    let mut event = stamped(wall_time, 0);
    push_bytes(&mut event, EVENT_FILE_VERSION, b"brain.Event:2");
    record(&event)
}

/// Says that a run begins, or goes on, at `step`: what older files hold of later steps
/// is not shown.
pub fn session_start(wall_time: f64, step: u64) -> Vec<u8> {
    let mut log = Vec::new();
    push_number(&mut log, SESSION_LOG_STATUS, SESSION_START);
    let mut event = stamped(wall_time, step);
    push_bytes(&mut event, EVENT_SESSION_LOG, &log);
    record(&event)
}

/// Numbers with their tags at a step; `wall_time` is in seconds since 1970.
pub fn scalars(wall_time: f64, step: u64, values: &[(&str, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in values {
        let mut value = Vec::new();
        push_bytes(&mut value, VALUE_TAG, tag.as_bytes());
        push_tag(&mut value, VALUE_SIMPLE, FOUR_BYTES);
        value.extend(number.to_le_bytes());
        push_bytes(&mut summary, SUMMARY_VALUE, &value);
    }
    let mut event = stamped(wall_time, step);
    push_bytes(&mut event, EVENT_SUMMARY, &summary);
    record(&event)
}

// Numbers of the fields.
const EVENT_WALL_TIME: u64 = 1;
const EVENT_STEP: u64 = 2;
const EVENT_FILE_VERSION: u64 = 3;
const EVENT_SUMMARY: u64 = 5;
const EVENT_SESSION_LOG: u64 = 7;
const SUMMARY_VALUE: u64 = 1;
const VALUE_TAG: u64 = 1;
const VALUE_SIMPLE: u64 = 2;
const SESSION_LOG_STATUS: u64 = 1;
const SESSION_START: u64 = 1;

// Wire types. Source: <https://protobuf.dev/programming-guides/encoding/>.
const NUMBER: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const BYTES: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// An event that has only its time and step.
fn stamped(wall_time: f64, step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    push_tag(&mut event, EVENT_WALL_TIME, EIGHT_BYTES);
    event.extend(wall_time.to_le_bytes());
    // A field that is 0 is left out.
    if step > 0 {
        push_number(&mut event, EVENT_STEP, step);
    }
    event
}

fn push_varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

fn push_tag(message: &mut Vec<u8>, field: u64, wire_type: u64) {
    push_varint(message, field << 3 | wire_type);
}

fn push_number(message: &mut Vec<u8>, field: u64, number: u64) {
    push_tag(message, field, NUMBER);
    push_varint(message, number);
}

fn push_bytes(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    push_tag(message, field, BYTES);
    push_varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(message.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(message);
    record.extend(masked_crc(message).to_le_bytes());
    record
}

/// A checksum that does not look like one, as records may hold records.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C, bit by bit: records are short and few. Source: RFC 3720, appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let carry = 0_u32.wrapping_sub(crc & 1);
            crc = crc >> 1 ^ (0x82f6_3b78 & carry);
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
    }

    #[test]
    fn files_are_those_that_tensorboard_writes() {
        // `fixtures/tensorboard/make.py` wrote it with tensorboard's own writer.
        let golden = include_bytes!("../../fixtures/tensorboard/events.golden");
        let mut file = file_version(1_700_000_000.25);
        file.extend(session_start(1_700_000_000.5, 300));
        file.extend(scalars(1_700_000_001.0, 301, &[("loss/train", 0.1)]));
        let several = [("accuracy/validation", 0.5), ("rate", -1e-8)];
        file.extend(scalars(1_700_000_002.75, 70_000, &several));
        assert_eq!(file, golden);
    }
}
