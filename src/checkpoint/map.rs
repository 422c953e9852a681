//! Read-only bytes of one file: a path walks in, slices walk out. The only
//! door to memmap2. Touches no header and no tensor.
//!
//! A mapped file that another process truncates, or whose device fails, sends
//! SIGBUS to the thread that touches the missing page, and by default that ends
//! the process. The first mapping therefore installs one SIGBUS handler for the
//! whole process. It looks the address up in a static table of the mappings
//! made here, puts zero pages in place of the missing ones, and sets a flag
//! that [`ByteSource::check_fault`] turns into an error. A fault anywhere else
//! goes to the handler that was installed before, or to the default action.
//!
//! What that asks of a program that uses this library:
//! - install a SIGBUS handler of its own before the first mapping, not after;
//! - leave SIGBUS unblocked in every thread that reads mapped bytes;
//! - trust nothing computed from mapped bytes before `check_fault` has agreed.
//!
//! A system call that is handed mapped bytes of a truncated file sends no
//! signal: it fails with `EFAULT`.

#![expect(
    unsafe_code,
    reason = "mapping files, and outliving their truncation, cannot be done in safe code"
)]

mod error;
mod source;

use std::fs::File;
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;

use memmap2::Mmap;
use memmap2::MmapOptions;
use memmap2::UncheckedAdvice;

pub use error::SourceError;
pub use source::Access;
pub use source::ByteSource;
pub use source::FileIdentity;

/// A mapping that is known to the SIGBUS handler.
///
/// The fields drop in this order: the mapping is unregistered before it is
/// unmapped, so the handler never touches addresses that are not ours.
#[derive(Debug)]
struct Mapping {
    registration: Registration,
    map: Mmap,
}

impl Mapping {
    /// `None` where the file cannot be mapped or not be guarded.
    fn new(file: &File, bytes: u64, slots: &'static [Slot]) -> Option<Self> {
        let len = usize::try_from(bytes).ok().filter(|&len| len > 0)?;
        if !install_handler() {
            return None;
        }
        // SAFETY: the mapping is read-only and never handed out as anything but
        // bytes, of which every pattern is valid. That the file may change
        // underneath is what `check_fault` and `check_unchanged` are for, and
        // that it may shrink is what the SIGBUS handler is for.
        let map = unsafe { MmapOptions::new().len(len).map(file) }.ok()?;
        let start = map.as_ptr().addr();
        let registration = Registration::new(slots, start, start.checked_add(len)?)?;
        Some(Self { registration, map })
    }

    /// Offset of the last fault, if there was any.
    fn fault(&self) -> Option<u64> {
        // The handler sets the flag before it replaces the page. The fence
        // keeps the reads of mapped bytes that came before this call from
        // moving behind the look at the flag.
        fence(Ordering::SeqCst);
        match self.registration.slot.fault.load(Ordering::SeqCst) {
            0 => None,
            address => Some(address.saturating_sub(self.map.as_ptr().addr()) as u64),
        }
    }

    /// `start + len` must not pass the mapping's length.
    fn release(&self, start: usize, len: usize) {
        // SAFETY: the range lies within the mapping, as memmap2 asks. Pages of
        // a shared file mapping are read again from the file when touched, and
        // zero pages put in by the handler become zero pages again, so no byte
        // behind a live slice changes through this.
        let advised = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, start, len)
        };
        // Only memory use depends on it.
        drop(advised);
    }
}

/// One mapping in the table that the SIGBUS handler reads.
///
/// `start` is [`FREE`], [`CLAIMED`] or the address of the first byte; `end` and
/// `fault` mean something only in the last case.
#[derive(Debug)]
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    /// Address of the last fault; 0 if there was none.
    fault: AtomicUsize,
}

/// No mapping has this slot. No mapping starts at address 0.
const FREE: usize = 0;
/// A mapping is being registered. No mapping starts at address 1, within a page.
const CLAIMED: usize = 1;
/// Far above the shards of any soup, and only 192 KiB.
const SLOT_COUNT: usize = 8192;

static SLOTS: [Slot; SLOT_COUNT] = [const { Slot::new() }; SLOT_COUNT];

impl Slot {
    const fn new() -> Self {
        Self {
            start: AtomicUsize::new(FREE),
            end: AtomicUsize::new(0),
            fault: AtomicUsize::new(0),
        }
    }

    /// End of the mapping if it covers `address`.
    ///
    /// A thread that faults in one of our mappings borrows it, so its slot
    /// stands still meanwhile. Other slots may be changing: reading `start`
    /// twice keeps one mapping's start from being paired with another's end.
    fn end_if_covering(&self, address: usize) -> Option<usize> {
        let start = self.start.load(Ordering::SeqCst);
        let end = self.end.load(Ordering::SeqCst);
        let again = self.start.load(Ordering::SeqCst);
        let covers = start > CLAIMED && start == again && (start..end).contains(&address);
        covers.then_some(end)
    }
}

/// Ownership of a slot; dropping it frees the slot.
#[derive(Debug)]
struct Registration {
    slot: &'static Slot,
}

impl Registration {
    /// `None` if every slot is taken. `end` is rounded up to a whole page,
    /// because the file's last page is mapped whole.
    fn new(slots: &'static [Slot], start: usize, end: usize) -> Option<Self> {
        let end = end.checked_next_multiple_of(rustix::param::page_size())?;
        let slot = slots.iter().find(|slot| {
            slot.start
                .compare_exchange(FREE, CLAIMED, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
        })?;
        slot.end.store(end, Ordering::SeqCst);
        slot.fault.store(0, Ordering::SeqCst);
        slot.start.store(start, Ordering::SeqCst);
        Some(Self { slot })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.slot.start.store(FREE, Ordering::SeqCst);
    }
}

/// What SIGBUS did before the handler was installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
/// Mask that rounds an address down to its page, known before the handler runs.
static PAGE_MASK: AtomicUsize = AtomicUsize::new(0);

/// Installs the handler at the first call; whether it is installed.
fn install_handler() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        PAGE_MASK.store(!(rustix::param::page_size() - 1), Ordering::SeqCst);
        // SAFETY: `sigaction` consists of integers and an optional function
        // pointer, for all of which zero bytes are a valid value.
        let mut previous: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: a null action asks without changing; `previous` is writable.
        if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &mut previous) } != 0 {
            return false;
        }
        // Stored before installing: the handler may run at once.
        PREVIOUS.get_or_init(|| previous);
        // SAFETY: as for `previous`.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the handler has the signature that `SA_SIGINFO` asks for and
        // calls only async-signal-safe functions.
        unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) == 0 }
    })
}

/// The SIGBUS handler. Async-signal-safe: atomics, `mmap`, `sigaction`, `raise`.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: with `SA_SIGINFO` the kernel passes a valid `siginfo_t`, which
    // lives until this function returns.
    let details = unsafe { &*info };
    // Only a missing page can be mended: not a signal sent by a process, whose
    // address means nothing, nor a misaligned access, which would come back.
    if matches!(details.si_code, libc::BUS_ADRERR | libc::BUS_MCEERR_AR) {
        // SAFETY: for a SIGBUS raised by a page fault `si_addr` is set.
        let address = unsafe { details.si_addr() };
        if replace_pages(address.addr()) {
            return;
        }
    }
    call_previous(signal, info, context, details.si_code);
}

/// Puts zero pages from the page of `address` to the end of its mapping, if it
/// is one of ours; whether it was done.
///
/// To the end, because a truncated file lacks all of that: one page at a time
/// would fault once for each, and scattered single pages could pass the
/// system's limit on the number of mappings. After a fault no byte is trusted.
fn replace_pages(address: usize) -> bool {
    for slot in &SLOTS {
        let Some(end) = slot.end_if_covering(address) else {
            continue;
        };
        // Before the pages: see `Mapping::fault`.
        slot.fault.store(address, Ordering::SeqCst);
        let start = address & PAGE_MASK.load(Ordering::SeqCst);
        // SAFETY: the address of this thread's `errno` is always valid.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        let errno_before = unsafe { *errno };
        // SAFETY: `start..end` are whole pages of a mapping that is registered,
        // hence not yet unmapped, and nobody else puts mappings there. Readers
        // see zeros, which are valid bytes, and `munmap` of the whole removes
        // these pages too.
        let pages = unsafe {
            libc::mmap(
                ptr::without_provenance_mut(start),
                end - start,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        // SAFETY: as above.
        unsafe { *errno = errno_before };
        return pages != libc::MAP_FAILED;
    }
    false
}

/// Does what would have happened without the handler.
fn call_previous(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
    code: libc::c_int,
) {
    let (action, flags) = match PREVIOUS.get() {
        Some(previous) => (previous.sa_sigaction, previous.sa_flags),
        None => (libc::SIG_DFL, 0),
    };
    // Positive codes come from the kernel: a fault cannot be ignored, and the
    // kernel would end the process even then.
    if action == libc::SIG_DFL || (action == libc::SIG_IGN && code > 0) {
        // SAFETY: zero bytes are a valid `sigaction`; `SIG_DFL` is zero.
        let default: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: installs the default action, which has no preconditions.
        unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
        // SAFETY: no preconditions. The signal is blocked until the handler
        // returns and then ends the process.
        unsafe { libc::raise(signal) };
    } else if action == libc::SIG_IGN {
    } else if flags & libc::SA_SIGINFO != 0 {
        type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: with `SA_SIGINFO`, and being neither `SIG_DFL` nor `SIG_IGN`,
        // the value is the address of a function of this type.
        let handler = unsafe { mem::transmute::<usize, Handler>(action) };
        handler(signal, info, context);
    } else {
        type Handler = extern "C" fn(libc::c_int);
        // SAFETY: as above, for a handler without `SA_SIGINFO`.
        let handler = unsafe { mem::transmute::<usize, Handler>(action) };
        handler(signal);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "SMS_MERGE_TEST_WILD_FAULT";

    /// Runs one test of this binary again, in a process that may be killed.
    fn child(test: &str, path: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, path);
        command
    }

    #[test]
    fn a_fault_outside_our_mappings_kills() {
        let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else {
            // The second role proves that the first dies of the wild fault.
            for (role, expected) in [("wild", Some(libc::SIGBUS)), ("guarded", None)] {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join(role);
                fs::write(&path, vec![1_u8; 10_000]).unwrap();
                let test = "checkpoint::map::tests::a_fault_outside_our_mappings_kills";
                let output = child(test, &path).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                assert_eq!(output.status.signal(), expected, "{role}: {text}");
                assert_eq!(
                    text.contains("1 passed"),
                    expected.is_none(),
                    "{role}: {text}"
                );
                let len = fs::metadata(&path).unwrap().len();
                assert_eq!(len, 0, "{role} ended before its fault");
            }
            return;
        };
        let source = ByteSource::open(&path, Access::Mapped).unwrap();
        let mut scratch = Vec::new();
        let bytes = source.read(0, 10_000, &mut scratch).unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        assert_eq!(bytes[9_999], 0);
        assert!(matches!(
            source.check_fault(),
            Err(SourceError::Truncated {
                expected: 10_000,
                found: 0,
                ..
            })
        ));
        if path.ends_with("guarded") {
            return;
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 10_000]).unwrap();
        // SAFETY: the process is expected to end at the next access.
        let map = unsafe { MmapOptions::new().map(&file) }.unwrap();
        file.set_len(0).unwrap();
        println!("{}", map[5_000]);
    }

    #[test]
    fn a_full_table_refuses_and_a_dropped_mapping_makes_room() {
        static TWO: [Slot; 2] = [const { Slot::new() }; 2];
        let file = tempfile::tempfile().unwrap();
        file.set_len(5_000).unwrap();
        let first = Mapping::new(&file, 5_000, &TWO);
        let second = Mapping::new(&file, 5_000, &TWO);
        assert!(first.is_some() && second.is_some());
        assert!(Mapping::new(&file, 5_000, &TWO).is_none());
        drop(first);
        let third = Mapping::new(&file, 5_000, &TWO).unwrap();
        assert_eq!(third.fault(), None);
        let last = third.map.as_ptr().addr() + 4_999;
        let slots_covering = |address| {
            TWO.iter()
                .filter(|slot| slot.end_if_covering(address).is_some())
                .count()
        };
        assert_eq!(slots_covering(last), 1);
        drop(third);
        assert_eq!(slots_covering(last), 0);
    }

    #[test]
    fn an_empty_file_is_not_mapped() {
        let file = tempfile::tempfile().unwrap();
        assert!(Mapping::new(&file, 0, &SLOTS).is_none());
    }
}
