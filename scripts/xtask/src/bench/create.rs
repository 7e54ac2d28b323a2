//! How many instructions a VM takes that another one creates, from the call to its first one: what the two print of a count that
//! both have.

use anyhow::{Context, ensure};

use super::figures::Samples;
use super::{guest_console, with_vms};
use crate::console;
use crate::qemu::Machine;

/// The VM that creates others.
pub(super) const VM: &str =
    "kernel=guest:bench,name=bench,memory=64M,with=tests/guests/create.dts,append=create";
/// The other one's RAM in MiB, by what the guest calls the figure.
const SIZES: [(&str, f64); 2] = [("vm_create", 4.0), ("vm_create_20m", 20.0)];
/// Instructions of a tick of the count.
const TICK: u32 = 16;

/// The figures, on a machine like `machine`.
pub(super) fn figures(machine: &Machine) -> anyhow::Result<Samples> {
    let machine = with_vms(machine, 1, &[VM.into()])?;
    read(&guest_console(&machine)?)
}

/// The figures of `began TICKS` and then `called NAME TICKS`, again and again.
fn read(console: &str) -> anyhow::Result<Samples> {
    let line = r"(began|called \w+) ([0-9a-f]{8})\s*$";
    let line = console::expression(line).map_err(anyhow::Error::msg)?;
    let mut began = None;
    let mut lasted = SIZES.map(|_| Vec::new());
    for found in line.captures_iter(console) {
        let ticks = u32::from_str_radix(&found[2], 16)?;
        let Some(name) = found[1].strip_prefix("called ") else {
            began = Some(ticks);
            continue;
        };
        let began = began.take().context("a VM has not said when it began")?;
        let size = SIZES.iter().position(|size| size.0 == name);
        let size = size.with_context(|| format!("{name} is none of the VMs"))?;
        let instructions = began.wrapping_sub(ticks).wrapping_mul(TICK);
        lasted[size].push(f64::from(instructions));
    }
    let [small, large] = &lasted;
    ensure!(
        !small.is_empty() && small.len() == large.len(),
        "not every VM was created:\n{console}"
    );
    let mut samples = Samples::default();
    let more = small.iter().zip(large);
    let more = more.map(|(small, large)| (large - small) / (SIZES[1].1 - SIZES[0].1));
    samples.add("vm_create_mib", more.map(f64::round).collect::<Vec<_>>());
    samples.add("vm_create", small.iter().copied());
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_takes_from_the_call_to_its_first_instruction() {
        let console = "[info] made: started\nmade: began 00000012\nbench: called vm_create fffffff8\n\
                       made: began 00000110\nbench: called vm_create_20m 00000010\n";
        let samples = read(console).unwrap();
        assert_eq!(samples.get("vm_create"), Some(&[26.0 * 16.0][..]));
        // 230 ticks more for 16 MiB more.
        assert_eq!(samples.get("vm_create_mib"), Some(&[230.0][..]));
    }

    #[test]
    fn a_vm_that_has_not_begun_is_no_figure() {
        assert!(read("bench: called vm_create 00000012\n").is_err());
        assert!(read("made: began 00000012\nbench: called vm_create 00000010\n").is_err());
        assert!(read("nothing").is_err());
    }
}
