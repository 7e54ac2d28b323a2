//! The distributor's registers (ARM IHI 0048B, 4.3).
//!
//! The manual grants byte access to IPRIORITYR, ITARGETSR, CPENDSGIR and SPENDSGIR, and leaves
//! bytes and halfwords elsewhere to the implementation (4.1.4): here every register is read in
//! parts as the containing word, and written by byte lanes, lanes that are not written having no
//! effect. SGIR alone takes words only, as QEMU's does. What is reserved or not implemented reads
//! as zero and ignores writes.

use super::{Kick, Lrs, Vgic, bit};

/// Cortex-A15's distributor: ARM, product and revision 0.
const IIDR: u32 = 0x0000_043b;

/// PeriphID4–7, PeriphID0–3 and CompID0–3: a GICv2 by ARM, the values QEMU shows.
const ID: [u8; 12] = [
    0x04, 0x00, 0x00, 0x00, 0x90, 0xb4, 0x2b, 0x00, 0x0d, 0xf0, 0x05, 0xb1,
];

/// GICD_SGIR.
const SGIR: u32 = 0xf00;

/// The SGIs in a bank's words.
const SGIS: u32 = 0xffff;

/// Bits of a priority that are kept.
const PRIORITY: u32 = 0xf8;

impl Vgic {
    /// What `vcpu`, which is loaded on the CPU of `lrs`, reads at `offset` (below 0x1000) in `width`
    /// bytes (1, 2 or 4). Pending and active state on other CPUs is as at the last sync there.
    #[inline]
    #[must_use]
    pub fn read(&mut self, vcpu: usize, offset: u32, width: u32, lrs: &mut impl Lrs) -> u32 {
        if is_state(offset) && self.holders(vcpu, offset) >> vcpu & 1 != 0 {
            let kick = self.sync(vcpu, lrs);
            self.owe(vcpu, kick);
        }
        self.peek(vcpu, offset, width)
    }

    /// The same without looking into list registers: enough unless [`is_live`](Self::is_live).
    #[must_use]
    pub fn peek(&self, vcpu: usize, offset: u32, width: u32) -> u32 {
        let at = offset & 0xffc;
        let word = match at {
            0..0x80 => self.read_identification(at),
            0x80..0x400 => self.read_bits(vcpu, at),
            _ => self.read_word(vcpu, at),
        };
        if width == 4 {
            return word;
        }
        word >> (8 * (offset & 3)) & lanes(width)
    }

    /// Whether the register at `offset` may have to do with list registers: those that show pending or active
    /// state, or send SGIs.
    #[inline(always)]
    #[must_use]
    pub const fn is_live(offset: u32) -> bool {
        matches!(offset, 0x200..0x400 | SGIR..)
    }

    /// Whether a write of `width` bytes at `offset` is for [`send`](Self::send).
    #[inline(always)]
    #[must_use]
    pub const fn sends(offset: u32, width: u32) -> bool {
        offset == SGIR && width == 4
    }

    /// The other vCPUs, a bit each, whose list registers hold state that a read at `offset` by
    /// `vcpu` shows.
    #[inline]
    #[must_use]
    pub fn stale(&self, vcpu: usize, offset: u32) -> u8 {
        if is_state(offset) {
            self.holders(vcpu, offset) & !(1 << vcpu)
        } else {
            0
        }
    }

    /// Writes the low `width` bytes (1, 2 or 4) of `value` at `offset` (below 0x1000) for `vcpu`,
    /// which is loaded on the CPU of `lrs`.
    pub fn write(
        &mut self,
        vcpu: usize,
        offset: u32,
        width: u32,
        value: u32,
        lrs: &mut impl Lrs,
    ) -> Kick {
        if Self::sends(offset, width) {
            return self.send(vcpu, value, lrs);
        }
        let mut kick = Kick(0);
        if is_state(offset) && self.holders(vcpu, offset) >> vcpu & 1 != 0 {
            kick = self.sync(vcpu, lrs);
        }
        kick |= self.poke(vcpu, offset, width, value);
        kick
    }

    /// The same without looking into list registers: enough unless [`is_live`](Self::is_live).
    pub fn poke(&mut self, vcpu: usize, offset: u32, width: u32, value: u32) -> Kick {
        let (mut mask, mut value) = (u32::MAX, value);
        if width != 4 {
            let shift = 8 * (offset & 3);
            mask = lanes(width) << shift;
            value = value << shift & mask;
        }
        let at = offset & 0xffc;
        match at >> 7 {
            2 => self.enable(vcpu, at, value),
            3 => self.disable(vcpu, at, value),
            _ => self.write_word(vcpu, at, mask, value),
        }
    }

    #[inline(never)]
    fn write_word(&mut self, vcpu: usize, offset: u32, mask: u32, value: u32) -> Kick {
        match offset >> 7 {
            0 if offset == 0 => self.set_ctlr(self.ctlr & !mask | value),
            1 => self.set_group(vcpu, offset, mask, value),
            4 => self.set_pending(vcpu, offset, value),
            5 => self.clear_pending(vcpu, offset, value),
            6 => self.set_active(vcpu, offset, value),
            7 => self.clear_active(vcpu, offset, value),
            8..=15 => self.set_priorities(vcpu, offset, mask, value),
            16..=23 => self.set_targets(offset, mask, value),
            24 | 25 => self.set_config(vcpu, offset, mask, value),
            30 if (0xf10..0xf20).contains(&offset) => self.clear_sgis(vcpu, offset, value),
            30 if (0xf20..0xf30).contains(&offset) => self.set_sgis(vcpu, offset, value),
            _ => Kick(0),
        }
    }

    /// From 0x400 on.
    #[inline(never)]
    fn read_word(&self, vcpu: usize, offset: u32) -> u32 {
        match offset >> 7 {
            8..=15 => self
                .bank_of(vcpu, offset & 0x3fc)
                .map_or(0, |k| four(&self.banks[k].priority, offset)),
            16..=23 => self.read_targets(vcpu, offset),
            24 | 25 => self.read_config(vcpu, offset),
            30 if (0xf10..0xf30).contains(&offset) => four(&self.vcpus[vcpu].sgi, offset & 0xf),
            31 if offset >= 0xfd0 => u32::from(ID[(offset - 0xfd0) as usize / 4 % ID.len()]),
            _ => 0,
        }
    }

    /// The registers below 0x80.
    #[inline(always)]
    fn read_identification(&self, offset: u32) -> u32 {
        match offset {
            0 => self.ctlr,
            4 => self.typer,
            8 => IIDR,
            _ => 0,
        }
    }

    /// The registers with one bit for each interrupt.
    fn read_bits(&self, vcpu: usize, offset: u32) -> u32 {
        let Some(k) = self.bank_of(vcpu, (offset & 0x7c) << 3) else {
            return 0;
        };
        let bank = &self.banks[k];
        match offset >> 7 {
            1 => bank.group,
            2 | 3 => bank.enabled,
            4 | 5 => bank.pending() | bank.listed_pending,
            _ => bank.active,
        }
    }

    /// Private interrupts target their own CPU; with one CPU, ITARGETSR does not exist (4.3.12).
    fn read_targets(&self, vcpu: usize, offset: u32) -> u32 {
        let first = offset & 0x3fc;
        match self.bank_of(vcpu, first) {
            Some(_) if self.vcpus.len() == 1 => 0,
            Some(_) if first < 32 => 0x0101_0101 << vcpu,
            Some(k) => four(&self.banks[k].targets, offset),
            None => 0,
        }
    }

    fn read_config(&self, vcpu: usize, offset: u32) -> u32 {
        let first = (offset & 0xfc) << 2;
        self.bank_of(vcpu, first).map_or(0, |k| {
            let edge = self.banks[k].edge >> (first & 16);
            (0..16).fold(0, |value, n| value | (edge >> n & 1) << (2 * n + 1))
        })
    }

    /// Where interrupts whose state is shown at `offset` are listed, or active without a list
    /// register.
    fn holders(&self, vcpu: usize, offset: u32) -> u8 {
        let first = if offset < 0x400 {
            (offset & 0x7c) << 3
        } else {
            0
        };
        let Some(k) = self.bank_of(vcpu, first) else {
            return 0;
        };
        let mut held = self.banks[k].listed | self.banks[k].active;
        let mut holders = 0;
        while held != 0 {
            let n = held.trailing_zeros() as usize;
            held &= held - 1;
            holders |= 1 << self.holder(k, n);
        }
        holders & self.loaded
    }

    fn set_ctlr(&mut self, value: u32) -> Kick {
        let before = core::mem::replace(&mut self.ctlr, value & 3);
        let mut kick = Kick(0);
        if before != self.ctlr {
            for k in 0..self.banks.len() {
                self.banks[k].reopen(value);
                kick |= self.changed(k, u32::MAX);
            }
        }
        kick
    }

    fn set_group(&mut self, vcpu: usize, offset: u32, mask: u32, value: u32) -> Kick {
        let Some((k, mask)) = self.bits(vcpu, offset, mask) else {
            return Kick(0);
        };
        let bank = &mut self.banks[k];
        let changed = (bank.group ^ value) & mask;
        bank.group ^= changed;
        bank.reopen(self.ctlr);
        self.reordered(k, changed)
    }

    #[inline(always)]
    fn enable(&mut self, vcpu: usize, offset: u32, value: u32) -> Kick {
        let Some((k, bits)) = self.bits(vcpu, offset, value) else {
            return Kick(0);
        };
        self.toggle(k, bits & !self.banks[k].enabled)
    }

    #[inline(always)]
    fn disable(&mut self, vcpu: usize, offset: u32, value: u32) -> Kick {
        let Some((k, bits)) = self.lines(vcpu, offset, value) else {
            return Kick(0);
        };
        self.toggle(k, bits & self.banks[k].enabled)
    }

    #[inline(always)]
    fn toggle(&mut self, k: usize, bits: u32) -> Kick {
        if bits == 0 {
            return Kick(0);
        }
        self.toggle_some(k, bits)
    }

    #[inline(never)]
    fn toggle_some(&mut self, k: usize, bits: u32) -> Kick {
        let bank = &mut self.banks[k];
        bank.enabled ^= bits;
        bank.reopen(self.ctlr);
        self.changed(k, bits)
    }

    fn set_pending(&mut self, vcpu: usize, offset: u32, value: u32) -> Kick {
        let Some((k, bits)) = self.lines(vcpu, offset, value) else {
            return Kick(0);
        };
        self.banks[k].latch |= bits;
        self.changed(k, bits)
    }

    /// Clears latches; an asserted level stays pending.
    fn clear_pending(&mut self, vcpu: usize, offset: u32, value: u32) -> Kick {
        let Some((k, bits)) = self.lines(vcpu, offset, value) else {
            return Kick(0);
        };
        let bank = &mut self.banks[k];
        let latched = bits & bank.linked & bank.edge;
        bank.latch &= !bits;
        bank.level &= !latched;
        bank.unlatch |= bits & bank.listed;
        bank.lower |= latched & bank.listed;
        bank.deferred |= bits & bank.listed;
        self.changed(k, bits)
    }

    fn set_active(&mut self, vcpu: usize, offset: u32, value: u32) -> Kick {
        let Some((k, bits)) = self.bits(vcpu, offset, value) else {
            return Kick(0);
        };
        let shared = k >= self.vcpus.len();
        let bank = &mut self.banks[k];
        bank.activate |= bits & bank.listed;
        bank.deferred |= bits & bank.listed;
        bank.deactivate &= !bits;
        let fresh = bits & !(bank.listed | bank.active);
        bank.active |= fresh;
        bank.forced |= fresh;
        let mut left = fresh;
        while left != 0 {
            let n = left.trailing_zeros() as usize;
            left &= left - 1;
            if shared {
                self.banks[k].place[n] = vcpu as u8;
                self.vcpus[vcpu].spi_active += 1;
            } else if let Some(source) = self.vcpus[vcpu].sgi_active.get_mut(n) {
                *source = 0;
            }
        }
        let mut kick = self.changed(k, bits);
        if fresh != 0 {
            self.work |= 1 << vcpu;
            kick.0 |= 1 << vcpu;
        }
        kick
    }

    fn clear_active(&mut self, vcpu: usize, offset: u32, value: u32) -> Kick {
        let Some((k, bits)) = self.bits(vcpu, offset, value) else {
            return Kick(0);
        };
        let bank = &mut self.banks[k];
        bank.deactivate |= bits & bank.listed;
        bank.deferred |= bits & bank.listed;
        bank.activate &= !bits;
        let mut left = bits & bank.active & !bank.listed;
        while left != 0 {
            self.end(k, left.trailing_zeros() as usize);
            left &= left - 1;
        }
        self.changed(k, bits)
    }

    fn set_priorities(&mut self, vcpu: usize, offset: u32, mask: u32, value: u32) -> Kick {
        let first = offset & 0x3fc;
        let Some(k) = self.bank_of(vcpu, first) else {
            return Kick(0);
        };
        let value = value & (0x0101_0101 * PRIORITY);
        let changed = replace(&mut self.banks[k].priority, first, mask, value);
        self.reordered(k, changed)
    }

    fn set_targets(&mut self, offset: u32, mask: u32, value: u32) -> Kick {
        let first = offset & 0x3fc;
        let count = self.vcpus.len();
        let Some(k) = self.bank_of(0, first) else {
            return Kick(0);
        };
        if first < 32 || count == 1 {
            return Kick(0);
        }
        let value = value & (0x0101_0101 * ((1 << count) - 1));
        let changed = replace(&mut self.banks[k].targets, first, mask, value);
        self.reordered(k, changed)
    }

    fn set_config(&mut self, vcpu: usize, offset: u32, mask: u32, value: u32) -> Kick {
        let first = (offset & 0xfc) << 2;
        let Some(k) = self.bank_of(vcpu, first) else {
            return Kick(0);
        };
        if first == 0 {
            return Kick(0);
        }
        let bank = &mut self.banks[k];
        let mut changed = 0;
        for n in 0..16 {
            let field = 2 << (2 * n);
            let b = bit(first + n);
            let exists = mask & field != 0 && first + n < 1020;
            if exists && (value & field != 0) != (bank.edge & b != 0) {
                changed |= b;
            }
        }
        bank.edge ^= changed;
        bank.resense();
        self.changed(k, changed)
    }

    /// A write of `value` to GICD_SGIR (4.3.15) by `vcpu`, which is loaded on the CPU of `lrs`.
    pub fn send(&mut self, vcpu: usize, value: u32, lrs: &mut impl Lrs) -> Kick {
        let own = 1 << vcpu;
        let mut targets = match value >> 24 & 3 {
            0 => value >> 16,
            1 => !own,
            2 => own,
            _ => 0,
        } & ((1 << self.vcpus.len()) - 1);
        if targets & own != 0 && self.renew_sgi(vcpu, value & 15, lrs) {
            targets &= !own;
        }
        let mut kick = Kick(0);
        while targets != 0 {
            kick |= self.receive(targets.trailing_zeros() as usize, value & 15, own as u8);
            targets &= targets - 1;
        }
        kick
    }

    /// Makes SGI `id` pending at `vcpu` from `sources`.
    #[inline(never)]
    fn receive(&mut self, vcpu: usize, id: u32, sources: u8) -> Kick {
        let b = bit(id);
        let bank = &mut self.banks[vcpu];
        let state = &mut self.vcpus[vcpu];
        state.sgi[id as usize & 15] |= sources;
        bank.latch |= b;
        if bank.listed & b != 0 {
            state.dirty |= 1 << (bank.place[id as usize & 15] >> 3);
        } else {
            let ready = bank.ready | b & bank.open & !bank.active;
            if ready == bank.ready {
                return Kick(0);
            }
            bank.ready = ready;
        }
        self.work |= 1 << vcpu;
        Kick(1 << vcpu)
    }

    fn set_sgis(&mut self, vcpu: usize, offset: u32, value: u32) -> Kick {
        let all = ((1u32 << self.vcpus.len()) - 1) as u8;
        let mut kick = Kick(0);
        for (id, sources) in (offset & 0xf..).zip(value.to_le_bytes()) {
            if sources & all != 0 {
                kick |= self.receive(vcpu, id, sources & all);
            }
        }
        kick
    }

    /// None of them is listed: the writer has been synced.
    fn clear_sgis(&mut self, vcpu: usize, offset: u32, value: u32) -> Kick {
        for (id, sources) in (offset & 0xf..).zip(value.to_le_bytes()) {
            let left = &mut self.vcpus[vcpu].sgi[id as usize & 15];
            *left &= !sources;
            if *left == 0 {
                self.banks[vcpu].latch &= !bit(id);
            }
        }
        self.changed(vcpu, 0)
    }

    /// As [`changed`](Self::changed) where that may let an interrupt that is ready overtake others
    /// or find another vCPU.
    fn reordered(&mut self, k: usize, bits: u32) -> Kick {
        self.banks[k].ready &= !bits;
        self.changed(k, bits)
    }

    /// The bank of a register with one bit for each interrupt, and those of `bits` that exist.
    #[inline(always)]
    fn bits(&self, vcpu: usize, offset: u32, bits: u32) -> Option<(usize, u32)> {
        let first = (offset & 0x7c) << 3;
        let exist = if first == 992 { 0x0fff_ffff } else { u32::MAX };
        Some((self.bank_of(vcpu, first)?, bits & exist))
    }

    /// As [`bits`](Self::bits) without SGIs.
    #[inline(always)]
    fn lines(&self, vcpu: usize, offset: u32, bits: u32) -> Option<(usize, u32)> {
        let sgis = if offset & 0x7c == 0 { SGIS } else { 0 };
        self.bits(vcpu, offset, bits & !sgis)
    }
}

/// Whether a register shows what list registers know better: pending and active state.
const fn is_state(offset: u32) -> bool {
    matches!(offset >> 7, 4..=7) || offset >= 0xf10 && offset < 0xf30
}

/// A mask of the low `width` bytes, 1 to 4.
const fn lanes(width: u32) -> u32 {
    u32::MAX >> (0u32.wrapping_sub(width << 3) & 31)
}

/// Four of the bytes in `bytes`, from `first` modulo their number, as a word.
fn four<const N: usize>(bytes: &[u8; N], first: u32) -> u32 {
    let at = (first as usize % N) & !3;
    u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[(at + n) % N]))
}

/// Replaces those of the four bytes from `first` that `mask` covers; which ones changed, as bits.
fn replace(bytes: &mut [u8; 32], first: u32, mask: u32, value: u32) -> u32 {
    let mut changed = 0;
    for n in 0..4 {
        let intid = first + n;
        let new = (value >> (8 * n)) as u8;
        let byte = &mut bytes[intid as usize & 31];
        if mask >> (8 * n) & 0xff != 0 && *byte != new {
            *byte = new;
            changed |= bit(intid);
        }
    }
    changed
}
