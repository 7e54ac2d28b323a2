//! Addresses by kind, so that a guest's address can't be used as the machine's.
//!
//! A guest's virtual address is a plain `u32`: it means nothing until the guest's own tables, which
//! the guest may change at any time, have translated it.

use core::fmt;

/// Size of the translation granule, bytes.
pub const PAGE: u64 = 4096;
/// log2 of [`PAGE`].
pub const PAGE_SHIFT: u32 = 12;
/// Size of a block mapped by one level-2 entry, bytes.
pub const BLOCK: u64 = 2 << 20;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The address rounded down to a multiple of `align`, a power of two.
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }

            /// The address rounded up to a multiple of `align`, a power of two; `None` where that
            /// does not fit.
            #[must_use]
            pub const fn align_up(self, align: u64) -> Option<Self> {
                match self.0.checked_add(align - 1) {
                    Some(a) => Some(Self(a & !(align - 1))),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `align`, a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// The address `bytes` further on; `None` where that does not fit.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(a) => Some(Self(a)),
                    None => None,
                }
            }

            /// The offset inside its page, bytes.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A physical address of the machine, up to 40 bits.
    Pa
}
address! {
    /// An intermediate physical address: what a guest takes for physical, up to 40 bits.
    Ipa
}
