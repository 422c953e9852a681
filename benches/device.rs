//! What do the kernels make of a GPU's bus and of its memory, and what of the processor?
//!
//! First plain copies of pinned memory, to the device, from it and within it: what the
//! hardware gives. Then batches as merges send them, by several lanes at once: bytes that
//! crossed the bus a second, and their share of plain copies both ways in turn. Then soups
//! of models that live on the device: milliseconds, bytes read and written a second and
//! their share of a copy within the device, beside the same soups by all threads of the
//! processor from its memory. Masks are read from zeros and compared every time, bytes and
//! inner products are held against the processor's. Times are the best of several.
//!
//! `SMS_MERGE_BENCH_ELEMENTS` is the number of elements of a model (2^27) of which there
//! are few; where there are many, each has a share of it. Needs a driver, and otherwise
//! says so. 90 % of the elements are zeros, at the same places.

#![expect(
    unsafe_code,
    reason = "plain copies at full speed: pinned memory, without events"
)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use cudarc::driver::CudaContext;
use cudarc::driver::DriverError;
use sms_merge::kernel::Backend;
use sms_merge::kernel::Gram;
use sms_merge::kernel::Input;
use sms_merge::kernel::PIECE;
use sms_merge::kernel::Weights;
use sms_merge::kernel::cpu::Cpu;
use sms_merge::kernel::cuda::Combiner;
use sms_merge::kernel::cuda::Device;
use sms_merge::kernel::cuda::DeviceError;
use sms_merge::kernel::cuda::Lane;
use sms_merge::kernel::cuda::LaneBytes;
use sms_merge::kernel::cuda::MaskSource;
use sms_merge::kernel::cuda::Request;
use sms_merge::kernel::cuda::Resident;
use sms_merge::kernel::cuda::ResidentError;
use sms_merge::kernel::cuda::TensorLayout;
use sms_merge::tensor::Dtype;
use sms_merge::tensor::Stream;
use sms_merge::tensor::TILE_ELEMENTS;

/// Bytes of a plain copy.
const COPIED: usize = 256 << 20;
/// Elements after which those of a model repeat.
const PERIOD: usize = 1 << 20;
const TILE: usize = TILE_ELEMENTS as usize;

fn main() -> ExitCode {
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("skipped: {error}");
            return ExitCode::SUCCESS;
        }
    };
    println!("{device}, {} threads of the processor", threads());
    let rates = match copies() {
        Ok(rates) => rates,
        Err(error) => {
            eprintln!("plain copies failed: {error:?}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "plain copies, GB/s: {:.1} to the device, {:.1} from it, {:.0} within it (read and written)",
        rates.to, rates.from, rates.within
    );
    match lanes(&device, rates).and_then(|()| all_soups(&device, rates)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn elements() -> usize {
    let text = std::env::var("SMS_MERGE_BENCH_ELEMENTS");
    let asked = text.map_or(1 << 27, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("SMS_MERGE_BENCH_ELEMENTS is no number: {text}"))
    });
    asked.max(TILE) / TILE * TILE
}

/// The shortest of some runs, in seconds.
fn best<E>(runs: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let begin = Instant::now();
        run()?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Bytes a second, in units of 10^9.
#[derive(Clone, Copy)]
struct Rates {
    to: f64,
    from: f64,
    within: f64,
}

fn copies() -> Result<Rates, DriverError> {
    let context = CudaContext::new(0)?;
    // SAFETY: there is one stream, which keeps the order by itself.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    let mut there = stream.alloc_zeros::<u8>(COPIED)?;
    let mut other = stream.alloc_zeros::<u8>(COPIED)?;
    // SAFETY: any byte is a valid u8, and all are written before one is read.
    let mut here = unsafe { context.alloc_pinned_with_flags::<u8>(COPIED, 0) }?;
    here.as_mut_slice()?.fill(1);
    stream.synchronize()?;
    let rate = |secs: f64| COPIED as f64 / secs / 1e9;
    let to = best(10, || {
        stream.memcpy_htod(&here, &mut there)?;
        stream.synchronize()
    })?;
    let from = best(10, || {
        stream.memcpy_dtoh(&there, &mut here)?;
        stream.synchronize()
    })?;
    let within = best(10, || {
        // Several, so that a start costs nothing beside them.
        for _ in 0..8 {
            stream.memcpy_dtod(&there, &mut other)?;
        }
        stream.synchronize()
    })?;
    Ok(Rates {
        to: rate(to),
        from: rate(from),
        within: 16.0 * rate(within),
    })
}

/// Elements of a model, little-endian: zeros at the places of all others.
fn model(index: usize, n_elements: usize, dtype: Dtype) -> Vec<u8> {
    let mut mask = Stream::named(0, "bench", "mask");
    let mut values = Stream::named(index as u64, "bench", "values");
    let mut period = Vec::new();
    for _ in 0..PERIOD.min(n_elements) {
        let is_retained = mask.below(10) == 0;
        let value = f64::from(u8::from(is_retained)) * (values.uniform() + 0.5);
        match dtype {
            Dtype::F16 => period.extend(half::f16::from_f64(value).to_le_bytes()),
            Dtype::BF16 => period.extend(half::bf16::from_f64(value).to_le_bytes()),
            Dtype::F32 => period.extend((value as f32).to_le_bytes()),
            _ => period.extend(value.to_le_bytes()),
        }
    }
    let n_bytes = n_elements * width(dtype);
    let mut bytes = Vec::with_capacity(n_bytes);
    while bytes.len() < n_bytes {
        let n = period.len().min(n_bytes - bytes.len());
        bytes.extend_from_slice(&period[..n]);
    }
    bytes
}

fn width(dtype: Dtype) -> usize {
    (dtype.bits() / 8) as usize
}

/// Batches of four models, as merges send them, by as many lanes as a merge has.
fn lanes(device: &Arc<Device>, rates: Rates) -> Result<(), ResidentError> {
    const MODELS: usize = 4;
    const TILES: usize = 4;
    let n_lanes = 2 * threads();
    let bytes = LaneBytes {
        to: (MODELS + 1) * TILES * TILE * 4,
        from: 2 * TILES * TILE * 4,
    };
    let weights = Weights::uniform(MODELS).expect("four have a mean");
    let models: Vec<Vec<u8>> = (0..MODELS)
        .map(|index| model(index, TILE, Dtype::F32))
        .collect();
    let inputs: Vec<Input<'_>> = models
        .iter()
        .map(|bytes| Input {
            bytes,
            dtype: Dtype::F32,
        })
        .collect();
    let request = Request {
        inputs: &inputs,
        out_dtype: Some(Dtype::F32),
        mask: MaskSource::Zeros,
        gram: true,
    };
    let n_batches = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let mut all = Vec::new();
    for _ in 0..n_lanes {
        all.push(Lane::new(device, bytes, &weights)?);
    }
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for lane in &mut all {
            scope.spawn(|| {
                while begin.elapsed() < Duration::from_secs(2) {
                    lane.clear();
                    let run = (0..TILES)
                        .try_for_each(|_| lane.push(request).map(drop))
                        .map_err(ResidentError::from)
                        .and_then(|()| Ok(lane.run()?));
                    if let Err(error) = run {
                        *failure.lock().expect("nobody panics") = Some(error);
                        return;
                    }
                    n_batches.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let secs = begin.elapsed().as_secs_f64();
    if let Some(error) = failure.into_inner().expect("nobody panics") {
        return Err(error);
    }
    let n_tiles = (n_batches.into_inner() * TILES) as f64;
    let (sent, fetched) = ((MODELS * TILE * 4) as f64, (TILE * 4 + TILE / 8) as f64);
    let rate = |bytes: f64| n_tiles * bytes / secs / 1e9;
    // A bus takes both ways at once, so the way with more to carry is what limits.
    println!(
        "batches of a merge of {MODELS} F32, {n_lanes} lanes: {:.1} GB/s sent, {:.1} fetched; \
         {:.0} % of the bus",
        rate(sent),
        rate(fetched),
        100.0 * (rate(sent) / rates.to).max(rate(fetched) / rates.from)
    );
    Ok(())
}

/// One line for every kind of soup. `false` if a soup was not the processor's.
fn all_soups(device: &Arc<Device>, rates: Rates) -> Result<bool, ResidentError> {
    println!(
        "{:5} {:>6} {:>11} {:>9} | {:>9} {:>8} {:>8} | {:>9} {:>6} {:>6}",
        "type",
        "models",
        "elements",
        "distances",
        "cuda ms",
        "GB/s",
        "share",
        "cpu ms",
        "ratio",
        "equal"
    );
    let n = elements();
    let share = |parts: usize| (n / parts).max(TILE) / TILE * TILE;
    let mut is_equal = true;
    for (dtype, n_models, n_elements) in [
        (Dtype::F32, 4, n),
        (Dtype::F32, 16, n),
        (Dtype::BF16, 4, n),
        (Dtype::BF16, 16, n),
        (Dtype::F16, 4, n),
        (Dtype::F64, 4, n),
        (Dtype::F32, 64, share(16)),
        (Dtype::F32, 128, share(32)),
        (Dtype::F32, 256, share(64)),
        (Dtype::F32, 512, share(128)),
    ] {
        match soups(device, rates, dtype, n_models, n_elements) {
            Ok(equal) => is_equal &= equal,
            Err(ResidentError::Device(error @ DeviceError::Memory { .. })) => {
                println!(
                    "{:5} {n_models:6} {n_elements:11} skipped: {error}",
                    dtype.to_string()
                );
            }
            Err(error) => return Err(error),
        }
    }
    Ok(is_equal)
}

fn soups(
    device: &Arc<Device>,
    rates: Rates,
    dtype: Dtype,
    n_models: usize,
    n_elements: usize,
) -> Result<bool, ResidentError> {
    let layout = [TensorLayout {
        n_elements,
        dtype,
        is_masked: true,
    }];
    let mut soup = Resident::zeros(device, &layout)?;
    let (mut bytes, mut residents) = (Vec::new(), Vec::new());
    for index in 0..n_models {
        bytes.push(model(index, n_elements, dtype));
        let mut resident = Resident::zeros(device, &layout)?;
        resident.write(0, &bytes[index])?;
        residents.push(resident);
    }
    let residents: Vec<&Resident> = residents.iter().collect();
    let weights = Weights::uniform(n_models).expect("there are models");
    let mut combiner = Combiner::new(device, n_models, 512 << 20)?;
    let mut is_equal = true;
    for gram in [false, true] {
        let mut combined = None;
        let cuda = best(5, || {
            combined = Some(combiner.combine(&mut soup, &residents, &weights, gram)?);
            Ok::<_, ResidentError>(())
        })?;
        let mut expected = (Vec::new(), None);
        let cpu = best(3, || {
            expected = on_processor(&bytes, dtype, &weights, gram);
            Ok::<_, ResidentError>(())
        })?;
        let mut found = vec![0; n_elements * width(dtype)];
        soup.read(0, &mut found)?;
        let found_gram = combined.and_then(|combined| combined.gram);
        let found_gram = found_gram.and_then(|grams| grams.into_iter().next());
        let equal = found == expected.0 && found_gram == expected.1;
        is_equal &= equal;
        let moved = ((n_models + 1) * n_elements * width(dtype)) as f64 / cuda / 1e9;
        println!(
            "{:5} {n_models:6} {n_elements:11} {:>9} | {:9.3} {moved:8.0} {:>7.0}% | {:9.2} \
             {:6.1} {:>6}",
            dtype.to_string(),
            if gram { "on" } else { "off" },
            1e3 * cuda,
            100.0 * moved / rates.within,
            1e3 * cpu,
            cpu / cuda,
            if equal { "yes" } else { "NO" }
        );
    }
    Ok(is_equal)
}

/// The same soup by all threads of the processor: masks are read from zeros and compared.
fn on_processor(
    models: &[Vec<u8>],
    dtype: Dtype,
    weights: &Weights,
    gram: bool,
) -> (Vec<u8>, Option<Gram>) {
    let width = width(dtype);
    let mut out = vec![0; models[0].len()];
    let tiles = Mutex::new(out.chunks_mut(TILE * width).enumerate());
    let grams = Mutex::new(vec![None; models[0].len().div_ceil(TILE * width)]);
    let cpu = Cpu::new();
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let mut workspace = cpu.workspace(models.len());
                let mut masks = [[0; PIECE / 64]; 2];
                loop {
                    let next = tiles.lock().expect("nobody panics").next();
                    let Some((index, out)) = next else { break };
                    let mut products = gram.then(|| Gram::zero(models.len()));
                    for (piece, out) in out.chunks_mut(PIECE * width).enumerate() {
                        let begin = index * TILE * width + piece * PIECE * width;
                        let inputs: Vec<Input<'_>> = models
                            .iter()
                            .map(|bytes| Input {
                                bytes: &bytes[begin..begin + out.len()],
                                dtype,
                            })
                            .collect();
                        let [first, other] = &mut masks;
                        for (model, input) in inputs.iter().enumerate() {
                            let words = if model == 0 { &mut *first } else { &mut *other };
                            cpu.nonzero(words, dtype, input.bytes)
                                .expect("pieces are whole");
                            assert!(model == 0 || first == other, "one mask was made for all");
                        }
                        let products = products.as_mut();
                        cpu.combine(
                            &mut workspace,
                            out,
                            dtype,
                            &inputs,
                            weights,
                            Some(&masks[0]),
                            products,
                        )
                        .expect("slices fit");
                    }
                    grams.lock().expect("nobody panics")[index] = products;
                }
            });
        }
    });
    let mut total = gram.then(|| Gram::zero(models.len()));
    let grams = grams.into_inner().expect("nobody panics");
    if let Some(total) = &mut total {
        grams.iter().flatten().for_each(|gram| total.add(gram));
    }
    (out, total)
}
