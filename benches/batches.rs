//! How many images per second become batches, on one thread?
//!
//! 60,000 images of 28x28 random pixels in a random order, 128 at a time: as they are,
//! and cropped and flipped. Beside them, the rate of a plain copy of as many floats.
//!
//! `cargo bench --bench batches`

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use sms_merge::graph::Features;
use sms_merge::tensor::Stream;
use sms_merge::train::data::Assembler;
use sms_merge::train::data::Augmentation;
use sms_merge::train::data::Batch;
use sms_merge::train::data::Normalisation;
use sms_merge::train::data::Samples;
use sms_merge::train::data::Variation;
use sms_merge::train::data::epoch_order;

const IMAGES: usize = 60_000;
const BATCH: usize = 128;
const ROUNDS: usize = 5;
const IMAGE: Features = Features {
    channels: 1,
    height: 28,
    width: 28,
};

fn main() {
    let mut stream = Stream::named(0, "bench", "pixels");
    let pixels: Vec<u8> = (0..IMAGES * IMAGE.numel() / 8)
        .flat_map(|_| stream.bits().to_le_bytes())
        .collect();
    let labels = (0..IMAGES as u32).map(|sample| sample % 10).collect();
    let samples = Samples::new(Path::new("bench"), IMAGE, 255, pixels, labels)
        .expect("the images are well formed");
    let normalisation = Normalisation::measured(&samples);
    let assembler = Assembler::new(&samples, &normalisation);
    let order = epoch_order(0, 0, &samples.indices());
    let mut batch = Batch::default();

    assembler.fill(&order[..1], None, &mut batch);
    let first = f32::from(samples.picture(order[0] as usize)[0]) / 255.0;
    let expected = (first - normalisation.mean[0]) / normalisation.deviation[0];
    assert_eq!(batch.pixels[0], expected, "batches are wrong");

    let floats = vec![1.0_f32; BATCH * IMAGE.numel()];
    let mut copy = vec![0.0_f32; floats.len()];
    report("copy of as many floats", || {
        for _ in 0..IMAGES / BATCH {
            copy.copy_from_slice(black_box(&floats));
        }
        black_box(&copy);
    });
    for (name, augmentation) in [
        ("as they are", Augmentation::default()),
        ("cropped and flipped", CROPPED),
    ] {
        let variation = Variation {
            augmentation,
            seed: 0,
            epoch: 0,
        };
        report(name, || {
            for indices in order.chunks(BATCH) {
                assembler.fill(indices, Some(&variation), &mut batch);
                black_box(&batch);
            }
        });
    }
}

const CROPPED: Augmentation = Augmentation {
    crop_padding: 4,
    flip: true,
};

/// Prints the best of some rounds.
fn report(name: &str, mut round: impl FnMut()) {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    println!("{name:24} {:>12.0} images/s", IMAGES as f64 / best);
}
