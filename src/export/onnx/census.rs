//! What masks retain of every parameter: counts walk out that settle all lengths.

use super::OnnxError;
use super::bits;
use super::elements::Source;
use crate::checkpoint::Ingredients;
use crate::checkpoint::Observer;
use crate::connectivity::DENSE_ZERO_FRACTION;
use crate::connectivity::Expectation;
use crate::connectivity::Rules;
use crate::format::onnx::write::Element;
use crate::graph::Graph;
use crate::graph::Role;

/// Farthest that one byte of gaps goes.
pub(super) const FARTHEST: u64 = 255;

/// A parameter of the graph in the checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Planned<'a> {
    /// Where it is.
    pub(super) source: Source<'a>,
    /// What was counted.
    pub(super) found: Found,
    /// What each output channel is multiplied by, if a batch norm is folded into it.
    pub(super) scale: Option<Vec<f64>>,
}

impl Planned<'_> {
    /// Element type that it is written in.
    pub(super) fn element(&self) -> Element {
        match self.scale {
            Some(_) => Element::Float,
            None => Element::of_float(self.source.dtype()).expect("checked by the census"),
        }
    }

    /// Whether its elements are written as they are stored, all of them.
    pub(super) fn is_copied(&self) -> bool {
        let is_masked = self.source.expectation() == Expectation::Explicit;
        !is_masked && self.scale.is_none()
    }
}

/// What a mask retains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether anything is pruned.
    pub(super) is_pruned: bool,
    /// Elements that are retained.
    pub(super) retained: u64,
    /// Bytes that the gaps between them take.
    pub(super) gaps: u64,
}

/// Finds every parameter that is computed with, and reads none. What is not computed
/// with, is `None`.
pub(super) fn locate<'a>(
    graph: &Graph,
    ingredients: &'a Ingredients,
    rules: &Rules,
) -> Result<Vec<Option<Planned<'a>>>, OnnxError> {
    let checkpoint = &ingredients.checkpoints()[0];
    let parameters = ingredients.parameters();
    let tensors = parameters.iter();
    graph
        .check_tensors(tensors.map(|tensor| (tensor.name.as_str(), &tensor.shape)))
        .map_err(|source| OnnxError::Fit {
            path: checkpoint.path().to_owned(),
            model: graph.name.clone(),
            source: Box::new(source),
        })?;
    let sources = graph.parameters.iter().map(|parameter| {
        if parameter.role == Role::BatchCount {
            return Ok(None);
        }
        let at = parameters.binary_search_by(|tensor| tensor.name.cmp(&parameter.name));
        let found = &parameters[at.expect("all names have been found")];
        let stored = ingredients.value(found, 0);
        if Element::of_float(stored.dtype).is_none() {
            return Err(OnnxError::Dtype {
                path: checkpoint.path().to_owned(),
                tensor: stored.name.clone(),
                found: stored.dtype,
            });
        }
        let is_explicit = found.given_mask.is_some() || ingredients.stored_mask(found, 0).is_some();
        let expectation = rules.expectation(&found.name, stored.dtype, &found.shape, is_explicit);
        Ok(Some(Planned {
            source: Source::new(ingredients, found, expectation),
            found: Found::default(),
            scale: None,
        }))
    });
    sources.collect()
}

/// Reads every parameter.
pub(super) fn count(
    planned: &mut [Option<Planned<'_>>],
    observer: Observer<'_>,
) -> Result<(), OnnxError> {
    for planned in planned.iter_mut().flatten() {
        planned.found = found(planned.source, observer)?;
        if !planned.found.is_pruned {
            planned.source = planned.source.without_mask();
        }
    }
    Ok(())
}

fn found(source: Source<'_>, observer: Observer<'_>) -> Result<Found, OnnxError> {
    let numel = source.numel();
    let mut found = Found::default();
    let mut gaps = Gaps::default();
    source.blocks(observer, |block| {
        found.retained += bits::count(block.words);
        gaps.count(block.begin, block.words);
        Ok(())
    })?;
    found.gaps = gaps.bytes;
    let pruned = numel - found.retained;
    found.is_pruned = match source.expectation() {
        Expectation::FromZeros => pruned as f64 > DENSE_ZERO_FRACTION * numel as f64,
        _ => pruned > 0,
    };
    Ok(found)
}

/// Distances from one retained element to the next.
#[derive(Default)]
pub(super) struct Gaps {
    /// Place behind the last retained element.
    next: u64,
    /// Bytes so far.
    bytes: u64,
}

impl Gaps {
    /// Counts the bytes of a block's gaps.
    fn count(&mut self, begin: u64, words: &[u64]) {
        for (word_idx, &word) in words.iter().enumerate() {
            let first = begin + 64 * word_idx as u64;
            if word == u64::MAX && self.next == first {
                self.bytes += 64;
                self.next += 64;
            } else {
                for position in bits::positions(&[word]) {
                    self.bytes += 1 + self.skips(first + position as u64);
                }
            }
        }
    }

    /// Appends the bytes of a block's gaps.
    pub(super) fn append(&mut self, begin: u64, words: &[u64], out: &mut Vec<u8>) {
        for position in bits::positions(words) {
            let place = begin + position as u64;
            let distance = place + 1 - self.next;
            let skips = self.skips(place);
            out.resize(out.len() + skips as usize, 0);
            out.push((distance - skips * FARTHEST) as u8);
        }
    }

    /// Goes on to the retained element at `place`; returns how many times
    /// [`FARTHEST`] lies before it.
    fn skips(&mut self, place: u64) -> u64 {
        let distance = place + 1 - self.next;
        self.next = place + 1;
        (distance - 1) / FARTHEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_lead_to_every_retained_element() {
        let check = |retained: &[u64], expected: &[u8]| {
            // In two blocks, so that a gap passes from one to the other.
            let mut words = vec![0_u64; 64];
            for place in retained {
                words[*place as usize / 64] |= 1 << (place % 64);
            }
            let (mut counted, mut written, mut bytes) =
                (Gaps::default(), Gaps::default(), Vec::new());
            for (begin, words) in [(0, &words[..16]), (1024, &words[16..])] {
                counted.count(begin, words);
                written.append(begin, words, &mut bytes);
            }
            assert_eq!(bytes, expected, "{retained:?}");
            assert_eq!(counted.bytes, expected.len() as u64);
            let mut at = 0;
            let decoded = bytes.iter().filter_map(|&gap| {
                at += if gap == 0 { FARTHEST } else { u64::from(gap) };
                (gap != 0).then_some(at - 1)
            });
            assert_eq!(decoded.collect::<Vec<_>>(), retained);
        };
        check(&[], &[]);
        check(&[0], &[1]);
        check(&[0, 1, 2, 254], &[1, 1, 1, 252]);
        check(&[254], &[255]);
        check(&[255], &[0, 1]);
        check(&[0, 255, 511], &[1, 255, 0, 1]);
        check(&[4095], &[&[0_u8; 16] as &[u8], &[16]].concat());
        check(
            &(64..256).collect::<Vec<u64>>(),
            &[&[65_u8] as &[u8], &[1; 191]].concat(),
        );
    }
}
