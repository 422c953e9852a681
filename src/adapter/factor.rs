//! A factor in memory, as a matrix of `f64`.

use crate::adapter::error::AdapterError;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::StoredTensor;
use crate::kernel::Input;
use crate::kernel::value_at;
use crate::tensor::Arithmetic;

/// A matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// Its elements.
    pub values: Vec<f64>,
}

impl Factor {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            values: vec![0.0; rows * columns],
        }
    }

    /// The elements of a tensor, exactly, its first dimension being rows and all others
    /// one of columns.
    ///
    /// # Errors
    /// [`AdapterError`] if the tensor cannot be read, has no arithmetic, or holds what is
    /// not finite, unless that is `allowed`.
    pub fn read(
        checkpoint: &Checkpoint,
        tensor: &StoredTensor,
        allowed: NonFinite,
    ) -> Result<Self, AdapterError> {
        if tensor.dtype.arithmetic() != Arithmetic::Average {
            return Err(AdapterError::FactorDtype {
                path: checkpoint.path().to_owned(),
                tensor: tensor.name.clone(),
                dtype: tensor.dtype,
            });
        }
        let numel = tensor.shape.numel();
        let mut scratch = Vec::new();
        let bytes = checkpoint.read(tensor, 0, numel, &mut scratch)?;
        let input = Input {
            bytes,
            dtype: tensor.dtype,
        };
        let values: Vec<f64> = (0..numel as usize).map(|j| value_at(input, j)).collect();
        let infinite = values.iter().position(|value| !value.is_finite());
        if let (Some(index), NonFinite::Refused) = (infinite, allowed) {
            return Err(AdapterError::NonFinite {
                path: checkpoint.path().to_owned(),
                tensor: tensor.name.clone(),
                index,
                value: values[index],
            });
        }
        let rows = tensor.shape.dims().first().copied().unwrap_or(1) as usize;
        Ok(Self {
            rows,
            columns: values.len() / rows.max(1),
            values,
        })
    }

    /// A row.
    pub fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }

    /// Rows and columns exchanged.
    pub fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.columns, self.rows);
        for (i, row) in self.values.chunks_exact(self.columns.max(1)).enumerate() {
            for (j, &value) in row.iter().enumerate() {
                out.values[j * self.rows + i] = value;
            }
        }
        out
    }
}

/// What is done about NaN and infinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinite {
    /// They are an error.
    Refused,
    /// They are values like others.
    Taken,
}
