//! How a VM is to be run: the properties of its node that say when and where, and what if it fails.

use core::fmt::Arguments;
use core::ops::RangeInclusive;

use super::ConfigError;
use super::tree::{cell, string};

/// What a VM that says nothing has: the middle, so that others can be above and below.
const PRIORITY: u8 = 128;
/// Short enough that 16 vCPUs have even shares within a second, and some hundred times what a switch takes.
const SLICE_US: u32 = 1000;
const PERIOD_US: u32 = 10_000;
/// CPUs that can be named.
const CPUS: u32 = 8;

/// What becomes of a VM that does what can't go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnCrash {
    /// It is off.
    #[default]
    Stop,
    /// It begins anew, unless it does so too often.
    Restart,
    /// Its vCPUs' registers are printed, and it is off.
    Dump,
}

/// How a VM is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `armillary,priority`: who is ready and has a higher one runs first.
    pub priority: u8,
    /// `armillary,slice-us`: how long a vCPU runs while others of its priority are ready.
    pub slice_us: u32,
    /// `armillary,budget-us`: how long all its vCPUs together may run in each period.
    pub budget_us: Option<u32>,
    /// `armillary,period-us`: the period.
    pub period_us: u32,
    /// `armillary,cpus`: a bit for each CPU that its vCPUs may run on.
    pub cpus: u32,
    /// `armillary,on-crash`.
    pub on_crash: OnCrash,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            priority: PRIORITY,
            slice_us: SLICE_US,
            budget_us: None,
            period_us: PERIOD_US,
            cpus: u32::MAX,
            on_crash: OnCrash::Stop,
        }
    }
}

/// The properties, for whoever has mistyped one.
pub(super) const NAMES: &str = "armillary,priority, armillary,slice-us, armillary,budget-us, armillary,period-us, \
                                armillary,cpus, armillary,on-crash";

impl Policy {
    /// Reads one of the properties; whether it is one.
    pub(super) fn read(
        &mut self,
        node: &str,
        name: &str,
        value: &[u8],
    ) -> Result<bool, ConfigError> {
        let number = |range| number(node, name, value, "", range);
        match name {
            "armillary,priority" => self.priority = number(0..=255)? as u8,
            "armillary,slice-us" => self.slice_us = number(100..=1_000_000)?,
            "armillary,budget-us" => self.budget_us = Some(number(10..=8_000_000)?),
            "armillary,period-us" => self.period_us = number(100..=1_000_000)?,
            "armillary,cpus" => self.cpus = cpus(node, value)?,
            "armillary,on-crash" => {
                self.on_crash = match string(value) {
                    Some("stop") => OnCrash::Stop,
                    Some("restart") => OnCrash::Restart,
                    Some("dump") => OnCrash::Dump,
                    other => {
                        return Err(ConfigError::new(
                            node,
                            "armillary,on-crash",
                            format_args!("{}", other.unwrap_or("not a word")),
                            format_args!("give \"stop\", \"restart\" or \"dump\""),
                        ));
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses a budget that `vcpus` vCPUs can't use up.
    pub(super) fn check(&self, node: &str, vcpus: u32) -> Result<(), ConfigError> {
        match self.budget_us {
            Some(budget) if budget > self.period_us.saturating_mul(vcpus) => Err(ConfigError::new(
                node,
                "armillary,budget-us",
                format_args!(
                    "{budget}, more than the VM's vCPUs can use in a period of {} us",
                    self.period_us
                ),
                format_args!("give less, or a longer armillary,period-us"),
            )),
            _ => Ok(()),
        }
    }
}

/// The number in a property of one cell; `unit` is said of what is to be given.
pub(super) fn number(
    node: &str,
    property: &str,
    value: &[u8],
    unit: &str,
    range: RangeInclusive<u32>,
) -> Result<u32, ConfigError> {
    let fix = format_args!(
        "give {} to {}{unit} in one cell",
        range.start(),
        range.end()
    );
    match cell(value) {
        Some(number) if range.contains(&number) => Ok(number),
        Some(number) => Err(ConfigError::new(
            node,
            property,
            format_args!("{number}"),
            fix,
        )),
        None => Err(ConfigError::new(
            node,
            property,
            format_args!("not one cell"),
            fix,
        )),
    }
}

/// A mask of a list of CPU numbers.
fn cpus(node: &str, value: &[u8]) -> Result<u32, ConfigError> {
    let error = |shown: Arguments<'_>| {
        let fix = format_args!("give the numbers of CPUs, 0 to {}, a cell each", CPUS - 1);
        Err(ConfigError::new(node, "armillary,cpus", shown, fix))
    };
    if value.is_empty() {
        return error(format_args!("empty"));
    }
    let mut mask = 0;
    for number in value.chunks(4) {
        match cell(number) {
            Some(number) if number < CPUS => mask |= 1 << number,
            Some(number) => return error(format_args!("{number}, which no CPU has")),
            None => return error(format_args!("not cells")),
        }
    }
    Ok(mask)
}
