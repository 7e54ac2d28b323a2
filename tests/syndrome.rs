//! The syndrome: every value decodes, and its fields are the manual's.

use armillary::regs::{Regs, psr};
use armillary::syndrome::{FaultStatus, Hsr, Syndrome, register, thumb_length};
use proptest::prelude::*;

/// Bits `high` to `low` as the manual's tables give them.
fn bits(value: u32, high: u32, low: u32) -> u32 {
    (u64::from(value) >> low) as u32 & ((1u64 << (high - low + 1)) - 1) as u32
}

/// The classes of ARM DDI 0406C, Table B3-25, by what this module calls them.
fn class(ec: u32) -> &'static str {
    match ec {
        0x00 => "Unknown",
        0x01 => "Wait",
        0x03 => "Cp15",
        0x04 => "Cp15Double",
        0x05 => "Cp14",
        0x06 => "Cp14Memory",
        0x07 => "Coprocessor",
        0x08 => "VfpId",
        0x0a => "Bxj",
        0x0c => "Cp14Double",
        0x11 => "Svc",
        0x12 => "Hvc",
        0x13 => "Smc",
        0x20 => "PrefetchAbort",
        0x21 => "HypPrefetchAbort",
        0x22 => "PcAlignment",
        0x24 => "DataAbort",
        0x25 => "HypDataAbort",
        _ => "Reserved",
    }
}

fn check(hsr: u32) {
    let flag = |n| bits(hsr, n, n) == 1;
    let syndrome = Hsr(hsr).decode();
    let debug = format!("{syndrome:?}");
    let name = debug.split([' ', '(', '{']).next();
    assert_eq!(name, Some(class(bits(hsr, 31, 26))), "{hsr:#x}");
    match syndrome {
        Syndrome::Wait(wait) => assert_eq!(wait.wfe(), flag(0)),
        Syndrome::Cp15(t) | Syndrome::Cp14(t) | Syndrome::VfpId(t) => {
            assert_eq!(t.opc2(), bits(hsr, 19, 17));
            assert_eq!(t.opc1(), bits(hsr, 16, 14));
            assert_eq!(t.crn(), bits(hsr, 13, 10));
            assert_eq!(t.rt(), bits(hsr, 8, 5));
            assert_eq!(t.crm(), bits(hsr, 4, 1));
            assert_eq!(t.read(), flag(0));
            let same = register(t.crn(), t.opc1(), t.crm(), t.opc2());
            assert_eq!(t.register(), same);
        }
        Syndrome::Cp15Double(t) | Syndrome::Cp14Double(t) => {
            assert_eq!(t.opc1(), bits(hsr, 19, 16));
            assert_eq!(t.rt2(), bits(hsr, 13, 10));
            assert_eq!(t.rt(), bits(hsr, 8, 5));
            assert_eq!(t.crm(), bits(hsr, 4, 1));
            assert_eq!(t.read(), flag(0));
        }
        Syndrome::Cp14Memory(t) => {
            assert_eq!(t.imm8(), bits(hsr, 19, 12));
            assert_eq!(t.rn(), bits(hsr, 8, 5));
            assert_eq!(t.add(), flag(4));
            assert_eq!(t.literal(), flag(3));
            assert_eq!(t.mode(), bits(hsr, 2, 1));
            assert_eq!(t.read(), flag(0));
        }
        Syndrome::Coprocessor(c) => {
            assert_eq!(c.simd(), flag(5));
            assert_eq!(c.number(), bits(hsr, 3, 0));
            let vfp = flag(5) || [10, 11].contains(&bits(hsr, 3, 0));
            assert_eq!(c.vfp(), vfp);
        }
        Syndrome::Bxj(b) => assert_eq!(b.rm(), bits(hsr, 3, 0)),
        Syndrome::Svc { imm16 } | Syndrome::Hvc { imm16 } => {
            assert_eq!(u32::from(imm16), bits(hsr, 15, 0));
        }
        Syndrome::PrefetchAbort(a) | Syndrome::HypPrefetchAbort(a) => {
            assert_eq!(a.ea(), flag(9));
            assert_eq!(a.s1ptw(), flag(7));
            assert_eq!(a.status(), FaultStatus::decode(bits(hsr, 5, 0)));
        }
        Syndrome::DataAbort(a) | Syndrome::HypDataAbort(a) => {
            assert_eq!(a.isv(), flag(24));
            assert_eq!(a.sas(), bits(hsr, 23, 22));
            assert_eq!(a.bytes(), 2u32.pow(bits(hsr, 23, 22)));
            assert_eq!(a.sign_extend(), flag(21));
            assert_eq!(a.rt(), bits(hsr, 19, 16));
            assert_eq!(a.ea(), flag(9));
            assert_eq!(a.cm(), flag(8));
            assert_eq!(a.s1ptw(), flag(7));
            assert_eq!(a.write(), flag(6));
            assert_eq!(a.status(), FaultStatus::decode(bits(hsr, 5, 0)));
            let plain = !a.ea() && !a.cm() && !a.s1ptw();
            let access = matches!(
                a.status(),
                FaultStatus::Translation { .. } | FaultStatus::Permission { .. }
            );
            assert_eq!(a.mmio(), plain && access);
        }
        Syndrome::Reserved { ec } => assert_eq!(u32::from(ec), bits(hsr, 31, 26)),
        Syndrome::Unknown | Syndrome::Smc | Syndrome::PcAlignment => {}
    }
    assert_eq!(u32::from(Hsr(hsr).ec()), bits(hsr, 31, 26));
    assert_eq!(Hsr(hsr).iss(), bits(hsr, 24, 0));
    assert!(!Hsr(hsr).to_string().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_value_decodes_to_its_fields(hsr: u32) {
        check(hsr);
    }

    #[test]
    fn a_trapped_instruction_executes_where_its_condition_holds(hsr: u32, cpsr: u32) {
        let regs = Regs { cpsr, ..Regs::default() };
        let ec = bits(hsr, 31, 26);
        let cond = if !(1..0x10).contains(&ec) {
            14
        } else if bits(hsr, 24, 24) == 1 {
            bits(hsr, 23, 20)
        } else if regs.it_state() != 0 {
            u32::from(regs.it_state() >> 4)
        } else {
            14
        };
        prop_assert_eq!(Hsr(hsr).executes(&regs), cond >= 14 || regs.condition(cond));
    }
}

#[test]
fn every_class_decodes_with_every_single_bit_set() {
    for ec in 0..64 {
        check(ec << 26);
        for bit in 0..26 {
            check(ec << 26 | 1 << bit);
        }
    }
}

#[test]
fn every_fault_status_encodes_back() {
    for code in 0..64 {
        let status = FaultStatus::decode(code);
        assert_eq!(status.encode(), code);
        assert_eq!(FaultStatus::decode(code | 0xffff_ffc0), status);
    }
}

#[test]
fn fault_status_has_the_manuals_codes() {
    use FaultStatus::*;
    // ARM DDI 0406C, Table B3-24.
    for (code, status) in [
        (0b000100, Translation { level: 0 }),
        (0b000111, Translation { level: 3 }),
        (0b001001, AccessFlag { level: 1 }),
        (0b001110, Permission { level: 2 }),
        (0b010000, External),
        (0b010001, AsyncExternal),
        (0b010110, ExternalOnWalk { level: 2 }),
        (0b011000, Parity),
        (0b011001, AsyncParity),
        (0b011111, ParityOnWalk { level: 3 }),
        (0b100001, Alignment),
        (0b100010, Debug),
        (0b110000, TlbConflict),
        (0b110100, Lockdown),
        (0b111010, Coprocessor),
        (0b111101, Domain { level: 1 }),
        (0b000000, Reserved(0)),
        (0b100000, Reserved(0x20)),
    ] {
        assert_eq!(FaultStatus::decode(code), status);
    }
}

#[test]
fn length_is_told_only_where_the_syndrome_knows_it() {
    let arm = Regs::default();
    let thumb = Regs {
        cpsr: psr::T,
        ..Regs::default()
    };
    let il = 1 << 25;
    let isv = 1 << 24;
    for (hsr, length) in [
        (0, None),
        (il, None),
        (0x20 << 26 | il, None),
        (0x24 << 26 | il, None),
        (0x24 << 26, None),
        (0x24 << 26 | isv, Some(2)),
        (0x24 << 26 | isv | il, Some(4)),
        (0x01 << 26, Some(2)),
        (0x12 << 26 | il, Some(4)),
    ] {
        assert_eq!(Hsr(hsr).length(&thumb), length, "{hsr:#x}");
        assert_eq!(Hsr(hsr).length(&arm), Some(4));
    }
    assert_eq!(thumb_length(0xe7ff), 2);
    assert_eq!(thumb_length(0xe800), 4);
    assert_eq!(thumb_length(0xffff), 4);
}

#[test]
fn known_registers_compare_as_constants() {
    const ACTLR: u32 = register(1, 0, 0, 1);
    // MRC p15, 0, r3, c1, c0, 1, always.
    let hsr = Hsr(0x03 << 26 | 1 << 25 | 1 << 24 | 0xe << 20 | 1 << 17 | 1 << 10 | 3 << 5 | 1);
    let Syndrome::Cp15(transfer) = hsr.decode() else {
        panic!("{hsr}");
    };
    assert_eq!(transfer.register(), ACTLR);
    assert_eq!(hsr.to_string(), "CP15 MRC 0, r3, c1, c0, 1");
}

#[test]
fn a_dump_says_it_in_words() {
    // STR r3 to a device; LDRD to one; HVC #0x4a48.
    assert_eq!(
        Hsr(0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 3 << 16 | 1 << 6 | 6).to_string(),
        "data abort from the guest, translation fault level 2, write of 4 bytes, r3"
    );
    assert_eq!(
        Hsr(0x24 << 26 | 7).to_string(),
        "data abort from the guest, translation fault level 3, read"
    );
    assert_eq!(Hsr(0x12 << 26 | 0x4a48).to_string(), "HVC #0x4a48");
    assert_eq!(
        Hsr(0x21 << 26 | 0x10).to_string(),
        "prefetch abort in Hyp, external abort"
    );
}
