//! A GICv2 as the manual describes it, with no regard to cost: one record for each interrupt as
//! each CPU sees it, registers by the byte.

/// One interrupt, ARM IHI 0048B, 3.2.4.
#[derive(Clone, Default)]
pub(crate) struct Interrupt {
    pub(crate) group: bool,
    pub(crate) enabled: bool,
    pub(crate) latch: bool,
    pub(crate) line: bool,
    pub(crate) edge: bool,
    pub(crate) active: bool,
    pub(crate) priority: u8,
    pub(crate) targets: u8,
    /// Of an SGI: the CPUs it is pending from.
    pub(crate) sources: u8,
}

impl Interrupt {
    pub(crate) fn pending(&self) -> bool {
        self.sources != 0 || self.latch || (self.line && !self.edge)
    }
}

/// A CPU interface.
#[derive(Clone, Default)]
pub(crate) struct Interface {
    pub(crate) vmcr: u32,
    /// The group priorities of what is active and not ended, the last acknowledged last.
    pub(crate) running: Vec<u32>,
}

pub(crate) struct Spec {
    pub(crate) ctlr: u8,
    pub(crate) private: Vec<Vec<Interrupt>>,
    pub(crate) shared: Vec<Interrupt>,
    pub(crate) interface: Vec<Interface>,
}

impl Spec {
    pub(crate) fn new(cpus: usize, spis: usize) -> Self {
        let spis = spis.div_ceil(32) * 32;
        let private = |cpu: usize| {
            (0..32)
                .map(|id| Interrupt {
                    enabled: id < 16,
                    edge: id < 16,
                    targets: 1 << cpu,
                    ..Interrupt::default()
                })
                .collect()
        };
        let shared = Interrupt {
            targets: u8::from(cpus == 1),
            ..Interrupt::default()
        };
        Self {
            ctlr: 0,
            private: (0..cpus).map(private).collect(),
            shared: vec![shared; spis.min(988)],
            interface: vec![Interface::default(); cpus],
        }
    }

    pub(crate) fn cpus(&self) -> usize {
        self.private.len()
    }

    /// The number of interrupts.
    pub(crate) fn count(&self) -> usize {
        32 + self.shared.len()
    }

    pub(crate) fn at(&mut self, cpu: usize, id: usize) -> Option<&mut Interrupt> {
        if id < 32 {
            Some(&mut self.private[cpu][id])
        } else {
            self.shared.get_mut(id - 32)
        }
    }

    pub(crate) fn get(&self, cpu: usize, id: usize) -> Option<&Interrupt> {
        if id < 32 {
            Some(&self.private[cpu][id])
        } else {
            self.shared.get(id - 32)
        }
    }

    pub(crate) fn set_line(&mut self, cpu: usize, id: usize, level: bool) {
        let Some(int) = self.at(cpu, id) else { return };
        if level && !int.line && int.edge {
            int.latch = true;
        }
        int.line = level;
    }

    pub(crate) fn pulse(&mut self, cpu: usize, id: usize) {
        let Some(int) = self.at(cpu, id) else { return };
        int.latch |= int.edge;
    }

    fn group_priority(&self, cpu: usize, int: &Interrupt) -> u32 {
        let vmcr = self.interface[cpu].vmcr;
        let field = if !int.group || vmcr & 1 << 4 != 0 {
            (vmcr >> 21 & 7).max(2) + 1
        } else {
            (vmcr >> 18 & 7).max(3)
        };
        u32::from(int.priority) >> field << field
    }

    /// Whether the distributor forwards this interrupt to the CPU.
    pub(crate) fn forwarded(&self, cpu: usize, id: usize) -> bool {
        self.get(cpu, id).is_some_and(|int| {
            int.enabled
                && int.pending()
                && !int.active
                && int.targets >> cpu & 1 != 0
                && self.ctlr >> u8::from(int.group) & 1 != 0
        })
    }

    /// Whether the CPU interface signals this interrupt where it is the highest.
    pub(crate) fn passes(&self, cpu: usize, id: usize) -> bool {
        let Some(int) = self.get(cpu, id) else {
            return false;
        };
        let interface = &self.interface[cpu];
        let running = interface.running.iter().min();
        interface.vmcr >> u32::from(int.group) & 1 != 0
            && u32::from(int.priority) < interface.vmcr >> 27 << 3
            && running.is_none_or(|&running| self.group_priority(cpu, int) < running)
    }

    pub(crate) fn signalled(&self, cpu: usize, id: usize) -> bool {
        self.forwarded(cpu, id) && self.passes(cpu, id)
    }

    /// The priority of the interrupts that must be signalled; `None` where it is open which of
    /// several is the highest, and not all of them pass.
    pub(crate) fn sure(&self, cpu: usize, counts: impl Fn(&Interrupt) -> bool) -> Option<u8> {
        let forwarded: Vec<usize> = (0..self.count())
            .filter(|&id| self.forwarded(cpu, id))
            .collect();
        let priority = |id: &usize| self.get(cpu, *id).map(|int| int.priority);
        let counted = |id: &&usize| self.get(cpu, **id).is_some_and(&counts);
        let highest = forwarded
            .iter()
            .filter(counted)
            .filter_map(priority)
            .min()?;
        forwarded
            .iter()
            .filter(|id| priority(id) <= Some(highest))
            .all(|&id| self.passes(cpu, id))
            .then_some(highest)
    }

    /// The CPU read `iar`: it has to be an interrupt that is signalled, and none of those that
    /// `counts` lets in may have a higher priority.
    pub(crate) fn acknowledge(
        &mut self,
        cpu: usize,
        iar: u32,
        counts: impl Fn(&Interrupt) -> bool,
    ) {
        let highest = self.sure(cpu, counts);
        let id = (iar & 0x3ff) as usize;
        if id == 1023 {
            assert_eq!(highest, None, "an interrupt was withheld from {cpu}");
            return;
        }
        if let (Some(highest), Some(got)) = (highest, self.get(cpu, id)) {
            assert!(got.priority <= highest, "{id} was not the highest");
        }
        assert!(self.signalled(cpu, id), "{id} is not signalled to {cpu}");
        let source = 1u8 << (iar >> 10);
        let int = self.at(cpu, id).expect("it is signalled");
        int.active = true;
        if id < 16 {
            assert!(int.sources & source != 0, "SGI {id} is not from there");
            int.sources &= !source;
        } else {
            assert_eq!(iar >> 10, 0);
            int.latch = false;
        }
        let priority = self.get(cpu, id).map(|int| self.group_priority(cpu, int));
        self.interface[cpu].running.extend(priority);
    }

    /// EOIR of what was acknowledged last.
    pub(crate) fn end(&mut self, cpu: usize, iar: u32) {
        self.interface[cpu].running.pop();
        if self.interface[cpu].vmcr & super::gich::EOI_MODE == 0 {
            self.deactivate(cpu, iar);
        }
    }

    pub(crate) fn deactivate(&mut self, cpu: usize, iar: u32) {
        if let Some(int) = self.at(cpu, (iar & 0x3ff) as usize) {
            int.active = false;
        }
    }

    pub(crate) fn read(&self, cpu: usize, offset: u32, width: u32) -> u32 {
        (0..width)
            .filter(|n| (offset & 3) + n < 4)
            .fold(0, |value, n| {
                value | u32::from(self.read_byte(cpu, offset + n)) << (8 * n)
            })
    }

    fn read_byte(&self, cpu: usize, offset: u32) -> u8 {
        let at = offset as usize;
        // Eight interrupts, a bit each.
        let bits = |base: usize, of: fn(&Interrupt) -> bool| {
            (0..8).fold(0, |byte, n| {
                let id = (at - base) * 8 + n;
                byte | u8::from(self.get(cpu, id).is_some_and(of)) << n
            })
        };
        match at {
            0 => self.ctlr,
            4 => (self.cpus() as u8 - 1) << 5 | self.shared.len().div_ceil(32) as u8,
            8 => 0x3b,
            9 => 0x04,
            0x080..0x100 => bits(0x080, |int| int.group),
            0x100..0x180 => bits(0x100, |int| int.enabled),
            0x180..0x200 => bits(0x180, |int| int.enabled),
            0x200..0x280 => bits(0x200, Interrupt::pending),
            0x280..0x300 => bits(0x280, Interrupt::pending),
            0x300..0x380 => bits(0x300, |int| int.active),
            0x380..0x400 => bits(0x380, |int| int.active),
            0x400..0x800 => self.get(cpu, at - 0x400).map_or(0, |int| int.priority),
            0x800..0xc00 if self.cpus() == 1 => 0,
            0x800..0xc00 => self.get(cpu, at - 0x800).map_or(0, |int| int.targets),
            0xc00..0xd00 => (0..4).fold(0, |byte, n| {
                let edge = self
                    .get(cpu, (at - 0xc00) * 4 + n)
                    .is_some_and(|int| int.edge);
                byte | u8::from(edge) << (2 * n + 1)
            }),
            0xf10..0xf20 => self.private[cpu][at - 0xf10].sources,
            0xf20..0xf30 => self.private[cpu][at - 0xf20].sources,
            0xfd0 => 0x04,
            0xfe0 => 0x90,
            0xfe4 => 0xb4,
            0xfe8 => 0x2b,
            0xff0 => 0x0d,
            0xff4 => 0xf0,
            0xff8 => 0x05,
            0xffc => 0xb1,
            _ => 0,
        }
    }

    pub(crate) fn write(&mut self, cpu: usize, offset: u32, width: u32, value: u32) {
        if offset & !3 == 0xf00 {
            if offset == 0xf00 && width == 4 {
                self.send(cpu, value);
            }
            return;
        }
        for n in (0..width).filter(|n| (offset & 3) + n < 4) {
            self.write_byte(cpu, (offset + n) as usize, (value >> (8 * n)) as u8);
        }
    }

    fn send(&mut self, cpu: usize, value: u32) {
        for target in 0..self.cpus() {
            let hit = match value >> 24 & 3 {
                0 => value >> (16 + target) & 1 != 0,
                1 => target != cpu,
                2 => target == cpu,
                _ => false,
            };
            if hit {
                self.private[target][value as usize & 15].sources |= 1 << cpu;
            }
        }
    }

    fn write_byte(&mut self, cpu: usize, at: usize, value: u8) {
        let all = ((1u32 << self.cpus()) - 1) as u8;
        let alone = self.cpus() == 1;
        let mut each = |base: usize, write: fn(&mut Interrupt, bool, bool)| {
            for n in 0..8 {
                let id = (at - base) * 8 + n;
                if let Some(int) = self.at(cpu, id) {
                    write(int, value >> n & 1 != 0, id < 16);
                }
            }
        };
        match at {
            0 => self.ctlr = value & 3,
            0x080..0x100 => each(0x080, |int, bit, _| int.group = bit),
            0x100..0x180 => each(0x100, |int, bit, _| int.enabled |= bit),
            0x180..0x200 => each(0x180, |int, bit, sgi| int.enabled &= !bit || sgi),
            0x200..0x280 => each(0x200, |int, bit, sgi| int.latch |= bit && !sgi),
            0x280..0x300 => each(0x280, |int, bit, _| int.latch &= !bit),
            0x300..0x380 => each(0x300, |int, bit, _| int.active |= bit),
            0x380..0x400 => each(0x380, |int, bit, _| int.active &= !bit),
            0x400..0x800 => {
                if let Some(int) = self.at(cpu, at - 0x400) {
                    int.priority = value & 0xf8;
                }
            }
            0x820..0xc00 if !alone => {
                if let Some(int) = self.at(cpu, at - 0x800) {
                    int.targets = value & all;
                }
            }
            0xc04..0xd00 => {
                for n in 0..4 {
                    if let Some(int) = self.at(cpu, (at - 0xc00) * 4 + n) {
                        int.edge = value >> (2 * n + 1) & 1 != 0;
                    }
                }
            }
            0xf10..0xf20 => self.private[cpu][at - 0xf10].sources &= !value,
            0xf20..0xf30 => self.private[cpu][at - 0xf20].sources |= value & all,
            _ => {}
        }
    }
}
