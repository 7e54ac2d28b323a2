//! The board's own devices, found in its device tree and mapped: the tree itself, the console, the
//! interrupt controller, RAM and the other CPUs.

use crate::addr::{BLOCK, PAGE, Pa};
use crate::arch::boot::{self, Handover};
use crate::arch::{context, counter, mmu, smc};
use crate::driver::{gic, uart::Uart};
use crate::fdt::{self, Board, Range, VmConfig};
use crate::machine;
use crate::warn;
use crate::{console, mem};
use alloc::vec::Vec;

/// The first word of a flattened device tree.
const TREE_MAGIC: u32 = 0xd00d_feed;
/// Pages of a CPU's stack.
const STACK_PAGES: usize = 4;

/// Maps the device tree: the loader's, or, where it gave none, one at the start of the RAM that the
/// image lies in, as QEMU puts it for an ELF. Its bytes, and where they are.
#[must_use]
pub fn tree(handover: &Handover) -> Option<(&'static [u8], Range)> {
    let image = handover.image;
    let starts = [27, 28, 29, 30].map(|bits| image.align_down(1 << bits));
    let given = (handover.tree.0 != 0).then_some(handover.tree);
    given.into_iter().chain(starts).find_map(tree_at)
}

fn tree_at(pa: Pa) -> Option<(&'static [u8], Range)> {
    if !pa.is_aligned(4) {
        return None;
    }
    let va = mmu::map_tree(pa);
    // SAFETY: just mapped, read-only, for as long as the tree is used; 8 bytes lie inside 4 MiB.
    let [magic, size] = unsafe { (va as *const [[u8; 4]; 2]).read() }.map(u32::from_be_bytes);
    if magic != TREE_MAGIC || u64::from(size) > BLOCK {
        mmu::unmap_tree();
        return None;
    }
    // SAFETY: up to 2 MiB from anywhere in the first 2 MiB of 4 MiB that are mapped.
    let bytes = unsafe { core::slice::from_raw_parts(va as *const u8, size as usize) };
    Some((
        bytes,
        Range {
            start: pa,
            size: size.into(),
        },
    ))
}

/// Gives the log the console that the tree chooses, or else the first that has a driver.
///
/// It comes before the board is read, so that whatever is wrong with that can be said.
pub fn attach_console(tree: &fdt::Tree<'_, '_>) {
    if let Some(uart) = fdt::Uart::find(tree) {
        // SAFETY: the device tree says that these are a UART's registers, and nobody else uses it.
        let uart = unsafe {
            mmu::map_device(uart.registers.start, uart.registers.size.min(PAGE))
                .map(|base| Uart::new(&uart.kind, base))
        };
        if let Some(uart) = uart {
            console::attach(uart);
        }
    }
}

/// Gives the frame allocator all RAM but `taken` and the modules of `vms`.
pub fn add_ram(board: &Board, taken: &[Range], vms: &[VmConfig]) {
    let mut modules = Vec::new();
    for vm in vms {
        modules.extend(vm.modules().iter().map(|(_, module)| module.range));
    }
    for &range in &modules {
        // SAFETY: it is not added below.
        unsafe { mem::reserve_module(range) };
    }
    let mut free = board.memory.clone();
    for hole in board.reserved.iter().chain(taken).chain(&modules) {
        let mut left = Vec::with_capacity(free.len() + 1);
        for range in free {
            // What lies before the hole, and what behind it.
            left.extend(between(range.start, range.end().min(hole.start)));
            left.extend(between(range.start.max(hole.end()), range.end()));
        }
        free = left;
    }
    for range in free {
        mem::add_ram(range.start, range.size);
    }
}

/// The addresses from `start` up to `end`, if there are any.
fn between(start: Pa, end: Pa) -> Option<Range> {
    (start < end).then(|| Range {
        start,
        size: end.0 - start.0,
    })
}

/// Readies the interrupt controller and the boot CPU.
///
/// `None` where the registers can't be mapped.
#[must_use]
pub fn init(board: &Board) -> Option<()> {
    let gic = &board.gic;
    // SAFETY: the device tree says that these are the interrupt controller's registers.
    unsafe {
        let map = |range: &Range, size: u64| mmu::map_device(range.start, size);
        let distributor = map(&gic.gicd, 0x1000)?;
        let cpu = map(&gic.gicc, 0x2000)?;
        let hypervisor = map(&gic.gich, 0x1000)?;
        let virtual_cpu = map(&gic.gicv, 0x2000)?;
        gic::init(distributor, cpu, hypervisor, virtual_cpu);
    }
    if let Some(psci) = board.psci {
        smc::init(psci);
    }
    machine::set_wiring(machine::Wiring {
        hyp_timer: board.timer.hyp,
        virtual_timer: board.timer.virt,
        maintenance: board.gic.maintenance,
        console: board
            .uart
            .and_then(|uart| uart.interrupt)
            .map(|interrupt| interrupt.id),
        gicv: board.gic.gicv,
        frequency: frequency(board),
        seconds_at_zero: seconds_at_zero(board),
    });
    init_cpu(board, 0);
    let interrupt = board.uart.and_then(|uart| uart.interrupt);
    if let (Some(gic), Some(interrupt)) = (gic::gic(), interrupt) {
        gic.trigger(interrupt.id, interrupt.edge);
        gic.target(interrupt.id, 0);
        gic.enable(interrupt.id, true);
    }
    console::start(frequency(board));
    Some(())
}

/// Seconds of the board's PL031 when the counter was 0; 0 where there is none.
fn seconds_at_zero(board: &Board) -> u32 {
    let Some(rtc) = board.rtc else { return 0 };
    // SAFETY: the device tree says that this is a PL031; its first register is read once.
    let seconds = unsafe {
        let Some(base) = mmu::map_device(rtc.start, PAGE) else {
            return 0;
        };
        (base as *const u32).read_volatile()
    };
    let up = counter::now() / u64::from(frequency(board));
    seconds.wrapping_sub(up as u32)
}

/// Counter ticks per second: what the device tree says, else CNTFRQ.
#[must_use]
pub fn frequency(board: &Board) -> u32 {
    board
        .timer
        .frequency
        .unwrap_or_else(counter::frequency)
        .max(1)
}

/// Readies this CPU, number `cpu`: its traps, its interrupts.
pub fn init_cpu(board: &Board, cpu: usize) {
    context::init(cpu);
    if let Some(gic) = gic::gic() {
        gic.init_cpu(cpu);
        for id in [board.timer.hyp, board.timer.virt, board.gic.maintenance] {
            gic.enable(id, true);
        }
    }
}

/// Starts the board's other CPUs, in the tree's order, numbered from 1; how many run then.
///
/// `online` says how many CPUs have arrived.
pub fn start_cpus(board: &Board, online: impl Fn() -> usize) -> usize {
    let here = boot::affinity();
    let mut running = 1;
    for cpu in board
        .cpus
        .iter()
        .filter(|cpu| cpu.mpidr != here & 0xff_ffff)
    {
        if running == mmu::MAX_CPUS.min(8) {
            warn!("CPU {:#x} stays off: at most 8 CPUs are used", cpu.mpidr);
            continue;
        }
        match start_cpu(cpu, running) {
            Ok(()) => {
                while online() <= running {
                    core::hint::spin_loop();
                }
                running += 1;
            }
            Err(why) => warn!("CPU {:#x} stays off: {why}", cpu.mpidr),
        }
    }
    running
}

fn start_cpu(cpu: &fdt::Cpu, number: usize) -> Result<(), &'static str> {
    if cpu.start != fdt::CpuStart::Psci {
        return Err("its enable-method is not psci");
    }
    let size = STACK_PAGES as u64 * PAGE;
    let frames = mem::alloc_own(size).ok_or("no memory for its stack")?;
    // SAFETY: the frames are this stack's alone.
    let stack = unsafe { mmu::map_stack(frames, STACK_PAGES) }.ok_or("no room for its stack")?;
    let (entry, argument) = boot::entry(stack, number);
    smc::cpu_on(cpu.mpidr, entry, argument).map_err(|_| "the firmware refused CPU_ON")
}
