//! Random events, each done to the model and to the specification.
//!
//! The guests behave as the specification asks (an end for each acknowledge, innermost first); all
//! else is random: registers, lines, masks, which vCPU is loaded where, and how late a kick is
//! honoured, except that a CPU acknowledges only when nothing is under way to it.

use super::gich::{EOI_MODE, OPEN, SPURIOUS};
use super::machine::Machine;
use super::spec::Spec;

struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 3) as usize % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

struct Run {
    random: Random,
    machine: Machine,
    spec: Spec,
    /// What each vCPU has acknowledged and not ended.
    stack: Vec<Vec<u32>>,
    /// What each vCPU has ended and not deactivated.
    dropped: Vec<Vec<u32>>,
    delivered: usize,
}

impl Run {
    fn new(seed: u32, vcpus: usize, spis: usize, lrs: usize) -> Self {
        let mut run = Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9) | 1),
            machine: Machine::started(vcpus, spis, lrs),
            spec: Spec::new(vcpus, spis),
            stack: vec![Vec::new(); vcpus],
            dropped: vec![Vec::new(); vcpus],
            delivered: 0,
        };
        run.spec.write(0, 0, 4, 3);
        for interface in &mut run.spec.interface {
            interface.vmcr = OPEN;
        }
        run
    }

    fn vcpus(&self) -> usize {
        self.stack.len()
    }

    fn loaded(&mut self) -> Option<usize> {
        let vcpu = self.random.below(self.vcpus());
        self.machine.on[vcpu].map(|_| vcpu)
    }

    /// An interrupt: few enough that events meet.
    fn intid(&mut self) -> usize {
        match self.random.below(16) {
            0..4 => self.random.below(16),
            4..7 => 16 + self.random.below(16),
            7..13 => 32 + self.random.below(12),
            13 => self.spec.count() - 1 - self.random.below(6),
            14 => self.random.below(self.spec.count()),
            _ => self.random.below(1024),
        }
    }

    fn event(&mut self) {
        match self.random.below(40) {
            0..6 => self.line(),
            6..8 => self.pulse(),
            8..12 => self.sgi(),
            12..20 => self.register_of_one(),
            20 => self.any_write(),
            21..25 => self.read(),
            25..32 => self.acknowledge(),
            32..36 => self.end(),
            36 => self.deactivate(),
            37 => self.interface(),
            38 => self.schedule(),
            _ => self.cut_short(),
        }
        if self.random.one_in(2) {
            let vcpu = self.random.below(self.vcpus());
            self.machine.flush(vcpu);
        }
    }

    fn line(&mut self) {
        let (vcpu, id) = (self.random.below(self.vcpus()), self.intid());
        let level = self.random.one_in(2);
        if id >= 16 {
            self.spec.set_line(vcpu, id, level);
        }
        self.machine.line(vcpu, id as u32, level);
    }

    fn pulse(&mut self) {
        let (vcpu, id) = (self.random.below(self.vcpus()), self.intid());
        if id >= 16 {
            self.spec.pulse(vcpu, id);
        }
        let kick = self.machine.vgic.pulse(vcpu, id as u32);
        self.machine.check(kick);
    }

    fn sgi(&mut self) {
        let Some(vcpu) = self.loaded() else { return };
        let value = self.random.next() & 0x03ff_000f;
        self.write(vcpu, 0xf00, 4, value);
    }

    fn write(&mut self, vcpu: usize, offset: u32, width: u32, value: u32) {
        self.spec.write(vcpu, offset, width, value);
        // Whether a CPU deactivates an interrupt before or after another activates it is open.
        let activates = (0x300..0x380).contains(&offset);
        if activates {
            self.machine.rest();
        }
        self.machine.write(vcpu, offset, width, value);
        if activates {
            self.machine.rest();
        }
    }

    /// Something about one interrupt, by the register that it takes.
    fn register_of_one(&mut self) {
        let Some(vcpu) = self.loaded() else { return };
        let id = self.intid();
        let value = self.random.next();
        let word = id as u32 / 32 * 4;
        let bit = 1 << (id % 32);
        match self.random.below(17) {
            0 => {
                let old = self.spec.read(vcpu, 0x80 + word, 4);
                self.write(vcpu, 0x80 + word, 4, old ^ bit);
            }
            1..5 => self.write(vcpu, 0x100 + word, 4, bit),
            5 => self.write(vcpu, 0x180 + word, 4, bit),
            6 | 7 => self.write(vcpu, 0x200 + word, 4, bit),
            8 | 9 => self.write(vcpu, 0x280 + word, 4, bit),
            10 => self.write(vcpu, 0x300 + word, 4, bit),
            11 | 12 => {
                if self.idle(id) {
                    self.write(vcpu, 0x380 + word, 4, bit);
                }
            }
            13 => self.write(vcpu, 0x400 + id as u32, 1, value >> 8),
            14 => self.write(vcpu, 0x800 + id as u32, 1, value >> 8),
            15 => self.write(vcpu, 0xc00 + id as u32 / 16 * 4, 4, value),
            _ => {
                let to = if value & 1 == 0 { 0xf10 } else { 0xf20 };
                self.write(vcpu, to + (id as u32 & 15), 1, value >> 8);
            }
        }
    }

    /// Whether no guest has to end this interrupt, on any vCPU.
    fn idle(&self, id: usize) -> bool {
        let own = |list: &Vec<u32>| list.iter().any(|&iar| iar as usize & 0x3ff == id);
        !self.stack.iter().any(own) && !self.dropped.iter().any(own)
    }

    /// Any register but those that make interrupts inactive, in any width.
    fn any_write(&mut self) {
        let Some(vcpu) = self.loaded() else { return };
        let width = 1 << self.random.below(3);
        let offset = self.random.below(0x1000) as u32 & !(width - 1);
        let mut value = self.random.next();
        match offset {
            0x380..0x400 => return,
            // Active interrupts that nobody acknowledged would soon fill everything.
            0x300..0x380 => value &= self.random.next() & self.random.next() & self.random.next(),
            0..4 => value |= 3 & !u32::from(self.random.one_in(4)),
            _ => {}
        }
        self.write(vcpu, offset, width, value);
    }

    fn read(&mut self) {
        let Some(vcpu) = self.loaded() else { return };
        let width = 1 << self.random.below(3);
        let offset = match self.random.below(4) {
            0 => self.random.below(0x1000) as u32,
            n => 0x180 + 0x80 * n as u32 + self.intid() as u32 / 8,
        } & !(width - 1);
        let expected = self.spec.read(vcpu, offset, width);
        let got = self.machine.read(vcpu, offset, width);
        assert_eq!(got, expected, "read of {offset:#x} by {vcpu}");
    }

    fn acknowledge(&mut self) {
        let Some(vcpu) = self.loaded() else { return };
        let iar = self.machine.acknowledge(vcpu);
        // Which of several targets gets a shared interrupt is open.
        self.spec.acknowledge(vcpu, iar, single);
        if iar != SPURIOUS {
            self.stack[vcpu].push(iar);
            self.delivered += 1;
        }
    }

    fn end(&mut self) {
        if let Some(vcpu) = self.loaded() {
            self.end_at(vcpu);
        }
    }

    fn end_at(&mut self, vcpu: usize) {
        if let Some(iar) = self.stack[vcpu].pop() {
            self.spec.end(vcpu, iar);
            self.machine.end(vcpu, iar);
            if self.spec.interface[vcpu].vmcr & EOI_MODE != 0 {
                self.dropped[vcpu].push(iar);
            }
        }
    }

    fn deactivate(&mut self) {
        let Some(vcpu) = self.loaded() else { return };
        if !self.dropped[vcpu].is_empty() {
            let which = self.random.below(self.dropped[vcpu].len());
            let iar = self.dropped[vcpu].swap_remove(which);
            self.spec.deactivate(vcpu, iar);
            self.machine.deactivate(vcpu, iar);
        }
    }

    /// The guest sets its CPU interface up anew. How ends deactivate changes only when none is due.
    fn interface(&mut self) {
        let Some(vcpu) = self.loaded() else { return };
        let cpu = self.machine.on[vcpu].expect("it is loaded");
        let idle = self.stack[vcpu].is_empty();
        let mut vmcr = OPEN;
        if self.random.one_in(3) {
            vmcr = vmcr & 0x07ff_ffff | self.random.next() & 0xf800_0000;
        }
        if self.random.one_in(4) {
            vmcr &= !(self.random.next() & 3);
        }
        if idle && self.random.one_in(2) {
            let point = 2 + self.random.next() % 6;
            vmcr = vmcr & !0x00fc_0000 | point << 21 | (point + 1).min(7) << 18;
            vmcr |= self.random.next() & 1 << 4;
        } else {
            vmcr = vmcr & !0x00fc_0010 | self.machine.cpus[cpu].vmcr & 0x00fc_0010;
        }
        let mode = if idle && self.dropped[vcpu].is_empty() {
            self.random.next()
        } else {
            self.machine.cpus[cpu].vmcr
        };
        vmcr |= mode & EOI_MODE;
        self.machine.cpus[cpu].vmcr = vmcr;
        self.spec.interface[vcpu].vmcr = vmcr;
    }

    fn schedule(&mut self) {
        let vcpu = self.random.below(self.vcpus());
        if self.machine.on[vcpu].is_some() {
            self.machine.put(vcpu);
            if self.random.one_in(2) {
                self.machine.rest();
            }
            self.waiting(vcpu);
        } else {
            let start = self.random.below(self.vcpus());
            let free = (0..self.vcpus())
                .map(|n| (start + n) % self.vcpus())
                .find(|cpu| !self.machine.on.contains(&Some(*cpu)));
            if let Some(cpu) = free {
                self.machine.load(vcpu, cpu);
            }
        }
    }

    /// Whether a vCPU that is put would wake.
    fn waiting(&self, vcpu: usize) {
        let wakes = self.machine.vgic.pending_for(vcpu);
        let must = self.spec.sure(vcpu, single).is_some();
        let may = (0..self.spec.count()).any(|id| self.spec.signalled(vcpu, id));
        assert!(wakes || !must, "{vcpu} sleeps on");
        assert!(!wakes || may, "{vcpu} is woken for nothing");
    }

    /// An interrupt in service is made inactive by a register, then ended as usual. The hardware
    /// can't tell such an end from another while it counts.
    fn cut_short(&mut self) {
        let Some(vcpu) = self.loaded() else { return };
        let Some(&iar) = self.stack[vcpu].last() else {
            return;
        };
        self.machine.rest();
        let cpu = self.machine.on[vcpu].expect("it is loaded");
        let counting = self.machine.cpus[cpu].hcr & 4 != 0;
        let mode = self.spec.interface[vcpu].vmcr & EOI_MODE;
        if counting || mode != 0 {
            return;
        }
        let id = iar & 0x3ff;
        self.write(vcpu, 0x380 + id / 32 * 4, 4, 1 << (id % 32));
        self.machine.flush(vcpu);
        if self.machine.cpus[cpu].hcr & 4 == 0 {
            self.end_at(vcpu);
        } else {
            self.stack[vcpu].pop();
            self.spec.interface[vcpu].running.pop();
            self.machine.cpus[cpu].apr &= self.machine.cpus[cpu].apr.wrapping_sub(1);
        }
    }

    /// Opens everything, lowers all lines, and has all that is pending delivered.
    fn drain(&mut self) {
        for vcpu in 0..self.vcpus() {
            self.machine.put(vcpu);
        }
        for vcpu in 0..self.vcpus() {
            self.machine.load(vcpu, vcpu);
        }
        self.write(0, 0, 4, 3);
        for id in 0..self.spec.count() as u32 {
            for vcpu in 0..self.vcpus() {
                self.spec.set_line(vcpu, id as usize, false);
                self.machine.line(vcpu, id, false);
                if id < 32 {
                    self.write(vcpu, 0x400 + id, 1, 0x80);
                }
                if id % 32 == 0 {
                    self.write(vcpu, 0x100 + id / 8, 4, u32::MAX);
                }
            }
            self.write(0, 0x400 + id, 1, 0x80);
            let target = self.random.below(self.vcpus());
            self.write(0, 0x800 + id, 1, 1 << target);
        }
        for vcpu in 0..self.vcpus() {
            while let Some(iar) = self.stack[vcpu].pop() {
                self.spec.end(vcpu, iar);
                self.machine.end(vcpu, iar);
                if self.spec.interface[vcpu].vmcr & EOI_MODE != 0 {
                    self.dropped[vcpu].push(iar);
                }
                self.machine.rest();
            }
            for iar in std::mem::take(&mut self.dropped[vcpu]) {
                self.spec.deactivate(vcpu, iar);
                self.machine.deactivate(vcpu, iar);
                self.machine.rest();
            }
            self.machine.cpus[vcpu].vmcr = OPEN;
            self.spec.interface[vcpu].vmcr = OPEN;
        }
        for vcpu in 0..self.vcpus() {
            for word in 0..32 {
                self.write(vcpu, 0x380 + 4 * word, 4, u32::MAX);
            }
        }
        for vcpu in 0..self.vcpus() {
            loop {
                let iar = self.machine.acknowledge(vcpu);
                self.spec.acknowledge(vcpu, iar, |_| true);
                if iar == SPURIOUS {
                    break;
                }
                self.spec.end(vcpu, iar);
                self.machine.end(vcpu, iar);
            }
        }
        let left = |int: &super::spec::Interrupt| int.pending() || int.active;
        assert!(!self.spec.shared.iter().any(left));
        assert!(!self.spec.private.iter().flatten().any(left));
        for offset in (0..0x1000).step_by(4) {
            for vcpu in 0..self.vcpus() {
                assert_eq!(
                    self.machine.read(vcpu, offset, 4),
                    self.spec.read(vcpu, offset, 4),
                    "{offset:#x}"
                );
            }
        }
    }
}

/// Whether an interrupt can go to one CPU only.
fn single(int: &super::spec::Interrupt) -> bool {
    int.targets.count_ones() == 1
}

const SEEDS: u32 = 30;
fn run(vcpus: usize, spis: usize, lrs: usize, seeds: u32) {
    let mut delivered = 0;
    for seed in 1..=seeds {
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed, vcpus, spis, lrs);
            for _ in 0..1500 {
                run.event();
            }
            run.drain();
            run.delivered
        });
        match result {
            Ok(n) => delivered += n,
            Err(panic) => {
                eprintln!("seed {seed}, {vcpus} vCPUs, {spis} SPIs, {lrs} list registers");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(delivered > seeds as usize * 20, "{delivered} delivered");
}

#[test]
fn one_vcpu_with_four_list_registers_follows_the_specification() {
    run(1, 32, 4, SEEDS * 20);
}

#[test]
fn two_vcpus_with_four_list_registers_follow_the_specification() {
    run(2, 64, 4, SEEDS * 20);
}

#[test]
fn four_vcpus_with_two_list_registers_follow_the_specification() {
    run(4, 33, 2, SEEDS * 20);
}

#[test]
fn three_vcpus_with_one_list_register_follow_the_specification() {
    run(3, 64, 1, SEEDS * 20);
}

#[test]
fn eight_vcpus_with_all_interrupts_follow_the_specification() {
    run(8, 988, 4, SEEDS * 6);
}

#[test]
fn sixteen_list_registers_follow_the_specification() {
    run(2, 256, 16, SEEDS * 10);
}
