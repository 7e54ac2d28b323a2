//! Every form of load and store reaches a device register as it reaches memory: same values, same registers afterwards.
//!
//! The device is the distributor's priorities, which hold what is written, byte by byte; memory is the model. A hypervisor
//! gets no syndrome for many of these forms and has to decode the instruction. Where another VM emulates a device for tests, that is
//! the one.
#![no_std]
#![no_main]

use bare::exception::{Fault, Kind, call};
use bare::gic::{self, gicd};
use bare::machine::machine;
use bare::probe::{EXTERNAL, Place, Probe};
use bare::report::Outcome;
use bare::{check, check_eq, fail, mmio, probes, skip, tests, vfp};
use core::cell::UnsafeCell;

tests! {
    plain_accesses_of_each_width => || compare_all(PLAIN),
    accesses_with_register_offsets => || compare_all(OFFSETS),
    accesses_that_write_back_their_base => || compare_all(WRITEBACK),
    accesses_of_two_words => || compare_all(DOUBLE),
    accesses_of_many_words => || compare_all(MULTIPLE),
    unprivileged_accesses => || compare_all(UNPRIVILEGED),
    conditional_accesses => || compare_all(CONDITIONAL),
    exclusive_accesses_work_or_abort => || lenient(EXCLUSIVE),
    swaps => || compare_all(SWAP),
    accesses_of_vfp => || with_vfp(VFP),
    accesses_of_structures => || with_vfp(STRUCTURES),
    accesses_in_big_endian_order => || compare_all(BIG_ENDIAN),
    accesses_of_user_mode_s_registers => || compare_all(USER_BANK),
    loads_into_sp_and_lr_of_each_mode => banked_targets,
}

/// Bytes in either place.
const BYTES: usize = 32;
/// Interrupts whose priorities are the device.
const FIRST: u32 = 96;

#[repr(align(32))]
struct Memory(UnsafeCell<[u32; BYTES / 4]>);
// SAFETY: used by one CPU.
unsafe impl Sync for Memory {}
static MEMORY: Memory = Memory(UnsafeCell::new([0; BYTES / 4]));

fn device() -> u32 {
    let priorities = machine().gicd + gicd::IPRIORITYR + FIRST;
    machine().forwarded.unwrap_or(priorities)
}

static PLAIN: &[Probe] = probes! { then "svc #1";
    load "ldr r1, [r0]", load "ldrh r1, [r0]", load "ldrb r1, [r0]", load "ldrsh r1, [r0]", load "ldrsb r1, [r0]",
    load "ldr r1, [r0, #4]", load "ldr r1, [r0, #-4]", load "ldrb r1, [r0, #3]", load "ldrb r1, [r0, #-1]", load "ldrh r1, [r0, #6]",
    load "ldrsb r1, [r0, #9]", load "ldrsh r1, [r0, #-2]", load "ldr r8, [r0]", load "ldr r0, [r0]", load "ldrb r12, [r0, #5]",
    store "str r1, [r0]", store "strh r1, [r0]", store "strb r1, [r0]", store "str r2, [r0, #4]", store "strb r1, [r0, #3]",
    store "strh r3, [r0, #-6]", store "str r10, [r0, #-8]", store "strb r12, [r0, #1]",
};

static OFFSETS: &[Probe] = probes! { then "svc #1";
    load "ldr r1, [r0, r4]", load "ldrb r1, [r0, r4]", load "ldrh r1, [r0, r4]", load "ldrsb r1, [r0, r4]", load "ldrsh r1, [r0, r4]",
    load "ldr r1, [r0, r5, lsl #2]", load "ldrb r1, [r0, r5, lsl #3]", store "str r1, [r0, r4]", store "strb r2, [r0, r4]",
    store "strh r2, [r0, r4]", store "str r1, [r0, r5, lsl #2]", load "ldr r9, [r0, r5, lsl #2]", store "strb r11, [r0, r5, lsl #1]",
};

static WRITEBACK: &[Probe] = probes! { then "svc #1";
    load "ldr r1, [r0], #4", load "ldr r1, [r0, #4]!", load "ldr r1, [r0], #-4", load "ldr r1, [r0, #-4]!",
    load "ldrb r1, [r0], #1", load "ldrb r1, [r0, #-3]!", load "ldrh r1, [r0], #2", load "ldrh r1, [r0, #-6]!",
    load "ldrsb r1, [r0], #5", load "ldrsh r1, [r0, #2]!", store "str r1, [r0], #4", store "str r1, [r0, #-8]!",
    store "strb r1, [r0], #1", store "strb r1, [r0, #7]!", store "strh r1, [r0], #-2", store "strh r1, [r0, #4]!",
    load "ldr r10, [r0], #8", store "str r11, [r0], #-12", load "ldr r1, [r8], #4", load "ldrb r2, [r8, #-1]!",
};

static DOUBLE: &[Probe] = probes! { then "svc #1";
    load "ldrd r2, r3, [r0]", load "ldrd r2, r3, [r0, #8]", load "ldrd r2, r3, [r0, #-8]!", load "ldrd r2, r3, [r0], #8",
    load "ldrd r10, r11, [r0]", store "strd r2, r3, [r0]", store "strd r2, r3, [r0, #-4]", store "strd r2, r3, [r0, #8]!",
    store "strd r2, r3, [r0], #-8",
};

static MULTIPLE: &[Probe] = probes! { then "svc #1";
    load "ldm r0, {{r1}}" / "ldm.w r0, {{r1, r2}}", load "ldm r0, {{r1, r2, r3}}", load "ldm r0!, {{r1, r2, r3}}",
    load "ldm r0, {{r0, r1}}", load "ldmdb r0, {{r1, r2}}", load "ldmdb r0!, {{r1, r2, r3}}", load "ldm r0, {{r8, r10, r12}}",
    load "ldmib r0, {{r1, r2}}" / "ldm r0, {{r1, r2}}", load "ldmda r0!, {{r1, r2}}" / "ldmdb r0!, {{r1, r2}}",
    store "stm r0, {{r1, r2, r3}}", store "stm r0!, {{r1, r2, r3}}", store "stmdb r0, {{r1, r2}}", store "stmdb r0!, {{r1, r2, r3}}",
    store "stm r0, {{r9, r10, r11}}", store "stmib r0, {{r1, r2}}" / "stm r0, {{r1, r2}}", store "stmda r0, {{r1, r2}}" / "stmdb r0, {{r1, r2}}",
    load "ldm r8!, {{r1, r2, r9, r11}}", store "stmdb r8!, {{r1, r2, r9, r11}}",
};

static UNPRIVILEGED: &[Probe] = probes! { then "svc #1";
    load "ldrt r1, [r0], #4" / "ldrt r1, [r0, #4]", load "ldrbt r1, [r0], #1" / "ldrbt r1, [r0, #1]",
    load "ldrht r1, [r0], #2" / "ldrht r1, [r0, #2]", load "ldrsbt r1, [r0], #1" / "ldrsbt r1, [r0, #1]",
    load "ldrsht r1, [r0], #2" / "ldrsht r1, [r0, #2]", store "strt r1, [r0], #4" / "strt r1, [r0, #4]",
    store "strbt r1, [r0], #1" / "strbt r1, [r0, #1]", store "strht r1, [r0], #2" / "strht r1, [r0, #2]",
};

static CONDITIONAL: &[Probe] = probes! { then "svc #1";
    load "cmp r0, r0\nldreq r1, [r0], #4" / "cmp r0, r0\nit eq\nldreq r1, [r0], #4",
    load "cmp r0, r0\nldrne r1, [r0], #4" / "cmp r0, r0\nit ne\nldrne r1, [r0], #4",
    load "cmp r0, r0\nldrdeq r2, r3, [r0]\nmovne r1, #1" / "cmp r0, r0\nite eq\nldrdeq r2, r3, [r0]\nmovne r1, #1",
    store "cmp r0, r0\nstrbeq r1, [r0], #1\nstrbne r2, [r0], #1" / "cmp r0, r0\nite eq\nstrbeq r1, [r0], #1\nstrbne r2, [r0], #1",
    store "cmp r0, r0\nstmeq r0!, {{r1, r2}}\nldreq r3, [r0, #-8]!" / "cmp r0, r0\nitt eq\nstmeq r0!, {{r1, r2}}\nldreq r3, [r0, #-8]!",
};

static EXCLUSIVE: &[Probe] = probes! { then "svc #1";
    load "ldrex r1, [r0]", load "ldrexb r1, [r0]", load "ldrexh r1, [r0]", load "ldrexd r2, r3, [r0]",
    store "ldrex r1, [r0]\nstrex r2, r3, [r0]", store "ldrexb r1, [r0]\nstrexb r2, r3, [r0]",
};

static VFP: &[Probe] = probes! { then "svc #1";
    load "vldr s0, [r0]\nvmov r1, s0", load "vldr d7, [r0, #8]\nvmov r1, r2, d7", load "vldm r0!, {{d0, d1}}\nvmov r1, r2, d1",
    store "vmov s1, r1\nvstr s1, [r0]", store "vmov d3, r1, r2\nvstr d3, [r0, #-8]", store "vmov d3, r1, r2\nvstmdb r0!, {{d3}}",
};

static STRUCTURES: &[Probe] = probes! { then "svc #1";
    load "vld1.8 {{d0}}, [r0]\nvmov r1, r2, d0", load "vld1.32 {{d0, d1}}, [r0]!\nvmov r1, r2, d1",
    load "sub r0, r0, #16\nvld1.16 {{d0, d1, d2}}, [r0], r4\nvmov r1, r2, d2", load "vmov d0, r1, r2\nvld1.16 {{d0[2]}}, [r0]!\nvmov r1, r2, d0",
    load "vld1.16 {{d0[]}}, [r0]\nvmov r1, r2, d0", load "vld2.8 {{d0, d1}}, [r0]!\nvmov r1, r2, d1",
    load "sub r0, r0, #16\nvld3.8 {{d0, d2, d4}}, [r0]\nvmov r1, r2, d4", load "sub r0, r0, #16\nvld4.16 {{d0, d1, d2, d3}}, [r0]!\nvmov r1, r2, d3",
    load "vld4.8 {{d0[], d1[], d2[], d3[]}}, [r0]\nvmov r1, r2, d3", load "vmov d1, r1, r2\nvld2.32 {{d0[1], d1[1]}}, [r0], r4\nvmov r1, r2, d1",
    store "vmov d3, r1, r2\nvst1.8 {{d3}}, [r0]!", store "vmov d3, r1, r2\nvmov d4, r2, r3\nvst2.16 {{d3, d4}}, [r0], r4",
    store "vmov d3, r1, r2\nvst1.32 {{d3[1]}}, [r0]!", store "vmov d0, r1, r2\nvmov d1, r2, r3\nvmov d2, r3, r1\nvst3.8 {{d0[5], d1[5], d2[5]}}, [r0]",
};

static SWAP: &[Probe] = probes! { then "svc #1";
    store "swp r2, r1, [r0]" / "str r1, [r0]", store "swpb r2, r1, [r0]" / "strb r1, [r0]", store "swp r1, r1, [r0]" / "str r1, [r0]",
};

static BIG_ENDIAN: &[Probe] = probes! { then "svc #1";
    load "setend be\nldr r1, [r0]\nsetend le", load "setend be\nldrsh r1, [r0], #2\nsetend le", load "setend be\nldrd r2, r3, [r0, #-8]!\nsetend le",
    load "setend be\nldm r0, {{r1, r2, r3}}\nsetend le", store "setend be\nstr r1, [r0]\nsetend le", store "setend be\nstrh r1, [r0, #2]!\nsetend le",
    store "setend be\nstrd r2, r3, [r0], #8\nsetend le", store "setend be\nstmdb r0!, {{r1, r2}}\nsetend le", store "setend be\nstrb r1, [r0]\nsetend le",
};

static USER_BANK: &[Probe] = probes! { then "svc #1";
    load "ldm r0, {{sp, lr}}^\ncps #31\nmov r1, sp\nmov r2, lr\ncps #19" / "ldm r0, {{r1, r2}}",
    store "cps #31\nmov sp, r1\nmov lr, r2\ncps #19\nstmdb r0, {{sp, lr}}^" / "stmdb r0, {{r1, r2}}",
};

/// Fills a place: byte n holds 8n, so that every bit that a priority can lack is zero.
fn fill(base: u32) {
    for n in 0..BYTES as u32 {
        mmio::write8(base + n, (8 * n) as u8);
    }
}

/// What is in a place.
fn read(base: u32) -> [u8; BYTES] {
    core::array::from_fn(|n| mmio::read8(base + n as u32))
}

/// Runs a probe on a place: how it ended (by SVC when it went through), and what is in the place then.
fn run(probe: &Probe, thumb: bool, base: u32) -> (Option<Fault>, [u8; BYTES]) {
    fill(base);
    let address = base + 16;
    let code = probe.code(thumb);
    // r4 and up are set by this; r0 to r3 are the arguments.
    #[unsafe(naked)]
    #[instruction_set(arm::a32)]
    extern "C" fn prepared() {
        core::arch::naked_asm!(
            "push {{r4-r11, lr}}",
            "ldr r12, [r0, #4]",
            "ldr r0, [r0]",
            "mov r8, r0",
            "movw r1, #0x8890",
            "movt r1, #0x1020",
            "movw r2, #0x38a8",
            "movt r2, #0xf0e0",
            "movw r3, #0x6068",
            "movt r3, #0x7078",
            "mov r4, #4",
            "mov r5, #1",
            "mov r6, r12",
            "mov r7, #7",
            "movw r9, #0xf898",
            "movt r9, #0xe8f8",
            "mov r10, #0x40",
            "mov r11, #0xf8",
            "mov r12, #0x50",
            "bx r6"
        )
    }
    let arguments = [address, code];
    let result = call(
        prepared as *const () as u32,
        [arguments.as_ptr() as u32, 0, 0, 0],
    );
    (result.err(), read(base))
}

/// Both places in both instruction sets; `exact` unless an external abort will do.
fn compare(probe: &Probe, exact: bool) -> Outcome {
    let memory = MEMORY.0.get() as u32;
    for thumb in [false, true] {
        let name = probe.name.lines().next_back().unwrap_or_default();
        let (Some(model), expected) = run(probe, thumb, memory) else {
            fail!("{name} did not come to its end in memory")
        };
        let (Some(found), bytes) = run(probe, thumb, device()) else {
            fail!("{name} did not come to its end")
        };
        check!(
            model.kind == Kind::Svc,
            "{name}: {:?} in memory",
            model.kind
        );
        if !exact && found.kind == Kind::Data && found.status() == EXTERNAL.0 {
            continue;
        }
        check!(
            found.kind == Kind::Svc,
            "{name}, Thumb {thumb}: {:?} at {:#x}",
            found.kind,
            found.lr
        );
        check_eq!(
            found.spsr & !0x1f,
            model.spsr & !0x1f,
            "{name}, Thumb {thumb}: flags and state"
        );
        for n in 0..13 {
            // An address differs by where the place is.
            let same = found.r[n] == model.r[n]
                || found.r[n].wrapping_sub(device()) == model.r[n].wrapping_sub(memory);
            check!(
                same,
                "{name}, Thumb {thumb}: r{n} is {:#x} instead of {:#x}",
                found.r[n],
                model.r[n]
            );
        }
        for n in 0..BYTES {
            check_eq!(
                bytes[n],
                expected[n],
                "{name}, Thumb {thumb}: byte {n} of the device"
            );
        }
    }
    Ok(())
}

fn ready() -> Outcome {
    gic::init();
    if gic::lines() < FIRST + BYTES as u32 {
        skip!("only {} interrupts", gic::lines());
    }
    Ok(())
}

fn compare_all(probes: &[Probe]) -> Outcome {
    ready()?;
    probes.iter().try_for_each(|probe| compare(probe, true))
}

fn lenient(probes: &[Probe]) -> Outcome {
    ready()?;
    probes.iter().try_for_each(|probe| compare(probe, false))
}

fn with_vfp(probes: &[Probe]) -> Outcome {
    vfp::on();
    let outcome = compare_all(probes);
    vfp::off();
    outcome
}

/// Loads into the stack pointer and the link register that each mode has of its own.
fn banked_targets() -> Outcome {
    #[unsafe(naked)]
    #[instruction_set(arm::a32)]
    extern "C" fn load() {
        // r2 keeps SVC's lr, r3 its sp: IRQs are masked, nothing else uses a stack.
        core::arch::naked_asm!(
            "mov r2, lr",
            "mov r3, sp",
            "msr cpsr_c, r1",
            "ldr sp, [r0]",
            "ldr lr, [r0, #4]",
            "mov r0, sp",
            "mov r1, lr",
            "msr cpsr_c, #0xd3",
            "mov sp, r3",
            "bx r2"
        )
    }
    use bare::cpu::mode;
    ready()?;
    fill(device());
    for mode in [
        mode::SYS,
        mode::FIQ,
        mode::IRQ,
        mode::ABT,
        mode::UND,
        mode::SVC,
    ] {
        let place = Place {
            thumb: false,
            user: false,
        };
        match place.call(load as *const () as u32, [device(), mode | 0xc0, 0, 0]) {
            Ok([sp, lr]) => {
                check_eq!(sp, 0x1810_0800, "sp of mode {mode:#x}");
                check_eq!(lr, 0x3830_2820, "lr of mode {mode:#x}");
            }
            Err(fault) => fail!("{:?} in mode {mode:#x}", fault.kind),
        }
    }
    Ok(())
}
