//! Accesses to where nothing is give the abort that a real bus gives: the same on the bare machine and in a VM.
#![no_std]
#![no_main]

use bare::exception::Kind;
use bare::machine::machine;
use bare::probe::{
    ALIGNMENT, Abort, EXTERNAL, Expected, Place, Probe, Status, WALK_1, WALK_2, WALK_3, verify,
};
use bare::report::Outcome;
use bare::{check, check_eq, fail, mcr, mcrr, mmu, probes, skip, tests, vfp};

tests! {
    load_or_store_outside_ram_is_an_external_abort => || in_both_formats(|| loads_and_stores(&NOWHERE)),
    load_or_store_past_the_end_of_ram_is_an_external_abort => || in_both_formats(|| loads_and_stores(&[end_of_ram()])),
    load_or_store_with_the_mmu_on_is_an_external_abort => || loads_and_stores(&NOWHERE),
    load_that_straddles_the_end_of_ram_reports_the_part_outside => || in_both_formats(straddle),
    an_aborted_access_changes_no_register => || in_both_formats(no_register_changes),
    swp_outside_ram_is_an_external_abort_or_undefined => || in_both_formats(swap),
    store_exclusive_outside_ram_fails_or_aborts => || in_both_formats(|| harmless(STORE_EXCLUSIVES)),
    preload_and_cache_maintenance_outside_ram_do_no_harm => || in_both_formats(|| harmless(HINTS)),
    instruction_fetch_outside_ram_is_a_prefetch_abort => || in_both_formats(fetches),
    unaligned_multiple_and_exclusive_accesses_are_alignment_faults => || in_both_formats(alignment),
    table_walk_outside_ram_at_the_first_level_is_an_abort_on_the_walk => walk_first,
    table_walk_outside_ram_at_the_second_level_is_an_abort_on_the_walk => walk_second,
    table_walk_outside_ram_in_the_long_format_is_an_abort_on_the_walk => walk_long,
    ram_still_works_after_all_this => ram_works,
}

/// Where `virt` has nothing: in the unused platform bus, and in RAM's part of the map where a VM's RAM does not reach.
const NOWHERE: [u32; 3] = [0x0c00_0000, 0xb000_0010, 0xffff_fff0];

/// The first address after RAM.
fn end_of_ram() -> u32 {
    machine().memory.base + machine().memory.size
}

/// Every load and store whose abort is exact, at an aligned address.
static ACCESSES: &[Probe] = probes! {
    load "ldrb r1, [r0]", load "ldrh r1, [r0]", load "ldr r1, [r0]", load "ldrsb r1, [r0]", load "ldrsh r1, [r0]",
    store "strb r1, [r0]", store "strh r1, [r0]", store "str r1, [r0]",
    load "ldrbt r1, [r0], #0" / "ldrbt r1, [r0]", load "ldrht r1, [r0], #0" / "ldrht r1, [r0]", load "ldrt r1, [r0], #0" / "ldrt r1, [r0]", load "ldrsbt r1, [r0], #0" / "ldrsbt r1, [r0]", load "ldrsht r1, [r0], #0" / "ldrsht r1, [r0]",
    store "strbt r1, [r0], #0" / "strbt r1, [r0]", store "strht r1, [r0], #0" / "strht r1, [r0]", store "strt r1, [r0], #0" / "strt r1, [r0]",
    load "ldrb r1, [r0], #1", load "ldrh r1, [r0], #2", load "ldr r1, [r0], #4", load "ldr r1, [r0, #0]!",
    store "strb r1, [r0], #1", store "strh r1, [r0], #2", store "str r1, [r0], #4", store "str r1, [r0, #0]!",
    load "ldrd r2, r3, [r0]", load "ldrd r2, r3, [r0], #8", store "strd r2, r3, [r0]", store "strd r2, r3, [r0], #8",
    load "ldm r0, {{r1, r2}}", load "ldm r0!, {{r1, r2, r3}}", store "stm r0, {{r1, r2}}", store "stm r0!, {{r1, r2, r3}}",
    load "ldrex r1, [r0]", load "ldrexb r1, [r0]", load "ldrexh r1, [r0]", load "ldrexd r2, r3, [r0]",
    load "ldr pc, [r0]",
    load "vldr s0, [r0]", load "vldr d0, [r0]", load "vldm r0, {{d0-d3}}", load "vld1.8 {{d0}}, [r0]",
    store "vstr s0, [r0]", store "vstr d0, [r0]", store "vstm r0, {{d0-d3}}", store "vst1.8 {{d0}}, [r0]",
};

static STORE_EXCLUSIVES: &[Probe] = probes! {
    store "strex r2, r1, [r0]", store "strexb r2, r1, [r0]", store "strexh r2, r1, [r0]",
};

/// Hints and operations by address; on silicon some may abort, then exactly.
static HINTS: &[Probe] = probes! {
    load "pld [r0]", load "pli [r0]", load "nop",
    load "mcr p15, 0, r0, c7, c10, 1", load "mcr p15, 0, r0, c7, c11, 1", load "mcr p15, 0, r0, c7, c6, 1",
    load "mcr p15, 0, r0, c7, c14, 1", load "mcr p15, 0, r0, c7, c5, 1", load "mcr p15, 0, r0, c7, c5, 7",
};

/// Runs a test with the MMU off, with fault status in the short and then in the long format.
fn in_both_formats(test: impl Fn() -> Outcome) -> Outcome {
    mmu::off();
    vfp::on();
    mcr!(15, 0, 2, 0, 2; 0);
    let short = test();
    mcr!(15, 0, 2, 0, 2; 1 << 31);
    let long = test();
    mcr!(15, 0, 2, 0, 2; 0);
    vfp::off();
    mmu::on();
    short.and(long)
}

/// The data abort that `probe` at `place` must give.
fn data_abort(probe: &Probe, place: Place, status: Status, far: u32) -> Expected {
    Expected {
        kind: Kind::Data,
        lr: (probe.code(place.thumb) & !1) + 8,
        abort: Some(Abort {
            status,
            far,
            write: Some(probe.write),
        }),
        from: place,
    }
}

fn loads_and_stores(addresses: &[u32]) -> Outcome {
    vfp::on();
    for probe in ACCESSES {
        for place in Place::ALL {
            for &address in addresses {
                let result = place.call(probe.code(place.thumb), [address, 1, 2, 3]);
                verify(
                    probe.name,
                    result,
                    &data_abort(probe, place, EXTERNAL, address),
                )?;
            }
        }
    }
    Ok(())
}

fn straddle() -> Outcome {
    static PROBES: &[Probe] =
        probes! { load "ldm r0, {{r1, r2}}", load "ldrd r2, r3, [r0]", store "stm r0, {{r1, r2}}" };
    for probe in PROBES {
        for place in Place::ALL {
            let result = place.call(probe.code(place.thumb), [end_of_ram() - 4, 0, 0, 0]);
            verify(
                probe.name,
                result,
                &data_abort(probe, place, EXTERNAL, end_of_ram()),
            )?;
        }
    }
    Ok(())
}

fn no_register_changes() -> Outcome {
    for probe in ACCESSES {
        for place in Place::ALL {
            let arguments = [NOWHERE[0], 0x1111_1111, 0x2222_2222, 0x3333_3333];
            let Err(fault) = place.call(probe.code(place.thumb), arguments) else {
                fail!("{} went through", probe.name)
            };
            for (n, value) in arguments.iter().enumerate() {
                check_eq!(fault.r[n], *value, "r{n} after {}", probe.name);
            }
        }
    }
    Ok(())
}

/// SWP is in ARM state alone, and undefined where SCTLR.SW is clear or the core has none.
fn swap() -> Outcome {
    #[unsafe(naked)]
    #[instruction_set(arm::a32)]
    extern "C" fn swp() {
        core::arch::naked_asm!(".inst 0xe1002091", "bx lr") // swp r2, r1, [r0]
    }
    let (sctlr, code) = (mmu::sctlr(), swp as *const () as u32);
    mmu::set_sctlr(sctlr | 1 << 10);
    let place = Place {
        thumb: false,
        user: false,
    };
    let result = place.call(code, [NOWHERE[0], 0, 0, 0]);
    mmu::set_sctlr(sctlr);
    let abort = Abort {
        status: EXTERNAL,
        far: NOWHERE[0],
        write: None,
    };
    match result {
        Err(fault) if fault.kind == Kind::Undefined => verify(
            "swp",
            result,
            &Expected {
                kind: Kind::Undefined,
                lr: code + 4,
                abort: None,
                from: place,
            },
        ),
        _ => verify(
            "swp",
            result,
            &Expected {
                kind: Kind::Data,
                lr: code + 8,
                abort: Some(abort),
                from: place,
            },
        ),
    }
}

fn harmless(probes: &[Probe]) -> Outcome {
    for probe in probes {
        for thumb in [false, true] {
            let place = Place { thumb, user: false };
            let result = place.call(probe.code(thumb), [NOWHERE[0], 1, 2, 3]);
            if result.is_err() {
                let mut expected = data_abort(probe, place, EXTERNAL, NOWHERE[0]);
                expected.abort = expected.abort.map(|abort| Abort {
                    write: None,
                    ..abort
                });
                verify(probe.name, result, &expected)?;
            }
        }
    }
    Ok(())
}

fn fetches() -> Outcome {
    for address in NOWHERE.into_iter().chain([end_of_ram()]) {
        for place in Place::ALL {
            let abort = Some(Abort {
                status: EXTERNAL,
                far: address,
                write: None,
            });
            let expected = Expected {
                kind: Kind::Prefetch,
                lr: address + 4,
                abort,
                from: place,
            };
            verify("fetch", place.call(address, [0; 4]), &expected)?;
        }
    }
    Ok(())
}

fn alignment() -> Outcome {
    static PROBES: &[Probe] = probes! {
        load "ldm r0, {{r1, r2}}", store "stm r0, {{r1, r2}}", load "ldrd r2, r3, [r0]", store "strd r2, r3, [r0]",
        load "ldrex r1, [r0]", load "ldrexh r1, [r0]", load "ldrexd r2, r3, [r0]",
    };
    let address = machine().memory.base + (8 << 20) + 1;
    for probe in PROBES {
        for place in Place::ALL {
            let result = place.call(probe.code(place.thumb), [address, 1, 2, 3]);
            verify(
                probe.name,
                result,
                &data_abort(probe, place, ALIGNMENT, address),
            )?;
        }
    }
    Ok(())
}

/// Where the broken tables translate: nothing else uses it.
const BROKEN: u32 = 0x8000_0000;

/// A load, a store and a fetch at an address whose translation cannot be read.
fn walk(status: Status) -> Outcome {
    static PROBES: &[Probe] =
        probes! { load "ldr r1, [r0]", store "str r1, [r0]", store "strd r2, r3, [r0]" };
    let address = BROKEN + 0x120;
    for place in Place::ALL {
        for probe in PROBES.iter().filter(|_| !place.user) {
            let result = place.call(probe.code(place.thumb), [address, 0, 0, 0]);
            verify(
                probe.name,
                result,
                &data_abort(probe, place, status, address),
            )?;
        }
        if !place.user {
            let abort = Some(Abort {
                status,
                far: address,
                write: None,
            });
            let expected = Expected {
                kind: Kind::Prefetch,
                lr: address + 4,
                abort,
                from: place,
            };
            verify("fetch", place.call(address, [0; 4]), &expected)?;
        }
    }
    Ok(())
}

/// TTBR1, for the upper half, points to where no memory is.
fn walk_first() -> Outcome {
    mcr!(15, 0, 2, 0, 1; NOWHERE[0]);
    mcr!(15, 0, 2, 0, 2; 1);
    mmu::flush();
    let outcome = walk(WALK_1);
    mcr!(15, 0, 2, 0, 2; 0);
    mcr!(15, 0, 2, 0, 1; 0);
    mmu::flush();
    outcome
}

/// A first-level entry points to a page table where no memory is.
fn walk_second() -> Outcome {
    let old = mmu::section(BROKEN >> 20);
    mmu::set_section(BROKEN >> 20, NOWHERE[0] | 1);
    mmu::flush();
    let outcome = walk(WALK_2);
    mmu::set_section(BROKEN >> 20, old);
    mmu::flush();
    outcome
}

/// The same for each level of the long format.
fn walk_long() -> Outcome {
    #[repr(align(4096))]
    struct Page([u64; 512]);
    static SECOND: Page = {
        let mut page = Page([0; 512]);
        page.0[0] = NOWHERE[0] as u64 | 3;
        page
    };
    mmu::off();
    mmu::on_long();
    mmu::set_block(2, u64::from(NOWHERE[0]) | 3);
    mmu::flush();
    let second = walk(WALK_2);
    mmu::set_block(2, core::ptr::from_ref(&SECOND) as u64 | 3);
    mmu::flush();
    let third = walk(WALK_3);
    // T1SZ = 1: TTBR1 for the upper half.
    mcrr!(1, 2; u64::from(NOWHERE[0]));
    mcr!(15, 0, 2, 0, 2; 1 << 31 | 1 << 16);
    mmu::flush();
    let first = walk(WALK_1);
    mcr!(15, 0, 2, 0, 2; 1 << 31);
    mcrr!(1, 2; 0);
    mmu::off_long();
    mmu::on();
    first.and(second).and(third)
}

fn ram_works() -> Outcome {
    let last = end_of_ram() - 4;
    if machine().memory.size == 0 {
        skip!("the tree has no memory");
    }
    for value in [0x5555_5555, 0xaaaa_aaaa] {
        bare::mmio::write(last, value);
        check_eq!(bare::mmio::read(last), value, "the last word of RAM");
    }
    check!(mmu::sctlr() & mmu::M != 0, "the MMU is off");
    Ok(())
}
