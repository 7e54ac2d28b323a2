//! Numbers that look random and repeat with the seed.

/// Marsaglia's xorshift of 32 bits.
#[derive(Clone, Debug)]
pub struct Random(u32);

impl Random {
    /// Starts from `seed`; every seed gives another sequence.
    #[must_use]
    pub const fn new(seed: u32) -> Self {
        let mixed = seed.wrapping_mul(0x9e37_79b9) ^ 0x85eb_ca6b;
        Self(if mixed == 0 { 1 } else { mixed })
    }

    /// The next number.
    pub const fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// The next number below `limit`, which is not 0.
    pub const fn below(&mut self, limit: u32) -> u32 {
        self.next() % limit
    }
}
