//! Why a command ends, and with which exit status.
//!
//! 1 is a failure of what was asked (a build, a test), 2 a question put wrongly or something that is missing
//! here, 124 a timeout as of timeout(1). An error is printed once, as one message: what, where, and the fix.

use std::fmt;

/// The exit status of a failed build, test or check.
pub const FAILED: u8 = 1;
/// The exit status of a bad option or file, or of something missing that cannot be installed here.
pub const UNUSABLE: u8 = 2;
/// The exit status of a timeout.
pub const TIMED_OUT: u8 = 124;

/// A message for the user that ends the command with [`UNUSABLE`].
#[derive(Debug)]
pub struct Unusable(pub String);

impl fmt::Display for Unusable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

/// An [`anyhow::Error`] that ends the command with [`UNUSABLE`].
pub fn unusable(message: impl Into<String>) -> anyhow::Error {
    Unusable(message.into()).into()
}

/// The exit status that an error stands for.
#[must_use]
pub fn status(error: &anyhow::Error) -> u8 {
    if error.is::<Unusable>() {
        UNUSABLE
    } else {
        FAILED
    }
}
