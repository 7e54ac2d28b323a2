//! Fault status codes, in the two formats that the architecture reports them in.

use core::fmt;

/// What went wrong, as the long-descriptor format encodes it (B3.13, Table B3-24), which the HSR
/// always uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultStatus {
    /// No valid entry at `level` of the tables.
    Translation {
        /// The level, 1 to 3.
        level: u8,
    },
    /// The access flag of the entry was clear.
    AccessFlag {
        /// The level, 1 to 3.
        level: u8,
    },
    /// The entry refuses this access.
    Permission {
        /// The level, 1 to 3.
        level: u8,
    },
    /// The domain refuses this access (only from short-descriptor tables, in the PAR).
    Domain {
        /// The level, 1 or 2.
        level: u8,
    },
    /// The bus refused, and the abort belongs to the instruction.
    External,
    /// The bus refused the read of a table's entry.
    ExternalOnWalk {
        /// The level, 1 to 3.
        level: u8,
    },
    /// The bus refused some earlier access.
    AsyncExternal,
    /// A parity error.
    Parity,
    /// A parity error in the read of a table's entry.
    ParityOnWalk {
        /// The level, 1 to 3.
        level: u8,
    },
    /// A parity error of some earlier access.
    AsyncParity,
    /// An access that has to be aligned was not.
    Alignment,
    /// A debug event.
    Debug,
    /// More than one TLB entry matched.
    TlbConflict,
    /// IMPLEMENTATION DEFINED: lockdown.
    Lockdown,
    /// IMPLEMENTATION DEFINED: coprocessor abort.
    Coprocessor,
    /// An encoding that the architecture reserves.
    Reserved(u8),
}

impl FaultStatus {
    /// Decodes bits 5:0; the others are ignored.
    #[must_use]
    #[inline]
    pub const fn decode(code: u32) -> Self {
        let level = (code & 3) as u8;
        match code & 0x3f {
            0x04..=0x07 => Self::Translation { level },
            0x08..=0x0b => Self::AccessFlag { level },
            0x0c..=0x0f => Self::Permission { level },
            0x10 => Self::External,
            0x11 => Self::AsyncExternal,
            0x14..=0x17 => Self::ExternalOnWalk { level },
            0x18 => Self::Parity,
            0x19 => Self::AsyncParity,
            0x1c..=0x1f => Self::ParityOnWalk { level },
            0x21 => Self::Alignment,
            0x22 => Self::Debug,
            0x30 => Self::TlbConflict,
            0x34 => Self::Lockdown,
            0x3a => Self::Coprocessor,
            0x3c..=0x3f => Self::Domain { level },
            code => Self::Reserved(code as u8),
        }
    }

    /// The six bits that [`decode`](Self::decode) takes.
    #[must_use]
    pub const fn encode(self) -> u32 {
        let (code, level) = match self {
            Self::Translation { level } => (0x04, level),
            Self::AccessFlag { level } => (0x08, level),
            Self::Permission { level } => (0x0c, level),
            Self::External => (0x10, 0),
            Self::AsyncExternal => (0x11, 0),
            Self::ExternalOnWalk { level } => (0x14, level),
            Self::Parity => (0x18, 0),
            Self::AsyncParity => (0x19, 0),
            Self::ParityOnWalk { level } => (0x1c, level),
            Self::Alignment => (0x21, 0),
            Self::Debug => (0x22, 0),
            Self::TlbConflict => (0x30, 0),
            Self::Lockdown => (0x34, 0),
            Self::Coprocessor => (0x3a, 0),
            Self::Domain { level } => (0x3c, level),
            Self::Reserved(code) => return code as u32 & 0x3f,
        };
        code | (level as u32 & 3)
    }

    /// The five bits `FS[4:0]` that say the same in the short-descriptor format (Table B3-23). It knows
    /// levels 1 and 2; a reserved status is given as an external abort.
    #[must_use]
    pub const fn encode_short(self) -> u32 {
        const fn by_level(level: u8, first: u32, second: u32) -> u32 {
            if level < 2 { first } else { second }
        }
        match self {
            Self::Translation { level } => by_level(level, 0b00101, 0b00111),
            Self::AccessFlag { level } => by_level(level, 0b00011, 0b00110),
            Self::Permission { level } => by_level(level, 0b01101, 0b01111),
            Self::Domain { level } => by_level(level, 0b01001, 0b01011),
            Self::External | Self::Reserved(_) => 0b01000,
            Self::AsyncExternal => 0b10110,
            Self::ExternalOnWalk { level } => by_level(level, 0b01100, 0b01110),
            Self::Parity => 0b11001,
            Self::AsyncParity => 0b11000,
            Self::ParityOnWalk { level } => by_level(level, 0b11100, 0b11110),
            Self::Alignment => 0b00001,
            Self::Debug => 0b00010,
            Self::TlbConflict => 0b10000,
            Self::Lockdown => 0b10100,
            Self::Coprocessor => 0b11010,
        }
    }
}

impl fmt::Display for FaultStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Translation { level } => write!(f, "translation fault level {level}"),
            Self::AccessFlag { level } => write!(f, "access flag fault level {level}"),
            Self::Permission { level } => write!(f, "permission fault level {level}"),
            Self::Domain { level } => write!(f, "domain fault level {level}"),
            Self::External => f.write_str("external abort"),
            Self::ExternalOnWalk { level } => {
                write!(f, "external abort on the table walk, level {level}")
            }
            Self::AsyncExternal => f.write_str("asynchronous external abort"),
            Self::Parity => f.write_str("parity error"),
            Self::ParityOnWalk { level } => {
                write!(f, "parity error on the table walk, level {level}")
            }
            Self::AsyncParity => f.write_str("asynchronous parity error"),
            Self::Alignment => f.write_str("alignment fault"),
            Self::Debug => f.write_str("debug event"),
            Self::TlbConflict => f.write_str("TLB conflict"),
            Self::Lockdown => f.write_str("lockdown abort"),
            Self::Coprocessor => f.write_str("coprocessor abort"),
            Self::Reserved(code) => write!(f, "reserved fault status {code:#x}"),
        }
    }
}
