//! The system registers of PL1 as a table, a line each, and one round of holding all of them.

use bare::exception::catch;
use bare::report::Outcome;
use bare::{check_eq, cpu, mcr, mcrr, mrc, mrrc};

/// A 32-bit register that a pattern can be written to.
struct Register {
    name: &'static str,
    read: fn() -> u32,
    write: fn(u32),
    /// Bits that take the pattern; the others stay as they are.
    mask: u32,
    /// Not on every core: left out where it is undefined or does not hold what is written.
    optional: bool,
}

/// A 64-bit register that a pattern can be written to.
struct Wide {
    name: &'static str,
    read: fn() -> u64,
    write: fn(u64),
    mask: u64,
}

macro_rules! registers {
    ($($name:ident($cp:literal, $op1:literal, $n:literal, $m:literal, $op2:literal) $mask:literal $($optional:ident)?,)*) => {
        &[$(Register {
            name: stringify!($name),
            read: || mrc!($cp, $op1, $n, $m, $op2),
            write: |value| mcr!($cp, $op1, $n, $m, $op2; value),
            mask: $mask,
            optional: false $(|| { stringify!($optional); true })?,
        }),*]
    };
}

macro_rules! wide {
    ($($name:ident($op1:literal, $m:literal) $mask:literal,)*) => {
        &[$(Wide {
            name: stringify!($name),
            read: || mrrc!($op1, $m),
            write: |value| mcrr!($op1, $m; value),
            mask: $mask,
        }),*]
    };
}

/// ARM DDI 0406C, B3.17.2; what the MMU reads is written with the MMU off.
static REGISTERS: &[Register] = registers! {
    SCTLR(15, 0, 1, 0, 0) 0x7218_3806, // TE AFE TRE EE UWXN WXN V I Z C A
    TTBCR(15, 0, 2, 0, 2) 0x0000_0007,
    DACR(15, 0, 3, 0, 0) 0xffff_ffff,
    DFSR(15, 0, 5, 0, 0) 0x0000_1cff,
    IFSR(15, 0, 5, 0, 1) 0x0000_140f,
    ADFSR(15, 0, 5, 1, 0) 0xffff_ffff optional,
    AIFSR(15, 0, 5, 1, 1) 0xffff_ffff optional,
    DFAR(15, 0, 6, 0, 0) 0xffff_ffff,
    IFAR(15, 0, 6, 0, 2) 0xffff_ffff,
    MAIR0(15, 0, 10, 2, 0) 0xffff_ffff, // PRRR and NMRR are the same registers in the short format
    MAIR1(15, 0, 10, 2, 1) 0xffff_ffff,
    AMAIR0(15, 0, 10, 3, 0) 0xffff_ffff optional,
    AMAIR1(15, 0, 10, 3, 1) 0xffff_ffff optional,
    VBAR(15, 0, 12, 0, 0) 0xffff_ffe0,
    CONTEXTIDR(15, 0, 13, 0, 1) 0xffff_ffff,
    TPIDRURW(15, 0, 13, 0, 2) 0xffff_ffff,
    TPIDRURO(15, 0, 13, 0, 3) 0xffff_ffff,
    TPIDRPRW(15, 0, 13, 0, 4) 0xffff_ffff,
    CSSELR(15, 2, 0, 0, 0) 0x0000_0003,
    CNTKCTL(15, 0, 14, 1, 0) 0x0000_03ff,
    TEECR(14, 6, 0, 0, 0) 0x0000_0001 optional,
    TEEHBR(14, 6, 1, 0, 0) 0xffff_fffc optional,
    JOSCR(14, 7, 1, 0, 0) 0x0000_0003 optional,
    CNTV_CTL(15, 0, 14, 3, 1) 0x0000_0001,
    CNTP_CTL(15, 0, 14, 2, 1) 0x0000_0001,
};

static WIDE: &[Wide] = wide! {
    TTBR0(0, 2) 0x00ff_00ff_ffff_ffff,
    TTBR1(1, 2) 0x00ff_00ff_ffff_ffff,
    PAR(0, 7) 0x0000_00ff_ffff_f000,
    CNTV_CVAL(3, 14) 0xffff_ffff_ffff_ffff,
    CNTP_CVAL(2, 14) 0xffff_ffff_ffff_ffff,
};

/// Fills every register with `pattern` of its number, runs `pause`, compares, and puts back what was there. The MMU is off
/// and interrupts are masked: nothing here depends on these registers.
pub(super) fn hold(pattern: impl Fn(u32) -> u32, pause: impl FnOnce(), round: u32) -> Outcome {
    let old: [u32; 32] = core::array::from_fn(|n| {
        REGISTERS
            .get(n)
            .filter(|r| present(r))
            .map_or(0, |r| (r.read)())
    });
    let old_wide: [u64; 8] = core::array::from_fn(|n| WIDE.get(n).map_or(0, |r| (r.read)()));
    let held: [bool; 32] = core::array::from_fn(|n| REGISTERS.get(n).is_some_and(present));
    let wide = |n: usize| {
        u64::from(pattern(64 + 2 * n as u32)) << 32 | u64::from(pattern(65 + 2 * n as u32))
    };
    // CNTV_CTL and CNTP_CTL change with bit 1 set: no interrupt line moves.
    mcr!(15, 0, 14, 3, 1; 2);
    mcr!(15, 0, 14, 2, 1; 2);

    for (n, r) in WIDE.iter().enumerate() {
        (r.write)(wide(n) & r.mask);
    }
    let narrow = |n: usize, r: &Register| {
        (old[n] & !r.mask | pattern(n as u32) & r.mask)
            | if r.name.ends_with("_CTL") { 2 } else { 0 }
    };
    for (n, r) in REGISTERS.iter().enumerate().filter(|(n, _)| held[*n]) {
        (r.write)(narrow(n, r));
    }
    pause();
    let got: [u32; 32] = core::array::from_fn(|n| {
        REGISTERS
            .get(n)
            .filter(|_| held[n])
            .map_or(0, |r| (r.read)())
    });
    let got_wide: [u64; 8] = core::array::from_fn(|n| WIDE.get(n).map_or(0, |r| (r.read)()));

    for (n, r) in REGISTERS.iter().enumerate().filter(|(n, _)| held[*n]) {
        (r.write)(old[n]);
    }
    for (n, r) in WIDE.iter().enumerate() {
        (r.write)(old_wide[n]);
    }
    for (n, r) in REGISTERS.iter().enumerate().filter(|(n, _)| held[*n]) {
        check_eq!(
            got[n] & r.mask,
            narrow(n, r) & r.mask,
            "{} on CPU {} in round {round}",
            r.name,
            cpu::index()
        );
    }
    for (n, r) in WIDE.iter().enumerate() {
        check_eq!(
            got_wide[n] & r.mask,
            wide(n) & r.mask,
            "{} on CPU {} in round {round}",
            r.name,
            cpu::index()
        );
    }
    Ok(())
}

/// Registers that are switched from their first use on hold nothing of another VM's then.
pub(super) fn first_use() -> Outcome {
    for r in REGISTERS.iter().filter(|r| r.name.starts_with("TEE")) {
        if let Ok(found) = catch(|| (r.read)()) {
            check_eq!(found, 0, "{} at its first use", r.name);
        }
    }
    Ok(())
}

/// Whether the register is there and holds what is written to it.
fn present(r: &Register) -> bool {
    if !r.optional {
        return true;
    }
    catch(|| {
        let old = (r.read)();
        (r.write)(old ^ r.mask);
        let flipped = (r.read)() == old ^ r.mask;
        (r.write)(old);
        flipped
    })
    .unwrap_or(false)
}
