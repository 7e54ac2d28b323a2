//! What a hypervisor does with the model: several CPUs, vCPUs loaded and put, kicks honoured.

use super::gich::{Gich, OPEN};
use armillary::vgic::{Kick, Vgic};

pub(crate) struct Machine {
    pub(crate) vgic: Vgic,
    pub(crate) cpus: Vec<Gich>,
    /// The CPU that each vCPU is loaded on.
    pub(crate) on: Vec<Option<usize>>,
    /// Which are out of the guest.
    out: Vec<bool>,
    /// Who was kicked and has not been flushed since, a bit each.
    kicked: u8,
}

impl Machine {
    pub(crate) fn new(vcpus: usize, spis: usize, lrs: usize) -> Self {
        Self {
            vgic: Vgic::new(vcpus, spis),
            cpus: vec![Gich::new(lrs); vcpus],
            on: vec![None; vcpus],
            out: vec![false; vcpus],
            kicked: 0,
        }
    }

    /// All vCPUs loaded, each on its own CPU, interfaces open, the distributor on.
    pub(crate) fn started(vcpus: usize, spis: usize, lrs: usize) -> Self {
        let mut machine = Self::new(vcpus, spis, lrs);
        for vcpu in 0..vcpus {
            machine.load(vcpu, vcpu);
            machine.cpus[vcpu].vmcr = OPEN;
        }
        machine.write(0, 0, 4, 3);
        machine
    }

    pub(crate) fn load(&mut self, vcpu: usize, cpu: usize) {
        assert!(self.cpus[cpu].empty(), "left behind");
        self.on[vcpu] = Some(cpu);
        self.out[vcpu] = false;
        let held = self.vgic.held(vcpu);
        let loaded = self.vgic.load(vcpu, &mut self.cpus[cpu]);
        assert_eq!(loaded.held, held);
        assert!(loaded.quiet.is_none() || held == 0 && self.cpus[cpu].empty());
        self.check(loaded.kick);
    }

    pub(crate) fn put(&mut self, vcpu: usize) {
        if let Some(cpu) = self.on[vcpu].take() {
            let put = self.vgic.put(vcpu, &mut self.cpus[cpu]);
            assert_eq!(put.kick.0 >> vcpu & 1, 0);
            assert_eq!(put.held, self.vgic.held(vcpu));
            assert!(put.ready || !self.vgic.pending_for(vcpu));
            self.check(put.kick);
        }
    }

    /// Whoever is kicked has something to flush, and who has is kicked if it runs.
    pub(crate) fn check(&mut self, kick: Kick) {
        self.kicked |= kick.0;
        for vcpu in 0..self.on.len() {
            let kicked = self.kicked >> vcpu & 1 != 0;
            let flush = self.vgic.needs_flush(vcpu);
            assert!(flush || kick.0 >> vcpu & 1 == 0, "kicked for nothing");
            let told = kicked || self.out[vcpu] || self.on[vcpu].is_none();
            assert!(told || !flush, "{vcpu} was not kicked");
        }
    }

    pub(crate) fn sync(&mut self, vcpu: usize) {
        if let Some(cpu) = self.on[vcpu] {
            self.out[vcpu] = true;
            let kick = self.vgic.sync(vcpu, &mut self.cpus[cpu]);
            self.check(kick);
        }
    }

    /// Enters the guest if it is out, without looking for what else there may be to do.
    fn enter(&mut self, vcpu: usize) -> &mut Gich {
        if self.out[vcpu] {
            self.flush(vcpu);
        }
        &mut self.cpus[self.on[vcpu].expect("it runs")]
    }

    pub(crate) fn flush(&mut self, vcpu: usize) {
        if let Some(cpu) = self.on[vcpu] {
            if self.vgic.needs_flush(vcpu) {
                let kick = self.vgic.flush(vcpu, &mut self.cpus[cpu]);
                self.check(kick);
            }
            assert!(!self.vgic.needs_flush(vcpu));
            self.out[vcpu] = false;
            self.kicked &= !(1 << vcpu);
        }
    }

    /// Honours every kick and maintenance interrupt, until there is none.
    pub(crate) fn rest(&mut self) {
        for _ in 0..100 {
            for vcpu in 0..self.on.len() {
                self.flush(vcpu);
                if let Some(cpu) = self.on[vcpu]
                    && self.cpus[cpu].maintenance()
                {
                    self.sync(vcpu);
                    self.flush(vcpu);
                    assert!(!self.cpus[cpu].maintenance(), "asks for ever");
                }
            }
            if (0..self.on.len()).all(|v| self.on[v].is_none() || !self.vgic.needs_flush(v)) {
                return;
            }
        }
        panic!("vCPUs kick each other for ever");
    }

    pub(crate) fn read(&mut self, vcpu: usize, offset: u32, width: u32) -> u32 {
        let stale = self.vgic.stale(vcpu, offset);
        for holder in 0..self.on.len() {
            if stale >> holder & 1 != 0 {
                self.sync(holder);
                self.flush(holder);
            }
        }
        let cpu = self.on[vcpu].expect("it runs");
        self.out[vcpu] = true;
        let value = self.vgic.read(vcpu, offset, width, &mut self.cpus[cpu]);
        // Kicks that the read is due come with the flush.
        self.flush(vcpu);
        value
    }

    pub(crate) fn write(&mut self, vcpu: usize, offset: u32, width: u32, value: u32) {
        let cpu = self.on[vcpu].expect("it runs");
        self.out[vcpu] = true;
        let cpu = &mut self.cpus[cpu];
        let kick = self.vgic.write(vcpu, offset, width, value, cpu);
        self.check(kick);
    }

    /// The physical interrupt of `intid`, which is linked, has come to the CPU of `vcpu`; whether that takes it.
    pub(crate) fn raise(&mut self, vcpu: usize, intid: u32) -> bool {
        let Some(cpu) = self.on[vcpu] else {
            return false;
        };
        self.out[vcpu] = true;
        let cpu = &mut self.cpus[cpu];
        let kick = match intid {
            32.. => self.vgic.raise_shared(vcpu, intid, cpu),
            _ => Some(self.vgic.raise(vcpu, intid, cpu)),
        };
        kick.inspect(|&kick| self.check(kick)).is_some()
    }

    pub(crate) fn line(&mut self, vcpu: usize, intid: u32, level: bool) {
        let kick = self.vgic.set_level(vcpu, intid, level);
        self.check(kick);
    }

    pub(crate) fn acknowledge(&mut self, vcpu: usize) -> u32 {
        self.rest();
        self.enter(vcpu).acknowledge()
    }

    pub(crate) fn end(&mut self, vcpu: usize, iar: u32) {
        self.enter(vcpu).end(iar);
    }

    pub(crate) fn deactivate(&mut self, vcpu: usize, iar: u32) {
        self.enter(vcpu);
        let cpu = self.on[vcpu].expect("it runs");
        if self.vgic.traps_dir(vcpu) {
            self.out[vcpu] = true;
            let kick = self.vgic.deactivate(vcpu, iar, &mut self.cpus[cpu]);
            self.check(kick);
        } else {
            self.cpus[cpu].deactivate(iar);
        }
    }
}
