//! What builds engines: a device and a number of threads walk in, engines walk out.

use crate::graph::Graph;
use crate::tensor::DeviceKind;
use crate::tensor::DeviceName;
use crate::train::Weights;
use crate::train::candle::CandleEngine;
use crate::train::candle::Device;
use crate::train::candle::open_cuda;
use crate::train::device::DeviceError;
use crate::train::engine::Engine;
use crate::train::engine::EngineError;
use crate::train::engine::Masks;
use crate::train::native::Native;

/// Where networks are computed, opened once for many engines.
#[derive(Clone, Debug)]
pub enum Compute {
    /// The native engine.
    Native {
        /// Threads that compute; they change no bit.
        threads: usize,
    },
    /// The candle engine, on a device.
    Candle(Device),
}

impl Compute {
    /// The engine that is meant for a device: the native one on the processor, candle's on
    /// a GPU. A GPU without number is that of number 0.
    ///
    /// # Errors
    /// [`DeviceError`] if there is no such device.
    pub fn open(name: DeviceName, threads: usize) -> Result<Self, DeviceError> {
        match name {
            DeviceName::Cpu => Ok(Self::Native { threads }),
            DeviceName::Cuda(index) => open_cuda(index.unwrap_or(0)).map(Self::Candle),
        }
    }

    /// The candle engine on the processor.
    pub fn candle_on_processor() -> Self {
        Self::Candle(Device::Cpu)
    }

    /// Name in records, which says whose bits they are: of the engine, and of the kind of
    /// device where that is not the processor.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native { .. } => "native",
            Self::Candle(Device::Cpu) => "candle",
            Self::Candle(Device::Cuda(_)) => "candle-cuda",
            Self::Candle(Device::Metal(_)) => "candle-metal",
        }
    }

    /// The kind of the device.
    pub fn kind(&self) -> DeviceKind {
        match self {
            Self::Candle(Device::Cuda(_)) => DeviceKind::Cuda,
            _ => DeviceKind::Cpu,
        }
    }

    /// An engine with a network in it. Masks are applied to the weights.
    ///
    /// # Errors
    /// [`EngineError`] if weights or masks do not have the graph's shapes, or the device has
    /// no room for them.
    pub fn engine(
        &self,
        graph: Graph,
        weights: &Weights,
        masks: Masks,
    ) -> Result<Box<dyn Engine>, EngineError> {
        Ok(match self {
            Self::Native { threads } => Box::new(Native::new(graph, weights, masks, *threads)?),
            Self::Candle(device) => {
                Box::new(CandleEngine::new(graph, weights, &masks, device.clone())?)
            }
        })
    }
}
