//! Syndromes in words, for dumps.

use core::fmt;

use super::{DataAbort, Hsr, PrefetchAbort, Syndrome, Transfer, TransferDouble};

impl fmt::Display for Hsr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decode().fmt(f)
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("undefined instruction or unknown reason"),
            Self::Wait(wait) => f.write_str(if wait.wfe() { "WFE" } else { "WFI" }),
            Self::Cp15(t) => write!(f, "CP15 {t}"),
            Self::Cp15Double(t) => write!(f, "CP15 {t}"),
            Self::Cp14(t) => write!(f, "CP14 {t}"),
            Self::Cp14Double(t) => write!(f, "CP14 {t}"),
            Self::Cp14Memory(t) => f.write_str(if t.read() { "CP14 STC" } else { "CP14 LDC" }),
            Self::Coprocessor(c) if c.simd() => f.write_str("Advanced SIMD instruction"),
            Self::Coprocessor(c) => write!(f, "instruction of coprocessor {}", c.number()),
            Self::VfpId(t) => write!(f, "VMRS r{}, register {}", t.rt(), t.crn()),
            Self::Bxj(b) => write!(f, "BXJ r{}", b.rm()),
            Self::Svc { imm16 } => write!(f, "SVC #{imm16:#x}"),
            Self::Hvc { imm16 } => write!(f, "HVC #{imm16:#x}"),
            Self::Smc => f.write_str("SMC"),
            Self::PrefetchAbort(a) => write!(f, "prefetch abort from the guest, {a}"),
            Self::HypPrefetchAbort(a) => write!(f, "prefetch abort in Hyp, {a}"),
            Self::PcAlignment => f.write_str("misaligned pc"),
            Self::DataAbort(a) => write!(f, "data abort from the guest, {a}"),
            Self::HypDataAbort(a) => write!(f, "data abort in Hyp, {a}"),
            Self::Reserved { ec } => write!(f, "reserved exception class {ec:#x}"),
        }
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.read() { "MRC" } else { "MCR" };
        let (opc1, rt, crn) = (self.opc1(), self.rt(), self.crn());
        let (crm, opc2) = (self.crm(), self.opc2());
        write!(f, "{name} {opc1}, r{rt}, c{crn}, c{crm}, {opc2}")
    }
}

impl fmt::Display for TransferDouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.read() { "MRRC" } else { "MCRR" };
        let (opc1, rt, rt2, crm) = (self.opc1(), self.rt(), self.rt2(), self.crm());
        write!(f, "{name} {opc1}, r{rt}, r{rt2}, c{crm}")
    }
}

impl fmt::Display for PrefetchAbort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)?;
        if self.s1ptw() {
            f.write_str(", in a stage-1 table walk")?;
        }
        Ok(())
    }
}

impl fmt::Display for DataAbort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)?;
        if self.cm() {
            return f.write_str(", cache maintenance or address translation");
        }
        f.write_str(if self.write() { ", write" } else { ", read" })?;
        if self.isv() {
            write!(f, " of {} bytes, r{}", self.bytes(), self.rt())?;
        }
        if self.s1ptw() {
            f.write_str(", in a stage-1 table walk")?;
        }
        Ok(())
    }
}
