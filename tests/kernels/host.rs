//! The kernels on the processor: their source as C++, in a process of its own.

use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use sms_merge::kernel::Weights;
use sms_merge::kernel::cuda::Batch;
use sms_merge::kernel::cuda::Buffer;
use sms_merge::kernel::cuda::Orders;

const TO: Buffer = Buffer {
    address: 0x1000_0000_0000,
    bytes: 32 << 20,
};
const FROM: Buffer = Buffer {
    address: 0x1100_0000_0000,
    bytes: 32 << 20,
};

/// Compiles the kernels and their shim into `directory`; `None` where there is no g++.
pub(crate) fn compile(directory: &Path) -> Option<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = directory.join("kernels");
    let done = Command::new("g++")
        .args([
            "-std=c++20",
            "-O2",
            "-ffp-contract=off",
            "-U_FORTIFY_SOURCE",
        ])
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"])
        .arg("-I")
        .arg(root.join("tests/kernels"))
        .arg("-I")
        .arg(root.join("src/kernel/cuda"))
        .arg(root.join("tests/kernels/host.cpp"))
        .arg("-o")
        .arg(&program)
        .output();
    match done {
        Err(error) => {
            assert!(
                std::env::var_os("SMS_MERGE_REQUIRE_GXX").is_none(),
                "g++ cannot be run: {error}"
            );
            eprintln!("skipped: g++ cannot be run ({error})");
            None
        }
        Ok(done) => {
            let log = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{log}");
            Some(program)
        }
    }
}

/// A running process that takes batches.
pub(crate) struct Host {
    child: Child,
    batch: Batch,
    sent: Vec<u8>,
    fetched: Vec<u8>,
    is_odd: bool,
}

impl Host {
    /// Starts `program`. If `is_odd`, inputs and outputs lie at odd addresses.
    pub(crate) fn new(program: &Path, weights: &Weights, is_odd: bool) -> Self {
        let child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            batch: Batch::new(TO, FROM, weights),
            sent: vec![0; TO.bytes],
            fetched: Vec::new(),
            is_odd,
        }
    }
}

impl crate::Machine for Host {
    fn push(&mut self, request: sms_merge::kernel::cuda::Request<'_>) {
        assert!(self.batch.push(&mut self.sent, request).unwrap(), "no room");
    }

    fn run(&mut self) {
        let Orders {
            sent,
            fetched,
            cleared,
            launches,
        } = self.batch.finish(&mut self.sent);
        let mut words = vec![
            TO.address,
            TO.bytes as u64,
            FROM.address,
            FROM.bytes as u64,
            cleared.start as u64,
            cleared.end as u64,
            fetched as u64,
            launches.len() as u64,
            self.is_odd.into(),
            sent as u64,
        ];
        for launch in &launches {
            words.push(launch.kernel as u64);
            words.extend([u64::from(launch.grid.0), u64::from(launch.grid.1)]);
            words.extend(&launch.parameters);
            words.resize(words.len() + 5 - launch.parameters.len(), 0);
        }
        let request: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(&request).unwrap();
        stdin.write_all(&self.sent[..sent]).unwrap();
        stdin.flush().unwrap();
        self.fetched.resize(fetched, 0);
        let stdout = self.child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut self.fetched).unwrap();
    }

    fn answer(&self, index: usize) -> sms_merge::kernel::cuda::Answer<'_> {
        self.batch.answer(index, &self.fetched)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let ended = self.child.wait();
        if !std::thread::panicking() {
            assert!(ended.unwrap().success());
        }
    }
}
