//! Models that live on a device.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaSlice;
use cudarc::driver::CudaStream;
use cudarc::driver::DevicePtr;

use super::driver::Device;
use super::error::DeviceError;
use crate::kernel::KernelError;
use crate::kernel::float_bytes;
use crate::tensor::Dtype;

/// Tensors begin at multiples of this.
const ALIGNMENT: usize = 256;

/// One tensor of a model on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorLayout {
    /// Number of elements.
    pub n_elements: usize,
    /// F16, BF16, F32 or F64.
    pub dtype: Dtype,
    /// Whether zeros of a soup of this layout are pruned, and have to stand at the same
    /// places in all of its ingredients.
    pub is_masked: bool,
}

/// Tensors of one model, on a device from the first use to the last.
///
/// As many bytes as its tensors hold, each rounded up to 256, and a bit for every element
/// of those that are masked.
#[derive(Debug)]
pub struct Resident {
    device: Arc<Device>,
    stream: Arc<CudaStream>,
    layout: Vec<TensorLayout>,
    /// Where every tensor begins in `values`.
    offsets: Vec<usize>,
    values: CudaSlice<u8>,
    /// Where the mask of every tensor begins in `masks`, whole words of 64 bits.
    mask_offsets: Vec<usize>,
    masks: CudaSlice<u8>,
}

/// Models on a device that do not go together, or a device that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResidentError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A length or an element type.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A model lives on another device.
    #[error("model {model} is on cuda:{found}, and the soup on cuda:{expected}")]
    OtherDevice {
        /// Index of the model.
        model: usize,
        /// Index of the soup's device.
        expected: usize,
        /// Index of the model's.
        found: usize,
    },
    /// A model has another number of tensors.
    #[error("model {model} has {found} tensors, and the soup {expected}")]
    Tensors {
        /// Index of the model.
        model: usize,
        /// Tensors of the soup.
        expected: usize,
        /// Tensors of the model.
        found: usize,
    },
    /// A tensor has another number of elements.
    #[error("tensor {tensor} of model {model} has {found} elements, and the soup's {expected}")]
    Elements {
        /// Index of the model.
        model: usize,
        /// Index of the tensor.
        tensor: usize,
        /// Elements of the soup's tensor.
        expected: usize,
        /// Elements of the model's.
        found: usize,
    },
    /// Ingredients retain different coordinates.
    #[error(
        "the models do not share one connectivity: {disputed} of {n_elements} coordinates of \
         tensor {tensor} are zero in some and not in others"
    )]
    Masks {
        /// Index of the first such tensor.
        tensor: usize,
        /// Coordinates of it that some models retain and others do not.
        disputed: u64,
        /// All of its coordinates.
        n_elements: usize,
    },
}

impl Resident {
    /// A model of this layout, all zeros.
    ///
    /// # Errors
    /// [`ResidentError::Kernel`] for an element type that is not averaged, and
    /// [`ResidentError::Device`] if there is too little memory.
    pub fn zeros(device: &Arc<Device>, layout: &[TensorLayout]) -> Result<Self, ResidentError> {
        let (mut n_bytes, mut n_mask_bytes) = (0_usize, 0_usize);
        let (mut offsets, mut mask_offsets) = (Vec::new(), Vec::new());
        for tensor in layout {
            offsets.push(n_bytes);
            mask_offsets.push(n_mask_bytes);
            // What no address can tell, no device has.
            let len = byte_len(tensor)?.checked_next_multiple_of(ALIGNMENT);
            n_bytes = n_bytes.saturating_add(len.unwrap_or(usize::MAX));
            if tensor.is_masked {
                let len = tensor.n_elements.div_ceil(64) * 8;
                n_mask_bytes = n_mask_bytes.saturating_add(len);
            }
        }
        let stream = device.stream()?;
        let needed = n_bytes.saturating_add(n_mask_bytes) as u64;
        // A buffer of no bytes cannot be had.
        let values = device.allocate(&stream, n_bytes.max(1), needed)?;
        let masks = device.allocate(&stream, n_mask_bytes.max(1), needed)?;
        let this = Self {
            device: Arc::clone(device),
            stream,
            layout: layout.to_vec(),
            offsets,
            values,
            mask_offsets,
            masks,
        };
        this.wait("clear memory")?;
        Ok(this)
    }

    /// Its device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Its tensors.
    pub fn layout(&self) -> &[TensorLayout] {
        &self.layout
    }

    /// Where the elements of a tensor begin in the device's memory, a multiple of 256: what
    /// other code has on the same device is copied there without crossing the bus. The
    /// memory is of the device's primary context; whoever writes it waits until that is
    /// done before a soup is made.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn address(&self, tensor: usize) -> u64 {
        self.operand(tensor, 0).0
    }

    /// Replaces the elements of a tensor, little-endian.
    ///
    /// # Errors
    /// [`ResidentError::Kernel`] unless `bytes` holds all of them, and
    /// [`ResidentError::Device`].
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn write(&mut self, tensor: usize, bytes: &[u8]) -> Result<(), ResidentError> {
        let range = self.checked(tensor, bytes.len())?;
        self.write_at(range, bytes)
    }

    /// Copies the elements of a tensor, little-endian, to `bytes`.
    ///
    /// # Errors
    /// [`ResidentError::Kernel`] unless `bytes` has room for all of them and nothing else,
    /// and [`ResidentError::Device`].
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn read(&self, tensor: usize, bytes: &mut [u8]) -> Result<(), ResidentError> {
        let range = self.checked(tensor, bytes.len())?;
        self.read_at(&self.values, range, bytes)
    }

    /// The mask that the last soup left for a tensor: bit `j % 64` of word `j / 64` tells
    /// whether element `j` is retained. `None` if the tensor is not masked.
    ///
    /// # Errors
    /// [`ResidentError::Device`].
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn read_mask(&self, tensor: usize) -> Result<Option<Vec<u64>>, ResidentError> {
        let TensorLayout {
            n_elements,
            is_masked,
            ..
        } = self.layout[tensor];
        let words = is_masked.then(|| self.mask_words(tensor, 0..n_elements));
        words.transpose()
    }

    fn checked(&self, tensor: usize, found: usize) -> Result<Range<usize>, ResidentError> {
        let expected = byte_len(&self.layout[tensor])?;
        if found != expected {
            return Err(KernelError::Length {
                what: "tensor",
                expected,
                found,
            }
            .into());
        }
        let begin = self.offsets[tensor];
        Ok(begin..begin + expected)
    }

    fn write_at(&mut self, range: Range<usize>, bytes: &[u8]) -> Result<(), ResidentError> {
        if !range.is_empty() {
            self.stream
                .memcpy_htod(bytes, &mut self.values.slice_mut(range))
                .map_err(self.device.failed("take a model"))?;
        }
        self.wait("take a model")
    }

    fn read_at(
        &self,
        from: &CudaSlice<u8>,
        range: Range<usize>,
        bytes: &mut [u8],
    ) -> Result<(), ResidentError> {
        if !range.is_empty() {
            self.stream
                .memcpy_dtoh(&from.slice(range), bytes)
                .map_err(self.device.failed("give a model"))?;
        }
        self.wait("give a model")
    }

    fn wait(&self, action: &'static str) -> Result<(), ResidentError> {
        let done = self.stream.synchronize();
        Ok(done.map_err(self.device.failed(action))?)
    }

    /// Words of the mask of some elements of a tensor, from a multiple of 64.
    pub(super) fn mask_words(
        &self,
        tensor: usize,
        elements: Range<usize>,
    ) -> Result<Vec<u64>, ResidentError> {
        let begin = self.mask_offsets[tensor] + elements.start / 8;
        let mut bytes = vec![0; elements.len().div_ceil(64) * 8];
        self.read_at(&self.masks, begin..begin + bytes.len(), &mut bytes)?;
        let words = bytes.as_chunks().0;
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// Bytes of some elements of a tensor.
    pub(super) fn elements(
        &self,
        tensor: usize,
        elements: Range<usize>,
    ) -> Result<Vec<u8>, ResidentError> {
        let range = self.place(tensor, elements);
        let mut bytes = vec![0; range.len()];
        self.read_at(&self.values, range, &mut bytes)?;
        Ok(bytes)
    }

    /// Replaces some elements of a tensor.
    pub(super) fn replace(
        &mut self,
        tensor: usize,
        begin: usize,
        bytes: &[u8],
    ) -> Result<(), ResidentError> {
        let begin = self.place(tensor, begin..begin).start;
        self.write_at(begin..begin + bytes.len(), bytes)
    }

    fn place(&self, tensor: usize, elements: Range<usize>) -> Range<usize> {
        let width = float_bytes(self.layout[tensor].dtype).unwrap_or(0);
        let begin = self.offsets[tensor];
        begin + elements.start * width..begin + elements.end * width
    }

    /// Address of an element of a tensor, and its type.
    pub(super) fn operand(&self, tensor: usize, element: usize) -> (u64, Dtype) {
        let begin = self.place(tensor, element..element).start;
        let address = self.values.device_ptr(&self.stream).0 + begin as u64;
        (address, self.layout[tensor].dtype)
    }

    /// Address of the mask of elements from this one on, a multiple of 64, if the tensor
    /// is masked.
    pub(super) fn mask_address(&self, tensor: usize, element: usize) -> Option<u64> {
        let begin = self.mask_offsets[tensor] + element / 8;
        let is_masked = self.layout[tensor].is_masked;
        is_masked.then(|| self.masks.device_ptr(&self.stream).0 + begin as u64)
    }
}

/// Bytes of a tensor's elements.
fn byte_len(tensor: &TensorLayout) -> Result<usize, KernelError> {
    let width = float_bytes(tensor.dtype).ok_or(KernelError::Dtype {
        dtype: tensor.dtype,
        operation: "averaged",
    })?;
    Ok(tensor.n_elements.saturating_mul(width))
}
