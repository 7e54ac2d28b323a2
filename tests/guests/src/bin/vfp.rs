//! VFP and NEON move when they are used and only then; while they are off they are as absent as on hardware.
//!
//! Command line: `busy` says that other VMs use VFP on this CPU, so that traps must be seen; `rounds=N`.
#![no_std]
#![no_main]

use bare::armillary::{self, Reason, exits};
use bare::exception::Kind;
use bare::machine::{has, number};
use bare::probe::{Expected, Place, Probe, verify};
use bare::report::Outcome;
use bare::{check, check_eq, probes, skip, tests, vfp};

tests! {
    no_use_of_vfp_costs_nothing => no_use,
    first_use_of_vfp_traps_at_most_once_per_switch => first_use,
    more_uses_of_vfp_in_a_slice_do_not_trap => more_uses,
    first_use_of_vfp_in_user_mode_goes_through => || in_each_place(works),
    vfp_is_undefined_while_cpacr_denies => || in_each_place(|place| { vfp::set_cpacr(0); undefined(place) }),
    vfp_is_undefined_while_cpacr_denies_after_a_switch => || in_each_place(|place| { vfp::set_cpacr(0); switch(); undefined(place) }),
    vfp_is_undefined_while_fpexc_is_off => || in_each_place(|place| { vfp::set_fpexc(0); undefined(place) }),
    vfp_is_undefined_while_fpexc_is_off_after_a_switch => || in_each_place(|place| { vfp::set_fpexc(0); switch(); undefined(place) }),
    vfp_for_privileged_modes_is_undefined_in_user_mode => privileged_only,
    fpexc_can_be_read_and_written_while_vfp_is_off => fpexc_while_off,
    fpexc_is_undefined_in_user_mode => fpexc_in_user_mode,
    a_vfp_instruction_whose_condition_fails_does_nothing => condition_fails,
    vfp_registers_survive_being_turned_off_and_on => off_and_on,
}

/// Arithmetic, moves, loads and stores of VFP and NEON that need nothing but a valid stack pointer.
static USES: &[Probe] = probes! {
    load "vmov.f32 s0, #1.0", load "vadd.f64 d0, d0, d0", load "vmrs r1, fpscr", load "vmsr fpscr, r1", load "vmov r1, s0",
    load "vadd.i32 q0, q0, q0", load "vmov d0, r2, r3", load "vorr q15, q15, q15", load "vldr d0, [sp]", load "vmov.i32 d31, #0",
};

/// Arguments that leave FPSCR alone.
const NOTHING: [u32; 4] = [0; 4];

fn rounds() -> core::ops::Range<u32> {
    0..number("rounds", 20)
}

/// Lets another vCPU run, where there is a hypervisor.
fn switch() {
    if armillary::present() {
        armillary::yield_now();
    }
}

/// Runs a test with VFP on in SVC and User mode, ARM and Thumb state.
fn in_each_place(test: impl Fn(Place) -> Outcome) -> Outcome {
    for place in Place::ALL {
        vfp::on();
        let outcome = test(place);
        vfp::on();
        vfp::off();
        outcome?;
    }
    Ok(())
}

fn no_use() -> Outcome {
    if !armillary::present() {
        skip!("no hypervisor to count exits");
    }
    vfp::off();
    let before = exits(Reason::Vfp);
    for _ in rounds() {
        armillary::yield_now();
    }
    check_eq!(exits(Reason::Vfp), before, "exits for VFP");
    Ok(())
}

fn first_use() -> Outcome {
    if !armillary::present() {
        skip!("no hypervisor to count exits");
    }
    vfp::on();
    let (vfp_before, irq_before) = (exits(Reason::Vfp), exits(Reason::Irq));
    for _ in rounds() {
        armillary::yield_now();
        works(Place {
            thumb: false,
            user: false,
        })?;
    }
    let (traps, slices) = (
        exits(Reason::Vfp) - vfp_before,
        exits(Reason::Irq) - irq_before,
    );
    vfp::off();
    // An interrupt may end a slice too.
    let most = u64::from(rounds().end) + slices;
    check!(traps <= most, "{traps} traps in at most {most} switches");
    check!(traps > 0 || !has("busy"), "no trap although others use VFP");
    Ok(())
}

fn more_uses() -> Outcome {
    if !armillary::present() {
        skip!("no hypervisor to count exits");
    }
    vfp::on();
    let (vfp_before, irq_before) = (exits(Reason::Vfp), exits(Reason::Irq));
    for _ in 0..1000 {
        works(Place {
            thumb: false,
            user: false,
        })?;
    }
    let (traps, slices) = (
        exits(Reason::Vfp) - vfp_before,
        exits(Reason::Irq) - irq_before,
    );
    vfp::off();
    check!(
        traps <= 1 + slices,
        "{traps} traps in at most {slices} switches"
    );
    Ok(())
}

/// Every use goes through.
fn works(place: Place) -> Outcome {
    for probe in USES {
        if let Err(fault) = place.call(probe.code(place.thumb), NOTHING) {
            bare::fail!(
                "{} in {place:?}: {:?} at {:#x}",
                probe.name,
                fault.kind,
                fault.lr
            );
        }
    }
    Ok(())
}

/// Every use is undefined: the link register is the next instruction's in ARM state, two bytes on in Thumb state.
fn undefined(place: Place) -> Outcome {
    for probe in USES {
        let lr = (probe.code(place.thumb) & !1) + if place.thumb { 2 } else { 4 };
        let expected = Expected {
            kind: Kind::Undefined,
            lr,
            abort: None,
            from: place,
        };
        verify(
            probe.name,
            place.call(probe.code(place.thumb), NOTHING),
            &expected,
        )?;
    }
    Ok(())
}

fn privileged_only() -> Outcome {
    vfp::on();
    vfp::set_cpacr(0x5 << 20);
    switch();
    let outcome = Place::ALL.iter().try_for_each(|place| {
        if place.user {
            undefined(*place)
        } else {
            works(*place)
        }
    });
    vfp::off();
    outcome
}

fn fpexc_while_off() -> Outcome {
    vfp::set_cpacr(vfp::CPACR_FULL);
    for value in [0, vfp::EN, 0] {
        vfp::set_fpexc(value);
        switch();
        check_eq!(vfp::fpexc() & vfp::EN, value, "FPEXC.EN");
    }
    vfp::off();
    Ok(())
}

fn fpexc_in_user_mode() -> Outcome {
    static PROBE: &[Probe] = probes! { load "vmrs r0, fpexc" };
    in_each_place(|place| match PROBE[0].code(place.thumb) {
        code if place.user => {
            let lr = (code & !1) + if place.thumb { 2 } else { 4 };
            verify(
                "vmrs fpexc",
                place.call(code, NOTHING),
                &Expected {
                    kind: Kind::Undefined,
                    lr,
                    abort: None,
                    from: place,
                },
            )
        }
        code => {
            check!(place.call(code, NOTHING).is_ok(), "undefined in {place:?}");
            Ok(())
        }
    })
}

fn condition_fails() -> Outcome {
    #[unsafe(naked)]
    #[instruction_set(arm::a32)]
    extern "C" fn arm() {
        core::arch::naked_asm!(
            ".fpu neon",
            "cmp r0, r0",
            "vmovne r0, s0",
            "vaddne.f32 s0, s0, s0",
            "mov r0, #7",
            "bx lr"
        )
    }
    #[unsafe(naked)]
    #[instruction_set(arm::t32)]
    extern "C" fn thumb() {
        core::arch::naked_asm!(
            ".fpu neon",
            "cmp r0, r0",
            "itt ne",
            "vmovne r0, s0",
            "vaddne.f32 s0, s0, s0",
            "movs r0, #7",
            "bx lr"
        )
    }
    // Hardware may find a disabled coprocessor's instruction undefined whatever its condition: only the use that is allowed
    // must have no effect.
    in_each_place(|place| {
        switch();
        let code = if place.thumb {
            thumb as *const () as u32
        } else {
            arm as *const () as u32
        };
        match place.call(code, [1, 0, 0, 0]) {
            Ok(result) => check_eq!(result[0], 7, "r0 in {place:?}"),
            Err(fault) => bare::fail!("{:?} at {:#x} in {place:?}", fault.kind, fault.lr),
        }
        Ok(())
    })
}

fn off_and_on() -> Outcome {
    for round in rounds() {
        vfp::on();
        let mut set: vfp::Registers =
            core::array::from_fn(|n| (round << 16 | n as u32).wrapping_mul(0x9e37_79b1));
        set[64] &= vfp::FPSCR_MASK;
        vfp::load(&set);
        vfp::off();
        switch();
        vfp::on();
        let got = vfp::store();
        vfp::off();
        for n in 0..set.len() {
            check_eq!(
                got[n],
                set[n],
                "word {n} of d0-d31 and FPSCR in round {round}"
            );
        }
    }
    Ok(())
}
