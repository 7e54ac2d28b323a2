//! `passthrough=PATH`: the board's nodes marked for a VM, and the partial device tree that gives them to it.

use std::fs;
use std::path::Path;

use anyhow::Context;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

use crate::failure::unusable;

/// Phandle of the guest's interrupt controller in partial trees.
const GIC: u32 = 0xfde8;
const PAGE: u64 = 4096;
/// Devices that reach no memory by themselves.
const NO_DMA: [&[u8]; 3] = [b"arm,pl011\0", b"arm,pl031\0", b"arm,pl061\0"];

/// Marks the nodes `paths` of `tree`, and all that share a page with them; writes the partial tree to `file`.
pub fn prepare(tree: &mut DeviceTree, paths: &[String], file: &Path) -> anyhow::Result<()> {
    let mut nodes = Vec::new();
    for path in paths {
        let wanted = path
            .strip_prefix('/')
            .and_then(|name| tree.root.child(name))
            .ok_or_else(|| {
                unusable(format!(
                    "passthrough={path}: the board has no such node at its root"
                ))
            })?;
        let pages = pages(wanted).ok_or_else(|| {
            unusable(format!(
                "passthrough={path}: its reg is not of two cells each"
            ))
        })?;
        let shares = |node: &&DeviceTreeNode| {
            self::pages(node)
                .is_some_and(|other| other.0 < pages.0 + pages.1 && pages.0 < other.0 + other.1)
        };
        for node in tree.root.children().filter(shares) {
            if !nodes.contains(&node.name().to_owned()) {
                nodes.push(node.name().to_owned());
            }
        }
    }
    let mut bus = DeviceTreeNode::new("passthrough")?;
    for (name, value) in [
        ("compatible", &b"simple-bus\0"[..]),
        ("ranges", &[]),
        ("#address-cells", &[0, 0, 0, 2]),
        ("#size-cells", &[0, 0, 0, 2]),
    ] {
        bus.add_property(DeviceTreeProperty::new(name, value.to_vec())?);
    }
    for name in &nodes {
        if let Some(node) = tree.find_node_mut(&format!("/{name}")) {
            bus.add_child(partial(node)?);
            node.remove_property("xen,passthrough");
            node.add_property(DeviceTreeProperty::new(
                "xen,passthrough",
                Vec::<u8>::new(),
            )?);
        }
    }
    let mut partial = DeviceTree::new();
    for name in ["#address-cells", "#size-cells"] {
        partial
            .root
            .add_property(DeviceTreeProperty::new(name, 2u32)?);
    }
    partial.root.add_child(bus);
    fs::write(file, partial.to_dtb()).with_context(|| file.display().to_string())
}

/// The whole pages of the node's registers: address and size.
fn pages(node: &DeviceTreeNode) -> Option<(u64, u64)> {
    let reg = node.property("reg")?.value().to_vec();
    let number = |at: usize| Some(u64::from_be_bytes(*reg.get(at..)?.first_chunk()?));
    let start = number(0)? / PAGE * PAGE;
    let end = number(0)?.checked_add(number(8)?)?.next_multiple_of(PAGE);
    Some((start, end - start))
}

/// The node in the partial tree: where the board has it, with the board's interrupts.
fn partial(node: &DeviceTreeNode) -> anyhow::Result<DeviceTreeNode> {
    let mut new = DeviceTreeNode::new(node.name())?;
    for property in node.properties() {
        if property.name() != "phandle" && property.name() != "interrupt-parent" {
            new.add_property(property.clone());
        }
    }
    let (start, size) = pages(node).context("it has registers")?;
    let mut add = |name: &str, value: Vec<u8>| -> anyhow::Result<()> {
        new.add_property(DeviceTreeProperty::new(name, value)?);
        Ok(())
    };
    add("interrupt-parent", GIC.to_be_bytes().to_vec())?;
    add("xen,path", format!("/{}\0", node.name()).into_bytes())?;
    add(
        "xen,reg",
        [start, size, start]
            .iter()
            .flat_map(|n| n.to_be_bytes())
            .collect(),
    )?;
    let compatible = node
        .property("compatible")
        .map(|p| p.value().to_vec())
        .unwrap_or_default();
    if NO_DMA.iter().any(|known| compatible.starts_with(known)) {
        add("xen,force-assign-without-iommu", Vec::new())?;
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dts, qemu};

    #[test]
    fn nodes_are_given_with_all_that_shares_their_pages() {
        let source = "/dts-v1/;\n/ { clock@1000 { compatible = \"arm,pl031\", \"x\"; phandle = <7>; reg = <0 0x1000 0 0x100>; };\n\
                      disk@2e00 { reg = <0 0x2e00 0 0x200>; }; disk@2000 { reg = <0 0x2000 0 0x200>; }; };";
        let mut tree = dts::parse(source).unwrap();
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("partial.dtb");
        prepare(
            &mut tree,
            &["/clock@1000".into(), "/disk@2e00".into()],
            &file,
        )
        .unwrap();
        let host = dts::print(&tree);
        assert_eq!(host.matches("xen,passthrough;").count(), 3, "{host}");
        let partial = dts::print(&qemu::read_tree(&file).unwrap());
        for line in [
            "xen,path = \"/disk@2000\";",
            "reg = <0x0 0x2e00 0x0 0x200>;",
            "xen,reg = <0x0 0x2000 0x0 0x1000 0x0 0x2000>;",
            "interrupt-parent = <0xfde8>;",
        ] {
            assert!(partial.contains(line), "no {line} in\n{partial}");
        }
        assert_eq!(partial.matches("xen,force-assign").count(), 1, "{partial}");
        assert!(!partial.contains("phandle = <0x7>"), "{partial}");
        let missing = prepare(&mut tree, &["/nothing".into()], &file).unwrap_err();
        assert!(missing.to_string().contains("/nothing"), "{missing}");
    }
}
