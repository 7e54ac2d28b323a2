//! The VMs that the device tree describes, in the two bindings that exist, and what is wrong with the others.
//!
//! (a) What QEMU's `-device guest-loader` writes: modules under `/chosen`, one VM called "guest". Its memory is
//! for the loader to choose and it has one vCPU, as QEMU gives a machine that says no more; `armillary,memory`
//! (KiB) and `armillary,vcpus` in `/chosen` say otherwise.
//!
//! (b) Xen's dom0less nodes under `/chosen`, compatible with "xen,domain": as many VMs as there are nodes.
//!
//! A VM that is described wrongly is refused by name; the others start. Two VMs may name the same module, as
//! long as both mean the same range and the same kind by it: a kernel need not be loaded once for each.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::iter::repeat;

use super::policy::{self, Policy};
use super::region::{self, RegionConfig, Served};
use super::tree::{number, string, whole};
use super::{ConfigError, Id, Range, Tree};
use crate::addr::PAGE;
use crate::bus::{Places, Unplaced};

/// Most vCPUs that a VM may have: a GICv2 serves no more.
pub const MAX_VCPUS: u32 = 8;

/// Bytes that a boot loader put into memory for a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Path of the node that describes it.
    pub node: String,
    /// Where it lies.
    pub range: Range,
    /// Whether another VM names it too, so that its memory can't become this VM's.
    pub shared: bool,
}

/// A VM as it is described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmConfig {
    /// Its name, unique.
    pub name: String,
    /// Path of the node that describes it.
    pub node: String,
    /// Its RAM, bytes, a multiple of the page size; `None`: what the loader finds fitting.
    pub memory: Option<u64>,
    /// Its vCPUs, 1 to [`MAX_VCPUS`].
    pub cpus: u32,
    /// Whether the description asks for a PL011 (`vpl011`).
    pub vpl011: bool,
    /// Whether it may manage the other VMs (`armillary,control`).
    pub control: bool,
    /// When and where it runs.
    pub policy: Policy,
    /// Its kernel: this or `firmware` is there.
    pub kernel: Option<Module>,
    /// What runs from address 0 instead of a kernel.
    pub firmware: Option<Module>,
    /// Its initial RAM disk.
    pub ramdisk: Option<Module>,
    /// A device tree instead of the generated one.
    pub device_tree: Option<Module>,
    /// Its command line.
    pub bootargs: String,
    /// Where its devices are (`armillary,device-addr`).
    pub places: Places,
    /// Whether an address where nothing is reads as zero and ignores stores (`armillary,unassigned`).
    pub unassigned_zero: bool,
    /// Whether it waits for the VM that has control to start it (`armillary,hold`).
    pub hold: bool,
    /// Its regions beside the devices that every VM has.
    pub regions: Vec<RegionConfig>,
    /// Whether its RAM is where it seems to be (`direct-map`).
    pub direct_map: bool,
    /// The regions of other VMs for which it is the device model, each with a ring.
    pub serves: Vec<Served>,
}

/// What a VM may have one of.
const KINDS: [&str; 4] = ["kernel", "firmware", "ramdisk", "device tree"];

impl VmConfig {
    /// Its modules, each with its kind.
    #[inline(never)]
    #[must_use]
    pub fn modules(&self) -> Vec<(&'static str, &Module)> {
        let own = [&self.kernel, &self.firmware, &self.ramdisk];
        let own = own.into_iter().chain([&self.device_tree]);
        let images = self.regions.iter().map(|region| &region.image);
        let kinds = KINDS.into_iter().chain(repeat("armillary,image"));
        let mut modules = Vec::new();
        for (kind, module) in kinds.zip(own.chain(images)) {
            if let Some(module) = module {
                modules.push((kind, module));
            }
        }
        modules
    }

    /// Where its modules lie.
    pub fn ranges_mut(&mut self) -> impl Iterator<Item = &mut Range> {
        let own = [&mut self.kernel, &mut self.firmware, &mut self.ramdisk];
        let own = own.into_iter().chain([&mut self.device_tree]);
        let images = self.regions.iter_mut().map(|region| &mut region.image);
        let modules = own.chain(images).flatten();
        modules.map(|module| &mut module.range)
    }

    /// The error for a VM that wants `wanted` bytes where no such piece of RAM is left.
    #[cold]
    #[inline(never)]
    #[must_use]
    pub fn no_memory(&self, wanted: u64, largest_free: u64) -> ConfigError {
        let value = format_args!(
            "{} KiB, of which the board has only {} KiB left",
            wanted / 1024,
            largest_free / 1024
        );
        ConfigError::new(
            &self.node,
            "memory",
            value,
            format_args!("give this VM or one before it less"),
        )
    }

    /// The error for a module whose contents are not what they should be: `why` completes
    /// "the kernel is ...".
    #[cold]
    #[inline(never)]
    #[must_use]
    pub fn bad_module(kind: &str, module: &Module, why: &dyn fmt::Display) -> ConfigError {
        ConfigError::told(&module.node, kind, format_args!("{why}"))
    }
}

/// Memory that no module may lie in: what it is and where.
pub type Taken = (&'static str, Range);

/// Reads all VM descriptions, whose modules lie in `ram`: the good ones in the tree's order, and an error for each
/// other.
#[must_use]
pub fn vms(
    tree: &Tree<'_, '_>,
    ram: &[Range],
    taken: &[Taken],
) -> (Vec<VmConfig>, Vec<ConfigError>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let Some(chosen) = tree.find("/chosen") else {
        return (good, bad);
    };
    let is_module = |&id: &Id| tree.is_compatible(id, "multiboot,module");
    let is_domain = |&id: &Id| tree.is_compatible(id, "xen,domain");
    let direct = tree
        .children(chosen)
        .any(|id| is_module(&id))
        .then_some(chosen);
    for id in direct
        .into_iter()
        .chain(tree.children(chosen).filter(is_domain))
    {
        let described = if id == chosen {
            direct_vm(tree, id)
        } else {
            domain(tree, id)
        };
        match described.and_then(|vm| place(vm, ram, taken, &mut good)) {
            Ok(vm) => good.push(vm),
            Err(error) => bad.push(error),
        }
    }
    region::connect(&mut good);
    (good, bad)
}

/// The VM of binding (a).
fn direct_vm(tree: &Tree<'_, '_>, chosen: Id) -> Result<VmConfig, ConfigError> {
    let mut vm = VmConfig {
        name: "guest".into(),
        node: tree.path(chosen),
        cpus: 1,
        vpl011: true,
        ..VmConfig::default()
    };
    for property in tree.properties(chosen) {
        match property.name {
            "armillary,bootargs" => {}
            "armillary,vcpus" => vm.cpus = cpus(&vm.node, "armillary,vcpus", property.value)?,
            "armillary,memory" => {
                vm.memory = Some(memory(&vm.node, "armillary,memory", property.value)?);
            }
            name => own_property(
                &mut vm,
                name,
                property.value,
                ", armillary,bootargs, armillary,memory, armillary,vcpus",
            )?,
        }
    }
    for id in tree.children(chosen).filter(|&id| {
        tree.is_compatible(id, "multiboot,module") || tree.is_compatible(id, region::COMPATIBLE)
    }) {
        child(tree, id, &mut vm)?;
    }
    complete(vm)
}

/// The VM of a node of binding (b).
fn domain(tree: &Tree<'_, '_>, id: Id) -> Result<VmConfig, ConfigError> {
    let mut vm = VmConfig {
        name: tree.name(id).into(),
        node: tree.path(id),
        cpus: 1,
        ..VmConfig::default()
    };
    for property in tree.properties(id) {
        match property.name {
            "memory" => vm.memory = Some(memory(&vm.node, "memory", property.value)?),
            "cpus" => vm.cpus = cpus(&vm.node, "cpus", property.value)?,
            "vpl011" => vm.vpl011 = true,
            "direct-map" => vm.direct_map = true,
            "bootargs" => vm.bootargs = string(property.value).unwrap_or_default().into(),
            name => own_property(&mut vm, name, property.value, "")?,
        }
    }
    if vm.memory.is_none() {
        return Err(ConfigError::new(
            &vm.node,
            "memory",
            format_args!("absent"),
            format_args!("{MEMORY_FIX}"),
        ));
    }
    for id in tree.children(id) {
        child(tree, id, &mut vm)?;
    }
    complete(vm)
}

/// A property that only Armillary has, or none of our business.
fn own_property(
    vm: &mut VmConfig,
    name: &str,
    value: &[u8],
    more: &str,
) -> Result<(), ConfigError> {
    if vm.policy.read(&vm.node, name, value)? {
        return Ok(());
    }
    match name {
        "armillary,control" => vm.control = true,
        "armillary,hold" => vm.hold = true,
        "armillary,unassigned" => match string(value).unwrap_or_default() {
            "zero" => vm.unassigned_zero = true,
            "abort" => {}
            other => {
                let fix = format_args!("give \"abort\" or \"zero\"");
                return Err(ConfigError::new(
                    &vm.node,
                    "armillary,unassigned",
                    format_args!("{other}"),
                    fix,
                ));
            }
        },
        "armillary,device-addr" => device_addresses(vm, value)?,
        "armillary,name" => {
            // As it has to be typed and is shown before each line.
            let fits = |name: &&str| {
                (1..32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
            };
            let given = string(value).filter(fits);
            vm.name = given
                .ok_or_else(|| {
                    ConfigError::new(
                        &vm.node,
                        "armillary,name",
                        format_args!("not a name"),
                        format_args!("give 1 to 31 visible ASCII characters"),
                    )
                })?
                .into();
        }
        _ if name.starts_with("armillary,") => {
            let fix = format_args!(
                "use one of armillary,control, armillary,device-addr, armillary,hold, armillary,name, \
                 armillary,unassigned, {}{more}",
                policy::NAMES
            );
            return Err(ConfigError::new(
                &vm.node,
                "a property",
                format_args!("{name}, which is unknown"),
                fix,
            ));
        }
        _ => {}
    }
    Ok(())
}

/// Places devices: an identifier of one cell and an address of two for each.
fn device_addresses(vm: &mut VmConfig, mut value: &[u8]) -> Result<(), ConfigError> {
    while !value.is_empty() {
        let id = number(&mut value, 1);
        let (id, address) = (id.unwrap_or(0), number(&mut value, 2));
        let placed = address.map(|address| vm.places.set(id as u32, address));
        if placed != Some(Ok(())) {
            let why = placed
                .and_then(Result::err)
                .map_or("cut short", Unplaced::text);
            let shown = format_args!("{id:#x} {:#x}, which is {why}", address.unwrap_or(0));
            let fix = format_args!(
                "give for each device its number (bits 31:16) and its address's (15:0) in one cell and the \
                       address, of a whole page, in two"
            );
            return Err(ConfigError::new(
                &vm.node,
                "armillary,device-addr",
                shown,
                fix,
            ));
        }
    }
    Ok(())
}

const MEMORY_FIX: &str = "give the VM's RAM in KiB, a multiple of 4, as two cells";

fn memory(node: &str, property: &'static str, value: &[u8]) -> Result<u64, ConfigError> {
    let error = |shown: fmt::Arguments<'_>| {
        let fix = format_args!("{MEMORY_FIX}");
        Err(ConfigError::new(node, property, shown, fix))
    };
    match whole(value) {
        None => error(format_args!("not a number")),
        Some(0) => error(format_args!("zero")),
        Some(kib) => match kib.checked_mul(1024) {
            Some(bytes) if bytes % PAGE == 0 => Ok(bytes),
            Some(_) => error(format_args!(
                "{kib} KiB, which is not a whole number of pages"
            )),
            None => error(format_args!("{kib} KiB, which is more than there can be")),
        },
    }
}

fn cpus(node: &str, property: &'static str, value: &[u8]) -> Result<u32, ConfigError> {
    policy::number(node, property, value, " vCPUs", 1..=MAX_VCPUS)
}

/// Adds the node of a region or a module to the VM.
fn child(tree: &Tree<'_, '_>, id: Id, vm: &mut VmConfig) -> Result<(), ConfigError> {
    if !tree.is_compatible(id, region::COMPATIBLE) {
        return module(tree, id, vm);
    }
    let region = region::read(tree, id)?;
    vm.regions.push(region);
    Ok(())
}

/// Adds a module's node to the VM.
fn module(tree: &Tree<'_, '_>, id: Id, vm: &mut VmConfig) -> Result<(), ConfigError> {
    static NAMES: [&str; 4] = [
        "multiboot,kernel",
        "armillary,firmware",
        "multiboot,ramdisk",
        "multiboot,device-tree",
    ];
    let place = NAMES.iter().position(|name| tree.is_compatible(id, name));
    let Some(place) = place else {
        let fix = format_args!(
            "give multiboot,module with multiboot,kernel, multiboot,ramdisk, multiboot,device-tree \
                   or armillary,firmware, or armillary,region"
        );
        return Err(tree.error(
            id,
            "compatible",
            format_args!("{}", shown_strings(tree, id)),
            fix,
        ));
    };
    let slot = match place {
        0 => &mut vm.kernel,
        1 => &mut vm.firmware,
        2 => &mut vm.ramdisk,
        _ => &mut vm.device_tree,
    };
    let node = tree.path(id);
    if let Some(first) = slot {
        let fix = format_args!(
            "describe each VM in a node of its own, compatible with xen,domain, \
                   and give it one of each kind"
        );
        return Err(ConfigError::new(
            &node,
            "the module",
            format_args!("the VM's second {}, after {}", KINDS[place], first.node),
            fix,
        ));
    }
    let reg = tree.reg_off_bus(id)?;
    let [range] = *reg.as_slice() else {
        return Err(ConfigError::new(
            &node,
            "reg",
            format_args!("of {} ranges", reg.len()),
            format_args!("give one address and one size"),
        ));
    };
    if range.size == 0 {
        return Err(ConfigError::new(
            &node,
            "reg",
            format_args!("{range}, which is empty"),
            format_args!("give the module's size in bytes"),
        ));
    }
    if let (true, Some(words)) = (place < 2, tree.property(id, "bootargs").and_then(string)) {
        vm.bootargs = words.into();
    }
    *slot = Some(Module {
        node,
        range,
        shared: false,
    });
    Ok(())
}

fn shown_strings(tree: &Tree<'_, '_>, id: Id) -> String {
    let mut shown = String::new();
    for compatible in tree.compatible(id) {
        let separator = if shown.is_empty() { "" } else { ", " };
        shown = format!(
            "{shown}{separator}{}",
            core::str::from_utf8(compatible).unwrap_or("not UTF-8")
        );
    }
    if shown.is_empty() {
        "absent".into()
    } else {
        format!("{shown}, which names no kind of module")
    }
}

/// Sees to it that the VM has something to run, and one thing only.
fn complete(vm: VmConfig) -> Result<VmConfig, ConfigError> {
    vm.policy.check(&vm.node, vm.cpus)?;
    for (nth, region) in vm.regions.iter().enumerate() {
        let same = |other: &&RegionConfig| {
            other.interrupt.is_some() && other.interrupt == region.interrupt
        };
        if let Some(other) = vm.regions.iter().take(nth).find(same) {
            return Err(ConfigError::new(
                &region.node,
                "interrupts",
                format_args!("that of {} too", other.node),
                format_args!("give each device an interrupt of its own"),
            ));
        }
    }
    let fix =
        format_args!("give one module compatible with multiboot,kernel or armillary,firmware");
    match (&vm.kernel, &vm.firmware) {
        (None, None) => Err(ConfigError::new(
            &vm.node,
            "the kernel",
            format_args!("absent"),
            fix,
        )),
        (Some(kernel), Some(_)) => Err(ConfigError::new(
            &kernel.node,
            "the kernel",
            format_args!("there beside firmware, which would not run it"),
            fix,
        )),
        _ => Ok(vm),
    }
}

/// Sees to it that the VM's name is its own and that its modules lie in RAM and in nothing else's way.
fn place(
    mut vm: VmConfig,
    ram: &[Range],
    taken: &[Taken],
    others: &mut [VmConfig],
) -> Result<VmConfig, ConfigError> {
    if let Some(other) = others.iter().find(|other| other.name == vm.name) {
        let value = format_args!("{}, the name of {} too", vm.name, other.node);
        return Err(ConfigError::new(
            &vm.node,
            "the name",
            value,
            format_args!("give each VM a name of its own"),
        ));
    }
    let error = |module: &Module, what: fmt::Arguments<'_>, fix: fmt::Arguments<'_>| {
        Err(ConfigError::new(
            &module.node,
            "reg",
            format_args!("{}, which {what}", module.range),
            fix,
        ))
    };
    let modules = vm.modules();
    let mut all_others = Vec::new();
    for other in others.iter() {
        all_others.extend(other.modules());
    }
    for (nth, &(kind, module)) in modules.iter().enumerate() {
        if !ram.iter().any(|ram| ram.contains(&module.range)) {
            return error(
                module,
                format_args!("is not all RAM"),
                format_args!("load the module into RAM, and give its address and size here"),
            );
        }
        if let Some((what, range)) = taken
            .iter()
            .find(|(_, range)| range.overlaps(&module.range))
        {
            return error(
                module,
                format_args!("overlaps {what} at {range}"),
                format_args!("load the module elsewhere"),
            );
        }
        for (n, &(other_kind, other)) in modules[..nth].iter().chain(&all_others).enumerate() {
            let shared = n >= nth && kind == other_kind && module.range == other.range;
            if !shared && module.range.overlaps(&other.range) {
                return error(
                    module,
                    format_args!("overlaps {} at {}", other.node, other.range),
                    format_args!("load one of them elsewhere"),
                );
            }
        }
    }
    share(&mut vm, others);
    Ok(vm)
}

/// Marks the modules that this VM has in common with others, on both sides.
fn share(vm: &mut VmConfig, others: &mut [VmConfig]) {
    for other in others {
        let pairs = [
            (&mut vm.kernel, &mut other.kernel),
            (&mut vm.firmware, &mut other.firmware),
            (&mut vm.ramdisk, &mut other.ramdisk),
            (&mut vm.device_tree, &mut other.device_tree),
        ];
        for pair in pairs {
            if let (Some(here), Some(there)) = pair
                && here.range == there.range
            {
                (here.shared, there.shared) = (true, true);
            }
        }
    }
}
