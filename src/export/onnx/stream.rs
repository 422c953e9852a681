//! Elements on their way to their places: one pass over each parameter, block by block.

use std::ops::Range;

use super::OnnxError;
use super::assembly::Part;
use super::assembly::Payload;
use super::assembly::Place;
use super::bits;
use super::census::Gaps;
use super::census::Planned;
use super::elements::Block;
use super::elements::widen;
use crate::checkpoint::Observer;
use crate::format::replace::StagedFile;
use crate::graph::ParameterIdx;

/// Writes every payload to its place.
pub(super) fn write(
    planned: &[Option<Planned<'_>>],
    payloads: &[Payload],
    places: &[Place],
    file: &StagedFile,
    beside: Option<&StagedFile>,
    observer: Observer<'_>,
) -> Result<(), OnnxError> {
    let mut cursors: Vec<(ParameterIdx, Cursor<'_>)> = Vec::with_capacity(payloads.len());
    for (payload, place) in payloads.iter().zip(places) {
        let (file, place) = match place {
            Place::Inside(place) => (file, place),
            Place::Outside(place) => (beside.expect("a second file has been made"), place),
        };
        let cursor = Cursor {
            part: payload.part,
            file,
            place: place.clone(),
        };
        cursors.push((payload.parameter, cursor));
    }
    for parameters in cursors.chunk_by_mut(|(one, _), (next, _)| one == next) {
        let parameter = parameters[0].0;
        let planned = planned[parameter].as_ref();
        let planned = planned.expect("what is written was read");
        let mut writer = Writer::new(planned);
        planned.source.blocks(observer, |block| {
            writer.prepare(block)?;
            for (_, cursor) in &mut *parameters {
                let bytes = writer.part(cursor.part, block);
                cursor.append(bytes)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What of a payload is still to be written, and where.
struct Cursor<'a> {
    part: Part,
    file: &'a StagedFile,
    place: Range<u64>,
}

impl Cursor<'_> {
    /// Writes the next bytes. What no longer fits is dropped: it is there only if the
    /// checkpoint has changed, which is looked at before anything is published.
    fn append(&mut self, bytes: &[u8]) -> Result<(), OnnxError> {
        let length = bytes.len() as u64;
        if length <= self.place.end - self.place.start {
            self.file.write_at(bytes, self.place.start)?;
            self.place.start += length;
        }
        Ok(())
    }
}

/// Makes the bytes of every part.
struct Writer<'a> {
    planned: &'a Planned<'a>,
    gaps: Gaps,
    /// Elements in F32, if they are scaled.
    scaled: Vec<u8>,
    out: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(planned: &'a Planned<'a>) -> Self {
        Self {
            planned,
            gaps: Gaps::default(),
            scaled: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Scales a block.
    fn prepare(&mut self, block: &Block<'_>) -> Result<(), OnnxError> {
        let Some(scale) = &self.planned.scale else {
            return Ok(());
        };
        let source = &self.planned.source;
        let per_channel = source.numel() / scale.len() as u64;
        self.scaled.clear();
        let mut at = block.begin;
        let mut overflow = None;
        widen(source.dtype(), block.bytes, |value| {
            let channel = (at / per_channel) as usize;
            let scaled = (value * scale[channel]) as f32;
            if value.is_finite() && !scaled.is_finite() {
                overflow = Some((channel, value * scale[channel]));
            }
            self.scaled.extend_from_slice(&scaled.to_le_bytes());
            at += 1;
        });
        match overflow {
            None => Ok(()),
            Some((channel, found)) => Err(OnnxError::FoldedWeight {
                tensor: source.stored().name.clone(),
                channel,
                found,
            }),
        }
    }

    /// What a block adds to a part.
    fn part<'b>(&'b mut self, part: Part, block: &'b Block<'_>) -> &'b [u8] {
        let bytes = match self.planned.scale {
            Some(_) => &self.scaled,
            None => block.bytes,
        };
        let width = self.planned.element().bytes() as usize;
        let out = &mut self.out;
        out.clear();
        match part {
            // Zeros that are a mask stay what they are.
            Part::Elements if self.planned.is_copied() => return bytes,
            Part::Elements => bits::copy_masked(out, bytes, block.words, width),
            Part::Values => bits::gather(out, bytes, block.words, width),
            Part::Bitmask => {
                let words = block.words.iter().flat_map(|word| word.to_le_bytes());
                let n_elements = bytes.len() / width;
                out.extend(words.take(n_elements.div_ceil(8)));
            }
            Part::Gaps => self.gaps.append(block.begin, block.words, out),
            Part::Indices => {
                for position in bits::positions(block.words) {
                    let index = block.begin + position as u64;
                    out.extend_from_slice(&index.to_le_bytes());
                }
            }
        }
        out
    }
}
