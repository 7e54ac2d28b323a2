//! A guest that means harm: whatever it does, the others go on, and it gets what the architecture says.
//!
//! The tests try every call, register and address. Command line, instead of the tests: `nowhere` jumps to where nothing is,
//! with vectors there too; `flood` prints for ever; `spin` loops with interrupts masked; `sleep` waits for no interrupt;
//! each prints its name in capitals first. `seed=N`, `rounds=N` (10,000 by default), `step=N` between call numbers (65,537), `every`: and
//! all that the calling convention forms.
#![no_std]
#![no_main]

use bare::exception::{Kind, call, catch};
use bare::gic::{self, gicd};
use bare::machine::{Range, has, image, machine, number};
use bare::psci::{self, function};
use bare::random::Random;
use bare::report::{Outcome, Test, run};
use bare::{armillary, check, check_eq, cpu, mcr, mmio, mmu, println, skip, timer};
use core::cell::UnsafeCell;

const TESTS: &[Test] = &[
    ("every_call_number_by_hvc_answers_or_is_undefined", || {
        calls(psci::hvc)
    }),
    ("every_call_number_by_smc_answers_or_is_undefined", || {
        calls(psci::smc)
    }),
    (
        "every_distributor_register_takes_random_writes_of_each_width",
        distributor,
    ),
    (
        "every_register_of_the_cpu_interface_takes_random_writes",
        cpu_interface,
    ),
    ("every_uart_register_takes_random_writes", uart),
    ("every_clock_register_takes_random_writes", clock),
    ("every_coprocessor_register_can_be_tried", coprocessors),
    ("every_megabyte_of_the_address_space_can_be_read", loads),
    ("random_stores_outside_ram_do_no_harm", stores),
    ("random_jumps_outside_ram_are_prefetch_aborts", jumps),
    ("interrupts_work_after_all_this", still_works),
];

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    if has("nowhere") {
        println!("NOWHERE");
        nowhere();
    }
    if has("flood") {
        println!("FLOOD");
        for n in 0u32.. {
            println!("flood {n:010} flood flood flood flood flood flood flood flood flood flood");
        }
    }
    if has("spin") {
        println!("SPIN");
        loop {
            cpu::relax();
        }
    }
    if has("sleep") {
        println!("SLEEP");
        loop {
            cpu::wfi();
        }
    }
    run(TESTS)
}

fn nowhere() {
    mmu::off();
    mcr!(15, 0, 12, 0, 0; 0x0c00_0000);
    // SAFETY: that it ends in an abort whose vector aborts too is what is wanted.
    let jump: fn() = unsafe { core::mem::transmute(0x0c00_1000usize) };
    jump();
}

fn rounds() -> u32 {
    number("rounds", 10_000)
}

fn random() -> Random {
    Random::new(number("seed", 1))
}

/// Calls that end the guest or put it to sleep as they should.
fn fatal(number: u32) -> bool {
    let psci = number & 0xbfff_ffff;
    matches!(psci, 0x8400_0001..=0x8400_0003 | 0x8400_0005 | 0x8400_0008 | 0x8400_0009 | 0x8400_000c..=0x8400_000e | 0x8400_0012)
        || number & !0xf == 0x95c1_ba50
}

/// The numbers next to zero, those of PSCI and of the hypervisor, one in so many up to PSCI's, and random ones.
/// The `n`th number with zeroes where the SMC Calling Convention wants them, in bits 23:16.
fn by_the_convention(n: u32) -> u32 {
    (n & 0xff_0000) << 8 | n & 0xffff
}

fn calls(conduit: fn(u32, u32, u32, u32) -> [u32; 4]) -> Outcome {
    let mut random = random();
    let mut arguments = random.clone();
    let numbers = (0..0x400u32)
        .chain((0..0x8400_0100).step_by(number("step", 0x10001) as usize))
        .chain(0x8400_0000..0x8400_0100)
        .chain(0xc400_0000..0xc400_0100)
        .chain(0x8600_0000..0x8600_0100)
        .chain(0x8600_ff00..0x8600_ff10)
        .chain((0..if has("every") { 1 << 24 } else { 0 }).map(by_the_convention))
        .chain((0..rounds()).map(|_| random.next()));
    for number in numbers.filter(|n| !fatal(*n)) {
        let (a, b, c) = (arguments.next(), arguments.next(), arguments.next());
        if let Err(fault) = catch(|| conduit(number, a, b, c)) {
            check!(
                fault.kind == Kind::Undefined,
                "{:?} at call {number:#x}",
                fault.kind
            );
        }
    }
    check!(psci::version() >= 0x1_0000, "PSCI_VERSION afterwards");
    Ok(())
}

/// One access of width 1, 2 or 4; only a data abort may come of it.
fn access(address: u32, width: u32, store: Option<u32>) -> Outcome {
    let address = address & !(width - 1);
    let result = catch(|| match (width, store) {
        (1, None) => u32::from(mmio::read8(address)),
        (2, None) => u32::from(mmio::read16(address)),
        (_, None) => mmio::read(address),
        (1, Some(value)) => {
            mmio::write8(address, value as u8);
            0
        }
        (2, Some(value)) => {
            mmio::write16(address, value as u16);
            0
        }
        (_, Some(value)) => {
            mmio::write(address, value);
            0
        }
    });
    if let Err(fault) = result {
        check!(fault.kind == Kind::Data, "{:?} at {address:#x}", fault.kind);
        check_eq!(fault.far, address, "FAR");
    }
    Ok(())
}

/// Random reads and writes of each width at every word of a device, but for what `leave` says.
fn device(base: u32, size: u32, leave: impl Fn(u32) -> bool) -> Outcome {
    let mut random = random();
    for offset in (0..size).filter(|offset| !leave(*offset)) {
        for width in [1, 2, 4] {
            access(base + offset, width, Some(random.next()))?;
            access(base + offset, width, None)?;
        }
    }
    for _ in 0..rounds() {
        let (offset, value) = (random.below(size), random.next());
        if !leave(offset) {
            access(
                base + offset,
                [1, 2, 4, 4][(value >> 7 & 3) as usize],
                Some(value),
            )?;
        }
    }
    Ok(())
}

fn distributor() -> Outcome {
    gic::init();
    gic::write_cpu(gic::gicc::CTLR, 0);
    // QEMU 7.2 stops at an assertion when software interrupts are pended by zeroes.
    let qemu = !armillary::present();
    let outcome = device(machine().gicd, 0x1000, |offset| {
        qemu && offset & !0x3f == 0xf00 & !0x3f
    });
    gic::init();
    outcome
}

fn cpu_interface() -> Outcome {
    gic::init();
    let outcome = device(machine().gicc, 0x100, |_| false);
    gic::init();
    // The running priority is worked out again at an end only.
    gic::end(0);
    outcome
}

fn uart() -> Outcome {
    // Not the data register, to keep the console readable.
    let outcome = device(machine().uart, 0x1000, |offset| offset < 4);
    mmio::write(machine().uart + 0x38, 0);
    mmio::write(machine().uart + 0x44, 0x7ff);
    mmio::write(machine().uart + 0x2c, 0x70);
    mmio::write(machine().uart + 0x30, 0x301);
    outcome
}

fn clock() -> Outcome {
    let Some(clock) = machine().rtc else {
        skip!("no clock")
    };
    let outcome = device(clock, 0x1000, |_| false);
    mmio::write(clock + 0x10, 0);
    outcome
}

/// Two instructions to be written and run.
#[repr(align(32))]
struct Code(UnsafeCell<[u32; 8]>);
// SAFETY: used by one CPU.
unsafe impl Sync for Code {}
static CODE: Code = Code(UnsafeCell::new([0; 8]));

/// Runs `instruction`, then a return.
fn try_instruction(instruction: u32) -> Result<[u32; 2], bare::exception::Fault> {
    const BX_LR: u32 = 0xe12f_ff1e;
    // SAFETY: in bounds, no reference into the code.
    unsafe {
        let code = CODE.0.get().cast::<u32>();
        code.write_volatile(instruction);
        code.add(1).write_volatile(BX_LR);
    }
    let address = CODE.0.get() as u32;
    mcr!(15, 0, 7, 11, 1; address); // clean to the point of unification, invalidate the instruction cache
    cpu::dsb();
    mcr!(15, 0, 7, 5, 0; 0);
    cpu::dsb();
    cpu::isb();
    call(address, [0; 4])
}

/// Every MRC and MRRC of CP14 and CP15: reading must not hurt.
fn coprocessors() -> Outcome {
    for coprocessor in [14, 15] {
        for n in 0..8 * 16 * 16 * 8 {
            let (op2, m, crn, op1) = (n & 7, n >> 3 & 15, n >> 7 & 15, n >> 11);
            let mrc = 0xee10_0010 | op1 << 21 | crn << 16 | coprocessor << 8 | op2 << 5 | m;
            if let Err(fault) = try_instruction(mrc) {
                check!(
                    fault.kind == Kind::Undefined,
                    "{:?} at {mrc:#x}",
                    fault.kind
                );
                check_eq!(fault.lr, CODE.0.get() as u32 + 4, "lr at {mrc:#x}");
            }
        }
        for n in 0..256 {
            let mrrc = 0xec51_0000 | coprocessor << 8 | (n >> 4) << 4 | n & 15;
            if let Err(fault) = try_instruction(mrrc) {
                check!(
                    fault.kind == Kind::Undefined,
                    "{:?} at {mrrc:#x}",
                    fault.kind
                );
            }
        }
    }
    Ok(())
}

fn is_ours(address: u32) -> bool {
    let within = |range: Range| address.wrapping_sub(range.base) < range.size;
    within(image()) || within(machine().memory)
}

fn loads() -> Outcome {
    let mut random = random();
    for megabyte in 0..4096u32 {
        let address = (megabyte << 20) + random.below(1 << 20);
        // QEMU's devices may change by being read; a hypervisor's are ours to try.
        if armillary::present() || !(0x0800_0000..0x1000_0000).contains(&address) {
            access(address, [1, 2, 4][random.below(3) as usize], None)?;
        }
    }
    Ok(())
}

fn stores() -> Outcome {
    if !armillary::present() {
        skip!("QEMU's other devices could be started");
    }
    gic::init();
    let mut random = random();
    let spare = |address: u32| {
        let page = address & !0xffff;
        is_ours(address)
            || page == machine().gicd
            || page == machine().gicc
            || page == machine().uart
    };
    for round in 0..rounds() {
        let value = random.next();
        // Half of them near the devices.
        let address = if round % 2 == 0 {
            random.next()
        } else {
            0x0800_0000 + random.below(0x0800_0000)
        };
        if !spare(address) {
            access(address, [1, 2, 4][random.below(3) as usize], Some(value))?;
        }
    }
    Ok(())
}

fn jumps() -> Outcome {
    let mut random = random();
    mmu::off();
    let mut outcome = Ok(());
    for _ in 0..rounds() / 10 {
        // Above QEMU's RAM and PCI windows, below its flash: where nothing is in any configuration.
        let address = 0xb000_0000 + random.below(0x4000_0000);
        let Err(fault) = call(address & !2, [0; 4]) else {
            continue;
        };
        if fault.kind != Kind::Prefetch || fault.far != address & !3 && fault.far != address & !1 {
            outcome = Err(bare::report::Reason::Failed(bare::report::text(
                format_args!("{:?} at {:#x} for {address:#x}", fault.kind, fault.far),
            )));
            break;
        }
    }
    mmu::on();
    outcome
}

fn still_works() -> Outcome {
    gic::init();
    for n in 0..16 {
        gic::send(n, 1);
        let iar = gic::acknowledge();
        gic::end(iar);
        check_eq!(iar, n, "IAR");
    }
    let timer = timer::Timer::Virtual;
    gic::enable(timer.interrupt());
    timer.set_value(1000);
    timer.set_control(timer::ENABLE);
    check!(
        timer::wait(1_000_000, || gic::next() == timer.interrupt()),
        "no timer interrupt"
    );
    timer.set_control(0);
    gic::disable(timer.interrupt());
    check!(
        !gic::bit(gicd::ISACTIVER, timer.interrupt()),
        "active without being acknowledged"
    );
    check_eq!(
        psci::call(function::FEATURES, function::CPU_ON, 0, 0),
        0,
        "PSCI_FEATURES of CPU_ON"
    );
    Ok(())
}
