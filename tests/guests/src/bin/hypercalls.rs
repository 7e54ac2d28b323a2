//! Calls to firmware and hypervisor answer what they must and leave every other register alone.
//!
//! Command line: `end=cpu_off` ends by turning off the last CPU rather than the machine.
#![no_std]
#![no_main]

use bare::armillary::{self, Reason};
use bare::exception::{Kind, call};
use bare::machine::{Conduit, machine};
use bare::probe::Place;
use bare::psci::{self, NOT_SUPPORTED, function};
use bare::random::Random;
use bare::report::Outcome;
use bare::{check, check_eq, fail, skip, tests};

tests! {
    version_of_psci_is_1_0_or_more => psci_version,
    version_of_smccc_is_1_1_or_more => smccc_version,
    hypervisor_names_itself_and_its_version => uid,
    null_call_answers_zero => null,
    features_name_the_calls_that_answer => features,
    exits_are_counted_by_reason => exits,
    unknown_calls_answer_not_supported => unknown,
    calls_of_other_owners_answer_not_supported => other_owners,
    calls_preserve_every_register_from_r4_in_arm_state => || preserve(arm as *const () as u32, false),
    calls_preserve_every_register_from_r4_in_thumb_state => || preserve(thumb as *const () as u32 | 1, true),
    calls_return_to_the_instruction_behind => behind,
    a_trapped_smc_is_answered_like_an_hvc => smc,
    hvc_with_another_immediate_is_refused => immediate,
    hvc_and_smc_are_undefined_in_user_mode => user_mode,
}

/// Runs one HVC #0 with r0 to r12 and lr from an array of 14 words, and stores what they are then to the next 14.
#[unsafe(naked)]
#[instruction_set(arm::a32)]
extern "C" fn arm() {
    core::arch::naked_asm!(
        ".arch_extension virt",
        "push {{r0, r4-r11, lr}}",
        "mov lr, r0",
        "ldr r0, [lr, #0]",
        "ldmib lr, {{r1-r12}}",
        "ldr lr, [lr, #52]",
        "hvc #0",
        "push {{r0, lr}}",
        "ldr lr, [sp, #8]",
        "add lr, lr, #56",
        "stmib lr, {{r1-r12}}",
        "pop {{r0, r1}}",
        "str r0, [lr]",
        "str r1, [lr, #52]",
        "pop {{r0, r4-r11, pc}}"
    )
}

/// The same in Thumb state.
#[unsafe(naked)]
#[instruction_set(arm::t32)]
extern "C" fn thumb() {
    core::arch::naked_asm!(
        ".arch_extension virt",
        "push {{r0, r4-r11, lr}}",
        "mov lr, r0",
        "ldr r0, [lr, #0]",
        "ldr r1, [lr, #4]",
        "ldr r2, [lr, #8]",
        "ldr r3, [lr, #12]",
        "add r12, lr, #16",
        "ldm r12, {{r4-r11}}",
        "ldr r12, [lr, #48]",
        "ldr lr, [lr, #52]",
        "hvc #0",
        "push {{r0, lr}}",
        "ldr lr, [sp, #8]",
        "add lr, lr, #56",
        "str r1, [lr, #4]",
        "str r2, [lr, #8]",
        "str r3, [lr, #12]",
        "str r4, [lr, #16]",
        "str r5, [lr, #20]",
        "str r6, [lr, #24]",
        "str r7, [lr, #28]",
        "str r8, [lr, #32]",
        "str r9, [lr, #36]",
        "str r10, [lr, #40]",
        "str r11, [lr, #44]",
        "str r12, [lr, #48]",
        "pop {{r0, r1}}",
        "str r0, [lr]",
        "str r1, [lr, #52]",
        "pop {{r0, r4-r11, pc}}"
    )
}

/// What a call left in r0 to r12 and lr.
fn registers_after(code: u32, before: &[u32; 14]) -> Result<[u32; 14], Kind> {
    let mut words = [0; 28];
    words[..14].copy_from_slice(before);
    call(code, [words.as_mut_ptr() as u32, 0, 0, 0]).map_err(|fault| fault.kind)?;
    let mut after = [0; 14];
    after.copy_from_slice(&words[14..]);
    Ok(after)
}

fn hvc(function: u32) -> [u32; 4] {
    psci::hvc(function, 0, 0, 0)
}

fn by_hvc() -> Outcome {
    if machine().psci != Some(Conduit::Hvc) {
        skip!("HVC is not known to be answered");
    }
    Ok(())
}

fn under_armillary() -> Outcome {
    by_hvc()?;
    if !armillary::present() {
        skip!("no hypervisor of this kind");
    }
    Ok(())
}

fn psci_version() -> Outcome {
    by_hvc()?;
    let version = psci::version();
    check!((0x1_0000..0x2_0000).contains(&version), "{version:#x}");
    Ok(())
}

fn smccc_version() -> Outcome {
    by_hvc()?;
    let version = hvc(function::SMCCC_VERSION)[0];
    if version == NOT_SUPPORTED && !armillary::present() {
        skip!("this firmware has none");
    }
    check!((0x1_0001..0x2_0000).contains(&version), "{version:#x}");
    check_eq!(
        psci::call(function::FEATURES, function::SMCCC_VERSION, 0, 0),
        0,
        "PSCI_FEATURES of SMCCC_VERSION"
    );
    Ok(())
}

fn uid() -> Outcome {
    under_armillary()?;
    let uid = hvc(armillary::UID);
    check!(uid != [0; 4], "an empty UID");
    check_eq!(uid, hvc(armillary::UID), "the UID asked for again");
    let [major, minor, ..] = hvc(armillary::REVISION);
    check!(major < 100 && minor < 100, "revision {major}.{minor}");
    Ok(())
}

fn null() -> Outcome {
    under_armillary()?;
    check_eq!(hvc(armillary::NULL)[0], 0, "r0");
    Ok(())
}

fn features() -> Outcome {
    under_armillary()?;
    let mask = hvc(armillary::FEATURES)[0];
    check_eq!(
        mask & 0x1f,
        0x1f,
        "the bits of FEATURES, NULL, YIELD, EXITS and TRANSLATE"
    );
    for n in (0..32).filter(|n| mask >> n & 1 == 0) {
        check_eq!(
            hvc(armillary::FEATURES + n)[0],
            NOT_SUPPORTED,
            "call {n}, which FEATURES does not have"
        );
    }
    Ok(())
}

fn exits() -> Outcome {
    under_armillary()?;
    let count = |reason: Reason| armillary::exits(reason);
    // The total is read first and last: each reading is an exit itself.
    let total_before = count(Reason::Total);
    let (hvc_before, data_before) = (count(Reason::Hvc), count(Reason::Data));
    for _ in 0..100 {
        hvc(armillary::NULL);
    }
    let gicd = machine().gicd;
    for _ in 0..50 {
        let _ = bare::mmio::read(gicd + bare::gic::gicd::TYPER);
    }
    let (data, hvc_now) = (
        count(Reason::Data) - data_before,
        count(Reason::Hvc) - hvc_before,
    );
    let total = count(Reason::Total) - total_before;
    check!(
        (50..60).contains(&data),
        "{data} data aborts for 50 accesses"
    );
    check!(
        (100..110).contains(&hvc_now),
        "{hvc_now} HVCs for 100 calls and a few more"
    );
    check!(total >= data + hvc_now, "{total} exits in all");
    check!(
        psci::hvc(armillary::EXITS, 10, 0, 0)[0] != 0,
        "a reason that there is not"
    );
    Ok(())
}

/// Numbers that do something, or may.
fn known(number: u32) -> bool {
    let (owner, function) = (number >> 24 & 0x3f, number & 0xffff);
    let service = function >= 0xff00;
    match owner {
        0 => function <= 4 || function & 0xff00 == 0x8000 || function & 0xc000 != 0,
        4 => function < 0x60,
        6 => function < 0x20 || service,
        _ => (number & !0xf) == 0x95c1_ba50, // PSCI 0.1 as QEMU numbers it
    }
}

fn unknown() -> Outcome {
    by_hvc()?;
    const EDGES: [u32; 12] = [
        0x8400_0060,
        0x8400_0100,
        0x8400_fffe,
        0x0400_0000,
        0x8600_0100,
        0x8600_fefe,
        0xc600_0001,
        0x0600_0000,
        0x8000_0100,
        0xbfff_fff0,
        0xffff_ffff,
        0x0000_0010,
    ];
    let mut random = Random::new(0x5eed);
    let numbers = (0..2000).map(|_| random.next()).filter(|n| !known(*n));
    for number in EDGES.into_iter().chain(numbers) {
        check_eq!(hvc(number)[0], NOT_SUPPORTED, "call {number:#010x}");
    }
    Ok(())
}

fn other_owners() -> Outcome {
    by_hvc()?;
    // CPU service, SiP, OEM, secure hypervisor, trusted applications and OS.
    for owner in [0x81, 0x82, 0x83, 0x85, 0x87, 0xb0, 0xb2, 0xbf, 0xc1, 0xc2] {
        for function in [0, 1, 0xff00, 0xff01, 0xff03] {
            let number = owner << 24 | function;
            check_eq!(hvc(number)[0], NOT_SUPPORTED, "call {number:#010x}");
        }
    }
    Ok(())
}

fn preserve(code: u32, in_thumb: bool) -> Outcome {
    by_hvc()?;
    let mut random = Random::new(u32::from(in_thumb));
    let calls = [
        function::VERSION,
        function::SMCCC_VERSION,
        armillary::UID,
        armillary::REVISION,
        armillary::FEATURES,
        armillary::NULL,
        armillary::YIELD,
        armillary::EXITS,
        0x8400_00ff,
        0x8600_00ff,
        0xffff_ffff,
    ];
    for number in calls {
        for _ in 0..20 {
            let mut before: [u32; 14] = core::array::from_fn(|_| random.next());
            (before[0], before[1]) = (number, random.below(10));
            let after = match registers_after(code, &before) {
                Ok(after) => after,
                Err(kind) => fail!("{kind:?} exception at call {number:#010x}"),
            };
            for n in 4..14 {
                check_eq!(
                    after[n],
                    before[n],
                    "r{} after call {number:#010x}",
                    if n == 13 { 14 } else { n }
                );
            }
            if number == 0xffff_ffff {
                check_eq!(
                    &after[1..4],
                    &before[1..4],
                    "r1 to r3 after an unknown call"
                );
            }
        }
    }
    Ok(())
}

/// Four calls in a row, the instructions between them counted in r1; in Thumb state at each alignment.
fn behind() -> Outcome {
    #[unsafe(naked)]
    #[instruction_set(arm::a32)]
    extern "C" fn in_arm() {
        core::arch::naked_asm!(
            ".arch_extension virt",
            "push {{r4, lr}}",
            "mov r4, #0",
            "movw r0, #0x00ff",
            "movt r0, #0x8600",
            "hvc #0",
            "add r4, r4, #1",
            "hvc #0",
            "hvc #0",
            "add r4, r4, #1",
            "mov r0, r4",
            "pop {{r4, pc}}"
        )
    }
    #[unsafe(naked)]
    #[instruction_set(arm::t32)]
    extern "C" fn in_thumb() {
        core::arch::naked_asm!(
            ".arch_extension virt",
            "push {{r4, lr}}",
            "movs r4, #0",
            "movw r0, #0x00ff",
            "movt r0, #0x8600",
            "hvc #0",
            "adds r4, #1",
            "hvc #0",
            "hvc #0",
            "adds r4, #1",
            "mov r0, r4",
            "pop {{r4, pc}}"
        )
    }
    by_hvc()?;
    for (code, name) in [
        (in_arm as *const () as u32, "ARM"),
        (in_thumb as *const () as u32 | 1, "Thumb"),
    ] {
        match call(code, [0; 4]) {
            Ok(result) => check_eq!(result[0], 2, "instructions between calls in {name} state"),
            Err(fault) => fail!("{:?} at {:#x} in {name} state", fault.kind, fault.lr),
        }
    }
    Ok(())
}

fn smc() -> Outcome {
    #[unsafe(naked)]
    #[instruction_set(arm::a32)]
    extern "C" fn failing_condition() {
        core::arch::naked_asm!(
            ".arch_extension sec",
            "cmp r0, r0",
            "mov r0, #0x84000000",
            "smcne #0",
            "bx lr"
        )
    }
    under_armillary()?;
    check_eq!(
        psci::smc(function::VERSION, 0, 0, 0)[0],
        psci::version(),
        "PSCI_VERSION"
    );
    // QEMU's own firmware has no such call.
    check_eq!(
        psci::smc(function::SMCCC_VERSION, 0, 0, 0)[0],
        psci::hvc(function::SMCCC_VERSION, 0, 0, 0)[0],
        "SMCCC_VERSION by SMC"
    );
    check_eq!(
        psci::smc(0x8400_00ff, 0, 0, 0)[0],
        NOT_SUPPORTED,
        "an unknown call"
    );
    match call(failing_condition as *const () as u32, [0; 4]) {
        Ok(result) => check_eq!(
            result[0],
            0x8400_0000,
            "r0 after an SMC whose condition fails"
        ),
        Err(fault) => fail!("{:?} at an SMC whose condition fails", fault.kind),
    }
    Ok(())
}

fn immediate() -> Outcome {
    static CALLS: &[bare::probe::Probe] =
        bare::probes! { load "hvc #1", load "hvc #0xea1", load "hvc #0xffff" };
    by_hvc()?;
    for probe in CALLS {
        for in_thumb in [false, true] {
            match call(probe.code(in_thumb), [armillary::NULL, 0, 0, 0]) {
                Ok(result) => check_eq!(result[0], NOT_SUPPORTED, "{}", probe.name),
                Err(fault) => check!(
                    fault.kind == Kind::Undefined,
                    "{:?} at {}",
                    fault.kind,
                    probe.name
                ),
            }
        }
    }
    Ok(())
}

fn user_mode() -> Outcome {
    static CALLS: &[bare::probe::Probe] = bare::probes! { load "hvc #0", load "smc #0" };
    for probe in CALLS {
        for place in Place::ALL.iter().filter(|place| place.user) {
            match place.call(probe.code(place.thumb), [function::VERSION, 0, 0, 0]) {
                Ok(_) => fail!("{} went through", probe.name),
                Err(fault) => {
                    check!(
                        fault.kind == Kind::Undefined,
                        "{:?} at {}",
                        fault.kind,
                        probe.name
                    );
                    let next = (probe.code(place.thumb) & !1) + if place.thumb { 2 } else { 4 };
                    check_eq!(fault.lr, next, "lr after {} in {place:?}", probe.name);
                }
            }
        }
    }
    Ok(())
}
