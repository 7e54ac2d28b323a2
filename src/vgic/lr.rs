//! List registers (ARM IHI 0048B, 5.3): what is put into them and what comes back.
//!
//! Taking an interrupt back folds all that its list register knows into the model, with what was
//! noted in the meantime; listing it again writes what is then true. So whatever changes while an
//! interrupt is listed comes down to taking and listing.
//!
//! The hypervisor is told of the end of an interrupt only where something follows from it. A list
//! register asks for it (EOI) while the line of a level-sensitive interrupt is high, or an SGI is
//! pending from another source. With more pending interrupts than list registers, the highest is
//! always listed, and a maintenance interrupt comes when none is left pending (NP). With more
//! active ones than list registers, those of the lowest priority are kept here, which end last, and
//! the hardware counts their ends (LRENP).

use super::{Bank, Kick, MAX_LRS, Vcpu, Vgic, bit};

/// The virtual interface control registers of one CPU (ARM IHI 0048B, 5.3).
///
/// Where no vCPU is loaded, its list registers are empty, and GICH_HCR has En alone: so [`Vgic::load`] wants
/// them, and [`Vgic::put`] leaves them.
pub trait Lrs {
    /// How many list registers there are, 1 to 64; of more than 16 the first 16 are used.
    fn count(&self) -> usize;
    /// Reads GICH_LR`n`.
    fn read(&self, n: usize) -> u32;
    /// Writes GICH_LR`n`.
    fn write(&mut self, n: usize, value: u32);
    /// Reads GICH_ELRSR0: a bit for each of the first 32 list registers that is empty.
    fn elrsr(&self) -> u32;
    /// Reads GICH_HCR.
    fn hcr(&self) -> u32;
    /// Writes GICH_HCR.
    fn set_hcr(&mut self, value: u32);
    /// Reads GICH_VMCR.
    fn vmcr(&self) -> u32;
    /// Writes GICH_VMCR.
    fn set_vmcr(&mut self, value: u32);
    /// Reads GICH_APR.
    fn apr(&self) -> u32;
    /// Writes GICH_APR.
    fn set_apr(&mut self, value: u32);
}

/// Fields of GICH_LR (5.3.8).
pub(super) const VIRTUAL_ID: u32 = 0x3ff;
const ID_SHIFT: u32 = 10;
const EOI: u32 = 1 << 19;
const PRIORITY_SHIFT: u32 = 20;
const PENDING: u32 = 1 << 28;
const ACTIVE: u32 = 1 << 29;
const GROUP_SHIFT: u32 = 30;
const HW: u32 = 1 << 31;

/// Bits of GICH_HCR (5.3.1).
const EN: u32 = 1 << 0;
const LRENPIE: u32 = 1 << 2;
const NPIE: u32 = 1 << 3;
const EOI_COUNT_SHIFT: u32 = 27;

/// GICH_VMCR.VMCBPR (5.3.3).
pub(super) const VMCR_CBPR: u32 = 1 << 4;

/// All that a CPU's virtual interface holds while its list registers are empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    vmcr: u32,
    apr: u32,
}

impl Interface {
    /// What that of the CPU of `lrs` holds.
    #[inline(always)]
    #[must_use]
    pub fn of(lrs: &impl Lrs) -> Self {
        let (vmcr, apr) = (lrs.vmcr(), lrs.apr());
        Self { vmcr, apr }
    }

    /// Makes that of the CPU of `lrs`, whose list registers are empty, hold this.
    #[inline(always)]
    pub fn load(self, lrs: &mut impl Lrs) {
        lrs.set_vmcr(self.vmcr);
        lrs.set_apr(self.apr);
    }
}

/// What is to be known of a vCPU that has been loaded.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Whom to kick.
    pub kick: Kick,
    /// Its linked private interrupts whose physical interrupt has to be active from now on: bit n for
    /// interrupt n.
    pub held: u32,
    /// What its interface holds, if nothing of it stands in a list register or waits for one. As long
    /// as it is neither flushed nor told of anything by a [`Kick`], it need not be put and loaded: it
    /// is enough to take its interface from its CPU and to give it back, where that is still what it
    /// was. Before it is off it has to be put, or [forgotten](Vgic::forget).
    pub quiet: Option<Interface>,
}

/// What is to be known of a vCPU that has been put.
#[derive(Clone, Copy, Debug)]
pub struct Put {
    /// Whom to kick.
    pub kick: Kick,
    /// Its linked private interrupts whose physical interrupt is active, and must not be any more: bit n for
    /// interrupt n.
    pub held: u32,
    /// Whether it may have something to wake for: [`pending_for`](Vgic::pending_for) says.
    pub ready: bool,
}

impl Vgic {
    /// `vcpu`, which was quiet when its interface was taken, is not loaded any more.
    pub fn forget(&mut self, vcpu: usize) {
        self.loaded &= !(1 << vcpu);
    }

    /// Loads `vcpu` on the CPU that `lrs` belongs to, which has an interface [as it should
    /// be](Lrs), and lists what it has.
    #[inline]
    pub fn load(&mut self, vcpu: usize, lrs: &mut impl Lrs) -> Loaded {
        self.loaded |= 1 << vcpu;
        self.work &= !(1 << vcpu);
        let elsewhere = self.summary | u32::from(self.owed);
        let private = &mut self.banks[vcpu];
        let state = &mut self.vcpus[vcpu];
        let interface = Interface {
            vmcr: state.vmcr,
            apr: state.apr,
        };
        interface.load(lrs);
        state.hcr = EN;
        let mut loaded = Loaded {
            kick: Kick(0),
            held: private.held,
            quiet: None,
        };
        let (ready, unlisted) = (private.ready, private.active | elsewhere);
        let one = ready & ready.wrapping_sub(1) == 0;
        if unlisted | u32::from(state.stale | state.spi_active) != 0 || !one {
            loaded.kick = self.flush(vcpu, lrs);
        } else if ready != 0 {
            private.list_alone(state, vcpu, 0, lrs);
        } else if loaded.held == 0 {
            loaded.quiet = Some(interface);
        }
        loaded
    }

    /// Takes everything back from `vcpu`, which is loaded, and leaves the list registers empty. The
    /// kicks are for other vCPUs that can now take what this one had.
    #[inline]
    pub fn put(&mut self, vcpu: usize, lrs: &mut impl Lrs) -> Put {
        let mut kick = 0;
        loop {
            let private = &mut self.banks[vcpu];
            let state = &mut self.vcpus[vcpu];
            if state.hcr != EN {
                kick |= self.sync(vcpu, lrs).0;
                self.vcpus[vcpu].hcr = EN;
                lrs.set_hcr(EN);
                continue;
            }
            let left = private.take_ended(state, state.used, lrs);
            if left != 0 {
                kick |= self.take_each(vcpu, left, lrs);
                continue;
            }
            if state.stale != 0 {
                state.clear_stale(lrs);
            }
            let Interface { vmcr, apr } = Interface::of(lrs);
            (state.vmcr, state.apr, state.hcr) = (vmcr, apr, 0);
            let (held, ready) = (private.held, private.ready | self.summary != 0);
            self.loaded &= !(1 << vcpu);
            if self.summary != 0 {
                kick |= self.pass_on();
            }
            let kick = Kick(kick & !(1 << vcpu));
            return Put { kick, held, ready };
        }
    }

    /// Whom to tell that shared interrupts wait.
    #[inline(never)]
    fn pass_on(&mut self) -> u8 {
        let (count, mut words, mut kick) = (self.vcpus.len(), self.summary, 0);
        while words != 0 {
            let k = count + words.trailing_zeros() as usize - 1;
            words &= words - 1;
            kick |= self.wake(k, self.banks[k].ready);
        }
        kick
    }

    /// Takes everything back from the list registers of `vcpu`, which is loaded; it is flushed
    /// before it goes on.
    pub fn sync(&mut self, vcpu: usize, lrs: &mut impl Lrs) -> Kick {
        let mut kick = 0;
        if self.vcpus[vcpu].hcr & LRENPIE != 0 {
            for _ in 0..lrs.hcr() >> EOI_COUNT_SHIFT {
                kick |= self.end_unlisted(vcpu);
            }
            lrs.set_hcr(self.vcpus[vcpu].hcr);
        }
        kick |= self.take(vcpu, self.vcpus[vcpu].used, lrs);
        let state = &self.vcpus[vcpu];
        if state.stale != 0 || state.hcr & (NPIE | LRENPIE) != 0 {
            self.work |= 1 << vcpu;
        }
        Kick(kick & !(1 << vcpu))
    }

    /// Brings the list registers of `vcpu`, which is loaded, up to date. The kicks are for other
    /// vCPUs.
    #[inline]
    pub fn flush(&mut self, vcpu: usize, lrs: &mut impl Lrs) -> Kick {
        let count = self.vcpus.len();
        let state = &mut self.vcpus[vcpu];
        // What mostly happens: an interrupt that has ended since and is pending anew, or whose handler has
        // quieted its device.
        if state.dirty != 0 && state.hcr == EN {
            let i = state.dirty.trailing_zeros() as usize % MAX_LRS;
            let intid = state.lr[i] & VIRTUAL_ID;
            let (word, n) = (intid as usize >> 5, intid as usize & 31);
            let k = if word == 0 { vcpu } else { count + word - 1 };
            let bank = &mut self.banks[k];
            let here = word == 0 || bank.targets[n] >> vcpu & 1 != 0;
            if here && bank.renew(state, i, intid, lrs) {
                state.dirty &= !(1 << i);
            }
        }
        let private = &self.banks[vcpu];
        let unlisted = private.ready | private.active & !private.listed | self.summary;
        let owed = u32::from(state.dirty | state.stale | state.spi_active) | (state.hcr ^ EN);
        self.work &= !(1 << vcpu);
        if unlisted | owed | u32::from(self.owed) == 0 {
            return Kick(0);
        }
        self.flush_rest(vcpu, lrs)
    }

    /// As [`set_level`](Self::set_level) with `true` for a linked private interrupt of `vcpu`, which
    /// is loaded on the CPU of `lrs`: what a timer's interrupt handler calls. Mostly there is nothing
    /// left to flush then.
    #[inline]
    pub fn raise(&mut self, vcpu: usize, intid: u32, lrs: &mut impl Lrs) -> Kick {
        let bank = &mut self.banks[vcpu];
        let state = &mut self.vcpus[vcpu];
        let b = bit(intid);
        if intid >= 32 || bank.linked & b == 0 {
            return self.set_level(vcpu, intid, true);
        }
        if bank.list_raised(state, vcpu, intid, lrs) {
            return Kick(0);
        }
        // Though it may be disabled: it is not quiet any more.
        self.work |= 1 << vcpu;
        self.changed(vcpu, b)
    }

    /// The same for a linked shared one: what the handler of a device's interrupt calls where `vcpu` runs.
    /// `None` where the first that it is for is another vCPU: nothing has been done then.
    pub fn raise_shared(&mut self, vcpu: usize, intid: u32, lrs: &mut impl Lrs) -> Option<Kick> {
        let k = self.bank_of(vcpu, intid)?;
        let (bank, state) = (self.banks.get_mut(k)?, self.vcpus.get_mut(vcpu)?);
        let target = u32::from(bank.targets[intid as usize & 31]).trailing_zeros();
        if target != vcpu as u32 {
            return None;
        }
        if bank.list_raised(state, vcpu, intid, lrs) {
            return Some(Kick(0));
        }
        Some(self.changed(k, bit(intid)))
    }

    /// Has SGI `id`, sent by `vcpu` to itself, listed at once where its list register is free again.
    #[inline]
    pub(super) fn renew_sgi(&mut self, vcpu: usize, id: u32, lrs: &mut impl Lrs) -> bool {
        let bank = &mut self.banks[vcpu];
        let state = &mut self.vcpus[vcpu];
        let b = bit(id);
        let i = usize::from(bank.place[id as usize & 31] >> 3) % MAX_LRS;
        // Anything that is not the usual case is for the flush.
        let usual = bank.listed & bank.open & !(bank.latch | bank.deferred) & b;
        if usual == 0 || state.hcr != EN || lrs.read(i) & (PENDING | ACTIVE | EOI) != 0 {
            return false;
        }
        bank.inactive(b);
        let lr = bank.compose(id, id as usize & 31) | PENDING | (vcpu as u32) << ID_SHIFT;
        bank.listed_pending |= b;
        state.lr[i] = lr;
        state.dirty &= !(1 << i);
        lrs.write(i, lr);
        true
    }

    #[inline(never)]
    fn flush_rest(&mut self, vcpu: usize, lrs: &mut impl Lrs) -> Kick {
        let private = &mut self.banks[vcpu];
        let state = &mut self.vcpus[vcpu];
        let unlisted = private.active & !private.listed | self.summary;
        let owed = u32::from(state.dirty | state.stale | state.spi_active) | (state.hcr ^ EN);
        let ready = private.ready;
        let i = (!state.used).trailing_zeros() as usize;
        // One alone, and a list register is free.
        if unlisted | owed | u32::from(self.owed) == 0
            && ready & ready.wrapping_sub(1) == 0
            && i < lrs.count().min(MAX_LRS)
        {
            private.list_alone(state, vcpu, i, lrs);
            return Kick(0);
        }
        let state = &self.vcpus[vcpu];
        let mut kick = 0;
        if state.hcr == EN {
            let mut dirty = state.dirty;
            while dirty != 0 {
                kick |= self.refresh(vcpu, dirty.trailing_zeros() as usize, lrs);
                dirty &= dirty - 1;
            }
        } else {
            kick = self.sync(vcpu, lrs).0;
        }
        kick |= self.list_waiting(vcpu, lrs) | core::mem::take(&mut self.owed);
        self.work &= !(1 << vcpu);
        Kick(kick & !(1 << vcpu))
    }

    /// Whether there may be something for `vcpu` that is not listed.
    fn waits(&self, vcpu: usize) -> bool {
        let private = &self.banks[vcpu];
        let unlisted = private.ready | private.active & !private.listed | self.summary;
        unlisted | u32::from(self.vcpus[vcpu].spi_active) != 0
    }

    /// Takes back what the list register `i`, in use, holds, and lists it there again if it is
    /// still for `vcpu`.
    fn refresh(&mut self, vcpu: usize, i: usize, lrs: &mut impl Lrs) -> u8 {
        let Some((k, n)) = self.take_one(vcpu, i, lrs) else {
            return 0;
        };
        let bank = &self.banks[k];
        let here = k < self.vcpus.len() || bank.targets[n] >> vcpu & 1 != 0;
        let again = bank.active | if here { bank.pending() & bank.open } else { 0 };
        if again >> n & 1 != 0 {
            self.list(vcpu, i as u32, (k, n), true, lrs);
            if self.banks[k].held == 0 {
                return 0;
            }
        }
        self.settle(k)
    }

    /// Lists all that `vcpu` has and that isn't listed, or as much as there are list registers, and
    /// empties those that aren't in use.
    fn list_waiting(&mut self, vcpu: usize, lrs: &mut impl Lrs) -> u8 {
        let all = usable(lrs);
        let mut hcr = EN;
        let mut kick = 0;
        while let Some(next) = self.best_active(vcpu, 0).or_else(|| self.best_ready(vcpu)) {
            let used = self.vcpus[vcpu].used;
            if used != all {
                self.list(vcpu, (all & !used).trailing_zeros(), next, true, lrs);
                if self.waits(vcpu) {
                    continue;
                }
                break;
            }
            let empty = lrs.elrsr() as u16 & used;
            if empty != 0 {
                kick |= self.take(vcpu, empty, lrs);
            } else {
                kick |= self.take(vcpu, used, lrs);
                hcr = self.fill(vcpu, lrs);
                break;
            }
        }
        let state = &mut self.vcpus[vcpu];
        if state.stale != 0 {
            state.clear_stale(lrs);
        }
        if state.hcr != hcr {
            state.hcr = hcr;
            lrs.set_hcr(hcr);
        }
        kick
    }

    /// Whether an interrupt is signalled to `vcpu`, which is loaded and out of the guest: what ends
    /// a WFI.
    pub fn pending_loaded(&mut self, vcpu: usize, lrs: &mut impl Lrs) -> (bool, Kick) {
        let state = &self.vcpus[vcpu];
        let quiet = state.hcr == EN && lrs.elrsr() as u16 & state.used == state.used;
        let owed = state.dirty | state.stale;
        if quiet && self.banks[vcpu].ready | self.summary | u32::from(owed) == 0 {
            return (false, Kick(0));
        }
        let kick = self.sync(vcpu, lrs);
        let state = &mut self.vcpus[vcpu];
        state.vmcr = lrs.vmcr();
        state.apr = lrs.apr();
        (self.pending_for(vcpu), kick)
    }

    /// Whether a write of `vcpu`, which is loaded, to GICV_DIR must be trapped and given to
    /// [`deactivate`](Self::deactivate): with several interrupts active outside of the list
    /// registers the hardware's count does not tell which one is meant. Constant from a flush to
    /// the next.
    #[inline(always)]
    #[must_use]
    pub fn traps_dir(&self, vcpu: usize) -> bool {
        self.overflowed && self.vcpus[vcpu].hcr & LRENPIE != 0 && self.unlisted_active(vcpu) > 1
    }

    /// How many interrupts are active at `vcpu` and not listed.
    #[inline(never)]
    fn unlisted_active(&self, vcpu: usize) -> u32 {
        let private = &self.banks[vcpu];
        let unlisted = (private.active & !private.listed).count_ones();
        unlisted + u32::from(self.vcpus[vcpu].spi_active)
    }

    /// A trapped write of `vcpu`, which is loaded, to GICV_DIR (4.4.15).
    pub fn deactivate(&mut self, vcpu: usize, value: u32, lrs: &mut impl Lrs) -> Kick {
        let mut kick = self.sync(vcpu, lrs);
        let intid = value & VIRTUAL_ID;
        if let Some(k) = self.bank_of(vcpu, intid) {
            let n = intid as usize & 31;
            let source = self.vcpus[vcpu].sgi_active.get(intid as usize);
            let same = source.is_none_or(|&source| u32::from(source) == value >> ID_SHIFT & 7);
            if same && self.banks[k].active & bit(intid) != 0 && self.holder(k, n) == vcpu {
                self.end(k, n);
                kick |= Kick(self.settle(k) & !(1 << vcpu));
            }
        }
        kick
    }

    /// Interrupt `n` of bank `k`, active and not listed, ends.
    pub(super) fn end(&mut self, k: usize, n: usize) {
        if k >= self.vcpus.len() {
            let holder = self.holder(k, n);
            self.vcpus[holder].spi_active -= 1;
        }
        let bank = &mut self.banks[k];
        bank.inactive(1 << n);
    }

    /// The hardware counted the end of an interrupt that wasn't listed: ends come in the order of
    /// priority.
    fn end_unlisted(&mut self, vcpu: usize) -> u8 {
        let Some((k, n)) = self.best_active(vcpu, u32::MAX) else {
            return 0;
        };
        self.end(k, n);
        self.settle(k)
    }

    /// Fills the list registers, all empty, where there may be too few: the highest pending
    /// interrupt, then active ones, then pending ones. Says what HCR has to be.
    fn fill(&mut self, vcpu: usize, lrs: &mut impl Lrs) -> u32 {
        let mut free = usable(lrs);
        let mut next = self.best_ready(vcpu).or_else(|| self.best_active(vcpu, 0));
        while free != 0
            && let Some(interrupt) = next
        {
            self.list(vcpu, free.trailing_zeros(), interrupt, false, lrs);
            free &= free - 1;
            next = self.best_active(vcpu, 0).or_else(|| self.best_ready(vcpu));
        }
        let mut hcr = EN;
        if self.best_ready(vcpu).is_some() {
            hcr |= NPIE;
        }
        if self.best_active(vcpu, 0).is_some() {
            hcr |= LRENPIE;
            self.overflowed = true;
        }
        hcr
    }

    /// The interrupt of the highest priority that `vcpu` could be given: its bank and number there.
    #[inline]
    pub(super) fn best_ready(&self, vcpu: usize) -> Option<(usize, usize)> {
        let mut best = Best::NONE;
        let private = &self.banks[vcpu];
        best.among(vcpu, private.ready, &private.priority);
        let mut words = self.summary;
        while words != 0 {
            let k = self.vcpus.len() + words.trailing_zeros() as usize - 1;
            words &= words - 1;
            best.among(k, self.targeting(k, vcpu), &self.banks[k].priority);
        }
        best.get()
    }

    /// The interrupt of the highest priority that is active at `vcpu` and not listed; those made
    /// active by a register are passed over where `forced` is all ones.
    #[inline]
    fn best_active(&self, vcpu: usize, forced: u32) -> Option<(usize, usize)> {
        let private = &self.banks[vcpu];
        let active = private.active & !private.listed & !(private.forced & forced);
        if active == 0 && self.vcpus[vcpu].spi_active == 0 {
            return None;
        }
        let mut best = Best::NONE;
        best.among(vcpu, active, &private.running);
        for (k, bank) in self.banks.iter().enumerate().skip(self.vcpus.len()) {
            let mut left = bank.active & !bank.listed & !(bank.forced & forced);
            let mut own = 0;
            while left != 0 {
                let n = left.trailing_zeros();
                left &= left - 1;
                own |= u32::from(usize::from(bank.place[n as usize] & 7) == vcpu) << n;
            }
            best.among(k, own, &bank.running);
        }
        best.get()
    }

    /// Writes interrupt `n` of bank `k` into the list register `i`, which is not in use. Where it
    /// is active and pending, `both` says whether the hardware is told so, or its end is waited for.
    #[inline]
    fn list(
        &mut self,
        vcpu: usize,
        i: u32,
        (k, n): (usize, usize),
        both: bool,
        lrs: &mut impl Lrs,
    ) {
        let intid = self.first(k) + n as u32;
        let b = 1 << n;
        let n = n & 31;
        let i = i as usize % MAX_LRS;
        let shared = k >= self.vcpus.len();
        let bank = &mut self.banks[k];
        let state = &mut self.vcpus[vcpu];
        let active = bank.active & b != 0;
        let pending = bank.pending() & bank.open & b != 0;
        let here = !shared || bank.targets[n] >> vcpu & 1 != 0;
        let wait = active && pending && !(both && here);
        let pending = pending && !wait;
        let lr = if active {
            bank.compose_active(state, intid, n, pending, wait)
        } else {
            bank.compose_pending(state, intid, n)
        };
        bank.listed |= b;
        bank.ready &= !b;
        bank.place[n] = (i << 3 | vcpu) as u8;
        if shared {
            if bank.ready == 0 {
                self.summary &= !(1 << (intid >> 5));
            }
            state.spi_active -= u16::from(active);
        }
        state.lr[i] = lr;
        state.used |= 1 << i;
        state.stale &= !(1 << i);
        lrs.write(i, lr);
    }

    /// Takes back what stands in the list registers `which`, all of them in use.
    #[inline(never)]
    fn take(&mut self, vcpu: usize, which: u16, lrs: &mut impl Lrs) -> u8 {
        let left = self.banks[vcpu].take_ended(&mut self.vcpus[vcpu], which, lrs);
        self.take_each(vcpu, left, lrs)
    }

    #[inline(never)]
    fn take_each(&mut self, vcpu: usize, mut which: u16, lrs: &mut impl Lrs) -> u8 {
        let mut kick = 0;
        while which != 0 {
            if let Some((k, _)) = self.take_one(vcpu, which.trailing_zeros() as usize, lrs) {
                kick |= self.settle(k);
            }
            which &= which - 1;
        }
        kick
    }

    /// Takes back what stands in the list register `i`, which is in use: an interrupt, by its bank
    /// and number there, that is no longer settled.
    #[inline]
    fn take_one(&mut self, vcpu: usize, i: usize, lrs: &mut impl Lrs) -> Option<(usize, usize)> {
        let i = i % MAX_LRS;
        let lr = lrs.read(i);
        let state = &mut self.vcpus[vcpu];
        let listed = state.lr[i];
        state.used &= !(1 << i);
        state.dirty &= !(1 << i);
        // An invalid one with EOI set keeps asking for maintenance.
        if lr & (PENDING | ACTIVE | EOI) != 0 {
            state.stale |= 1 << i;
        }
        let intid = listed & VIRTUAL_ID;
        let k = self.bank_of(vcpu, intid)?;
        let b = bit(intid);
        let bank = &mut self.banks[k];
        if lr & (PENDING | ACTIVE) | bank.deferred & b == 0 {
            bank.inactive(b);
        } else {
            self.fold(vcpu, k, listed, lr);
        }
        let bank = &mut self.banks[k];
        bank.unlist(b);
        Some((k, intid as usize & 31))
    }

    /// Folds the list register value `lr`, which was `listed` when written, into bank `k`.
    fn fold(&mut self, vcpu: usize, k: usize, listed: u32, lr: u32) {
        let intid = listed & VIRTUAL_ID;
        let b = bit(intid);
        let shared = k >= self.vcpus.len();
        let state = &mut self.vcpus[vcpu];
        let bank = &mut self.banks[k];
        if intid < 16 {
            state.take_sgi(intid as usize, lr);
            if state.sgi[intid as usize & 15] != 0 {
                bank.latch |= b;
            }
        } else {
            if lr & PENDING != 0 {
                bank.latch |= bank.listed_latch & b & !bank.unlatch;
            }
            if lr & HW != 0 && lr & (PENDING | ACTIVE) != 0 {
                bank.held |= b;
                if lr & PENDING != 0 {
                    bank.level |= b & !bank.lower;
                }
            }
        }
        bank.acknowledged(listed, lr);
        let active = lr & ACTIVE != 0 && bank.deactivate & b == 0;
        if active || bank.activate & b != 0 {
            if !active {
                bank.forced |= b;
                if let Some(source) = state.sgi_active.get_mut(intid as usize) {
                    *source = 0;
                }
            }
            bank.active |= b;
            state.spi_active += u16::from(shared);
        } else {
            bank.inactive(b);
        }
        bank.deferred &= !b;
        bank.unlatch &= !b;
        bank.lower &= !b;
        bank.activate &= !b;
        bank.deactivate &= !b;
    }
}

impl Vcpu {
    fn take_sgi(&mut self, id: usize, lr: u32) {
        let id = id & 15;
        let source = (lr >> ID_SHIFT & 7) as u8;
        if lr & PENDING != 0 {
            self.sgi[id] |= 1 << source;
        }
        if lr & ACTIVE != 0 {
            self.sgi_active[id] = source;
        }
    }

    /// Empties the list registers that are not in use.
    fn clear_stale(&mut self, lrs: &mut impl Lrs) {
        let mut stale = core::mem::take(&mut self.stale);
        while stale != 0 {
            lrs.write(stale.trailing_zeros() as usize, 0);
            stale &= stale - 1;
        }
    }
}

impl Bank {
    /// The interrupts `bits` are not active.
    #[inline(always)]
    fn inactive(&mut self, bits: u32) {
        self.active &= !bits;
        self.forced &= !bits;
    }

    /// What the list registers of the interrupts `bits` took with them is gone.
    #[inline(always)]
    fn spend(&mut self, bits: u32) {
        self.listed_latch &= !bits;
        self.listed_pending &= !bits;
    }

    /// The interrupts `bits` stand in no list register any more.
    #[inline(always)]
    fn unlist(&mut self, bits: u32) {
        self.listed &= !bits;
        self.spend(bits);
    }

    /// The fields of a list register that are the same whatever the state.
    #[inline]
    fn compose(&self, intid: u32, n: usize) -> u32 {
        intid | u32::from(self.priority[n]) << PRIORITY_SHIFT | (self.group >> n & 1) << GROUP_SHIFT
    }

    /// Notes, where a list register written as `listed` is now `lr`, whether the guest has
    /// acknowledged its interrupt, and with what priority.
    #[inline]
    fn acknowledged(&mut self, listed: u32, lr: u32) {
        if listed & !lr & PENDING != 0 {
            let n = lr & 31;
            self.running[n as usize] = (lr >> (PRIORITY_SHIFT + 3) << 3) as u8;
            self.forced &= !(1 << n);
        }
    }

    /// Brings list register `i`, which holds interrupt `intid`, up to date where that is simple: the
    /// interrupt has ended and is pending anew, or is active and no longer pending.
    #[inline(always)]
    fn renew(&mut self, state: &mut Vcpu, i: usize, intid: u32, lrs: &mut impl Lrs) -> bool {
        let b = bit(intid);
        let n = intid as usize & 31;
        if self.deferred & b != 0 {
            return false;
        }
        let pending = self.pending() & self.open & b != 0;
        let old = lrs.read(i);
        let lr = match old & (PENDING | ACTIVE | EOI) {
            0 if pending => {
                self.inactive(b);
                self.spend(b);
                self.compose_pending(state, intid, n)
            }
            now if now & !EOI == ACTIVE && !pending && old & HW == 0 && intid >= 16 => {
                self.acknowledged(state.lr[i], old);
                self.active |= b;
                self.spend(b);
                old & !EOI
            }
            _ => return false,
        };
        state.lr[i] = lr;
        lrs.write(i, lr);
        true
    }

    /// Takes back what has simply ended of what stands in the list registers `which` of `state`: most of it,
    /// and all at once. The others.
    #[inline(always)]
    fn take_ended(&mut self, state: &mut Vcpu, which: u16, lrs: &impl Lrs) -> u16 {
        let again = self.pending() | self.held | self.deferred;
        let (mut left, mut others, mut ended) = (which, which, 0);
        while left != 0 {
            let i = left.trailing_zeros() as usize % MAX_LRS;
            left &= left - 1;
            let intid = state.lr[i] & VIRTUAL_ID;
            let simple = intid < 32 && again & bit(intid) == 0;
            if simple && lrs.read(i) & (PENDING | ACTIVE | EOI) == 0 {
                ended |= bit(intid);
                others &= !(1 << i);
            }
        }
        if ended != 0 {
            let taken = which & !others;
            state.used &= !taken;
            state.dirty &= !taken;
            self.inactive(ended);
            self.unlist(ended);
        }
        others
    }

    /// Lists the only private interrupt of `vcpu` that is ready in list register `i`, which is free.
    #[inline(always)]
    fn list_alone(&mut self, state: &mut Vcpu, vcpu: usize, i: usize, lrs: &mut impl Lrs) {
        let intid = self.ready.trailing_zeros();
        self.ready = 0;
        self.list_new(state, vcpu, i, intid, lrs);
    }

    /// Lists interrupt `intid`, which is pending, open and not active, in list register `i` of `vcpu`, which is
    /// free.
    #[inline(always)]
    fn list_new(
        &mut self,
        state: &mut Vcpu,
        vcpu: usize,
        i: usize,
        intid: u32,
        lrs: &mut impl Lrs,
    ) {
        let (n, i) = (intid as usize & 31, i % MAX_LRS);
        self.listed |= bit(intid);
        self.place[n] = (i << 3 | vcpu) as u8;
        let lr = self.compose_pending(state, intid, n);
        state.lr[i] = lr;
        state.used |= 1 << i;
        lrs.write(i, lr);
    }

    /// The physical interrupt of the linked interrupt `intid` has come to `vcpu`, or to the one that has this
    /// bank: lists it at once, where that is simple.
    #[inline(always)]
    fn list_raised(
        &mut self,
        state: &mut Vcpu,
        vcpu: usize,
        intid: u32,
        lrs: &mut impl Lrs,
    ) -> bool {
        let (b, n) = (bit(intid), intid as usize & 31);
        self.level |= b;
        self.held |= b;
        if state.hcr != EN {
            return false;
        }
        if self.listed & b != 0 {
            let place = usize::from(self.place[n]);
            let i = (place >> 3) % MAX_LRS;
            return place & 7 == vcpu && self.renew(state, i, intid, lrs);
        }
        let free = (!(state.used | state.stale)).trailing_zeros() as usize;
        let fits = free < lrs.count().min(MAX_LRS);
        let simple = fits && self.open & !(self.active | self.ready) & b != 0;
        if simple {
            self.list_new(state, vcpu, free, intid, lrs);
        }
        simple
    }

    /// The value of a list register for interrupt `intid`, number `n` here, which is pending; it
    /// takes what makes it so with it.
    #[inline(always)]
    fn compose_pending(&mut self, state: &mut Vcpu, intid: u32, n: usize) -> u32 {
        let b = 1 << n;
        let mut lr = self.compose(intid, n) | PENDING;
        if intid < 16 {
            let sources = &mut state.sgi[n & 15];
            lr |= (sources.trailing_zeros() & 7) << ID_SHIFT;
            *sources &= sources.wrapping_sub(1);
            if *sources == 0 {
                self.latch &= !b;
            } else {
                lr |= EOI;
            }
            self.listed_pending |= b;
            return lr;
        }
        lr |= self.list_held(n);
        self.listed_latch |= self.latch & b;
        self.listed_pending |= (self.latch | lr >> 31 << n) & b;
        self.latch &= !b;
        if self.level & !self.edge & b != 0 {
            lr |= EOI;
        }
        lr
    }

    /// As [`compose_pending`](Self::compose_pending), active, and `pending` too or not. `wait`: it is
    /// pending, but that is for when it has ended.
    fn compose_active(
        &mut self,
        state: &mut Vcpu,
        intid: u32,
        n: usize,
        pending: bool,
        wait: bool,
    ) -> u32 {
        let b = 1 << n;
        let mut lr = self.compose(intid, n) | ACTIVE;
        if wait {
            lr |= EOI;
        }
        if intid < 16 {
            return lr | self.list_active_sgi(state, n, pending);
        }
        if self.held & b != 0 {
            // The hardware keeps no linked interrupt that is both active and pending.
            if !pending && !wait {
                return lr | self.list_held(n);
            }
            lr |= EOI;
        }
        if pending {
            lr |= PENDING;
            self.listed_latch |= self.latch & b;
            self.listed_pending |= self.latch & b;
            self.latch &= !b;
            if self.level & !self.edge & b != 0 {
                lr |= EOI;
            }
        }
        lr
    }

    /// Of an SGI that is active: it can be pending from the same source only, and its end is waited
    /// for where there are others.
    fn list_active_sgi(&mut self, state: &mut Vcpu, n: usize, pending: bool) -> u32 {
        let source = u32::from(state.sgi_active[n & 15]) & 7;
        let sources = &mut state.sgi[n & 15];
        let mut lr = source << ID_SHIFT;
        if pending {
            if *sources >> source & 1 != 0 {
                *sources &= !(1 << source);
                self.listed_pending |= 1 << n;
                lr |= PENDING;
            }
            if *sources == 0 {
                self.latch &= !(1 << n);
            } else {
                lr |= EOI;
            }
        }
        lr
    }

    /// Of a linked interrupt whose physical one waits: the hardware shall deactivate that.
    #[inline]
    fn list_held(&mut self, n: usize) -> u32 {
        let b = 1 << n;
        if self.held & b == 0 {
            return 0;
        }
        self.held &= !b;
        self.level &= !b;
        HW | u32::from(self.physical[n]) << ID_SHIFT
    }
}

/// The list registers that are used, a bit each.
fn usable(lrs: &impl Lrs) -> u16 {
    u16::MAX >> (MAX_LRS - lrs.count().clamp(1, MAX_LRS))
}

/// A search for the interrupt of the highest priority, the lowest number first.
struct Best {
    priority: u32,
    k: usize,
    n: usize,
}

impl Best {
    const NONE: Self = Self {
        priority: 256,
        k: 0,
        n: 0,
    };

    #[inline]
    fn among(&mut self, k: usize, mut which: u32, priority: &[u8; 32]) {
        while which != 0 {
            let n = which.trailing_zeros() as usize;
            which &= which - 1;
            let candidate = u32::from(priority[n]);
            if candidate < self.priority {
                *self = Self {
                    priority: candidate,
                    k,
                    n,
                };
            }
        }
    }

    fn get(&self) -> Option<(usize, usize)> {
        (self.priority < 256).then_some((self.k, self.n))
    }
}
