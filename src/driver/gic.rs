//! The machine's GICv2: distributor, CPU interface, and the hypervisor's control interface with its
//! list registers (ARM IHI 0048B).
//!
//! The CPU interface runs with EOImode 1: taking an interrupt drops the priority at once
//! ([`Gic::end`]), and whoever handled the device deactivates it, the guest's hardware through a
//! linked list register.

use crate::vgic::Lrs;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU8, Ordering};
use spin::Once;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};

register_structs! {
    Distributor {
        (0x000 => ctlr: ReadWrite<u32>),
        (0x004 => typer: ReadOnly<u32>),
        (0x008 => _0),
        (0x080 => igroupr: [ReadWrite<u32>; 32]),
        (0x100 => isenabler: [ReadWrite<u32>; 32]),
        (0x180 => icenabler: [ReadWrite<u32>; 32]),
        (0x200 => ispendr: [ReadWrite<u32>; 32]),
        (0x280 => icpendr: [ReadWrite<u32>; 32]),
        (0x300 => isactiver: [ReadWrite<u32>; 32]),
        (0x380 => icactiver: [ReadWrite<u32>; 32]),
        (0x400 => ipriorityr: [ReadWrite<u8>; 1024]),
        (0x800 => itargetsr: [ReadWrite<u8>; 1024]),
        (0xc00 => icfgr: [ReadWrite<u32>; 64]),
        (0xd00 => _1),
        (0xf00 => sgir: WriteOnly<u32>),
        (0xf04 => _2),
        (0x1000 => @END),
    },
    CpuInterface {
        (0x0000 => ctlr: ReadWrite<u32>),
        (0x0004 => pmr: ReadWrite<u32>),
        (0x0008 => bpr: ReadWrite<u32>),
        (0x000c => iar: ReadOnly<u32>),
        (0x0010 => eoir: WriteOnly<u32>),
        (0x0014 => _0),
        (0x1000 => dir: WriteOnly<u32>),
        (0x1004 => _1),
        (0x2000 => @END),
    },
    Hypervisor {
        (0x000 => hcr: ReadWrite<u32>),
        (0x004 => vtr: ReadOnly<u32>),
        (0x008 => vmcr: ReadWrite<u32>),
        (0x00c => _0),
        (0x010 => misr: ReadOnly<u32>),
        (0x014 => _1),
        (0x020 => eisr: [ReadOnly<u32>; 2]),
        (0x028 => _2),
        (0x030 => elrsr: [ReadOnly<u32>; 2]),
        (0x038 => _3),
        (0x0f0 => apr: ReadWrite<u32>),
        (0x0f4 => _4),
        (0x100 => lr: [ReadWrite<u32>; 64]),
        (0x200 => @END),
    }
}

/// The interrupt that one CPU sends another to make it look at what it has been asked.
pub const KICK: u32 = 0;
/// CPUs that a GICv2 can have.
const CPUS: usize = 8;
/// Priority of everything that the hypervisor takes: the middle, so that boards can go either way.
const PRIORITY: u8 = 0x80;
/// What the CPU interface reads when nothing is pending: 1020 to 1023.
pub const SPURIOUS: u32 = 1020;

/// The machine's interrupt controller.
pub struct Gic {
    distributor: &'static Distributor,
    cpu: &'static CpuInterface,
    hypervisor: &'static Hypervisor,
    virtual_cpu: &'static CpuInterface,
    /// How many list registers each CPU has (GICH_VTR.ListRegs).
    list_registers: usize,
    /// By CPU number, the CPU interface that SGIs and SPIs reach it by.
    masks: [AtomicU8; CPUS],
}

// SAFETY: the CPU and hypervisor interfaces are banked by CPU; the distributor is changed by single
// stores to set and clear registers, and otherwise only before the other CPUs run.
unsafe impl Sync for Gic {}
// SAFETY: as above.
unsafe impl Send for Gic {}

static GIC: Once<Gic> = Once::new();
/// The same once it is set up. What lies behind the address is read by way of it, so that loading it
/// needs no barrier.
static READY: AtomicPtr<Gic> = AtomicPtr::new(null_mut());

/// The machine's interrupt controller; `None` before [`init`].
#[inline(always)]
pub fn gic() -> Option<&'static Gic> {
    // SAFETY: null, or the static above.
    unsafe { READY.load(Ordering::Relaxed).as_ref() }
}

/// Sets up the distributor: everything off, level, non-secure group 1 where that is ours to choose,
/// to the boot CPU.
///
/// # Safety
/// The addresses must be where the four register blocks are mapped, for good.
pub unsafe fn init(
    distributor: usize,
    cpu: usize,
    hypervisor: usize,
    virtual_cpu: usize,
) -> &'static Gic {
    let gic = GIC.call_once(|| {
        // SAFETY: the caller's word.
        let hypervisor = unsafe { &*(hypervisor as *const Hypervisor) };
        // SAFETY: the caller's word.
        let gic = unsafe {
            Gic {
                list_registers: (hypervisor.vtr.get() as usize & 0x3f) + 1,
                distributor: &*(distributor as *const Distributor),
                cpu: &*(cpu as *const CpuInterface),
                hypervisor,
                virtual_cpu: &*(virtual_cpu as *const CpuInterface),
                masks: [const { AtomicU8::new(1) }; CPUS],
            }
        };
        gic.init_distributor();
        gic
    });
    READY.store((&raw const *gic).cast_mut(), Ordering::Release);
    gic
}

impl Gic {
    fn init_distributor(&self) {
        let d = self.distributor;
        d.ctlr.set(0);
        let lines = (self.lines() / 32) as usize;
        let here = d.itargetsr[0].get().max(1);
        for n in 1..lines.min(32) {
            d.icenabler[n].set(!0);
            d.icpendr[n].set(!0);
            d.icactiver[n].set(!0);
        }
        for n in 32..self.lines().min(1020) as usize {
            d.ipriorityr[n].set(PRIORITY);
            d.itargetsr[n].set(here);
        }
        d.ctlr.set(1);
    }

    /// Interrupt lines that the distributor has, SGIs and PPIs included.
    #[must_use]
    pub fn lines(&self) -> u32 {
        ((self.distributor.typer.get() & 0x1f) + 1) * 32
    }

    /// Sets up this CPU's interface and its SGIs and PPIs, and notes by what mask SGIs reach CPU
    /// number `cpu`, which is this one.
    pub fn init_cpu(&self, cpu: usize) {
        let d = self.distributor;
        d.icenabler[0].set(0xffff_0000);
        d.icpendr[0].set(!0);
        d.icactiver[0].set(!0);
        for n in 0..32 {
            d.ipriorityr[n].set(PRIORITY);
        }
        d.isenabler[0].set(0xffff);
        self.cpu.pmr.set(0xff);
        self.cpu.bpr.set(0);
        // Enable, and EOImode for either view of the register: bit 9 in the non-secure view and
        // where there are no Security Extensions (4.4.1).
        self.cpu.ctlr.set(1 | 1 << 9);
        // As the virtual interface wants it where no vCPU is loaded.
        for lr in self.hypervisor.lr.iter().take(self.list_registers) {
            lr.set(0);
        }
        self.hypervisor.hcr.set(1);
        self.masks[cpu % CPUS].store(d.itargetsr[0].get().max(1), Ordering::Release);
    }

    /// Takes the interrupt of highest priority: number in bits 9:0, for an SGI the sender in 12:10.
    #[inline(always)]
    pub fn acknowledge(&self) -> u32 {
        self.cpu.iar.get()
    }

    /// Drops the priority of what [`Gic::acknowledge`] gave; it stays active.
    #[inline(always)]
    pub fn end(&self, acknowledged: u32) {
        self.cpu.eoir.set(acknowledged);
    }

    /// Deactivates what [`Gic::acknowledge`] gave.
    #[inline(always)]
    pub fn deactivate(&self, acknowledged: u32) {
        self.cpu.dir.set(acknowledged);
    }

    /// Deactivates a virtual interrupt, as the guest on this CPU by its GICC_DIR.
    pub fn deactivate_virtual(&self, value: u32) {
        self.virtual_cpu.dir.set(value);
    }

    /// Sends [`KICK`] to CPU number `cpu`, after everything stored before.
    #[inline(always)]
    pub fn kick(&self, cpu: usize) {
        let mask = self.masks[cpu % CPUS].load(Ordering::Relaxed);
        aarch32_cpu::asm::dsb();
        self.distributor.sgir.set(u32::from(mask) << 16 | KICK);
    }

    /// Sends SPI `id` to CPU number `cpu`.
    pub fn target(&self, id: u32, cpu: usize) {
        let mask = self.masks[cpu % CPUS].load(Ordering::Relaxed);
        if let Some(register) = self.distributor.itargetsr.get(id as usize) {
            register.set(mask);
        }
    }

    /// Makes interrupt `id`, of this CPU where it is private, active or inactive.
    pub fn set_active(&self, id: u32, on: bool) {
        let d = self.distributor;
        let register = if on { &d.isactiver } else { &d.icactiver };
        if let Some(register) = register.get(id as usize / 32) {
            register.set(1 << (id % 32));
        }
    }

    /// Makes interrupt `id` pending by an edge, or forgets that it is.
    pub fn set_pending(&self, id: u32, on: bool) {
        let d = self.distributor;
        let register = if on { &d.ispendr } else { &d.icpendr };
        if let Some(register) = register.get(id as usize / 32) {
            register.set(1 << (id % 32));
        }
    }

    /// Whether interrupt `id` is pending.
    #[must_use]
    pub fn is_pending(&self, id: u32) -> bool {
        let register = self.distributor.ispendr.get(id as usize / 32);
        register.is_some_and(|register| register.get() >> (id % 32) & 1 != 0)
    }

    /// Lets interrupt `id` through, or not.
    pub fn enable(&self, id: u32, on: bool) {
        let register = if on {
            &self.distributor.isenabler
        } else {
            &self.distributor.icenabler
        };
        if let Some(register) = register.get(id as usize / 32) {
            register.set(1 << (id % 32));
        }
    }

    /// Makes interrupt `id` edge-triggered, or level.
    pub fn trigger(&self, id: u32, edge: bool) {
        if let Some(register) = self.distributor.icfgr.get(id as usize / 16) {
            let bit = 2 << (id % 16 * 2);
            let old = register.get();
            register.set(if edge { old | bit } else { old & !bit });
        }
    }
}

/// This CPU's list registers.
#[derive(Clone, Copy)]
pub struct ListRegisters(&'static Hypervisor, usize);

impl Gic {
    /// This CPU's list registers.
    #[inline(always)]
    #[must_use]
    pub fn list_registers(&self) -> ListRegisters {
        ListRegisters(self.hypervisor, self.list_registers)
    }
}

impl Lrs for ListRegisters {
    #[inline(always)]
    fn count(&self) -> usize {
        self.1
    }
    #[inline(always)]
    fn read(&self, n: usize) -> u32 {
        self.0.lr[n % 64].get()
    }
    #[inline(always)]
    fn write(&mut self, n: usize, value: u32) {
        self.0.lr[n % 64].set(value);
    }
    #[inline(always)]
    fn elrsr(&self) -> u32 {
        self.0.elrsr[0].get()
    }
    #[inline(always)]
    fn hcr(&self) -> u32 {
        self.0.hcr.get()
    }
    #[inline(always)]
    fn set_hcr(&mut self, value: u32) {
        self.0.hcr.set(value);
    }
    #[inline(always)]
    fn vmcr(&self) -> u32 {
        self.0.vmcr.get()
    }
    #[inline(always)]
    fn set_vmcr(&mut self, value: u32) {
        self.0.vmcr.set(value);
    }
    #[inline(always)]
    fn apr(&self) -> u32 {
        self.0.apr.get()
    }
    #[inline(always)]
    fn set_apr(&mut self, value: u32) {
        self.0.apr.set(value);
    }
}
