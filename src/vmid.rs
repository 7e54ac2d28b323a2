//! VMIDs: 8 bits in the hardware, shared out to any number of VMs in generations.
//!
//! A VMID belongs to one VM for a generation. When all are given out, a new generation begins: every
//! TLB and instruction cache is flushed once, and all VMIDs are free again, but for those that are
//! loaded on a CPU at that moment. These stay with their VMs, which go on running undisturbed.
//!
//! There is no count of generations that could wrap and let an old VMID pass for a new one. A table
//! says which VM each VMID belongs to now; a VM remembers the VMID it had last, and asks whether it
//! is still its own. To begin a generation is to empty the table.
//!
//! **Concurrency.** Loading takes no lock where the VM's VMID is still its own. A CPU announces a
//! VMID first ([`Vmids::load`] stores it in `loaded`) and asks second whose it is; a new generation
//! takes all VMIDs from their VMs first and looks second at what the CPUs have announced. Both
//! orders are sequentially consistent, so one of the two sees the other: either the CPU finds the
//! VMID not its VM's and takes the slow path, or the VMID is given back to the VM before anybody
//! else can have it. The slow path needs `&mut Pool`, which the caller keeps behind a lock, and the
//! flush is done in there before any VMID of the new generation is given out. So no CPU ever runs a
//! VM under a VMID for which its TLB may hold another VM's entries.
//!
//! VMID 0 is never given out: it is what VTTBR holds before the first VM is loaded.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering, fence};

/// VMIDs that the hardware has.
const COUNT: usize = 256;
/// The owner of a VMID that is nobody's.
const NOBODY: u32 = 0;

/// The VMID that a VM had last. Part of the VM.
#[derive(Debug)]
pub struct Vmid {
    /// Which VM this is: not [`NOBODY`].
    vm: u32,
    /// 0 until it has had one.
    last: AtomicU8,
}

impl Vmid {
    /// For the VM with this number, which no other living VM has. (A VM that takes the number of a
    /// dead one does not inherit its VMID, so nothing need be flushed.)
    #[must_use]
    pub const fn new(vm: core::num::NonZeroU32) -> Self {
        Self {
            vm: vm.get(),
            last: AtomicU8::new(0),
        }
    }
}

/// Who has which VMID, for `CPUS` CPUs. Shared by all of them.
#[derive(Debug)]
pub struct Vmids<const CPUS: usize> {
    /// The VM that each VMID belongs to.
    owner: [AtomicU32; COUNT],
    /// For each CPU, in bits 7:0 the VMID that it has announced, and in bits 15:8 the one before,
    /// which VTTBR holds until it is written: a walker may speculate with it. 0 before the first.
    loaded: [AtomicU16; CPUS],
}

/// What is only changed under the caller's lock.
#[derive(Debug)]
pub struct Pool {
    /// The next VMID to look at; [`COUNT`] at the end of a generation.
    next: usize,
    /// Generations begun after the first.
    rollovers: u32,
}

impl Pool {
    /// The state before any VMID is given out.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: 1,
            rollovers: 0,
        }
    }

    /// How many times all VMIDs were used up (wraps).
    #[must_use]
    pub const fn rollovers(&self) -> u32 {
        self.rollovers
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl<const CPUS: usize> Vmids<CPUS> {
    /// All VMIDs free.
    #[must_use]
    pub const fn new() -> Self {
        const {
            assert!(
                2 * CPUS < COUNT - 1,
                "each CPU can hold two, one must be left"
            );
        };
        Self {
            owner: [const { AtomicU32::new(NOBODY) }; COUNT],
            loaded: [const { AtomicU16::new(0) }; CPUS],
        }
    }

    /// The VMID for loading `vm` on `cpu`, which is the CPU that this runs on; `None` where the VM
    /// needs a new one: then [`renew`](Self::renew) must follow. Takes no lock.
    ///
    /// From here on until `cpu` loads another VM, the VMID stays with `vm`. The CPU must not execute
    /// at PL1 or PL0 between this and the write of VTTBR, and must not load another VM before that.
    #[must_use]
    #[inline]
    pub fn load(&self, cpu: usize, vm: &Vmid) -> Option<u8> {
        let vmid = vm.last.load(Ordering::Relaxed);
        let before = self.loaded[cpu].load(Ordering::Relaxed);
        if before as u8 != vmid {
            self.announce(cpu, before, vmid);
            // Announced before asked: see above, and `begin_generation`.
            fence(Ordering::SeqCst);
        }
        if self.owner[usize::from(vmid)].load(Ordering::Acquire) == vm.vm {
            return Some(vmid);
        }
        // In vain: VTTBR still holds what it held.
        self.loaded[cpu].store(before, Ordering::Relaxed);
        None
    }

    fn announce(&self, cpu: usize, before: u16, vmid: u8) {
        self.loaded[cpu].store(before << 8 | u16::from(vmid), Ordering::Relaxed);
    }

    /// The VMID for loading `vm` on `cpu`, a new one if need be, with `pool` locked.
    ///
    /// `flush` is called at most once, when a generation ends: it must flush every TLB entry of every
    /// VMID and all instruction caches, on all CPUs, and wait for that (TLBIALLNSNHIS, ICIALLUIS, DSB,
    /// ISB). It takes a function, and not returns a debt, because another vCPU of this VM could load
    /// the VMID before the debt is paid.
    #[must_use]
    pub fn renew(&self, pool: &mut Pool, cpu: usize, vm: &Vmid, flush: impl FnOnce()) -> u8 {
        // Another vCPU of the VM may have been here since.
        if let Some(vmid) = self.load(cpu, vm) {
            return vmid;
        }
        let vmid = self.next_free(pool).unwrap_or_else(|| {
            self.begin_generation(pool);
            flush();
            // There are more VMIDs than the CPUs can have kept.
            self.next_free(pool).unwrap_or(0)
        });
        self.owner[usize::from(vmid)].store(vm.vm, Ordering::Release);
        vm.last.store(vmid, Ordering::Relaxed);
        self.announce(cpu, self.loaded[cpu].load(Ordering::Relaxed), vmid);
        vmid
    }

    fn next_free(&self, pool: &mut Pool) -> Option<u8> {
        while pool.next < COUNT {
            let vmid = pool.next;
            pool.next += 1;
            if self.owner[vmid].load(Ordering::Relaxed) == NOBODY {
                return u8::try_from(vmid).ok();
            }
        }
        None
    }

    /// Takes every VMID from its VM but those that are loaded.
    fn begin_generation(&self, pool: &mut Pool) {
        let mut before = [NOBODY; COUNT];
        for (owner, before) in self.owner.iter().zip(&mut before) {
            *before = owner.swap(NOBODY, Ordering::Relaxed);
        }
        // Taken before looked: see above, and `load`.
        fence(Ordering::SeqCst);
        for loaded in &self.loaded {
            for vmid in loaded.load(Ordering::Relaxed).to_le_bytes() {
                let vmid = usize::from(vmid);
                self.owner[vmid].store(before[vmid], Ordering::Release);
            }
        }
        pool.next = 1;
        pool.rollovers = pool.rollovers.wrapping_add(1);
    }
}

impl<const CPUS: usize> Default for Vmids<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}
