//! A VM that another one describes: a device tree in its memory, as the board's, whose modules are there, too.
//!
//! All of it is read once, and copied: what the caller or another vCPU of it writes later changes nothing.

use crate::addr::{Ipa, PAGE, Pa};
use crate::error;
use crate::fdt::{self, Range, Tree, VmConfig};
use crate::mem::{self, OwnModule};
use crate::vm::{self, Vm};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// The largest tree, bytes.
const MOST: u32 = 256 << 10;

/// The VM that the `size` bytes at `at` in the RAM of `caller` describe, held, with copies of its modules.
///
/// # Errors
/// What is wrong with the call or the description.
pub fn described(caller: &Vm, at: u32, size: u32) -> Result<(VmConfig, Vec<OwnModule>), String> {
    // The tree, the notes of its nodes, and what comes of them.
    if size > MOST || !mem::reserve_heap(4 * size as usize) {
        return Err(format!("a tree of {size} bytes is too large"));
    }
    let mut bytes = vec![0; size as usize];
    read(caller, at.into(), &mut bytes)?;
    let mut copy = Vec::new();
    let checked = fdt::check(&bytes, &mut copy).map_err(|why| why.to_string())?;
    let anywhere = Range {
        start: Pa(0),
        size: 1 << 32,
    };
    let (mut configs, wrong) = fdt::vms(&Tree::of(&checked), &[anywhere], &[]);
    for why in &wrong {
        error!("{why}");
    }
    let (Some(mut config), true) = (configs.pop(), configs.is_empty()) else {
        return Err("the tree has to describe one VM".into());
    };
    if vm::all().iter().any(|vm| vm.name() == config.name) {
        return Err(format!("there is a VM {} already", config.name));
    }
    config.hold = true;
    let mut modules = Vec::new();
    for range in config.ranges_mut() {
        let module = copied(caller, *range)?;
        *range = module.range();
        modules.push(module);
    }
    Ok((config, modules))
}

/// A copy of what `caller` has in `range` of its addresses.
fn copied(caller: &Vm, range: Range) -> Result<OwnModule, String> {
    let module = OwnModule::new(range.size);
    let mut module =
        module.ok_or_else(|| format!("no room for the {} bytes of {range}", range.size))?;
    let mut buffer = vec![0; PAGE as usize];
    let mut done = 0;
    while done < range.size {
        let left = (range.size - done).min(PAGE);
        buffer.truncate(left as usize);
        read(caller, range.start.0 + done, &mut buffer)?;
        module.write(done, &buffer).map_err(not_ram)?;
        done += left;
    }
    Ok(module)
}

/// Reads what `caller` has at `at`. Its lock is let go between pieces.
fn read(caller: &Vm, at: u64, buffer: &mut [u8]) -> Result<(), String> {
    caller
        .state()
        .memory
        .ram
        .read(Ipa(at), buffer)
        .map_err(not_ram)
}

fn not_ram(at: mem::NotRam) -> String {
    format!("{} is not the caller's RAM", at.0)
}
