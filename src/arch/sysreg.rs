//! The CP15 and CP14 registers that the hypervisor uses, one line each.
//!
//! The accessors are those of `aarch32-cpu`'s register traits; the registers are listed here since
//! that crate lacks many of them and has CNTHP_CVAL at CNTP_CVAL's encoding. ARM DDI 0406C, B3.17
//! and B8.2.

#![allow(
    non_camel_case_types,
    clippy::upper_case_acronyms,
    reason = "the architecture's own names"
)]

use aarch32_cpu::register::{
    SysReg, SysReg64, SysRegRead, SysRegRead64, SysRegWrite, SysRegWrite64,
};

macro_rules! registers {
    ($($name:ident: $cp:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {$(
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "the architecture's own names")]
        #[doc = concat!(stringify!($name), ": p", $cp, ", ", $op1, ", c", $crn, ", c", $crm, ", ", $op2)]
        pub(super) struct $name;
        impl SysReg for $name {
            const CP: u32 = $cp;
            const CRN: u32 = $crn;
            const OP1: u32 = $op1;
            const CRM: u32 = $crm;
            const OP2: u32 = $op2;
        }
        impl SysRegRead for $name {}
        impl SysRegWrite for $name {}
        #[allow(dead_code, reason = "not every register is both read and written")]
        impl $name {
            #[inline(always)]
            pub(super) fn read() -> u32 {
                <Self as SysRegRead>::read_raw()
            }
            #[inline(always)]
            pub(super) unsafe fn write(value: u32) {
                // SAFETY: the caller knows what the register does.
                unsafe { <Self as SysRegWrite>::write_raw(value) }
            }
        }
    )*};
}

macro_rules! registers64 {
    ($($name:ident: $cp:literal, $op1:literal, $crm:literal;)*) => {$(
        #[allow(non_camel_case_types, reason = "the architecture's own names")]
        #[doc = concat!(stringify!($name), ": p", $cp, ", ", $op1, ", c", $crm)]
        pub(super) struct $name;
        impl SysReg64 for $name {
            const CP: u32 = $cp;
            const OP1: u32 = $op1;
            const CRM: u32 = $crm;
        }
        impl SysRegRead64 for $name {}
        impl SysRegWrite64 for $name {}
        #[allow(dead_code, reason = "not every register is both read and written")]
        impl $name {
            #[inline(always)]
            pub(super) fn read() -> u64 {
                <Self as SysRegRead64>::read_raw()
            }
            #[inline(always)]
            pub(super) unsafe fn write(value: u64) {
                // SAFETY: the caller knows what the register does.
                unsafe { <Self as SysRegWrite64>::write_raw(value) }
            }
        }
    )*};
}

registers! {
    // Identification.
    MIDR: 15, 0, 0, 0, 0;
    CTR: 15, 0, 0, 0, 1;
    MPIDR: 15, 0, 0, 0, 5;
    ID_PFR0: 15, 0, 0, 1, 0;
    ID_PFR1: 15, 0, 0, 1, 1;
    ID_MMFR0: 15, 0, 0, 1, 4;
    ID_MMFR1: 15, 0, 0, 1, 5;
    ID_MMFR2: 15, 0, 0, 1, 6;
    ID_MMFR3: 15, 0, 0, 1, 7;
    ID_ISAR0: 15, 0, 0, 2, 0;
    ID_ISAR1: 15, 0, 0, 2, 1;
    ID_ISAR2: 15, 0, 0, 2, 2;
    ID_ISAR3: 15, 0, 0, 2, 3;
    ID_ISAR4: 15, 0, 0, 2, 4;
    ID_ISAR5: 15, 0, 0, 2, 5;
    CCSIDR: 15, 1, 0, 0, 0;
    CLIDR: 15, 1, 0, 0, 1;
    CSSELR: 15, 2, 0, 0, 0;
    // What a guest sees of them.
    VPIDR: 15, 4, 0, 0, 0;
    VMPIDR: 15, 4, 0, 0, 5;
    // Hyp control.
    HSCTLR: 15, 4, 1, 0, 0;
    HACTLR: 15, 4, 1, 0, 1;
    HCR: 15, 4, 1, 1, 0;
    HDCR: 15, 4, 1, 1, 1;
    HCPTR: 15, 4, 1, 1, 2;
    HSTR: 15, 4, 1, 1, 3;
    HTCR: 15, 4, 2, 0, 2;
    VTCR: 15, 4, 2, 1, 2;
    HSR: 15, 4, 5, 2, 0;
    HDFAR: 15, 4, 6, 0, 0;
    HIFAR: 15, 4, 6, 0, 2;
    HPFAR: 15, 4, 6, 0, 4;
    HVBAR: 15, 4, 12, 0, 0;
    HTPIDR: 15, 4, 13, 0, 2;
    // Cache, branch predictor and TLB maintenance (write only).
    ICIALLUIS: 15, 0, 7, 1, 0;
    ICIALLU: 15, 0, 7, 5, 0;
    BPIALL: 15, 0, 7, 5, 6;
    DCIMVAC: 15, 0, 7, 6, 1;
    DCCMVAC: 15, 0, 7, 10, 1;
    DCCISW: 15, 0, 7, 14, 2;
    DCCIMVAC: 15, 0, 7, 14, 1;
    TLBIALL: 15, 0, 8, 7, 0;
    TLBIALLIS: 15, 0, 8, 3, 0;
    TLBIALLH: 15, 4, 8, 7, 0;
    TLBIALLHIS: 15, 4, 8, 3, 0;
    TLBIMVAH: 15, 4, 8, 7, 1;
    TLBIMVAHIS: 15, 4, 8, 3, 1;
    TLBIALLNSNHIS: 15, 4, 8, 3, 4;
    // Address translation, stage 1 of the guest at PL1 and PL0, read and write.
    ATS1CPR: 15, 0, 7, 8, 0;
    ATS1CPW: 15, 0, 7, 8, 1;
    ATS1CUR: 15, 0, 7, 8, 2;
    ATS1CUW: 15, 0, 7, 8, 3;
    // The guest's PL1 state.
    SCTLR: 15, 0, 1, 0, 0;
    ACTLR: 15, 0, 1, 0, 1;
    CPACR: 15, 0, 1, 0, 2;
    TTBR0_32: 15, 0, 2, 0, 0;
    TTBR1_32: 15, 0, 2, 0, 1;
    TTBCR: 15, 0, 2, 0, 2;
    DACR: 15, 0, 3, 0, 0;
    DFSR: 15, 0, 5, 0, 0;
    IFSR: 15, 0, 5, 0, 1;
    ADFSR: 15, 0, 5, 1, 0;
    AIFSR: 15, 0, 5, 1, 1;
    DFAR: 15, 0, 6, 0, 0;
    IFAR: 15, 0, 6, 0, 2;
    PRRR: 15, 0, 10, 2, 0;
    NMRR: 15, 0, 10, 2, 1;
    AMAIR0: 15, 0, 10, 3, 0;
    AMAIR1: 15, 0, 10, 3, 1;
    VBAR: 15, 0, 12, 0, 0;
    FCSEIDR: 15, 0, 13, 0, 0;
    CONTEXTIDR: 15, 0, 13, 0, 1;
    TPIDRURW: 15, 0, 13, 0, 2;
    TPIDRURO: 15, 0, 13, 0, 3;
    TPIDRPRW: 15, 0, 13, 0, 4;
    TEECR: 14, 6, 0, 0, 0;
    TEEHBR: 14, 6, 1, 0, 0;
    JOSCR: 14, 7, 1, 0, 0;
    JMCR: 14, 7, 2, 0, 0;
    // Generic timer.
    CNTFRQ: 15, 0, 14, 0, 0;
    CNTKCTL: 15, 0, 14, 1, 0;
    CNTP_CTL: 15, 0, 14, 2, 1;
    CNTV_CTL: 15, 0, 14, 3, 1;
    CNTHCTL: 15, 4, 14, 1, 0;
    CNTHP_CTL: 15, 4, 14, 2, 1;
}

registers64! {
    HTTBR: 15, 4, 2;
    VTTBR: 15, 6, 2;
    TTBR0: 15, 0, 2;
    TTBR1: 15, 1, 2;
    PAR64: 15, 0, 7;
    CNTPCT: 15, 0, 14;
    CNTV_CVAL: 15, 3, 14;
    CNTP_CVAL: 15, 2, 14;
    CNTVOFF: 15, 4, 14;
    CNTHP_CVAL: 15, 6, 14;
}
