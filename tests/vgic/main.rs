//! The virtual GICv2: against a naive model of the specification under random events, and one by
//! one.

mod behaviour;
mod gich;
mod machine;
mod random;
mod spec;
