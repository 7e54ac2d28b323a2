//! What is wrong with a description in the device tree, said so that it can be put right.

use alloc::string::String;
use core::fmt;

/// A bad board or VM description: which node, which property, what it says, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the node.
    pub node: String,
    /// Name of the property, or of whatever else of the node is meant.
    pub property: &'static str,
    /// What it is, as part of a sentence: "absent", "0", "0x1000..0x2000, which overlaps ...".
    pub value: String,
    /// What was expected, as an instruction: "give 1 to 8".
    pub fix: String,
}

impl ConfigError {
    /// An error about `property` of `node`, whose value is not what was expected.
    pub fn new(
        node: impl Into<String>,
        property: &'static str,
        value: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            node: node.into(),
            property,
            value: value.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            property,
            value,
            fix,
        } = self;
        write!(f, "{node}: {property} is {value}; {fix}")
    }
}
