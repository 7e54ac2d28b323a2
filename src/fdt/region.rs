//! The regions that a description adds to a VM: nodes below the VM's, compatible with "armillary,region".
//!
//! What else such a node has is the guest's: unless "armillary,region" is all that it is compatible
//! with, the guest's device tree gets a node of the same name, with its properties but Armillary's own.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::tree::{cell, number, string};
use super::vms::{Module, VmConfig};
use super::{ConfigError, Id, Range, Tree};
use crate::addr::Pa;
use crate::bus::{MOST_RINGS, interrupt};
use crate::region::Answer;

/// What a region's node is compatible with.
pub(super) const COMPATIBLE: &str = "armillary,region";
/// How long an access waits for its device model if nothing is said, µs.
const TIMEOUT_US: u32 = 1_000_000;

/// Regions of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionConfig {
    /// Path of the node that describes them.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Where they are in the guest's addresses, at least one.
    pub ranges: Vec<Range>,
    /// What answers loads; of [`Answer::Forward`] the number is not known here.
    pub read: Answer,
    /// What answers stores.
    pub write: Answer,
    /// What the memory holds.
    pub image: Option<Module>,
    /// The name of the VM that is the device model.
    pub backend: Option<String>,
    /// Which ring of that VM's it is; `None` where there is no such VM.
    pub ring: Option<usize>,
    /// How long an access waits for it, µs.
    pub timeout_us: u32,
    /// Whether stores wait for nothing.
    pub posted: bool,
    /// The interrupt that the device model may raise, by its number at the interrupt controller.
    pub interrupt: Option<u32>,
    /// What the guest's device tree says of it, names and values; nothing: no node.
    pub properties: Vec<(String, Vec<u8>)>,
}

/// A region of another VM, as its device model is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The other VM's name and that of the region's node, with a slash between.
    pub region: String,
    /// Its size, bytes.
    pub size: u32,
}

/// Reads the node of a region.
pub(super) fn read(tree: &Tree<'_, '_>, id: Id) -> Result<RegionConfig, ConfigError> {
    let mut region = RegionConfig {
        node: tree.path(id),
        name: tree.name(id).into(),
        ranges: tree.reg_off_bus(id)?,
        timeout_us: TIMEOUT_US,
        ..RegionConfig::default()
    };
    let (mut read, mut write) = (None, None);
    let mut has_driver = false;
    for property in tree.properties(id) {
        let value = property.value;
        let good = match property.name {
            "armillary,posted" => {
                region.posted = true;
                true
            }
            "armillary,backend" => {
                region.backend = string(value).map(Into::into);
                region.backend.is_some()
            }
            "armillary,timeout-us" => {
                region.timeout_us = cell(value).unwrap_or(0);
                (1..=60_000_000).contains(&region.timeout_us)
            }
            "armillary,read" => {
                read = string(value).and_then(answer);
                read.is_some()
            }
            "armillary,write" => {
                write = string(value).and_then(answer);
                !matches!(write, None | Some(Answer::Memory))
            }
            "armillary,image" => {
                region.image = image(&region.node, value);
                region.image.is_some()
            }
            "interrupts" => {
                region.interrupt = interrupt_number(value);
                region.interrupt.is_some()
            }
            name => !name.starts_with("armillary,"),
        };
        let mut kept = Vec::new();
        match property.name {
            // It is Armillary's up to here.
            "compatible" => {
                kept.extend_from_slice(value.strip_prefix(b"armillary,region\0").unwrap_or(value))
            }
            "reg" => {
                for range in &region.ranges {
                    kept.extend_from_slice(&range.start.0.to_be_bytes());
                    kept.extend_from_slice(&range.size.to_be_bytes());
                }
            }
            _ => kept.extend_from_slice(value),
        }
        if !property.name.starts_with("armillary,") {
            has_driver |= property.name == "compatible" && !kept.is_empty();
            region.properties.push((property.name.into(), kept));
        }
        if !good {
            let shown = format!("{}, unknown or of a value that can't be", property.name);
            let fix = "use armillary,backend = \"VM\", armillary,image = <address size>, armillary,posted, \
                       armillary,read = \"memory\", \"zero\", \"abort\" or \"forward\", armillary,timeout-us = <1 to \
                       60000000>, armillary,write = \"zero\", \"abort\" or \"forward\", interrupts = <0 3 4>: 3 to 255, \
                       4 or 1";
            return Err(ConfigError::new(&region.node, "a property", shown, fix));
        }
    }
    let store = if region.backend.is_some() {
        Answer::Forward(0)
    } else {
        Answer::Zero
    };
    let load = if region.image.is_some() {
        Answer::Memory
    } else {
        store
    };
    region.read = read.unwrap_or(load);
    region.write = write.unwrap_or(store);
    if !has_driver {
        region.properties.clear();
    }
    check(&region)?;
    Ok(region)
}

/// The module whose address and size are of two cells each.
fn image(node: &str, mut value: &[u8]) -> Option<Module> {
    let start = Pa(number(&mut value, 2)?);
    let size = number(&mut value, 2).filter(|&size| size != 0)?;
    Some(Module {
        node: node.into(),
        range: Range { start, size },
        shared: false,
    })
}

fn answer(word: &str) -> Option<Answer> {
    Some(match word {
        "memory" => Answer::Memory,
        "zero" => Answer::Zero,
        "abort" => Answer::Abort,
        "forward" => Answer::Forward(0),
        _ => return None,
    })
}

/// The number of an interrupt in the GIC's binding: shared, and none of those that devices have.
fn interrupt_number(mut value: &[u8]) -> Option<u32> {
    let kind = number(&mut value, 1)?;
    let spi = number(&mut value, 1)? as u32;
    let trigger = number(&mut value, 1)?;
    let own = spi >= 3 && spi < interrupt::SHARED as u32;
    (kind == 0 && own && matches!(trigger, 1 | 4) && value.is_empty()).then_some(32 + spi)
}

/// Sees to it that the parts of the description fit.
fn check(region: &RegionConfig) -> Result<(), ConfigError> {
    let outside =
        |range: &Range| range.size == 0 || range.start.0.saturating_add(range.size) > 1 << 32;
    let forwards = [region.read, region.write].contains(&Answer::Forward(0));
    let (name, shown, fix) = if region.ranges.iter().any(outside) {
        (
            "reg",
            "empty or beyond 4 GiB",
            "give ranges of the guest's addresses",
        )
    } else if forwards != region.backend.is_some() {
        (
            "armillary,backend",
            "not what armillary,read and armillary,write say",
            "name a VM to forward to, or don't forward",
        )
    } else if forwards && region.ranges.len() != 1 {
        (
            "reg",
            "not one range",
            "give each region that is forwarded a node",
        )
    } else if (region.read == Answer::Memory) != region.image.is_some() {
        (
            "armillary,image",
            "not what armillary,read says",
            "give it to memory, and to nothing else",
        )
    } else {
        return Ok(());
    };
    Err(ConfigError::new(&region.node, name, shown, fix))
}

/// Tells each device model what it serves.
pub(super) fn connect(vms: &mut [VmConfig]) {
    for client in 0..vms.len() {
        for number in 0..vms[client].regions.len() {
            let region = &vms[client].regions[number];
            let served = Served {
                region: format!("{}/{}", vms[client].name, region.name),
                size: region.ranges.first().map_or(0, |range| range.size as u32),
            };
            let name = region.backend.as_ref();
            if let Some(model) = vms.iter().position(|vm| Some(&vm.name) == name)
                && vms[model].serves.len() < MOST_RINGS
            {
                vms[client].regions[number].ring = Some(vms[model].serves.len());
                vms[model].serves.push(served);
            }
        }
    }
}
