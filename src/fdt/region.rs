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

/// The properties that a region may have of Armillary's, and one more.
const NAMES: [&str; 7] = [
    "armillary,backend",
    "armillary,image",
    "armillary,posted",
    "armillary,read",
    "armillary,timeout-us",
    "armillary,write",
    "interrupts",
];

/// Reads the node of a region.
pub(super) fn read(tree: &Tree<'_, '_>, id: Id) -> Result<RegionConfig, ConfigError> {
    let mut region = RegionConfig {
        node: tree.path(id),
        name: owned(tree.name(id)),
        ranges: tree.reg_off_bus(id)?,
        ..RegionConfig::default()
    };
    let [backend, image, posted, read, timeout, write, interrupt] =
        NAMES.map(|name| tree.property(id, name));
    region.posted = posted.is_some();
    region.backend = backend.and_then(string).map(owned);
    region.image = image.and_then(|value| module(&region.node, value));
    region.timeout_us = timeout.map_or(Some(TIMEOUT_US), cell).unwrap_or(0);
    region.interrupt = interrupt.and_then(interrupt_number);
    let forwarded = match backend {
        Some(_) => Answer::Forward(0),
        None => Answer::Zero,
    };
    let loaded = match image {
        Some(_) => Answer::Memory,
        None => forwarded,
    };
    let read = read.map_or(Some(loaded), answer);
    let write = write.map_or(Some(forwarded), answer);
    region.read = read.unwrap_or_default();
    region.write = write.unwrap_or_default();
    let good = [
        region.backend.is_some() || backend.is_none(),
        region.image.is_some() || image.is_none(),
        true,
        read.is_some(),
        region.timeout_us.wrapping_sub(1) < 60_000_000,
        !matches!(write, None | Some(Answer::Memory)),
        region.interrupt.is_some() || interrupt.is_none(),
    ];
    let mut has_driver = false;
    for property in tree.properties(id) {
        let name = property.name;
        let known = NAMES.iter().position(|&known| known == name);
        if !known.map_or(!name.starts_with("armillary,"), |known| good[known]) {
            let shown = format_args!("{name}, unknown or of a value that can't be");
            return Err(ConfigError::new(
                &region.node,
                "a property",
                shown,
                format_args!("see the README's table of them"),
            ));
        }
        let value = match name {
            // It is Armillary's up to here.
            "compatible" => property
                .value
                .strip_prefix(b"armillary,region\0")
                .unwrap_or(property.value),
            "reg" => &[],
            _ if name.starts_with("armillary,") => continue,
            _ => property.value,
        };
        let mut value = Vec::from(value);
        has_driver |= name == "compatible" && !value.is_empty();
        if name == "reg" {
            for range in &region.ranges {
                value.extend_from_slice(&range.start.0.to_be_bytes());
                value.extend_from_slice(&range.size.to_be_bytes());
            }
        }
        region.properties.push((owned(name), value));
    }
    if !has_driver {
        region.properties.clear();
    }
    check(&region)?;
    Ok(region)
}

#[inline(never)]
fn owned(text: &str) -> String {
    text.into()
}

/// The module whose address and size are of two cells each.
fn module(node: &str, mut value: &[u8]) -> Option<Module> {
    let start = Pa(number(&mut value, 2)?);
    let size = number(&mut value, 2).filter(|&size| size != 0)?;
    Some(Module {
        node: owned(node),
        range: Range { start, size },
        shared: false,
    })
}

#[inline(never)]
fn answer(value: &[u8]) -> Option<Answer> {
    static ANSWERS: [(&str, Answer); 4] = [
        ("memory", Answer::Memory),
        ("zero", Answer::Zero),
        ("abort", Answer::Abort),
        ("forward", Answer::Forward(0)),
    ];
    let word = string(value)?;
    let meant = ANSWERS.iter().find(|&&(name, _)| name == word);
    meant.map(|&(_, answer)| answer)
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
    Err(ConfigError::new(
        &region.node,
        name,
        format_args!("{shown}"),
        format_args!("{fix}"),
    ))
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
