//! Soups of models that live on a device.

use std::ops::Range;
use std::sync::Arc;

use super::batch::Placed;
use super::batch::batch_bytes;
use super::batch::placed_bytes;
use super::driver::Device;
use super::error::DeviceError;
use super::lane::Lane;
use super::lane::LaneBytes;
use super::resident::Resident;
use super::resident::ResidentError;
use crate::kernel::Backend;
use crate::kernel::Counts;
use crate::kernel::Gram;
use crate::kernel::Input;
use crate::kernel::KernelError;
use crate::kernel::PIECE;
use crate::kernel::Weights;
use crate::kernel::cpu::Cpu;
use crate::kernel::float_bytes;
use crate::tensor::TILE_ELEMENTS;

/// Most tiles of a batch: 2^28 elements, whose start costs nothing beside them.
const MOST_TILES: usize = 4096;

/// Makes soups of [`Resident`]s: the bytes, the mask and the inner products that a merge of
/// the same models makes on the processor.
#[derive(Debug)]
pub struct Combiner {
    lane: Lane,
    memory: u64,
}

/// What was found on the way to a soup.
#[derive(Clone, Debug, PartialEq)]
pub struct Combined {
    /// What was met among the means of all tensors.
    pub counts: Counts,
    /// Inner products over the retained coordinates of every tensor, if they were asked
    /// for.
    pub gram: Option<Vec<Gram>>,
}

/// Some elements of a tensor.
#[derive(Clone, Debug)]
struct Tile {
    tensor: usize,
    elements: Range<usize>,
}

/// A soup that is being made.
struct Task<'a> {
    soup: &'a mut Resident,
    models: &'a [&'a Resident],
    weights: &'a Weights,
    /// Coordinates of every tensor that not all models retain.
    disputed: Vec<u64>,
    found: Combined,
}

impl Combiner {
    /// Room for soups of up to `n_models` models, of at most `memory` bytes on the device
    /// and as much on the processor.
    ///
    /// # Errors
    /// [`DeviceError`] if that is too little, or the device has less.
    pub fn new(device: &Arc<Device>, n_models: usize, memory: u64) -> Result<Self, DeviceError> {
        let tile = placed_bytes(TILE_ELEMENTS as usize, n_models, true);
        let rest = batch_bytes(n_models);
        let of = |n_tiles: usize| LaneBytes {
            to: n_tiles * tile.0 + rest.0,
            from: n_tiles * tile.1 + rest.1,
        };
        let left = memory.saturating_sub(of(0).total());
        let n_tiles = (left / (tile.0 + tile.1) as u64).min(MOST_TILES as u64) as usize;
        if n_tiles == 0 {
            return Err(DeviceError::Limit {
                limit: memory,
                needed: of(1).total(),
            });
        }
        // Those of each soup take their place.
        let weights = Weights::uniform(1).expect("one ingredient has a mean");
        let lane = Lane::new(device, of(n_tiles), &weights)?;
        Ok(Self { lane, memory })
    }

    /// Makes `soup` the weighted mean of `models`, one per weight, and measures inner
    /// products if `gram` says so. Masks of the soup's masked tensors are read from zeros
    /// and compared.
    ///
    /// # Errors
    /// [`ResidentError`] if they do not go together, before the soup is touched;
    /// [`ResidentError::Masks`] if they retain different coordinates, and
    /// [`ResidentError::Device`] if the device failed: then the soup's elements mean
    /// nothing.
    ///
    /// Source: uniform soup, arXiv:2203.05482; shared mask, arXiv:2306.16788.
    pub fn combine(
        &mut self,
        soup: &mut Resident,
        models: &[&Resident],
        weights: &Weights,
        gram: bool,
    ) -> Result<Combined, ResidentError> {
        self.check(soup, models, weights)?;
        self.lane.weigh(weights);
        let n_tensors = soup.layout().len();
        let mut task = Task {
            soup,
            models,
            weights,
            disputed: vec![0; n_tensors],
            found: Combined {
                counts: Counts::default(),
                gram: gram.then(|| vec![Gram::zero(models.len()); n_tensors]),
            },
        };
        let mut batch = Vec::new();
        for tile in task.tiles() {
            let placed = task.place(&tile, gram);
            if !self.lane.push_placed(&placed) {
                self.finish(&mut task, &mut batch)?;
                if !self.lane.push_placed(&placed) {
                    let (to, from) = placed_bytes(placed.n_elements, models.len(), gram);
                    return Err(ResidentError::Device(DeviceError::Limit {
                        limit: self.memory,
                        needed: (to + from) as u64,
                    }));
                }
            }
            batch.push(tile);
        }
        self.finish(&mut task, &mut batch)?;
        task.conclude()
    }

    fn check(
        &self,
        soup: &Resident,
        models: &[&Resident],
        weights: &Weights,
    ) -> Result<(), ResidentError> {
        if models.len() != weights.values().len() {
            return Err(KernelError::Length {
                what: "list of models",
                expected: weights.values().len(),
                found: models.len(),
            }
            .into());
        }
        let device = self.lane.device();
        for (model, resident) in std::iter::once(soup)
            .chain(models.iter().copied())
            .enumerate()
        {
            // The soup itself comes first.
            let model = model.saturating_sub(1);
            if device.index() != resident.device().index() {
                return Err(ResidentError::OtherDevice {
                    model,
                    expected: device.index(),
                    found: resident.device().index(),
                });
            }
            let (expected, found) = (soup.layout(), resident.layout());
            if expected.len() != found.len() {
                return Err(ResidentError::Tensors {
                    model,
                    expected: expected.len(),
                    found: found.len(),
                });
            }
            for (tensor, (expected, found)) in expected.iter().zip(found).enumerate() {
                if expected.n_elements != found.n_elements {
                    return Err(ResidentError::Elements {
                        model,
                        tensor,
                        expected: expected.n_elements,
                        found: found.n_elements,
                    });
                }
            }
        }
        Ok(())
    }

    /// Runs the batch and takes what was found for its tiles.
    fn finish(&mut self, task: &mut Task<'_>, batch: &mut Vec<Tile>) -> Result<(), ResidentError> {
        if !batch.is_empty() {
            self.lane.run()?;
        }
        for (tile, answer) in batch.drain(..).zip(self.lane.answers()) {
            task.disputed[tile.tensor] += answer.disputed;
            if let (Some(grams), Some(gram)) = (&mut task.found.gram, &answer.gram) {
                grams[tile.tensor].add(gram);
            }
            let counts = match answer.unsettled {
                0 => answer.counts,
                _ => task.settle(&tile)?,
            };
            task.found.counts.retained_zeros += counts.retained_zeros;
            task.found.counts.non_finite += counts.non_finite;
        }
        self.lane.clear();
        Ok(())
    }
}

impl Task<'_> {
    /// The tiles of all tensors, as a merge cuts them.
    fn tiles(&self) -> Vec<Tile> {
        let layout = self.soup.layout().iter().enumerate();
        let tiles = layout.flat_map(|(tensor, layout)| {
            let begins = (0..layout.n_elements).step_by(TILE_ELEMENTS as usize);
            begins.map(move |begin| Tile {
                tensor,
                elements: begin..layout.n_elements.min(begin + TILE_ELEMENTS as usize),
            })
        });
        tiles.collect()
    }

    fn place(&self, tile: &Tile, gram: bool) -> Placed {
        let &Tile {
            tensor,
            elements: Range { start, .. },
        } = tile;
        let models = self.models.iter();
        Placed {
            n_elements: tile.elements.len(),
            operands: models.map(|model| model.operand(tensor, start)).collect(),
            mask: self.soup.mask_address(tensor, start),
            out: self.soup.operand(tensor, start),
            gram,
        }
    }

    /// Computes a tile on the processor: some of its means only an exact fraction tells.
    fn settle(&mut self, tile: &Tile) -> Result<Counts, ResidentError> {
        let &Tile {
            tensor,
            ref elements,
        } = tile;
        let cpu = Cpu::new();
        let mut workspace = cpu.workspace(self.models.len());
        let out_dtype = self.soup.layout()[tensor].dtype;
        let out_width = float_bytes(out_dtype).unwrap_or(0);
        let mut counts = Counts::default();
        for begin in elements.clone().step_by(PIECE) {
            let piece = begin..elements.end.min(begin + PIECE);
            let bytes = self.models.iter();
            let bytes = bytes.map(|model| model.elements(tensor, piece.clone()));
            let bytes = bytes.collect::<Result<Vec<_>, _>>()?;
            let inputs: Vec<Input<'_>> = self
                .models
                .iter()
                .zip(&bytes)
                .map(|(model, bytes)| Input {
                    bytes,
                    dtype: model.layout()[tensor].dtype,
                })
                .collect();
            let mask = match self.soup.layout()[tensor].is_masked {
                true => Some(self.soup.mask_words(tensor, piece.clone())?),
                false => None,
            };
            let mut out = vec![0; piece.len() * out_width];
            let found = cpu.combine(
                &mut workspace,
                &mut out,
                out_dtype,
                &inputs,
                self.weights,
                mask.as_deref(),
                None,
            )?;
            self.soup.replace(tensor, begin, &out)?;
            counts.retained_zeros += found.retained_zeros;
            counts.non_finite += found.non_finite;
        }
        Ok(counts)
    }

    /// What was found, unless masks differ.
    fn conclude(self) -> Result<Combined, ResidentError> {
        let first = self.disputed.iter().position(|&disputed| disputed > 0);
        match first {
            Some(tensor) => Err(ResidentError::Masks {
                tensor,
                disputed: self.disputed[tensor],
                n_elements: self.soup.layout()[tensor].n_elements,
            }),
            None => Ok(self.found),
        }
    }
}
