//! Ingredients that are written to while they are read, and whose time of modification
//! is put back: there is no soup of them.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sms_merge::checkpoint::Checkpoint;
use sms_merge::checkpoint::DtypeRule;
use sms_merge::checkpoint::Ingredients;
use sms_merge::checkpoint::OpenOptions;
use sms_merge::checkpoint::map::Access;
use sms_merge::checkpoint::map::SourceError;
use sms_merge::format::replace::Durability;
use sms_merge::format::replace::Existing;
use sms_merge::kernel::Weights;
use sms_merge::merge::Destination;
use sms_merge::merge::MaskLayout;
use sms_merge::merge::MergeError;
use sms_merge::merge::MergeOptions;
use sms_merge::merge::MergePlan;
use sms_merge::merge::Method;
use sms_merge::merge::Observer;
use sms_merge::merge::merge;

/// Elements of the one tensor: a few tiles.
const NUMEL: usize = 1 << 20;

fn write(path: &Path, value: f32) {
    let bytes: Vec<u8> = value.to_le_bytes().repeat(NUMEL);
    let view = TensorView::new(Dtype::F32, vec![1 << 10, 1 << 10], &bytes).unwrap();
    safetensors::serialize_to_file([("w", view)], None, path).unwrap();
}

/// Merges two ingredients, and calls `meanwhile` with the second once a tile is read.
fn merge_while(
    directory: &Path,
    (access, layout): (Access, MaskLayout),
    meanwhile: impl Fn(&Path) + Sync,
) -> Result<PathBuf, MergeError> {
    let paths = ["a.st", "b.st"].map(|name| directory.join(name));
    for (path, value) in paths.iter().zip([1.0, 2.0]) {
        write(path, value);
    }
    let options = OpenOptions {
        access,
        ..OpenOptions::default()
    };
    let open = |path: &PathBuf| Checkpoint::open(path, &options).unwrap();
    let checkpoints = paths.iter().map(open).collect();
    let ingredients = Ingredients::join(checkpoints, None, DtypeRule::Same, |_| true)?;
    let mut options = MergeOptions::new(Method::Uniform, Weights::uniform(2)?);
    options.workers.threads = 1;
    options.layout = layout;
    let plan = MergePlan::new(&ingredients, &options)?;
    let output = directory.join("soup.st");
    let (existing, durability) = (Existing::Replace, Durability::Unsynced);
    let destination = Destination::resolve(&output, &ingredients, None, existing, durability)?;

    let seen = AtomicU64::new(0);
    let advance = |bytes: u64| {
        if seen.fetch_add(bytes, Ordering::Relaxed) == 0 {
            // Clocks of file systems tick every few milliseconds.
            std::thread::sleep(Duration::from_millis(30));
            meanwhile(&paths[1]);
        }
    };
    let observer = Observer {
        advance: &advance,
        interrupted: &AtomicBool::new(false),
    };
    merge(
        plan,
        &ingredients,
        &options,
        &destination,
        Vec::new(),
        observer,
    )?;
    Ok(output)
}

/// Overwrites the second half of a file in place, and puts its time back.
fn overwrite(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let metadata = file.metadata().unwrap();
    let half = metadata.len() / 2;
    let bytes = 5_f32.to_le_bytes().repeat(half as usize / 4);
    file.write_all_at(&bytes, metadata.len() - bytes.len() as u64)
        .unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    assert_eq!(
        file.metadata().unwrap().modified().unwrap(),
        metadata.modified().unwrap()
    );
}

#[test]
fn an_ingredient_overwritten_in_place_makes_no_soup() {
    for access in [Access::Mapped, Access::Pread] {
        for layout in [MaskLayout::Dense, MaskLayout::Bitmask] {
            let directory = tempfile::tempdir().unwrap();
            let found = merge_while(directory.path(), (access, layout), overwrite);
            let error = found.expect_err("bytes of two versions were averaged");
            let is_told = matches!(error, MergeError::Source(SourceError::PutBack { .. }));
            assert!(is_told, "{error}");
            let names = fs::read_dir(directory.path()).unwrap();
            assert_eq!(names.count(), 2, "something was left behind");
        }
    }
}

#[test]
fn an_ingredient_replaced_by_rename_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let replace = |path: &Path| {
        let other = path.with_extension("new");
        write(&other, 7.0);
        fs::rename(&other, path).unwrap();
    };
    let way = (Access::Mapped, MaskLayout::Dense);
    let soup = merge_while(directory.path(), way, replace).unwrap();
    let soup = Checkpoint::open(&soup, &OpenOptions::default()).unwrap();
    let mut scratch = Vec::new();
    let bytes = soup.read(&soup.tensors()[0], 0, NUMEL as u64, &mut scratch);
    let elements = bytes.unwrap().as_chunks::<4>().0;
    assert!(
        elements
            .iter()
            .all(|&element| f32::from_le_bytes(element) == 1.5)
    );
}
