//! System registers: what a guest may see, what it may use, and what is undefined, at the right link register.
//!
//! Command line: `strict` says that ID registers can be trapped (QEMU 7.2 cannot), so that features must be hidden.
#![no_std]
#![no_main]

use bare::armillary;
use bare::exception::{Kind, catch};
use bare::machine::has;
use bare::probe::{Expected, Place, Probe, verify};
use bare::report::Outcome;
use bare::{check, check_eq, fail, mcr, mrc, mrrc, probes, skip, smp, tests};

tests! {
    cpu_is_the_one_that_the_hardware_is => identity,
    features_that_a_guest_may_not_use_are_hidden => hidden_features,
    features_that_a_guest_needs_are_shown => shown_features,
    auxiliary_control_reads_and_ignores_writes => auxiliary,
    second_level_cache_control_names_the_number_of_cpus => l2,
    cache_geometry_is_readable => cache_geometry,
    cache_maintenance_by_set_and_way_works_in_full => set_way,
    cache_and_tlb_maintenance_works => maintenance,
    address_translation_operations_answer_in_par => translation,
    performance_monitors_are_whole_or_absent => performance,
    debug_registers_do_no_harm => debug,
    vector_and_fault_registers_hold_what_is_written => fault_registers,
    stage_one_control_registers_hold_what_is_written => stage_one_registers,
    registers_of_hyp_and_monitor_mode_are_undefined => || undefined(HIGHER),
    registers_that_there_are_not_are_undefined => || undefined(NONE),
    coprocessors_that_there_are_not_are_undefined => || undefined(NO_COPROCESSOR),
    privileged_registers_are_undefined_in_user_mode => in_user_mode,
    registers_for_user_mode_are_readable_there => readable_in_user_mode,
    access_whose_condition_fails_does_nothing => condition,
    access_moves_to_and_from_any_register => any_register,
}

static HIGHER: &[Probe] = probes! {
    load "mrc p15, 4, r1, c0, c0, 0", load "mrc p15, 4, r1, c0, c0, 5", load "mrc p15, 4, r1, c1, c0, 0",
    load "mrc p15, 4, r1, c1, c1, 0", load "mcr p15, 4, r1, c1, c1, 0", load "mrc p15, 4, r1, c1, c1, 1",
    load "mrc p15, 4, r1, c1, c1, 2", load "mrc p15, 4, r1, c1, c1, 3", load "mrc p15, 4, r1, c2, c0, 2",
    load "mrc p15, 4, r1, c2, c1, 2", load "mrrc p15, 6, r2, r3, c2", load "mcrr p15, 6, r2, r3, c2",
    load "mrrc p15, 4, r2, r3, c2", load "mrc p15, 4, r1, c5, c2, 0", load "mrc p15, 4, r1, c6, c0, 0",
    load "mrc p15, 4, r1, c6, c0, 4", load "mrc p15, 4, r1, c10, c2, 0", load "mrc p15, 4, r1, c12, c0, 0",
    load "mcr p15, 4, r1, c12, c0, 0", load "mrc p15, 4, r1, c13, c0, 2", load "mrc p15, 4, r1, c14, c1, 0",
    load "mrc p15, 4, r1, c14, c2, 1", load "mrrc p15, 4, r2, r3, c14", load "mcrr p15, 4, r2, r3, c14",
    load "mrrc p15, 6, r2, r3, c14", load "mcr p15, 4, r1, c8, c7, 0", load "mcr p15, 4, r1, c8, c7, 4",
    load "mcr p15, 4, r1, c8, c3, 4", load "mcr p15, 4, r1, c7, c8, 0",
};

static NONE: &[Probe] = probes! {
    load "mrc p15, 0, r1, c4, c0, 0", load "mcr p15, 0, r1, c4, c5, 1", load "mrc p15, 3, r1, c9, c9, 3",
    load "mrc p15, 7, r1, c14, c14, 7", load "mcr p15, 5, r1, c6, c3, 3", load "mrrc p15, 7, r2, r3, c4",
    load "mcrr p15, 5, r2, r3, c11", load "mrc p15, 7, r1, c2, c2, 2", load "mrc p14, 5, r1, c4, c4, 4",
};

static NO_COPROCESSOR: &[Probe] = probes! {
    load "mrc p0, 0, r1, c0, c0, 0", load "mcr p3, 1, r1, c2, c3, 4", load "mrc p7, 0, r1, c1, c0, 0", load "mrc p9, 0, r1, c0, c0, 0",
    load "mrrc p5, 0, r2, r3, c0", load "mcrr p6, 0, r2, r3, c0", load "cdp p4, 0, c0, c0, c0, 0", load "ldc p4, c0, [r0]",
    load "stc p6, c0, [r0]", load "udf #0",
};

/// Every access is undefined in SVC and User mode, in ARM and Thumb state.
fn undefined(probes: &[Probe]) -> Outcome {
    for place in Place::ALL {
        probes
            .iter()
            .try_for_each(|probe| undefined_at(probe, place))?;
    }
    Ok(())
}

fn undefined_at(probe: &Probe, place: Place) -> Outcome {
    let code = probe.code(place.thumb);
    let lr = (code & !1) + if place.thumb { 2 } else { 4 };
    let expected = Expected {
        kind: Kind::Undefined,
        lr,
        abort: None,
        from: place,
    };
    verify(
        probe.name,
        place.call(code, [bare::machine::image().base, 0, 0, 0]),
        &expected,
    )
}

/// A field of four bits of an ID register.
fn field(value: u32, lowest: u32) -> u32 {
    value >> lowest & 0xf
}

fn identity() -> Outcome {
    let midr = mrc!(15, 0, 0, 0, 0);
    check!(
        bare::cpu::core_name(midr).starts_with("Cortex"),
        "MIDR {midr:#x}"
    );
    let mpidr = mrc!(15, 0, 0, 0, 5);
    check_eq!(
        mpidr & 0x00ff_ffff,
        bare::machine::machine().cpus[0],
        "affinity in MPIDR"
    );
    // REVIDR, TCMTR, TLBTR and AIDR answer something.
    let _ = (
        mrc!(15, 0, 0, 0, 6),
        mrc!(15, 0, 0, 0, 2),
        mrc!(15, 0, 0, 0, 3),
        mrc!(15, 1, 0, 0, 7),
    );
    check_eq!(mrc!(15, 0, 0, 0, 4), midr, "the alias of MIDR at opc2 4");
    check_eq!(mrc!(15, 0, 0, 0, 7), midr, "the alias of MIDR at opc2 7");
    Ok(())
}

fn hidden_features() -> Outcome {
    let pfr1 = mrc!(15, 0, 0, 1, 1);
    if armillary::present() && field(pfr1, 12) != 0 && !has("strict") {
        skip!("ID registers cannot be trapped on this machine, or are not");
    }
    check_eq!(field(pfr1, 12), 0, "Virtualization Extensions in ID_PFR1");
    check_eq!(field(pfr1, 4), 0, "Security Extensions in ID_PFR1");
    if armillary::present() {
        let monitors = field(mrc!(15, 0, 0, 1, 2), 24);
        let usable = catch(|| mrc!(15, 0, 9, 12, 0)).is_ok();
        // QEMU 7.2 cannot hide ID_DFR0, so a register that is undefined is enough.
        check!(
            !usable || !matches!(monitors, 0 | 15),
            "performance monitors are hidden but there"
        );
    }
    Ok(())
}

fn shown_features() -> Outcome {
    check_eq!(
        field(mrc!(15, 0, 0, 1, 1), 16),
        1,
        "generic timer in ID_PFR1"
    );
    check!(
        field(mrc!(15, 0, 0, 1, 4), 0) >= 5,
        "VMSA with the long format in ID_MMFR0"
    );
    check_eq!(field(mrc!(15, 0, 0, 1, 0), 4), 3, "Thumb-2 in ID_PFR0");
    // ID_MMFR1 to 3, ID_ISAR0 to 5, ID_AFR0 answer something.
    let values = [
        mrc!(15, 0, 0, 1, 3),
        mrc!(15, 0, 0, 1, 5),
        mrc!(15, 0, 0, 1, 6),
        mrc!(15, 0, 0, 1, 7),
        mrc!(15, 0, 0, 2, 0),
        mrc!(15, 0, 0, 2, 1),
        mrc!(15, 0, 0, 2, 2),
        mrc!(15, 0, 0, 2, 3),
        mrc!(15, 0, 0, 2, 4),
        mrc!(15, 0, 0, 2, 5),
    ];
    check!(values[4] != 0, "ID_ISAR0 is zero");
    Ok(())
}

fn auxiliary() -> Outcome {
    let old = mrc!(15, 0, 1, 0, 1);
    mcr!(15, 0, 1, 0, 1; !old);
    let _ = mrc!(15, 0, 1, 0, 1);
    mcr!(15, 0, 1, 0, 1; old);
    check_eq!(mrc!(15, 0, 1, 0, 1), old, "ACTLR");
    Ok(())
}

fn l2() -> Outcome {
    let Ok(control) = catch(|| mrc!(15, 1, 9, 0, 2)) else {
        skip!("this core has no L2CTLR")
    };
    check_eq!(
        (control >> 24 & 3) + 1,
        (smp::count() as u32).min(4),
        "CPUs in L2CTLR"
    );
    if let Err(fault) = catch(|| mcr!(15, 1, 9, 0, 2; control)) {
        fail!("{:?} at a write of L2CTLR", fault.kind);
    }
    if let Err(fault) = catch(|| mrc!(15, 1, 9, 0, 3)) {
        fail!("{:?} at L2ECTLR", fault.kind);
    }
    Ok(())
}

fn cache_geometry() -> Outcome {
    let (ctr, clidr) = (mrc!(15, 0, 0, 0, 1), mrc!(15, 1, 0, 0, 1));
    check_eq!(ctr >> 29, 4, "format in CTR");
    check!(clidr & 7 != 0, "no cache of the first level in CLIDR");
    for selector in 0..4 {
        mcr!(15, 2, 0, 0, 0; selector);
        check_eq!(mrc!(15, 2, 0, 0, 0), selector, "CSSELR");
        let _ = mrc!(15, 1, 0, 0, 0);
    }
    mcr!(15, 2, 0, 0, 0; 0);
    Ok(())
}

/// Every set and way of the first two levels, by clean, invalidate and both, as an operating system does when it goes down;
/// what memory holds stays.
fn set_way() -> Outcome {
    let address = bare::machine::image().base + (4 << 20);
    bare::mmio::write(address, 0xcafe_f00d);
    for level in 0..2u32 {
        bare::cpu::each_set_and_way(level, 8, |operand| {
            mcr!(15, 0, 7, 10, 2; operand);
            mcr!(15, 0, 7, 14, 2; operand);
        });
    }
    mcr!(15, 2, 0, 0, 0; 0);
    bare::cpu::dsb();
    check_eq!(
        bare::mmio::read(address),
        0xcafe_f00d,
        "memory after clean and invalidate"
    );
    Ok(())
}

fn maintenance() -> Outcome {
    static OPERATIONS: &[Probe] = probes! {
        load "mcr p15, 0, r0, c7, c1, 0", load "mcr p15, 0, r0, c7, c1, 6", load "mcr p15, 0, r0, c7, c5, 0",
        load "mcr p15, 0, r0, c7, c5, 1", load ".inst 0xee070f95" / ".inst.w 0xee070f95", load "mcr p15, 0, r0, c7, c5, 6",
        load "mcr p15, 0, r0, c7, c5, 7", load "mcr p15, 0, r0, c7, c10, 1", load ".inst 0xee070f9a" / ".inst.w 0xee070f9a",
        load ".inst 0xee070fba" / ".inst.w 0xee070fba", load "mcr p15, 0, r0, c7, c11, 1", load "mcr p15, 0, r0, c7, c14, 1",
        load "mcr p15, 0, r0, c8, c3, 0", load "mcr p15, 0, r0, c8, c3, 1", load "mcr p15, 0, r0, c8, c3, 2",
        load "mcr p15, 0, r0, c8, c3, 3", load "mcr p15, 0, r0, c8, c5, 0", load "mcr p15, 0, r0, c8, c6, 0",
        load "mcr p15, 0, r0, c8, c7, 0", load "mcr p15, 0, r0, c8, c7, 1", load "mcr p15, 0, r0, c8, c7, 2",
        load "mcr p15, 0, r0, c8, c7, 3",
    };
    for probe in OPERATIONS {
        for thumb in [false, true] {
            let place = Place { thumb, user: false };
            if let Err(fault) =
                place.call(probe.code(thumb), [bare::machine::image().base, 0, 0, 0])
            {
                fail!("{:?} at {}", fault.kind, probe.name);
            }
        }
    }
    Ok(())
}

fn translation() -> Outcome {
    let address = bare::machine::image().base + 0x5123;
    mcr!(15, 0, 7, 8, 0; address); // ATS1CPR
    let par = mrrc!(0, 7) as u32;
    check_eq!(par & 1, 0, "PAR.F for an address in RAM");
    check_eq!(
        par & 0xffff_f000,
        address & 0xffff_f000,
        "PAR for a flat map"
    );
    mcr!(15, 0, 7, 8, 2; address); // ATS1CUR
    check_eq!(mrrc!(0, 7) as u32 & 1, 0, "PAR.F for User mode");
    let old = bare::mmu::section(0x800);
    bare::mmu::set_section(0x800, 0);
    bare::mmu::flush();
    mcr!(15, 0, 7, 8, 0; 0x8000_0000);
    let par = mrrc!(0, 7) as u32;
    bare::mmu::set_section(0x800, old);
    bare::mmu::flush();
    check_eq!(par & 1, 1, "PAR.F for an address that is not mapped");
    check_eq!(par >> 1 & 0x1f, 5, "fault status in PAR");
    Ok(())
}

fn performance() -> Outcome {
    let Ok(control) = catch(|| mrc!(15, 0, 9, 12, 0)) else {
        return Ok(());
    };
    check!(
        !armillary::present(),
        "VMs share the performance monitors, which nobody switches"
    );
    // There: then the whole set answers, and the counter counts or stands still without harm.
    for result in [
        catch(|| mcr!(15, 0, 9, 12, 0; control)),
        catch(|| mcr!(15, 0, 9, 12, 1; 0)),
        catch(|| mcr!(15, 0, 9, 12, 2; 0xffff_ffff)),
        catch(|| mcr!(15, 0, 9, 12, 3; 0xffff_ffff)),
        catch(|| mcr!(15, 0, 9, 12, 5; 0)),
        catch(|| mcr!(15, 0, 9, 14, 2; 0xffff_ffff)),
    ] {
        if let Err(fault) = result {
            fail!("PMCR is there, but {:?} at {:#x}", fault.kind, fault.lr);
        }
    }
    check!(
        catch(|| mrc!(15, 0, 9, 13, 0)).is_ok(),
        "PMCR is there, but not PMCCNTR"
    );
    Ok(())
}

/// An operating system clears the OS lock and looks for breakpoints at its start.
fn debug() -> Outcome {
    static ACCESSES: &[Probe] = probes! {
        load "mrc p14, 0, r1, c0, c0, 0", load "mrc p14, 0, r1, c0, c1, 0", load "mrc p14, 0, r1, c0, c2, 2", load "mrc p14, 0, r1, c1, c0, 0",
        load "mrc p14, 0, r1, c2, c0, 0", load "mcr p14, 0, r1, c1, c0, 4", load "mrc p14, 0, r1, c1, c1, 4", load "mcr p14, 0, r1, c1, c3, 4",
        load "mcr p14, 0, r1, c0, c0, 5", load "mcr p14, 0, r1, c0, c0, 4", load "mrc p14, 0, r1, c7, c14, 6", load "mrc p14, 6, r1, c0, c0, 0",
        load "mrc p14, 7, r1, c0, c0, 0",
    };
    for probe in ACCESSES {
        for thumb in [false, true] {
            let place = Place { thumb, user: false };
            if place.call(probe.code(thumb), [0; 4]).is_err() {
                undefined_at(probe, place)?;
            }
        }
    }
    Ok(())
}

macro_rules! holds {
    ($($name:ident($op1:literal, $n:literal, $m:literal, $op2:literal) $mask:literal,)*) => {{
        $(
            let old = mrc!(15, $op1, $n, $m, $op2);
            for value in [0xa5a5_a5a5u32, 0x5a5a_5a5a] {
                let value = value & $mask | old & !$mask;
                mcr!(15, $op1, $n, $m, $op2; value);
                let found = mrc!(15, $op1, $n, $m, $op2);
                mcr!(15, $op1, $n, $m, $op2; old);
                check_eq!(found & $mask, value & $mask, stringify!($name));
            }
        )*
        Ok(())
    }};
}

fn fault_registers() -> Outcome {
    holds! {
        DFSR(0, 5, 0, 0) 0x0000_1cffu32,
        IFSR(0, 5, 0, 1) 0x0000_140fu32,
        DFAR(0, 6, 0, 0) 0xffff_ffffu32,
        IFAR(0, 6, 0, 2) 0xffff_ffffu32,
        TPIDRURW(0, 13, 0, 2) 0xffff_ffffu32,
        TPIDRURO(0, 13, 0, 3) 0xffff_ffffu32,
        TPIDRPRW(0, 13, 0, 4) 0xffff_ffffu32,
        CONTEXTIDR(0, 13, 0, 1) 0xffff_ffffu32,
    }
}

fn stage_one_registers() -> Outcome {
    fn registers() -> Outcome {
        holds! {
            TTBR0(0, 2, 0, 0) 0xffff_c000u32,
            TTBR1(0, 2, 0, 1) 0xffff_c000u32,
            DACR(0, 3, 0, 0) 0xffff_ffffu32,
            PRRR(0, 10, 2, 0) 0xffff_ffffu32,
            NMRR(0, 10, 2, 1) 0xffff_ffffu32,
            VBAR(0, 12, 0, 0) 0xffff_ffe0u32,
        }
    }
    bare::mmu::without(registers)
}

static PRIVILEGED: &[Probe] = probes! {
    load "mrc p15, 0, r1, c0, c0, 0", load "mrc p15, 0, r1, c0, c1, 2", load "mrc p15, 0, r1, c1, c0, 0", load "mcr p15, 0, r1, c1, c0, 0",
    load "mrc p15, 0, r1, c1, c0, 1", load "mrc p15, 0, r1, c2, c0, 0", load "mcr p15, 0, r1, c2, c0, 0", load "mrc p15, 0, r1, c5, c0, 0",
    load "mcr p15, 0, r1, c7, c14, 2", load "mcr p15, 0, r1, c7, c6, 2", load "mcr p15, 0, r1, c8, c7, 0", load "mrc p15, 1, r1, c9, c0, 2",
    load "mrc p15, 0, r1, c12, c0, 0", load "mrc p15, 0, r1, c13, c0, 4", load "mcr p15, 0, r1, c13, c0, 3", load "mrc p15, 0, r1, c14, c1, 0",
    load "mrrc p15, 0, r2, r3, c7", load "mrrc p15, 0, r2, r3, c2",
};

fn in_user_mode() -> Outcome {
    for place in Place::ALL.into_iter().filter(|place| place.user) {
        PRIVILEGED
            .iter()
            .try_for_each(|probe| undefined_at(probe, place))?;
    }
    Ok(())
}

fn readable_in_user_mode() -> Outcome {
    static OPEN: &[Probe] = probes! {
        load "mrc p15, 0, r0, c13, c0, 2", load "mrc p15, 0, r0, c13, c0, 3", load ".inst 0xee070f95" / ".inst.w 0xee070f95", load ".inst 0xee070f9a" / ".inst.w 0xee070f9a",
        load ".inst 0xee070fba" / ".inst.w 0xee070fba",
    };
    mcr!(15, 0, 13, 0, 2; 0x1111_2222);
    mcr!(15, 0, 13, 0, 3; 0x3333_4444);
    for place in Place::ALL.into_iter().filter(|place| place.user) {
        for (n, probe) in OPEN.iter().enumerate() {
            match place.call(probe.code(place.thumb), [0; 4]) {
                Err(fault) => fail!("{:?} at {}", fault.kind, probe.name),
                Ok(r) if n < 2 => check_eq!(r[0], [0x1111_2222, 0x3333_4444][n], "{}", probe.name),
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

fn condition() -> Outcome {
    #[unsafe(naked)]
    #[instruction_set(arm::a32)]
    extern "C" fn arm() {
        core::arch::naked_asm!(
            "cmp r0, r0",
            "mov r0, #5",
            "mrcne p15, 0, r0, c1, c0, 1",
            "mcrne p15, 0, r0, c1, c0, 1",
            "bx lr"
        )
    }
    #[unsafe(naked)]
    #[instruction_set(arm::t32)]
    extern "C" fn thumb() {
        core::arch::naked_asm!(
            "cmp r0, r0",
            "mov.w r0, #5",
            "itt ne",
            "mrcne p15, 0, r0, c1, c0, 1",
            "mcrne p15, 0, r0, c1, c0, 1",
            "bx lr"
        )
    }
    for place in Place::ALL.into_iter().filter(|place| !place.user) {
        let code = if place.thumb {
            thumb as *const () as u32
        } else {
            arm as *const () as u32
        };
        match place.call(code, [0; 4]) {
            Ok(result) => check_eq!(result[0], 5, "r0 in {place:?}"),
            Err(fault) => fail!("{:?} in {place:?}", fault.kind),
        }
    }
    Ok(())
}

/// A trapped read (ACTLR) into each of r0 to r12 and lr, and into the flags' register number 15 where it is one.
fn any_register() -> Outcome {
    macro_rules! reads {
        ($($register:literal)*) => {
            [$({
                #[unsafe(naked)]
                #[instruction_set(arm::a32)]
                extern "C" fn read() {
                    core::arch::naked_asm!(
                        "push {{r4-r12, lr}}",
                        concat!("mrc p15, 0, ", $register, ", c1, c0, 1"),
                        concat!("mov r0, ", $register),
                        "pop {{r4-r12, pc}}"
                    )
                }
                ($register, read as *const () as u32)
            }),*]
        };
    }
    let expected = mrc!(15, 0, 1, 0, 1);
    for (name, code) in
        reads! { "r0" "r1" "r2" "r3" "r4" "r5" "r6" "r7" "r8" "r9" "r10" "r11" "r12" "lr" }
    {
        match bare::exception::call(code, [0xdead_beef; 4]) {
            Ok(result) => check_eq!(result[0], expected, "ACTLR by {name}"),
            Err(fault) => fail!("{:?} at a read into {name}", fault.kind),
        }
    }
    Ok(())
}
