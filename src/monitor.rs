//! The operator's side of the console: what is typed goes to one VM, or is a command.

/// Takes what has been typed.
pub fn input() {}
