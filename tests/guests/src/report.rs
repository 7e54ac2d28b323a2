//! Tests and their results, one console line each.

use crate::machine;
use crate::text::Text;
use crate::{println, psci};

/// Why a test did not pass.
#[derive(Debug)]
pub enum Reason {
    /// It found something wrong.
    Failed(Text<112>),
    /// It cannot be done here.
    Skipped(Text<112>),
}

/// What a test returns.
pub type Outcome = Result<(), Reason>;

/// A test and the behaviour that it shows, in snake_case words.
pub type Test = (&'static str, fn() -> Outcome);

/// Runs the tests whose names contain the word of `only=`, prints a line for each and a summary, and turns the
/// machine off, or with `end=cpu_off` its last CPU.
pub fn run(tests: &[Test]) -> ! {
    let only = machine::argument("only").unwrap_or_default();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(only)) {
        match test() {
            Ok(()) => {
                passed += 1;
                println!("PASS {name}");
            }
            Err(Reason::Failed(why)) => {
                failed += 1;
                println!("FAIL {name} {why}");
            }
            Err(Reason::Skipped(why)) => {
                skipped += 1;
                println!("SKIP {name} {why}");
            }
        }
    }
    println!("SUMMARY {passed} passed, {failed} failed, {skipped} skipped");
    if machine::argument("end") == Some("cpu_off") {
        psci::cpu_off();
    }
    psci::system_off();
}

/// Lists a guest's tests and makes them its `main`: `tests! { behaviour => function, … }`.
#[macro_export]
macro_rules! tests {
    ($($name:ident => $test:expr),* $(,)?) => {
        #[unsafe(no_mangle)]
        extern "C" fn main() -> ! {
            $crate::report::run(&[$((stringify!($name), $test)),*])
        }
    };
}

/// Ends a test as failed: `fail!("why {}", value)`.
#[macro_export]
macro_rules! fail {
    ($($why:tt)*) => {
        return Err($crate::report::Reason::Failed($crate::report::text(format_args!($($why)*))))
    };
}

/// Ends a test that cannot be done here.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {
        return Err($crate::report::Reason::Skipped($crate::report::text(format_args!($($why)*))))
    };
}

/// Fails unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($why:tt)*) => {
        if !$condition {
            $crate::fail!($($why)*);
        }
    };
}

/// Fails unless both are the same, and shows both, numbers in hexadecimal.
#[macro_export]
macro_rules! check_eq {
    ($found:expr, $expected:expr, $($what:tt)*) => {
        match ($found, $expected) {
            (found, expected) => if found != expected {
                $crate::fail!("{}: {:#x?} instead of {:#x?}", format_args!($($what)*), found, expected);
            }
        }
    };
}

/// A message as a value.
pub fn text<const N: usize>(message: core::fmt::Arguments<'_>) -> Text<N> {
    let mut text = Text::new();
    // A Text takes what fits and cannot fail.
    let _ = core::fmt::Write::write_fmt(&mut text, message);
    text
}
