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
use crate::region::{Answer, MOST};

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
    /// Which ring of that VM's it is.
    pub ring: usize,
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
    /// The other VM's name.
    pub client: String,
    /// The name of the region's node.
    pub region: String,
    /// Its size, bytes.
    pub size: u64,
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
    for property in tree.properties(id) {
        let value = property.value;
        let error = |name, shown: &str, fix| Err(ConfigError::new(&region.node, name, shown, fix));
        match property.name {
            "armillary,backend" => region.backend = string(value).map(Into::into),
            "armillary,posted" => region.posted = true,
            "armillary,timeout-us" => match cell(value) {
                Some(us @ 1..=60_000_000) => region.timeout_us = us,
                _ => {
                    return error(
                        "armillary,timeout-us",
                        "out of range",
                        "give 1 to 60000000 in one cell",
                    );
                }
            },
            "armillary,read" => match string(value).and_then(answer) {
                Some(found) => read = Some(found),
                _ => {
                    return error(
                        "armillary,read",
                        "unknown",
                        "give \"memory\", \"zero\", \"abort\" or \"forward\"",
                    );
                }
            },
            "armillary,write" => match string(value).and_then(answer) {
                Some(found) if found != Answer::Memory => write = Some(found),
                _ => {
                    return error(
                        "armillary,write",
                        "unknown",
                        "give \"zero\", \"abort\" or \"forward\"",
                    );
                }
            },
            "armillary,image" => {
                let mut rest = value;
                let start = number(&mut rest, 2);
                let (Some(start), Some(size @ 1..)) = (start, number(&mut rest, 2)) else {
                    return error(
                        "armillary,image",
                        "no range",
                        "give an address and a size of two cells each",
                    );
                };
                region.image = Some(Module {
                    node: region.node.clone(),
                    range: Range {
                        start: Pa(start),
                        size,
                    },
                    shared: false,
                });
            }
            name if name.starts_with("armillary,") => {
                let fix = "use one of armillary,backend, armillary,image, armillary,posted, armillary,read, \
                           armillary,timeout-us, armillary,write";
                return Err(ConfigError::new(
                    &region.node,
                    "a property",
                    format!("{name}, which is unknown"),
                    fix,
                ));
            }
            "interrupts" => match interrupt_number(value) {
                Some(found) => region.interrupt = Some(found),
                None => {
                    return error(
                        "interrupts",
                        "no free shared interrupt",
                        "give one as <0 3 4>: 0, 3 to 255, 4 or 1",
                    );
                }
            },
            _ => {}
        }
    }
    let forwarded = region.backend.is_some();
    region.read = read.unwrap_or(match (forwarded, &region.image) {
        (true, _) => Answer::Forward(0),
        (false, Some(_)) => Answer::Memory,
        _ => Answer::Zero,
    });
    let store = if forwarded {
        Answer::Forward(0)
    } else {
        Answer::Zero
    };
    region.write = write.unwrap_or(store);
    check(&region)?;
    region.properties = properties(tree, id);
    Ok(region)
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
    let error =
        |name, value: &str, fix: &str| Err(ConfigError::new(&region.node, name, value, fix));
    let outside = |range: &&Range| {
        range.size == 0
            || range.start.0 > u64::from(u32::MAX)
            || range.size > (1 << 32) - range.start.0
    };
    if let Some(range) = region.ranges.iter().find(outside) {
        let shown = format!("{range}, which is empty or beyond 4 GiB");
        return error("reg", &shown, "give ranges of the guest's addresses");
    }
    if region.ranges.len() > MOST / 2 {
        return error("reg", "of too many ranges", "give at most 2048");
    }
    let forwards = [region.read, region.write].contains(&Answer::Forward(0));
    match (&region.backend, forwards) {
        (None, true) => {
            return error(
                "armillary,backend",
                "absent",
                "name the VM that is the device model",
            );
        }
        (Some(_), false) => {
            return error("armillary,backend", "of no use", "forward loads or stores");
        }
        (Some(_), true) if region.ranges.len() != 1 => {
            return error(
                "reg",
                "of several ranges",
                "give a node to each region that is forwarded",
            );
        }
        _ => {}
    }
    if (region.read == Answer::Memory) != region.image.is_some() {
        return error(
            "armillary,image",
            "not what armillary,read says",
            "give both an image and \"memory\", or neither",
        );
    }
    Ok(())
}

/// What the guest's device tree says of it.
fn properties(tree: &Tree<'_, '_>, id: Id) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    if tree.compatible(id).all(|one| one == COMPATIBLE.as_bytes()) {
        return all;
    }
    for property in tree
        .properties(id)
        .filter(|property| !property.name.starts_with("armillary,"))
    {
        let mut value = Vec::new();
        match property.name {
            "compatible" => {
                for one in tree
                    .compatible(id)
                    .filter(|&one| one != COMPATIBLE.as_bytes())
                {
                    value.extend_from_slice(one);
                    value.push(0);
                }
            }
            // Written from the ranges, in the guest's cells.
            "reg" => {}
            _ => value.extend_from_slice(property.value),
        }
        all.push((property.name.into(), value));
    }
    all
}

/// Tells each device model what it serves; a VM whose device model there is not is refused.
pub(super) fn connect(good: &mut Vec<VmConfig>, bad: &mut Vec<ConfigError>) {
    while let Some((at, error)) = unserved(good) {
        good.remove(at);
        bad.push(error);
    }
    for client in 0..good.len() {
        for number in 0..good[client].regions.len() {
            let region = &good[client].regions[number];
            let served = Served {
                client: good[client].name.clone(),
                region: region.name.clone(),
                size: region.ranges.first().map_or(0, |range| range.size),
            };
            let backend = region.backend.as_ref();
            let model = backend.and_then(|name| good.iter().position(|vm| vm.name == *name));
            if let Some(model) = model {
                good[client].regions[number].ring = good[model].serves.len();
                good[model].serves.push(served);
            }
        }
    }
}

/// A VM that can't have what it is described to be forwarded.
fn unserved(vms: &[VmConfig]) -> Option<(usize, ConfigError)> {
    let mut rings = Vec::new();
    for (at, vm) in vms.iter().enumerate() {
        for region in &vm.regions {
            let Some(backend) = &region.backend else {
                continue;
            };
            rings.push(backend);
            let found = if !vms.iter().any(|other| other.name == *backend) {
                "no VM's name"
            } else if *backend == vm.name {
                "the VM's own name"
            } else if rings.iter().filter(|name| **name == backend).count() > MOST_RINGS {
                "the device model of too many regions"
            } else {
                continue;
            };
            let shown = format!("{backend}, which is {found}");
            let error = ConfigError::new(
                &region.node,
                "armillary,backend",
                shown,
                "name another VM, that can be built",
            );
            return Some((at, error));
        }
    }
    None
}
