//! What is wrong with a description in the device tree, said so that it can be put right.

use alloc::boxed::Box;
use alloc::format;
use core::fmt;

/// A bad board or VM description: which node, which property, what it says, and what to do about it.
///
/// It is its text: results stay small, and who finds an error has nothing to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Box<str>);

impl ConfigError {
    /// An error about `property`, or whatever else is meant, of the node at the path `node`: `value` is
    /// what it is, as part of a sentence ("absent", "0", "0x1000..0x2000, which overlaps ..."), and
    /// `fix` what was expected, as an instruction ("give 1 to 8").
    #[cold]
    #[inline(never)]
    #[must_use]
    pub fn new(
        node: &str,
        property: &str,
        value: fmt::Arguments<'_>,
        fix: fmt::Arguments<'_>,
    ) -> Self {
        Self::told(node, property, format_args!("{value}; {fix}"))
    }

    /// The same where value and fix are said already.
    pub(super) fn told(node: &str, property: &str, what: fmt::Arguments<'_>) -> Self {
        Self(format!("{node}: {property} is {what}").into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
