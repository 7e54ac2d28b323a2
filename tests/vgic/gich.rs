//! The virtual CPU interface of one CPU (ARM IHI 0048B, 5): GICH to the hypervisor, GICV to the
//! guest.

use armillary::vgic::Lrs;

pub(crate) const PENDING: u32 = 1 << 28;
pub(crate) const ACTIVE: u32 = 1 << 29;
pub(crate) const HW: u32 = 1 << 31;
const STATE: u32 = PENDING | ACTIVE;
const EOI: u32 = 1 << 19;

const EN: u32 = 1;
const LRENPIE: u32 = 1 << 2;
const NPIE: u32 = 1 << 3;

pub(crate) const SPURIOUS: u32 = 1023;

/// VMCR of an interface that passes everything: PMR 0xf8, BPR 2, AckCtl, both groups.
pub(crate) const OPEN: u32 = 31 << 27 | 2 << 21 | 3 << 18 | 7;
/// VMCR.VEM: EOIR only drops the priority.
pub(crate) const EOI_MODE: u32 = 1 << 9;

#[derive(Clone, Debug)]
pub(crate) struct Gich {
    pub(crate) lr: Vec<u32>,
    pub(crate) hcr: u32,
    pub(crate) vmcr: u32,
    pub(crate) apr: u32,
    /// Physical interrupts that the hardware deactivated.
    pub(crate) deactivated: Vec<u32>,
    pub(crate) writes: usize,
}

impl Gich {
    pub(crate) fn new(lrs: usize) -> Self {
        Self {
            lr: vec![0; lrs],
            hcr: EN,
            vmcr: 0,
            apr: 0,
            deactivated: Vec::new(),
            writes: 0,
        }
    }

    /// GICV_IAR with AckCtl set.
    pub(crate) fn acknowledge(&mut self) -> u32 {
        assert!(self.hcr & EN != 0, "acknowledged with the interface off");
        let highest = (0..self.lr.len())
            .filter(|&i| self.lr[i] & STATE == PENDING)
            .min_by_key(|&i| self.lr[i] >> 23 & 31);
        let Some(i) = highest.filter(|&i| self.passes(self.lr[i])) else {
            return SPURIOUS;
        };
        let lr = self.lr[i];
        self.apr |= 1 << (self.group_priority(lr) >> 3);
        self.lr[i] = lr & !STATE | ACTIVE;
        let source = if lr & HW == 0 { lr & 7 << 10 } else { 0 };
        lr & 0x3ff | source
    }

    fn group_priority(&self, lr: u32) -> u32 {
        let binary_point = if lr >> 30 & 1 == 0 || self.vmcr & 1 << 4 != 0 {
            (self.vmcr >> 21 & 7).max(2) + 1
        } else {
            (self.vmcr >> 18 & 7).max(3)
        };
        (lr >> 23 & 31) << 3 >> binary_point << binary_point
    }

    fn passes(&self, lr: u32) -> bool {
        let running = (0..32).find(|n| self.apr >> n & 1 != 0);
        self.vmcr >> (lr >> 30 & 1) & 1 != 0
            && lr >> 23 & 31 < self.vmcr >> 27
            && running.is_none_or(|n| self.group_priority(lr) < n << 3)
    }

    /// GICV_EOIR.
    pub(crate) fn end(&mut self, iar: u32) {
        let dropped = self.apr != 0;
        self.apr &= self.apr.wrapping_sub(1);
        if dropped && self.vmcr & EOI_MODE == 0 {
            self.deactivate(iar);
        }
    }

    /// GICV_DIR.
    pub(crate) fn deactivate(&mut self, iar: u32) {
        let found = self.lr.iter_mut().find(|lr| {
            let id = if **lr & HW == 0 && **lr & 0x3ff < 16 {
                **lr & 0x1fff
            } else {
                **lr & 0x3ff
            };
            **lr & ACTIVE != 0 && id == iar
        });
        match found {
            Some(lr) => {
                *lr &= !ACTIVE;
                if *lr & HW != 0 {
                    self.deactivated.push(*lr >> 10 & 0x3ff);
                }
            }
            None => self.hcr = self.hcr.wrapping_add(1 << 27),
        }
    }

    /// Whether nothing stands in the list registers.
    pub(crate) fn empty(&self) -> bool {
        let valid = |lr: &u32| lr & STATE != 0 || lr & (HW | EOI) == EOI;
        !self.lr.iter().any(valid)
    }

    /// Whether the maintenance interrupt is asserted.
    pub(crate) fn maintenance(&self) -> bool {
        let eoi = |lr: &u32| lr & (STATE | HW | EOI) == EOI;
        let pending = |lr: &u32| lr & STATE == PENDING;
        self.hcr & EN != 0
            && (self.lr.iter().any(eoi)
                || self.hcr & NPIE != 0 && !self.lr.iter().any(pending)
                || self.hcr & LRENPIE != 0 && self.hcr >> 27 != 0)
    }
}

impl Lrs for Gich {
    fn count(&self) -> usize {
        self.lr.len()
    }

    fn read(&self, n: usize) -> u32 {
        self.lr[n]
    }

    fn write(&mut self, n: usize, value: u32) {
        self.writes += 1;
        self.lr[n] = value;
        assert!(value & (HW | STATE) != HW | STATE, "active and pending HW");
        for (i, other) in self.lr.iter().enumerate() {
            // A stale one may stand beside the new one until the flush is over.
            if value & STATE != 0 && other & STATE != 0 && i < n {
                assert_ne!(other & 0x3ff, value & 0x3ff, "listed twice");
            }
        }
    }

    fn elrsr(&self) -> u32 {
        let empty = |lr: u32| lr & STATE == 0 && (lr & HW != 0 || lr & EOI == 0);
        (0..self.lr.len().min(32)).fold(0, |bits, i| bits | u32::from(empty(self.lr[i])) << i)
    }

    fn hcr(&self) -> u32 {
        self.hcr
    }

    fn set_hcr(&mut self, value: u32) {
        self.hcr = value;
    }

    fn vmcr(&self) -> u32 {
        self.vmcr
    }

    fn set_vmcr(&mut self, value: u32) {
        self.vmcr = value;
    }

    fn apr(&self) -> u32 {
        self.apr
    }

    fn set_apr(&mut self, value: u32) {
        self.apr = value;
    }
}
