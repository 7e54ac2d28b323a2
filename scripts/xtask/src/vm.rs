//! The virtual machines of a run: their nodes in the device tree and the files that these name.
//!
//! The nodes are Xen's dom0less ones under `/chosen` ("xen,domain" with "multiboot,module" children). A VM comes from
//! a `--vm` or from a board's `demo.dts`, which is such a tree but for the modules' addresses: there a module names
//! its file in `file`, and gets `reg` and its unit address when the file has its place in RAM.

use std::fs;
use std::path::{Path, PathBuf};

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

use crate::build;
use crate::debian::Item;
use crate::dts;
use crate::failure::unusable;
use crate::layout::{KERNEL_OFFSET, Layout};
use crate::size::{KIB, MIB, Size};
use crate::spec::{Boot, Spec};

/// What a module is to its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The kernel.
    Kernel,
    /// Firmware, placed at guest-physical 0.
    Firmware,
    /// The initial ramdisk.
    Ramdisk,
    /// A partial device tree.
    DeviceTree,
}

impl Role {
    const ALL: [Self; 4] = [
        Self::Kernel,
        Self::Firmware,
        Self::Ramdisk,
        Self::DeviceTree,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Firmware => "firmware",
            Self::Ramdisk => "initrd",
            Self::DeviceTree => "dtb",
        }
    }

    const fn compatible(self) -> &'static str {
        match self {
            Self::Kernel => "multiboot,kernel",
            Self::Firmware => "armillary,firmware",
            Self::Ramdisk => "multiboot,ramdisk",
            Self::DeviceTree => "multiboot,device-tree",
        }
    }
}

/// A file of a VM.
#[derive(Clone, Debug)]
pub struct Module {
    /// What it is for.
    pub role: Role,
    /// Where it is; `guest:NAME` is a guest of tests/guests.
    pub file: PathBuf,
    /// The kernel's command line.
    pub bootargs: Option<String>,
}

/// A VM: its node, as far as no address is needed, and its files.
#[derive(Clone, Debug)]
pub struct Vm {
    node: DeviceTreeNode,
    /// Its files.
    pub modules: Vec<Module>,
    /// Paths of the board's nodes whose devices it has.
    pub passthrough: Vec<String>,
}

/// A file's place in the host's RAM.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The file.
    pub file: PathBuf,
    /// Its physical address.
    pub address: u64,
}

impl Vm {
    /// The VM of a `--vm`, the `index`th on a host with `host` RAM.
    pub fn from_spec(spec: &Spec, index: usize, host: Size) -> anyhow::Result<Self> {
        let name = spec.name.clone().unwrap_or_else(|| format!("vm{index}"));
        let memory = spec.memory.unwrap_or_else(|| default_memory(host));
        let mut node = DeviceTreeNode::new(name)?;
        node.add_property(property("compatible", "xen,domain")?);
        node.add_property(property("#address-cells", 2u32)?);
        node.add_property(property("#size-cells", 2u32)?);
        node.add_property(property("memory", memory.bytes() / KIB)?);
        node.add_property(property("cpus", spec.cpus.unwrap_or(1))?);
        node.add_property(property("vpl011", Vec::<u8>::new())?);
        if spec.direct_map {
            node.add_property(property("direct-map", Vec::<u8>::new())?);
        }
        if let Some(path) = &spec.with {
            add_source(&mut node, path)?;
        }

        let module = |role, file: &Path| Module {
            role,
            file: file.into(),
            bootargs: None,
        };
        let first = match &spec.boot {
            Boot::Kernel(file) => module(Role::Kernel, file),
            Boot::Firmware(file) => module(Role::Firmware, file),
        };
        let mut modules = vec![Module {
            bootargs: spec.append.clone(),
            ..first
        }];
        modules.extend(spec.initrd.iter().map(|file| module(Role::Ramdisk, file)));
        modules.extend(spec.dtb.iter().map(|file| module(Role::DeviceTree, file)));
        if spec.dtb.is_some() && !spec.passthrough.is_empty() {
            return Err(unusable(
                "passthrough= writes a partial tree: a VM has this or dtb=".to_owned(),
            ));
        }
        Ok(Self {
            node,
            modules,
            passthrough: spec.passthrough.clone(),
        })
    }

    /// Adds the device tree in `file`.
    pub fn add_tree(&mut self, file: &Path) {
        self.modules.push(Module {
            role: Role::DeviceTree,
            file: file.into(),
            bootargs: None,
        });
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// Fetches its files of Debian's.
    pub fn provide(&self) -> anyhow::Result<()> {
        let files = self.modules.iter();
        files
            .filter_map(|module| Item::named(&module.file))
            .try_for_each(Item::provide)
    }

    /// Finds out before anything is built whether its files are there or will be.
    pub fn check_files(&self) -> anyhow::Result<()> {
        for module in &self.modules {
            if Item::named(&module.file).is_some() {
                continue;
            }
            let known = build::guest_names();
            match build::guest_name(&module.file) {
                None => drop(self.size(module)?),
                Some(guest) if known.iter().any(|name| name == guest) => {}
                Some(_) => {
                    let what = self.describe(module);
                    return Err(unusable(format!(
                        "{what}: no such guest; there is: {}",
                        known.join(", ")
                    )));
                }
            }
        }
        Ok(())
    }

    /// The size of a file of its.
    fn size(&self, module: &Module) -> anyhow::Result<u64> {
        let wrong = |why: &str| unusable(format!("{}: {why}", self.describe(module)));
        match fs::metadata(build::file(&module.file)) {
            Ok(found) if found.is_file() && found.len() > 0 => Ok(found.len()),
            Ok(found) if found.is_file() => Err(wrong("the file is empty")),
            Ok(_) => Err(wrong("this is no file")),
            Err(error) => Err(wrong(&error.to_string())),
        }
    }

    fn describe(&self, module: &Module) -> String {
        format!(
            "VM '{}', {}={}",
            self.name(),
            module.role.name(),
            module.file.display()
        )
    }

    /// Puts its files into `layout` and gives its node with where they are.
    fn place(&self, layout: &mut Layout) -> anyhow::Result<(DeviceTreeNode, Vec<Placed>)> {
        let mut domain = self.node.clone();
        let mut placed = Vec::new();
        for module in &self.modules {
            let size = self.size(module)?;
            let offset = if module.role == Role::Kernel {
                KERNEL_OFFSET
            } else {
                0
            };
            let address = layout.place(&self.describe(module), size, offset)?;
            let mut node = DeviceTreeNode::new(format!("module@{address:x}"))?;
            node.add_property(property(
                "compatible",
                strings(&[module.role.compatible(), "multiboot,module"]),
            )?);
            node.add_property(property("reg", cells(&[address, size]))?);
            if let Some(bootargs) = &module.bootargs {
                node.add_property(property("bootargs", bootargs.as_str())?);
            }
            domain.add_child(node);
            placed.push(Placed {
                file: build::file(&module.file),
                address,
            });
        }
        Ok((domain, placed))
    }
}

/// Adds to `node` what the root of a source has.
fn add_source(node: &mut DeviceTreeNode, path: &Path) -> anyhow::Result<()> {
    let wrong = |what: String| unusable(format!("{}: {what}", path.display()));
    let source = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let tree = dts::parse(&source).map_err(wrong)?;
    for property in tree.root.properties() {
        set(node, property.clone());
    }
    for child in tree.root.children() {
        node.add_child(child.clone());
    }
    Ok(())
}

/// Whether `node` describes a region, which names no file.
fn is_region(node: &DeviceTreeNode) -> bool {
    node.property("compatible")
        .is_some_and(|property| property.value().starts_with(b"armillary,region\0"))
}

/// A VM's RAM if nothing is said: 128 MiB, on a small host a quarter of it.
fn default_memory(host: Size) -> Size {
    Size::mib((host.bytes() / 4 / MIB).clamp(1, 128))
}

/// The VMs of a board's `demo.dts`.
pub fn demo(path: &Path) -> anyhow::Result<Vec<Vm>> {
    let wrong = |what: &str| unusable(format!("{}: {what}", path.display()));
    let source = fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    let tree = dts::parse(&source).map_err(|error| wrong(&error))?;
    let chosen = tree
        .find_node("/chosen")
        .ok_or_else(|| wrong("no /chosen node"))?;
    let vms = chosen
        .children()
        .map(|domain| demo_vm(domain).map_err(|error| wrong(&error)))
        .collect::<Result<Vec<_>, _>>()?;
    if vms.is_empty() {
        Err(wrong("no VM under /chosen"))
    } else {
        Ok(vms)
    }
}

fn demo_vm(domain: &DeviceTreeNode) -> Result<Vm, String> {
    let text = |node: &DeviceTreeNode, name: &str| -> Option<String> {
        let value = node.property(name)?.value().strip_suffix(b"\0")?.to_vec();
        String::from_utf8(value).ok()
    };
    let mut modules = Vec::new();
    let mut node = domain.clone();
    for child in domain.children().filter(|child| !is_region(child)) {
        let at = format!("/chosen/{}/{}", domain.name(), child.name());
        let compatible = text(child, "compatible").unwrap_or_default();
        let role = Role::ALL
            .into_iter()
            .find(|role| compatible.split('\0').any(|word| word == role.compatible()))
            .ok_or_else(|| format!("{at}: not a module by its 'compatible'"))?;
        let file = text(child, "file").ok_or_else(|| format!("{at}: no 'file'"))?;
        modules.push(Module {
            role,
            file: file.into(),
            bootargs: text(child, "bootargs"),
        });
        node.remove_child(child.name());
    }
    Ok(Vm {
        node,
        modules,
        passthrough: Vec::new(),
    })
}

/// Adds `vms` to `tree` and says where in RAM their files go.
pub fn add(tree: &mut DeviceTree, vms: &[Vm], layout: &mut Layout) -> anyhow::Result<Vec<Placed>> {
    let mut files = Vec::new();
    if vms.is_empty() {
        return Ok(files);
    }
    if tree.find_node("/chosen").is_none() {
        tree.root.add_child(DeviceTreeNode::new("chosen")?);
    }
    for vm in vms {
        let (node, placed) = vm.place(layout)?;
        files.extend(placed);
        let chosen = tree
            .find_node_mut("/chosen")
            .ok_or_else(|| unusable("the tree's /chosen is no node"))?;
        if chosen.child(node.name()).is_some() {
            return Err(unusable(format!(
                "two VMs are named '{}': give each its own name=",
                node.name()
            )));
        }
        set(chosen, property("#address-cells", 2u32)?);
        set(chosen, property("#size-cells", 2u32)?);
        chosen.add_child(node);
    }
    Ok(files)
}

/// Whether `tree` describes VMs already.
#[must_use]
pub fn describes_vms(tree: &DeviceTree) -> bool {
    let is_vm = |node: &DeviceTreeNode| {
        let words = |value: &[u8]| {
            value
                .split(|&byte| byte == 0)
                .any(|word| word == b"xen,domain" || word == b"multiboot,module")
        };
        node.property("compatible")
            .is_some_and(|property| words(property.value()))
    };
    tree.find_node("/chosen")
        .is_some_and(|chosen| chosen.children().any(is_vm))
}

/// Sets the hypervisor's command line.
pub fn set_bootargs(tree: &mut DeviceTree, bootargs: &str) -> anyhow::Result<()> {
    if tree.find_node("/chosen").is_none() {
        tree.root.add_child(DeviceTreeNode::new("chosen")?);
    }
    if let Some(chosen) = tree.find_node_mut("/chosen") {
        set(chosen, property("bootargs", bootargs)?);
    }
    Ok(())
}

fn set(node: &mut DeviceTreeNode, property: DeviceTreeProperty) {
    node.remove_property((&property).name());
    node.add_property(property);
}

fn property<T: dtoolkit::ToPropertyValue>(
    name: &str,
    value: T,
) -> anyhow::Result<DeviceTreeProperty> {
    Ok(DeviceTreeProperty::new(name, value)?)
}

fn strings(words: &[&str]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| word.bytes().chain([0]))
        .collect()
}

fn cells(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree_of(specs: &[&str], files: &[(&str, usize)]) -> anyhow::Result<String> {
        let place = tempfile::tempdir()?;
        for (name, size) in files {
            fs::write(place.path().join(name), vec![0u8; *size])?;
        }
        let host = Size::mib(1024);
        let vms: Vec<Vm> = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| {
                let mut vm = Vm::from_spec(&spec.parse().unwrap(), index, host)?;
                for module in &mut vm.modules {
                    module.file = place.path().join(&module.file);
                }
                Ok(vm)
            })
            .collect::<anyhow::Result<_>>()?;
        let mut tree =
            dts::parse("/dts-v1/;\n/ { chosen { stdout-path = \"/uart\"; }; };").unwrap();
        let mut layout = Layout::new(0x4000_0000..0x8000_0000, 0x4001_0000, 0);
        add(&mut tree, &vms, &mut layout)?;
        Ok(dts::print(&tree))
    }

    #[test]
    fn a_vm_becomes_a_dom0less_node_with_its_modules() {
        let printed = tree_of(
            &[
                "kernel=k,initrd=i,append=quiet,memory=64M,cpus=2,name=web",
                "firmware=k",
            ],
            &[("k", 4096), ("i", 10)],
        )
        .unwrap();
        for part in [
            "web {\n\t\t\tcompatible = \"xen,domain\";",
            "memory = <0x0 0x10000>;\n\t\t\tcpus = <0x2>;\n\t\t\tvpl011;",
            "module@40410000 {\n\t\t\t\tcompatible = \"multiboot,kernel\", \"multiboot,module\";\n\t\t\t\treg = <0x0 0x40410000 0x0 0x1000>;\n\t\t\t\tbootargs = \"quiet\";",
            "compatible = \"multiboot,ramdisk\", \"multiboot,module\";",
            "vm1 {\n",
            "compatible = \"armillary,firmware\", \"multiboot,module\";",
            "stdout-path = \"/uart\";",
        ] {
            assert!(printed.contains(part), "no {part:?} in\n{printed}");
        }
    }

    #[test]
    fn two_vms_of_one_name_and_a_missing_file_are_refused() {
        let twice = tree_of(&["kernel=k,name=a", "kernel=k,name=a"], &[("k", 1)]).unwrap_err();
        assert!(
            twice.to_string().contains("two VMs are named 'a'"),
            "{twice}"
        );
        let missing = tree_of(&["kernel=nowhere"], &[]).unwrap_err().to_string();
        assert!(
            missing.contains("nowhere") && missing.contains("vm0"),
            "{missing}"
        );
    }

    #[test]
    fn a_demo_names_files_instead_of_addresses() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("demo.dts");
        let module = "kernel { compatible = \"multiboot,kernel\", \"multiboot,module\"; file = \"guest:hello\"; };";
        fs::write(
            &path,
            format!("/dts-v1/;\n/ {{ chosen {{ one {{ cpus = <1>; {module} }}; }}; }};"),
        )
        .unwrap();
        let vms = demo(&path).unwrap();
        assert_eq!((vms.len(), vms[0].name()), (1, "one"));
        assert_eq!(vms[0].modules[0].file, Path::new("guest:hello"));
        assert_eq!(vms[0].node.children().count(), 0);
    }
}
