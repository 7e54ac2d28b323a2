//! The virtual GICv2: against a naive model of the specification under random events, and one by
//! one.

#![expect(clippy::expect_used, reason = "a test may panic, in its helpers too")]

mod behaviour;
mod gich;
mod machine;
mod random;
mod spec;
