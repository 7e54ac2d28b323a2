//! Every register that a VM has keeps its value while others run, and none shows another's.
//!
//! Each round fills registers with patterns of this VM's seed, its CPU and the round, lets others run, and looks.
//! Command line: `seed=N` (another for each VM), `rounds=N`, `spin=N` (length of a wait in loop rounds), `harm`: does in each
//! round all that could harm others, too.
#![no_std]
#![no_main]

mod harm;
mod system;

use bare::machine::{Conduit, has, machine, number, reset};
use bare::report::Outcome;
use bare::timer::{self, ENABLE, Timer};
use bare::{armillary, check_eq, cpu, gic, mcr, mmio, mmu, psci, skip, smp, tests, vfp};
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

tests! {
    registers_at_the_first_instruction_are_those_of_a_reset => first_instruction,
    vfp_registers_at_first_use_are_zero => vfp_at_first_use,
    core_registers_of_every_mode_survive_a_call => || { find_hypervisor(); smp::everywhere(banks_over_yield) },
    core_registers_of_every_mode_survive_the_passing_of_time => || smp::everywhere(banks_over_time),
    system_registers_survive_a_switch => || smp::everywhere(system_registers),
    vfp_registers_survive_a_switch => || smp::everywhere(vfp_registers),
    the_interrupt_interface_survives_a_switch => || smp::everywhere(interrupt_interface),
    interrupts_pending_and_active_survive_a_switch => || smp::everywhere(interrupts),
    translations_of_one_address_are_each_vms_own => || smp::everywhere(translations),
}

global_asm!(include_str!("banks.s"), options(raw));

const WORDS: usize = 36;

/// What banks.s fills registers with, and finds there.
#[repr(C)]
struct Banks {
    set: [u32; WORDS],
    got: [u32; WORDS],
    saved_sp: u32,
}

unsafe extern "C" {
    fn hold_banks(banks: &mut Banks, hvc: u32);
}

static UNDER_ARMILLARY: AtomicBool = AtomicBool::new(false);

fn find_hypervisor() {
    UNDER_ARMILLARY.store(armillary::present(), Ordering::Relaxed);
}

/// The value for one register in one round; another VM, CPU, round or register has another.
fn pattern(round: u32, register: u32) -> u32 {
    let who = number("seed", 1) << 20
        | (cpu::index() as u32) << 16
        | round << 8 & 0xff00
        | register & 0xff;
    (who ^ who >> 7).wrapping_mul(0x9e37_79b1) ^ who.rotate_left(9)
}

fn rounds() -> core::ops::Range<u32> {
    0..number("rounds", 20)
}

fn spin() -> u32 {
    number("spin", 100_000)
}

/// Lets others run: gives up the slice under the hypervisor on even rounds, else lets it pass.
fn pause(round: u32) {
    if has("harm") {
        harm::everything(round);
    }
    if round.is_multiple_of(2) && UNDER_ARMILLARY.load(Ordering::Relaxed) {
        armillary::yield_now();
    } else {
        (0..spin()).for_each(|_| cpu::relax());
    }
}

fn first_instruction() -> Outcome {
    let at = reset();
    check_eq!(
        at.cpsr & 0x3ff,
        0x1d3,
        "CPSR: SVC mode, ARM state, all masked"
    );
    check_eq!(at.r[0], 0, "r0");
    for (n, value) in at.r.iter().enumerate().skip(3) {
        check_eq!(*value, 0, "r{n}");
    }
    check_eq!(at.lr, 0, "lr");
    // MMU, caches, alignment check, vectors, endianness, TEX remap, access flag, Thumb exceptions: off.
    check_eq!(at.sctlr & 0x7210_3007, 0, "SCTLR");
    check_eq!(at.cpacr & 0x00f0_0000, 0, "CPACR");
    check_eq!(at.ttbcr, 0, "TTBCR");
    check_eq!(at.vbar, 0, "VBAR");
    check_eq!(at.contextidr, 0, "CONTEXTIDR");
    for (n, value) in at.tpidr.iter().enumerate() {
        check_eq!(*value, 0, "TPIDR{}", ["URW", "URO", "PRW"][n]);
    }
    check_eq!(at.cntkctl & 0x307, 0, "CNTKCTL");
    check_eq!(at.cntp_ctl & 1, 0, "CNTP_CTL");
    check_eq!(at.cntv_ctl & 1, 0, "CNTV_CTL");
    Ok(())
}

fn vfp_at_first_use() -> Outcome {
    vfp::set_cpacr(vfp::CPACR_FULL);
    let enabled = vfp::fpexc() & vfp::EN;
    vfp::on();
    let found = vfp::store();
    vfp::off();
    check_eq!(enabled, 0, "FPEXC.EN");
    for (n, value) in found.iter().enumerate() {
        check_eq!(*value, 0, "word {n} of d0-d31 and FPSCR");
    }
    Ok(())
}

fn banks_over_yield() -> Outcome {
    if machine().psci != Some(Conduit::Hvc) {
        skip!("HVC is not known to be answered");
    }
    rounds().try_for_each(|round| hold(round, armillary::YIELD))
}

fn banks_over_time() -> Outcome {
    rounds().try_for_each(|round| hold(round, 0))
}

/// One round for the core registers: `hvc` as banks.s takes it.
fn hold(round: u32, hvc: u32) -> Outcome {
    let mut banks = Banks {
        set: [0; WORDS],
        got: [0; WORDS],
        saved_sp: 0,
    };
    for (n, value) in banks.set.iter_mut().enumerate() {
        *value = pattern(round, n as u32) & mask(n) | fixed(n);
    }
    if hvc == 0 {
        banks.set[0] = spin();
    }
    if has("harm") {
        harm::everything(round);
    }
    // SAFETY: interrupts are masked, the structure is of the form that banks.s expects.
    unsafe { hold_banks(&mut banks, hvc) };
    for n in 0..WORDS {
        let expected = match (n, hvc) {
            (0, armillary::YIELD) if !UNDER_ARMILLARY.load(Ordering::Relaxed) => {
                psci::NOT_SUPPORTED
            }
            (0, _) => 0,
            (1..=3, armillary::YIELD) => continue, // SMCCC 1.0 lets a call change them
            _ => banks.set[n],
        };
        check_eq!(
            banks.got[n] & mask(n) | fixed(n),
            expected,
            "{} on CPU {} in round {round}",
            bank_name(n),
            cpu::index()
        );
    }
    Ok(())
}

/// The bits that hold a value in the word of `Banks`.
fn mask(n: usize) -> u32 {
    match n {
        15 => 0xf80f_0000,
        18 | 21 | 24 | 27 | 30 => 0xf80f_03c0,
        _ => !0,
    }
}

/// Saved status registers always hold a mode that exists.
fn fixed(n: usize) -> u32 {
    if matches!(n, 18 | 21 | 24 | 27 | 30) {
        0x13
    } else {
        0
    }
}

fn bank_name(n: usize) -> &'static str {
    const NAMES: [&str; WORDS] = [
        "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "sp_usr",
        "lr_usr", "CPSR", "sp_svc", "lr_svc", "SPSR_svc", "sp_abt", "lr_abt", "SPSR_abt", "sp_und",
        "lr_und", "SPSR_und", "sp_irq", "lr_irq", "SPSR_irq", "sp_fiq", "lr_fiq", "SPSR_fiq",
        "r8_fiq", "r9_fiq", "r10_fiq", "r11_fiq", "r12_fiq",
    ];
    NAMES[n]
}

fn system_registers() -> Outcome {
    system::first_use()?;
    mmu::off();
    let outcome =
        rounds().try_for_each(|round| system::hold(|n| pattern(round, n), || pause(round), round));
    mmu::on();
    outcome
}

fn vfp_registers() -> Outcome {
    let outcome = rounds().try_for_each(|round| {
        vfp::on();
        let mut set: vfp::Registers = core::array::from_fn(|n| pattern(round, n as u32));
        set[64] &= vfp::FPSCR_MASK;
        vfp::load(&set);
        pause(round);
        // Every third round FPEXC.EN is off meanwhile.
        if round % 3 == 0 {
            vfp::set_fpexc(0);
            pause(round);
            check_eq!(vfp::fpexc() & vfp::EN, 0, "FPEXC.EN in round {round}");
            vfp::set_fpexc(vfp::EN);
        }
        check_eq!(vfp::fpexc() & vfp::EN, vfp::EN, "FPEXC.EN in round {round}");
        let got = vfp::store();
        for n in 0..set.len() {
            let what = if n < 64 { "d" } else { "FPSCR " };
            check_eq!(
                got[n],
                set[n],
                "{what}{} word {} on CPU {} in round {round}",
                n / 2,
                n % 2,
                cpu::index()
            );
        }
        Ok(())
    });
    vfp::off();
    outcome
}

/// The CPU interface, which is the hardware's under the hypervisor: priority mask and binary point.
fn interrupt_interface() -> Outcome {
    gic::init_cpu();
    let outcome = rounds().try_for_each(|round| {
        // Binary points from 3 on are there whatever the number of priorities.
        let (mask, point) = (pattern(round, 96) & 0xf8, 3 + pattern(round, 97) % 5);
        gic::write_cpu(gic::gicc::PMR, mask);
        gic::write_cpu(gic::gicc::BPR, point);
        pause(round);
        check_eq!(gic::read_cpu(gic::gicc::PMR), mask, "PMR in round {round}");
        check_eq!(gic::read_cpu(gic::gicc::BPR), point, "BPR in round {round}");
        Ok(())
    });
    gic::init_cpu();
    outcome
}

/// One interrupt is pending, and two are active, the timer's above an SGI, while others run that have the same, or nothing.
fn interrupts() -> Outcome {
    const ACTIVE: u8 = 0x80;
    const ABOVE: u8 = 0x40;
    const IDLE: u32 = 0xff;
    let (timer, own) = (Timer::Virtual, 1 << cpu::index());
    let running = |priority: u32, when: &str, round: u32| {
        let found = gic::read_cpu(gic::gicc::RPR) & 0xff;
        check_eq!(found, priority, "running priority {when} in round {round}");
        Ok(())
    };
    let comes = |id: u32, when: &str, round: u32| {
        let found = gic::acknowledge();
        check_eq!(found & 0x3ff, id, "interrupt {when} in round {round}");
        Ok(found)
    };
    gic::init_cpu();
    gic::write(gic::gicd::CTLR, 1);
    gic::enable(timer.interrupt());
    gic::set_priority(timer.interrupt(), ABOVE);
    let outcome = rounds().try_for_each(|round| {
        if (round + number("seed", 1) + cpu::index() as u32).is_multiple_of(3) {
            (0..3).for_each(|_| pause(0));
            running(IDLE, "with nothing active", round)?;
            comes(gic::SPURIOUS, "with nothing pending", round)?;
            return Ok(());
        }
        let active = pattern(round, 99) % 16;
        let pending = (active + 1 + pattern(round, 100) % 15) % 16;
        gic::set_priority(active, ACTIVE);
        gic::set_priority(pending, ACTIVE);
        gic::send(active, own);
        let first = comes(active, "sent first", round)?;
        gic::send(pending, own);
        timer.set_deadline(timer.count());
        timer.set_control(ENABLE);
        let due = timer.count() + timer::ticks(100_000);
        while gic::next() != timer.interrupt() && timer.count() < due {
            cpu::relax();
        }
        let second = comes(timer.interrupt(), "of the timer", round)?;
        pause(round);
        running(ABOVE.into(), "after others ran", round)?;
        comes(gic::SPURIOUS, "below the timer's", round)?;
        timer.set_control(0);
        gic::end(second);
        running(ACTIVE.into(), "after the timer's", round)?;
        comes(gic::SPURIOUS, "below the first", round)?;
        pause(round + 1);
        gic::end(first);
        let third = comes(pending, "sent last", round)?;
        gic::end(third);
        running(IDLE, "in the end", round)?;
        comes(gic::SPURIOUS, "in the end", round)?;
        Ok(())
    });
    timer.set_control(0);
    gic::init_cpu();
    outcome
}

/// Where each CPU of each VM has a section of its own.
const SHARED: u32 = 0xe00;

/// One virtual address leads to one of two sections of this VM's, or of another's own: what is there says which.
fn translations() -> Outcome {
    let ram = machine().memory;
    let virtual_section = SHARED + cpu::index() as u32;
    let before = mmu::section(virtual_section);
    let own = [1, 2].map(|n| ((ram.base + ram.size) >> 20) - n - 2 * cpu::index() as u32);
    for (section, n) in own.into_iter().zip(0..) {
        mmio::write(section << 20, pattern(n, 98));
    }
    let attributes = mmu::section(own[0]) & 0xf_ffff;
    let outcome = rounds().try_for_each(|round| {
        let n = round / 2 % 2;
        if round % 2 == 0 {
            mmu::set_section(virtual_section, own[n as usize] << 20 | attributes);
            cpu::dsb();
            // TLBIMVAA: the entry is of every ASID.
            mcr!(15, 0, 8, 7, 3; virtual_section << 20);
            cpu::dsb();
            cpu::isb();
        }
        for _ in 0..2 {
            let found = mmio::read(virtual_section << 20);
            check_eq!(found, pattern(n, 98), "section {n} in round {round}");
            pause(round);
        }
        Ok(())
    });
    mmu::set_section(virtual_section, before);
    mmu::flush();
    outcome
}
