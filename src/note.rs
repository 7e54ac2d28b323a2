//! The log's macros: as those of `log`, which take 50 bytes more in each place, for a module, file and line that our log
//! does not show.

use core::fmt::Arguments;
use log::{Level, Record};

/// Logs `text`, if the level is on.
#[cold]
#[inline(never)]
pub fn note(level: Level, text: Arguments<'_>) {
    if level <= log::max_level() {
        log::logger().log(&Record::builder().level(level).args(text).build());
    }
}

/// Logs what is wrong.
#[macro_export]
macro_rules! error {
    ($($text:tt)+) => { $crate::note::note(::log::Level::Error, format_args!($($text)+)) };
}

/// Logs what should not be.
#[macro_export]
macro_rules! warn {
    ($($text:tt)+) => { $crate::note::note(::log::Level::Warn, format_args!($($text)+)) };
}

/// Logs what there is to know.
#[macro_export]
macro_rules! info {
    ($($text:tt)+) => { $crate::note::note(::log::Level::Info, format_args!($($text)+)) };
}
