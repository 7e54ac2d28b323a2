//! The virtual GICv2: the distributor as a model, the CPU interface by the hardware's GICV.
//!
//! A guest's distributor accesses are trapped and served by [`Vgic::read`] and [`Vgic::write`]. Its
//! CPU interface is the hardware's virtual one, which knows only what stands in the list registers
//! of the CPU that a vCPU is loaded on. The state of an interrupt is therefore in exactly one of two
//! places, here or in one list register of one loaded vCPU ("listed"), and the rules are:
//!
//! - **Only the CPU that a vCPU is loaded on touches its list registers**: it calls
//!   [`load`](Vgic::load), [`flush`](Vgic::flush), [`sync`](Vgic::sync) and [`put`](Vgic::put) with
//!   its [`Lrs`]. All else needs no hardware and may be called from any CPU, under the VM's lock.
//! - **Before a loaded vCPU is entered**, [`needs_flush`](Vgic::needs_flush) says whether it has to
//!   be flushed. Nothing else is done on an exit: list registers are read when somebody asks.
//! - **A change of state returns a [`Kick`]**: the vCPUs that have to come out of the guest and be
//!   flushed, or be woken where they wait. A change to an interrupt that is listed, here or on
//!   another CPU, is noted and takes effect in that flush; no caller waits for it. To the guest this
//!   is the time that a distributor takes to tell a CPU interface.
//! - **A read of pending or active state** is exact if before it each vCPU that
//!   [`stale`](Vgic::stale) names has been kicked and has synced. The reader's own list registers
//!   are looked after.
//! - **A maintenance interrupt** asks for [`sync`](Vgic::sync) and [`flush`](Vgic::flush).
//! - **GICV_DIR**, alone in the interface's second page, is trapped while
//!   [`traps_dir`](Vgic::traps_dir) says so, and goes to [`deactivate`](Vgic::deactivate): only where
//!   a guest has more interrupts active at once than there are list registers.
//! - A vCPU that is put has nothing listed; all its interrupts can then go elsewhere.
//!
//! A **linked** interrupt stands for a physical one. [`set_level`](Vgic::set_level) with `true`
//! says that the owner has acknowledged the physical interrupt and dropped its priority, without
//! deactivating it; the hardware does that when the guest deactivates the virtual one
//! ([`raise`](Vgic::raise) is the short way for the vCPU that is loaded here). Where the
//! virtual interrupt vanishes in another way, [`next_release`](Vgic::next_release) names the
//! physical one to deactivate. Physical PPIs are the CPU's, not the vCPU's: after a put those of the
//! vCPU must be made inactive ([`Put::held`]), and active again with the next load
//! ([`Loaded::held`]).
//!
//! The model is a GICv2 without Security Extensions but with both groups (ARM IHI 0048B, 3.4), as
//! QEMU's `virt` machine has one: GICD_CTLR has two enables, GICD_IGROUPR is writable and zero at
//! reset, so that every interrupt is in group 0, which GICV signals as IRQ as long as the guest
//! leaves GICC_CTLR.FIQEn clear. SGIs are always enabled and edge-triggered; 5 bits of priority are
//! kept, as many as a list register has.
//!
//! Left to the implementation, and chosen here: of interrupts of equal priority the lowest number
//! is delivered first; a shared interrupt is deactivated by the vCPU that acknowledged it or through
//! GICD_ICACTIVER; a shared interrupt with several targets goes to the first of them that is
//! flushed and stays with it while that one is loaded; an SGI pending from several sources is
//! presented one source at a time, and not while active from another.

mod dist;
mod lr;

use crate::table::Table;
use alloc::boxed::Box;
use alloc::vec;

pub use lr::{Interface, Loaded, Lrs, Put};

/// The most vCPUs that a GICv2 can have.
pub const MAX_VCPUS: usize = 8;
/// The most shared interrupts: 32 to 1019.
pub const MAX_SPIS: usize = 988;
/// The most list registers that are used.
const MAX_LRS: usize = 16;

/// The vCPUs, a bit each, that have to be flushed before the guest goes on: those in the guest are
/// kicked out, those that wait are woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Kick(pub u8);

impl core::ops::BitOrAssign for Kick {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// 32 interrupts, a bit each in every word: one vCPU's private ones, or shared ones.
#[derive(Clone)]
struct Bank {
    group: u32,
    enabled: u32,
    /// Pending by an edge, a register or an SGI, and not in a list register.
    latch: u32,
    /// The input line; of a linked interrupt: the physical one is asserted and waits here.
    level: u32,
    edge: u32,
    /// Active; of a listed interrupt: as last seen.
    active: u32,
    /// Active because a register said so: no acknowledge, hence no priority to drop.
    forced: u32,
    listed: u32,
    /// What the list register took from `latch`.
    listed_latch: u32,
    /// Pending in the list register when last seen, and in neither `latch` nor `level`.
    listed_pending: u32,
    /// Listed interrupts to which something is to be done when their list register is in reach.
    deferred: u32,
    /// What that is: clear the latch, lower a linked line, activate, deactivate.
    unlatch: u32,
    lower: u32,
    activate: u32,
    deactivate: u32,
    linked: u32,
    /// Linked ones whose physical interrupt is active and that aren't listed as hardware interrupts.
    held: u32,
    /// Physical interrupts that are owed a deactivation.
    release: u32,
    /// Enabled, and their group too.
    open: u32,
    /// Pending as long as `level` is set.
    sensitive: u32,
    /// Open and pending, neither active nor listed: what a flush can list.
    ready: u32,
    priority: [u8; 32],
    /// The priority that each active interrupt was acknowledged with.
    running: [u8; 32],
    /// GICD_ITARGETSR; of shared interrupts only.
    targets: [u8; 32],
    /// Where an interrupt is listed: the list register, times 8, and of shared interrupts, listed or
    /// active, the vCPU.
    place: [u8; 32],
    physical: [u16; 32],
}

impl Bank {
    const EMPTY: Self = Self {
        group: 0,
        enabled: 0,
        latch: 0,
        level: 0,
        edge: 0,
        active: 0,
        forced: 0,
        listed: 0,
        listed_latch: 0,
        listed_pending: 0,
        deferred: 0,
        unlatch: 0,
        lower: 0,
        activate: 0,
        deactivate: 0,
        linked: 0,
        held: 0,
        release: 0,
        open: 0,
        sensitive: u32::MAX,
        ready: 0,
        priority: [0; 32],
        running: [0; 32],
        targets: [0; 32],
        place: [0; 32],
        physical: [0; 32],
    };

    /// ARM IHI 0048B, 4.3.7: a latch, or the line where it is level-sensitive.
    const fn pending(&self) -> u32 {
        self.latch | (self.level & self.sensitive)
    }

    /// Works out which interrupts are forwarded if they are pending.
    const fn reopen(&mut self, ctlr: u32) {
        let group0 = if ctlr & 1 != 0 { !self.group } else { 0 };
        let group1 = if ctlr & 2 != 0 { self.group } else { 0 };
        self.open = self.enabled & (group0 | group1);
    }

    /// Works out which lines count by their level. That of a linked interrupt is a latch, whatever
    /// the configuration.
    const fn resense(&mut self) {
        self.sensitive = !self.edge | self.linked;
    }
}

/// What belongs to one vCPU besides its private interrupts.
#[derive(Clone)]
struct Vcpu {
    /// What the list registers in `used` were last given.
    lr: [u32; MAX_LRS],
    used: u16,
    /// List registers whose interrupt was changed here.
    dirty: u16,
    /// List registers that are not in use but not empty.
    stale: u16,
    /// Shared interrupts that are active here and not listed.
    spi_active: u16,
    hcr: u32,
    vmcr: u32,
    apr: u32,
    /// Sources that each SGI is pending from, and not in a list register.
    sgi: [u8; 16],
    /// The source that each active SGI came from.
    sgi_active: [u8; 16],
}

impl Vcpu {
    const EMPTY: Self = Self {
        lr: [0; MAX_LRS],
        used: 0,
        dirty: 0,
        stale: 0,
        spi_active: 0,
        hcr: 0,
        vmcr: 0,
        apr: 0,
        sgi: [0; 16],
        sgi_active: [0; 16],
    };
}

/// A VM's interrupt controller.
pub struct Vgic {
    /// The private banks, one for each vCPU, then the shared ones.
    banks: Table<Box<[Bank]>>,
    vcpus: Table<Box<[Vcpu]>>,
    ctlr: u32,
    /// GICD_TYPER: no Security Extensions.
    typer: u32,
    /// Which shared banks have something ready: bit n for interrupts 32n to 32n + 31.
    summary: u32,
    loaded: u8,
    /// Which vCPUs have to be flushed.
    work: u8,
    /// Kicks for the next flush to return.
    owed: u8,
    /// Whether any bank may have something to release.
    releases: bool,
    /// Whether a vCPU has had more interrupts active than list registers.
    overflowed: bool,
}

impl Vgic {
    /// A controller as after reset, for `vcpus` vCPUs (1 to [`MAX_VCPUS`], else the nearest) and
    /// `spis` shared interrupts (rounded up to a multiple of 32, up to [`MAX_SPIS`]).
    #[must_use]
    pub fn new(vcpus: usize, spis: usize) -> Self {
        let vcpus = vcpus.clamp(1, MAX_VCPUS);
        let shared = spis.min(MAX_SPIS).div_ceil(32);
        let mut vgic = Self {
            banks: Table(vec![Bank::EMPTY; vcpus + shared].into_boxed_slice()),
            vcpus: Table(vec![Vcpu::EMPTY; vcpus].into_boxed_slice()),
            ctlr: 0,
            typer: (vcpus as u32 - 1) << 5 | shared as u32,
            summary: 0,
            loaded: 0,
            work: 0,
            owed: 0,
            releases: false,
            overflowed: false,
        };
        vgic.reset();
        vgic
    }

    /// Resets what the guest can see. Input lines and links stay as they are; linked interrupts
    /// that were taken over are released. No vCPU may be loaded.
    pub fn reset(&mut self) {
        let count = self.vcpus.len();
        for (k, bank) in self.banks.iter_mut().enumerate() {
            *bank = Bank {
                level: bank.level & !bank.linked,
                linked: bank.linked,
                physical: bank.physical,
                release: if k < count {
                    0
                } else {
                    bank.release | bank.held
                },
                ..Bank::EMPTY
            };
            if k < count {
                bank.enabled = 0xffff;
                bank.edge = 0xffff;
            } else if count == 1 {
                bank.targets = [1; 32];
            }
            bank.resense();
        }
        self.vcpus.fill(Vcpu::EMPTY);
        self.ctlr = 0;
        self.summary = 0;
        self.loaded = 0;
        self.work = 0;
        self.owed = 0;
        self.releases = true;
        self.overflowed = false;
    }

    /// Resets a vCPU's CPU interface, as when it is powered on. It must not be loaded. The
    /// distributor, private part included, keeps its state.
    pub fn reset_interface(&mut self, vcpu: usize) {
        self.vcpus[vcpu].vmcr = 0;
        self.vcpus[vcpu].apr = 0;
    }

    /// Makes the virtual interrupt `intid` (16 to 1019) stand for the physical one of number
    /// `physical`; a private one for that PPI of whichever CPU the vCPU is loaded on. To be called
    /// before the guest runs.
    pub fn link(&mut self, intid: u32, physical: u16) {
        let last = if intid < 32 { self.vcpus.len() } else { 1 };
        for vcpu in 0..last {
            if let Some(k) = self.line(vcpu, intid) {
                self.banks[k].linked |= bit(intid);
                self.banks[k].physical[intid as usize & 31] = physical;
                self.banks[k].resense();
            }
        }
    }

    /// The first vCPU that the shared interrupt `intid` is for, if one is.
    #[must_use]
    pub fn target(&self, intid: u32) -> Option<usize> {
        let bank = self.banks.get(self.bank_of(0, intid)?)?;
        let first = bank.targets[intid as usize & 31].trailing_zeros() as usize;
        (first < MAX_VCPUS).then_some(first)
    }

    /// Sets the input line of interrupt `intid` (16 to 1019), of `vcpu` where it is a private one.
    /// For a linked interrupt see the module's description.
    pub fn set_level(&mut self, vcpu: usize, intid: u32, level: bool) -> Kick {
        let Some(k) = self.line(vcpu, intid) else {
            return Kick(0);
        };
        let b = bit(intid);
        let bank = &mut self.banks[k];
        if bank.linked & b != 0 {
            if level {
                bank.level |= b;
                bank.held |= b;
            } else {
                bank.level &= !b;
                bank.lower |= b & bank.listed;
                bank.deferred |= b & bank.listed;
            }
        } else {
            if (bank.level & b != 0) == level {
                return Kick(0);
            }
            bank.level ^= b;
            if bank.edge & b != 0 {
                if !level {
                    return Kick(0);
                }
                bank.latch |= b;
            }
        }
        self.changed(k, b)
    }

    /// Whether the linked private interrupt `intid` of `vcpu`, which is loaded, has not been
    /// deactivated as far as is known: its line may have fallen since.
    #[inline]
    #[must_use]
    pub fn outstanding(&self, vcpu: usize, intid: u32) -> bool {
        let bank = &self.banks[vcpu];
        bank.linked & (bank.listed | bank.held) & bit(intid) != 0
    }

    /// Whether the linked shared interrupt `intid` has not been deactivated as far as is known.
    #[must_use]
    pub fn is_out(&self, intid: u32) -> bool {
        let k = self.bank_of(0, intid).unwrap_or(0);
        self.outstanding(k, intid)
    }

    /// An edge on interrupt `intid` (16 to 1019), of `vcpu` where it is a private one. A
    /// level-sensitive interrupt does not keep it.
    pub fn pulse(&mut self, vcpu: usize, intid: u32) -> Kick {
        let Some(k) = self.line(vcpu, intid) else {
            return Kick(0);
        };
        let b = bit(intid) & self.banks[k].edge;
        self.banks[k].latch |= b;
        self.changed(k, b)
    }

    /// Whether `vcpu` has to be flushed before it is entered.
    #[inline(always)]
    #[must_use]
    pub const fn needs_flush(&self, vcpu: usize) -> bool {
        self.work & (1 << vcpu) != 0
    }

    /// Whether an interrupt would be signalled to `vcpu`, which is put: what ends a WFI, whatever
    /// CPSR masks (ARM DDI 0406C, B1.8.14). The CPU interface's enables, mask and running priority
    /// count as they were, and are asked about the highest pending interrupt alone.
    #[inline(always)]
    #[must_use]
    pub fn pending_for(&self, vcpu: usize) -> bool {
        self.banks[vcpu].ready | self.summary != 0 && self.best_is_signalled(vcpu)
    }

    #[inline(never)]
    fn best_is_signalled(&self, vcpu: usize) -> bool {
        let best = self.best_ready(vcpu);
        best.is_some_and(|(k, n)| self.signalled(vcpu, k, n))
    }

    /// The linked private interrupts of `vcpu`, which is put, whose physical interrupt has to be
    /// active while it is loaded: bit n for interrupt n. They may change until it is.
    #[must_use]
    pub fn held(&self, vcpu: usize) -> u32 {
        self.banks[vcpu].held
    }

    /// The next physical interrupt to deactivate, if any; to be asked until there is none, on the
    /// CPU of `vcpu` after it was flushed or put.
    #[inline(always)]
    pub fn next_release(&mut self, vcpu: usize) -> Option<u16> {
        if !self.releases {
            return None;
        }
        self.find_release(vcpu)
    }

    #[inline(never)]
    fn find_release(&mut self, vcpu: usize) -> Option<u16> {
        let shared = self.vcpus.len()..self.banks.len();
        for k in core::iter::once(vcpu).chain(shared) {
            let bank = &mut self.banks[k];
            if bank.release != 0 {
                let n = bank.release.trailing_zeros() as usize;
                bank.release &= bank.release - 1;
                return Some(bank.physical[n]);
            }
        }
        self.releases = self.banks.iter().any(|bank| bank.release != 0);
        None
    }

    /// Has the next flush of `vcpu` return `kick`.
    fn owe(&mut self, vcpu: usize, kick: Kick) {
        self.owed |= kick.0;
        self.work |= 1 << vcpu;
    }

    /// The index of the bank that holds `intid` as `vcpu` sees it, `None` where there is none.
    #[inline]
    fn bank_of(&self, vcpu: usize, intid: u32) -> Option<usize> {
        let word = (intid >> 5) as usize;
        if word == 0 {
            return Some(vcpu);
        }
        let k = self.vcpus.len() + word - 1;
        (k < self.banks.len() && intid < 1020).then_some(k)
    }

    /// As [`bank_of`](Self::bank_of), for interrupts that have a line.
    fn line(&self, vcpu: usize, intid: u32) -> Option<usize> {
        if intid < 16 {
            return None;
        }
        self.bank_of(vcpu, intid)
    }

    /// The number of the first interrupt in bank `k`.
    #[inline]
    fn first(&self, k: usize) -> u32 {
        let count = self.vcpus.len();
        if k < count {
            0
        } else {
            (k - count + 1) as u32 * 32
        }
    }

    /// Where interrupt `n` of bank `k` is listed or active.
    #[inline]
    fn holder(&self, k: usize, n: usize) -> usize {
        if k < self.vcpus.len() {
            k
        } else {
            usize::from(self.banks[k].place[n] & 7)
        }
    }

    /// The interrupts of the shared bank `k` that are ready and target `vcpu`.
    fn targeting(&self, k: usize, vcpu: usize) -> u32 {
        let bank = &self.banks[k];
        let (mut left, mut found) = (bank.ready, 0);
        while left != 0 {
            let n = left.trailing_zeros();
            left &= left - 1;
            found |= u32::from(bank.targets[n as usize] >> vcpu & 1) << n;
        }
        found
    }

    /// Something about the interrupts `bits` of bank `k` has changed.
    #[inline(never)]
    fn changed(&mut self, k: usize, bits: u32) -> Kick {
        let listed = bits & self.banks[k].listed;
        if listed == 0 {
            return Kick(self.settle(k));
        }
        let kick = self.touch(k, listed);
        if listed == bits {
            return Kick(kick);
        }
        Kick(kick | self.settle(k))
    }

    /// Has the list registers that hold the interrupts `hit` looked at again.
    #[inline]
    fn touch(&mut self, k: usize, mut hit: u32) -> u8 {
        let mut kick = 0;
        while hit != 0 {
            let n = hit.trailing_zeros() as usize;
            hit &= hit - 1;
            let holder = self.holder(k, n);
            self.vcpus[holder].dirty |= 1 << (self.banks[k].place[n] >> 3);
            kick |= 1 << holder;
        }
        self.work |= kick;
        kick
    }

    /// Works out what of bank `k` is ready, and whom to tell of what newly is.
    #[inline]
    fn settle(&mut self, k: usize) -> u8 {
        let count = self.vcpus.len();
        let bank = &mut self.banks[k];
        let pending = bank.pending();
        // Who is to deactivate.
        let mut told = 0;
        if bank.held != 0 {
            let idle = bank.held & !(bank.listed | bank.active | pending);
            bank.held &= !idle;
            // A vCPU that isn't loaded has no physical PPI.
            if k >= count || self.loaded >> k & 1 != 0 {
                bank.release |= idle;
                if idle != 0 {
                    self.releases = true;
                    told = if k >= count {
                        self.loaded & self.loaded.wrapping_neg()
                    } else {
                        1 << k
                    };
                    self.work |= told;
                }
            }
        }
        let ready = pending & bank.open & !(bank.active | bank.listed);
        let fresh = ready & !bank.ready;
        bank.ready = ready;
        if k >= count {
            let word = 1 << (k - count + 1);
            if ready == 0 {
                self.summary &= !word;
            } else {
                self.summary |= word;
            }
            return told | if fresh == 0 { 0 } else { self.wake(k, fresh) };
        }
        let kick = u8::from(fresh != 0) << k;
        self.work |= kick;
        kick | told
    }

    /// Whom to tell that the interrupts `ready` of the shared bank `k` wait: one target of each
    /// that is loaded, or where none is, all targets.
    fn wake(&mut self, k: usize, mut ready: u32) -> u8 {
        let mut kick = 0;
        while ready != 0 {
            let n = ready.trailing_zeros() as usize;
            ready &= ready - 1;
            let targets = self.banks[k].targets[n];
            let loaded = targets & self.loaded;
            kick |= if loaded == 0 {
                targets
            } else {
                loaded & loaded.wrapping_neg()
            };
        }
        self.work |= kick;
        kick
    }

    /// Whether interrupt `n` of bank `k`, which is ready, passes the CPU interface of `vcpu`
    /// (ARM IHI 0048B, 3.3.2 and 5.3.7).
    fn signalled(&self, vcpu: usize, k: usize, n: usize) -> bool {
        let Vcpu { vmcr, apr, .. } = self.vcpus[vcpu];
        let group = self.banks[k].group >> n & 1;
        let priority = u32::from(self.banks[k].priority[n]);
        // The binary point leaves bits 7 to (point + 1) for preemption; group 1 has its own, one
        // higher in meaning, unless CBPR.
        let point = if group == 0 || vmcr & lr::VMCR_CBPR != 0 {
            vmcr >> 21 & 7
        } else {
            (vmcr >> 18 & 7).saturating_sub(1)
        };
        let running = apr.trailing_zeros() << 3;
        vmcr >> group & 1 != 0
            && priority < vmcr >> 27 << 3
            && priority & !((2 << point.max(2)) - 1) < running
    }
}

/// The bit of `intid` in its bank's words.
const fn bit(intid: u32) -> u32 {
    1 << (intid & 31)
}
