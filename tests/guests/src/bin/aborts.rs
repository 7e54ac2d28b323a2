//! Exceptions arrive at the vectors exactly as SCTLR and VBAR ask, from every mode and instruction set.
//!
//! Where a hypervisor injects them it plays the CPU; on the bare machine the CPU does it, and the results are the same.
#![no_std]
#![no_main]

use bare::cpu::{CPSR_T, mode};
use bare::exception::{Kind, call, vectors};
use bare::probe::{Abort, EXTERNAL, Expected, Place, Probe, verify};
use bare::report::Outcome;
use bare::{check, check_eq, cpu, fail, mcr, mmu, mrc, probes, tests};
use core::cell::UnsafeCell;

tests! {
    exceptions_are_taken_in_arm_state => || with(0, vectors().0, everything),
    exceptions_are_taken_in_thumb_state_with_te => || with(mmu::TE, vectors().1, everything),
    exceptions_are_taken_big_endian_with_ee => || mmu::without(|| with(mmu::EE, vectors().0, everything)),
    exceptions_are_taken_in_big_endian_thumb_state_with_both => || mmu::without(|| with(mmu::TE | mmu::EE, vectors().1, everything)),
    exceptions_go_to_where_vbar_points => moved_vectors,
    exceptions_go_to_high_vectors_with_v => high_vectors,
    exceptions_keep_the_mmu_off => || mmu::without(|| with(0, vectors().0, everything)),
    exceptions_from_every_mode_come_back_to_it => from_every_mode,
    data_abort_leaves_the_prefetch_abort_registers_alone => other_registers,
    exception_in_an_it_block_remembers_where => in_it_block,
    masks_of_interrupts_are_kept_and_set_as_the_kind_of_exception_says => masks,
    abort_clears_no_pending_interrupt => pending_stays,
}

const NOWHERE: u32 = 0x0c00_0000;

static DATA: &[Probe] = probes! {
    load "ldr r1, [r0]", store "str r1, [r0]", load "ldrd r2, r3, [r0]", store "stm r0!, {{r1, r2}}", load "ldrb r1, [r0], #1",
};

/// An access to the Hyp-mode register HCR, which is undefined below Hyp mode, and to a coprocessor that there is not.
static UNDEFINED: &[Probe] =
    probes! { load "mrc p15, 4, r1, c1, c1, 0", load "mrc p7, 0, r1, c1, c0, 0" };

/// Runs a test with these bits of SCTLR and this VBAR.
fn with(bits: u32, vbar: u32, test: fn() -> Outcome) -> Outcome {
    let (old_sctlr, old_vbar) = (mmu::sctlr(), mrc!(15, 0, 12, 0, 0));
    mcr!(15, 0, 12, 0, 0; vbar);
    mmu::set_sctlr(old_sctlr | bits);
    let outcome = test();
    mmu::set_sctlr(old_sctlr);
    mcr!(15, 0, 12, 0, 0; old_vbar);
    outcome
}

/// Data and prefetch aborts and undefined instructions, in SVC and User mode, in ARM and Thumb state.
fn everything() -> Outcome {
    for place in Place::ALL {
        for probe in DATA {
            let abort = Some(Abort {
                status: EXTERNAL,
                far: NOWHERE,
                write: Some(probe.write),
            });
            let lr = (probe.code(place.thumb) & !1) + 8;
            let result = place.call(probe.code(place.thumb), [NOWHERE, 0, 0, 0]);
            verify(
                probe.name,
                result,
                &Expected {
                    kind: Kind::Data,
                    lr,
                    abort,
                    from: place,
                },
            )?;
        }
        if mmu::sctlr() & mmu::M == 0 {
            // With the map on, what is not RAM is never executed.
            let abort = Some(Abort {
                status: EXTERNAL,
                far: NOWHERE,
                write: None,
            });
            let expected = Expected {
                kind: Kind::Prefetch,
                lr: NOWHERE + 4,
                abort,
                from: place,
            };
            verify("fetch", place.call(NOWHERE, [0; 4]), &expected)?;
        }
        for probe in UNDEFINED {
            let lr = (probe.code(place.thumb) & !1) + if place.thumb { 2 } else { 4 };
            let result = place.call(probe.code(place.thumb), [0; 4]);
            verify(
                probe.name,
                result,
                &Expected {
                    kind: Kind::Undefined,
                    lr,
                    abort: None,
                    from: place,
                },
            )?;
        }
    }
    Ok(())
}

/// A page of vectors that jump to the usual ones; bits 31:5 of an address are all that VBAR holds.
#[repr(align(4096))]
struct Page(UnsafeCell<[u32; 1024]>);
// SAFETY: written before it is used, by tests on one CPU.
unsafe impl Sync for Page {}
static PAGE: Page = Page(UnsafeCell::new([0; 1024]));

/// Fills the page from the word `at`; its address there.
fn build_page(at: usize) -> u32 {
    const LDR_PC_24: u32 = 0xe59f_f018; // ldr pc, [pc, #24]: the word eight further
    for n in 0..8 {
        // SAFETY: in bounds, no reference into the page.
        unsafe {
            let word = PAGE.0.get().cast::<u32>().add(at + n);
            word.write_volatile(LDR_PC_24);
            word.add(8).write_volatile(vectors().0 + 4 * n as u32);
        }
    }
    mmu::flush();
    PAGE.0.get() as u32 + 4 * at as u32
}

fn moved_vectors() -> Outcome {
    for at in [0, 8, 1000] {
        let vbar = build_page(at);
        with(0, vbar, everything)?;
    }
    Ok(())
}

/// A second-level table that maps the page at 0xffff_0000.
fn high_vectors() -> Outcome {
    #[repr(align(1024))]
    struct Table(UnsafeCell<[u32; 256]>);
    // SAFETY: written before it is used, by one test on one CPU.
    unsafe impl Sync for Table {}
    static TABLE: Table = Table(UnsafeCell::new([0; 256]));

    const SMALL_PAGE: u32 = 0x2 | 0x3 << 4 | 0xc; // full access, normal write-back
    let page = build_page(0);
    // SAFETY: in bounds, no reference into the table.
    unsafe {
        TABLE
            .0
            .get()
            .cast::<u32>()
            .add(0xf0)
            .write_volatile(page | SMALL_PAGE)
    };
    let old = mmu::section(0xfff);
    mmu::set_section(0xfff, TABLE.0.get() as u32 | 1);
    mmu::flush();
    // VBAR points to nothing: it must not count.
    let outcome = with(mmu::V, 0, everything);
    mmu::set_section(0xfff, old);
    mmu::flush();
    outcome
}

/// Goes to the mode in r1, loads from r0, comes back to SVC mode; the interrupt masks in r1 too.
#[unsafe(naked)]
#[instruction_set(arm::a32)]
extern "C" fn load_in_mode() {
    core::arch::naked_asm!(
        "mov r3, lr",
        "msr cpsr_c, r1",
        "ldr r2, [r0]",
        "msr cpsr_c, #0xd3",
        "bx r3"
    )
}

fn from_every_mode() -> Outcome {
    let code = load_in_mode as *const () as u32;
    for mode in [
        mode::SYS,
        mode::FIQ,
        mode::IRQ,
        mode::ABT,
        mode::UND,
        mode::SVC,
    ] {
        let Err(fault) = call(code, [NOWHERE, mode | 0xc0, 0, 0]) else {
            fail!("no abort from mode {mode:#x}")
        };
        check!(
            fault.kind == Kind::Data,
            "{:?} from mode {mode:#x}",
            fault.kind
        );
        check_eq!(fault.lr, code + 8 + 8, "lr from mode {mode:#x}");
        check_eq!(fault.spsr & 0xff, mode | 0xc0, "SPSR from mode {mode:#x}");
        check_eq!(fault.far, NOWHERE, "FAR from mode {mode:#x}");
    }
    Ok(())
}

fn other_registers() -> Outcome {
    mcr!(15, 0, 5, 0, 1; 0x0000_000d);
    mcr!(15, 0, 6, 0, 2; 0x1234_5678);
    let result = call(DATA[0].code(false), [NOWHERE, 0, 0, 0]);
    check!(result.is_err(), "no abort");
    check_eq!(mrc!(15, 0, 5, 0, 1) & 0x40f, 0xd, "IFSR after a data abort");
    check_eq!(mrc!(15, 0, 6, 0, 2), 0x1234_5678, "IFAR after a data abort");
    mcr!(15, 0, 5, 0, 0; 0x0000_000f);
    mcr!(15, 0, 6, 0, 0; 0x8765_4321);
    let result = mmu::without(|| call(NOWHERE, [0; 4]));
    check!(result.is_err(), "no abort");
    check_eq!(
        mrc!(15, 0, 5, 0, 0) & 0x40f,
        0xf,
        "DFSR after a prefetch abort"
    );
    check_eq!(
        mrc!(15, 0, 6, 0, 0),
        0x8765_4321,
        "DFAR after a prefetch abort"
    );
    Ok(())
}

/// IT state of the SPSR in the order of the architecture's ITSTATE.
fn it_state(spsr: u32) -> u32 {
    spsr >> 8 & 0xfc | spsr >> 25 & 3
}

fn in_it_block() -> Outcome {
    /// The second of three in an IT block aborts; the first is skipped.
    #[unsafe(naked)]
    #[instruction_set(arm::t32)]
    extern "C" fn load() {
        core::arch::naked_asm!(
            "cmp r0, r0",
            "itte eq",
            "moveq r2, #1",
            "ldreq r1, [r0]",
            "movne r2, #2",
            "bx lr"
        )
    }
    #[unsafe(naked)]
    #[instruction_set(arm::t32)]
    extern "C" fn undefined() {
        core::arch::naked_asm!(
            "cmp r0, r0",
            "itte eq",
            "moveq r2, #1",
            "mrceq p15, 4, r1, c1, c1, 0",
            "movne r2, #2",
            "bx lr"
        )
    }
    let (load, undefined) = (
        load as *const () as u32 & !1,
        undefined as *const () as u32 & !1,
    );
    // cmp, itte and moveq have two bytes each.
    for (code, kind, lr) in [
        (load, Kind::Data, load + 6 + 8),
        (undefined, Kind::Undefined, undefined + 6 + 2),
    ] {
        let Err(fault) = call(code | 1, [NOWHERE, 0, 0, 0]) else {
            fail!("no {kind:?}")
        };
        check!(fault.kind == kind, "{:?} instead of {kind:?}", fault.kind);
        check_eq!(fault.lr, lr, "lr of {kind:?}");
        check_eq!(fault.spsr & CPSR_T, CPSR_T, "SPSR.T of {kind:?}");
        // ITTE EQ is 0b0000_0110 for its first instruction; the lower five bits move up by one for each.
        check_eq!(it_state(fault.spsr), 0b0000_1100, "IT state of {kind:?}");
    }
    Ok(())
}

fn masks() -> Outcome {
    let code = load_in_mode as *const () as u32;
    for masks in [0x40, 0xc0] {
        let Err(fault) = call(code, [NOWHERE, mode::SVC | masks, 0, 0]) else {
            fail!("no abort")
        };
        check_eq!(fault.spsr & 0xc0, masks, "masks in SPSR");
        check_eq!(
            fault.cpsr & 0x1c0,
            0x180 | masks & 0x40,
            "masks in the handler of a data abort"
        );
        cpu::mask_irq();
    }
    let before = cpu::cpsr();
    let Err(fault) = call(UNDEFINED[0].code(false), [0; 4]) else {
        fail!("not undefined")
    };
    check_eq!(
        fault.cpsr & 0x1c0,
        before & 0x1c0 | 0x80,
        "masks in the handler of an undefined instruction"
    );
    Ok(())
}

fn pending_stays() -> Outcome {
    use bare::gic::{self, gicd};
    gic::init();
    gic::send(7, 1);
    check!(
        call(DATA[0].code(false), [NOWHERE, 0, 0, 0]).is_err(),
        "no abort"
    );
    check!(gic::bit(gicd::ISPENDR, 7), "the software interrupt is gone");
    let iar = gic::acknowledge();
    gic::end(iar);
    check_eq!(iar, 7, "IAR");
    Ok(())
}
