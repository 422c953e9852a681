//! Whether a network fits into memory: a graph and the size of a batch walk in, a number of
//! bytes walks out, and is held against what the system has left.
//!
//! Only what is surely needed is counted, so that nothing is refused that would have
//! worked. Asks the system, not the environment.

use std::fs;

use crate::graph::Graph;
use crate::train::engine::EngineError;
use crate::train::native::buffer_bytes;

/// Bytes of a number of a network.
const NUMBER_BYTES: u64 = 4;

/// What a network is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// To compute logits.
    Predict,
    /// To be trained, with so many numbers that an optimiser remembers of each weight.
    Train {
        /// Numbers for each learned weight.
        slots: usize,
    },
}

/// Bytes that a network on the processor takes at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Weights, their gradients, and what an optimiser remembers of them.
    pub weights: u64,
    /// What lies between layers, for a batch.
    pub buffers: u64,
}

impl Need {
    /// Of a dense network whose batches have so many images.
    pub fn of(graph: &Graph, samples: usize, task: Task) -> Self {
        let learned = graph.learned();
        let copies = match task {
            // Those that were read, and the engine's.
            Task::Predict => 2,
            Task::Train { slots } => 3 + slots as u64,
        };
        Self {
            weights: learned.saturating_mul(copies * NUMBER_BYTES),
            buffers: buffer_bytes(graph, samples, task != Task::Predict),
        }
    }

    /// Agrees that so much is left for batches of so many images. Where the system does not
    /// say what is left, it is.
    ///
    /// # Errors
    /// [`EngineError::Memory`].
    pub fn require(self, samples: usize) -> Result<(), EngineError> {
        hold(self, samples, available_bytes())
    }

    /// Both.
    pub fn bytes(self) -> u64 {
        self.weights.saturating_add(self.buffers)
    }
}

/// Agrees that a dense network can be computed on the processor with batches of so many
/// images. Where the system does not say what is left, everything can.
///
/// # Errors
/// [`EngineError::Memory`].
pub fn require(graph: &Graph, samples: usize, task: Task) -> Result<(), EngineError> {
    Need::of(graph, samples, task).require(samples)
}

/// Agrees that `need` is available.
pub(crate) fn hold(need: Need, samples: usize, available: Option<u64>) -> Result<(), EngineError> {
    match available {
        Some(available) if need.bytes() > available => Err(EngineError::Memory {
            need,
            samples,
            available,
        }),
        _ => Ok(()),
    }
}

/// Bytes that can be taken: of the machine, swap included, or of the control group or of
/// this process, whichever has the least left.
pub fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| {
        let available = field(&text, "MemAvailable:")?;
        let swap = field(&text, "SwapFree:").unwrap_or(0);
        available.checked_add(swap)?.checked_mul(1024)
    });
    [machine, group_bytes(), process_bytes()]
        .into_iter()
        .flatten()
        .min()
}

/// What is left of the limits of this process's control group.
fn group_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let second = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let first = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_memory = controllers.split(',').any(|name| name == "memory");
        is_memory.then_some(path)
    });
    let read = |root: &str, path: &str, names: [&str; 2]| {
        // In a container the path may be the host's, and the group is at the root.
        let places = [format!("{root}{path}"), root.to_owned()];
        places.iter().find_map(|place| {
            let text = |name| fs::read_to_string(format!("{place}/{name}")).ok();
            let stat = text("memory.stat").unwrap_or_default();
            left(&text(names[0])?, &text(names[1])?, &stat)
        })
    };
    let second =
        second.and_then(|path| read("/sys/fs/cgroup", path, ["memory.max", "memory.current"]));
    let names = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
    let first = first.and_then(|path| read("/sys/fs/cgroup/memory", path, names));
    second.into_iter().chain(first).min()
}

/// What is left of a limit. Pages of files that nobody uses are given back when needed.
fn left(limit: &str, current: &str, stat: &str) -> Option<u64> {
    // The limit is the word `max` where there is none.
    let limit: u64 = limit.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let inactive = field(stat, "inactive_file").unwrap_or(0);
    Some(limit.saturating_sub(current.saturating_sub(inactive)))
}

/// What is left of the address space of this process: `ulimit -v`.
fn process_bytes() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let taken = field(&status, "VmSize:")?.checked_mul(1024)?;
    Some(limit.saturating_sub(taken))
}

/// The number behind a name, in lines of names and numbers.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let words = text.lines().map(|line| {
        let mut words = line.split_whitespace();
        (words.next(), words.next())
    });
    let found = words.into_iter().find(|(first, _)| *first == Some(name));
    found?.1?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Features;
    use crate::graph::models;
    use crate::graph::models::ModelSpec;

    #[test]
    fn fields_are_found_by_their_whole_names() {
        let text = "MemTotal:  8 kB\nMemAvailable:    5 kB\nSwap:\nBad: x\n";
        let check = |name, expected| assert_eq!(field(text, name), expected, "{name}");
        check("MemTotal:", Some(8));
        check("MemAvailable:", Some(5));
        check("Mem", None);
        check("Swap:", None);
        check("Bad:", None);
    }

    #[test]
    fn limits_of_groups() {
        let stat = "anon 10\ninactive_file 30\n";
        let check = |limit, current, stat, expected| {
            assert_eq!(left(limit, current, stat), expected);
        };
        check("100\n", "60\n", stat, Some(70));
        check("100\n", "60\n", "", Some(40));
        check("100\n", "20\n", stat, Some(100));
        check("50\n", "90\n", "", Some(0));
        check("max\n", "60\n", stat, None);
        check("", "60\n", stat, None);
    }

    #[test]
    fn needs_grow_with_weights_batches_and_what_is_remembered() {
        let spec = ModelSpec::new("mlp", Features::vector(64), 10);
        let graph = models::build(&spec).unwrap();
        let predict = Need::of(&graph, 32, Task::Predict);
        let train = |slots, samples| Need::of(&graph, samples, Task::Train { slots });
        assert_eq!(predict.weights, 8 * graph.learned());
        assert_eq!(train(1, 32).weights, 16 * graph.learned());
        assert_eq!(train(2, 32).weights, 20 * graph.learned());
        assert!(train(1, 32).buffers > predict.buffers);
        assert_eq!(train(1, 320).buffers, 10 * train(1, 32).buffers);
        assert_eq!(train(1, 1).buffers, train(1, 32).buffers);
        let need = predict.bytes();
        assert!(hold(predict, 32, Some(need)).is_ok());
        assert!(hold(predict, 32, None).is_ok());
        let refused = hold(predict, 32, Some(need - 1));
        assert!(matches!(
            refused,
            Err(EngineError::Memory { samples: 32, .. })
        ));
    }

    #[test]
    fn the_system_says_what_is_left() {
        let available = available_bytes().unwrap();
        assert!((1 << 20..1 << 50).contains(&available), "{available}");
    }
}
