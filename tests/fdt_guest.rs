//! The guest's device tree against QEMU's own, node by node.

mod fdt_dts;

use armillary::addr::Pa;
use armillary::bus::Places;
use armillary::fdt::{Guest, Range, RegionConfig, Served, Tree, check};
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::{Node, Property};

const QEMU: &str = include_str!("fdt_dts/qemu-virt-guest.dts");

/// The VM for which QEMU wrote its tree.
const GUEST: Guest<'_> = Guest {
    ram: 0x4000_0000,
    memory: 256 << 20,
    cpus: 2,
    cpu: "arm,cortex-a15",
    bootargs: "console=ttyAMA0",
    initrd: Some(Range {
        start: Pa(0x4800_0000),
        size: 100_000,
    }),
    seed: Some(&[7; 40]),
    flash: true,
    rtc: true,
    virtio: u32::MAX,
    places: armillary::bus::Places::QEMU,
    regions: &[],
    serves: &[],
};

fn parse(dtb: &[u8]) -> DeviceTree {
    match dtoolkit::fdt::Fdt::new(dtb) {
        Ok(fdt) => DeviceTree::from_fdt(&fdt),
        Err(error) => panic!("{error}"),
    }
}

/// Asserts that `ours` is QEMU's node but for children that it has not; returns those.
fn compare(path: &str, ours: &DeviceTreeNode, qemus: &DeviceTreeNode) -> Vec<String> {
    let names = |node: &DeviceTreeNode| {
        node.properties()
            .map(|p| p.name().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(ours), names(qemus), "properties of {path}");
    for property in ours.properties() {
        let (name, value) = (property.name(), property.value());
        let qemus = qemus
            .property(name)
            .map(|p| p.value().to_owned())
            .unwrap_or_default();
        if name.ends_with("-seed") {
            assert_eq!(value.len(), qemus.len(), "{path}/{name}");
        } else {
            assert_eq!(value, qemus, "{path}/{name}");
        }
    }
    let mut missing = Vec::new();
    let mut order = qemus.children().map(|child| child.name().to_owned());
    for child in ours.children() {
        let path = format!("{path}/{}", child.name());
        missing.extend(order.by_ref().take_while(|name| name != child.name()));
        match qemus.child(child.name()) {
            Some(qemus) => missing.extend(compare(&path, child, qemus)),
            None => panic!("QEMU has no {path}"),
        }
    }
    missing.extend(order);
    missing
}

#[test]
fn it_is_qemus_own_but_for_what_is_not_there() {
    let missing = compare("", &parse(&GUEST.tree()).root, &fdt_dts::tree(QEMU).root);
    assert_eq!(
        missing,
        [
            "platform-bus@c000000",
            "fw-cfg@9020000",
            "gpio-keys",
            "pl061@9030000",
            "pcie@10000000",
            "pmu",
            "v2m@8020000",
        ]
    );
}

#[test]
fn it_passes_our_own_check_for_any_guest() {
    for cpus in 1..=8 {
        for virtio in [0, 1, 1 << 31] {
            let dtb = Guest {
                cpus,
                virtio,
                rtc: false,
                flash: false,
                seed: None,
                initrd: None,
                ..GUEST
            }
            .tree();
            let mut copy = Vec::new();
            let checked = check(&dtb, &mut copy).unwrap();
            assert_eq!(checked.size(), dtb.len());
            let tree = Tree::of(&checked);
            let intc = tree
                .find("/intc")
                .and_then(|id| tree.property(id, "phandle"));
            assert_eq!(tree.property(0, "interrupt-parent"), intc);
            let last = tree.find(&format!("/cpus/cpu@{}", cpus - 1)).unwrap();
            assert_eq!(tree.property(last, "enable-method").is_some(), cpus > 1);
            assert_eq!(tree.find("/virtio_mmio").is_some(), virtio != 0);
            assert_eq!((tree.find("/flash"), tree.find("/pl031")), (None, None));
        }
    }
}

#[test]
fn memory_beyond_4_gib_is_told() {
    let dtb = Guest {
        memory: 0x1_2345_6000,
        ..GUEST
    }
    .tree();
    let mut copy = Vec::new();
    let checked = check(&dtb, &mut copy).unwrap();
    let tree = Tree::of(&checked);
    let memory = tree.find("/memory").unwrap();
    assert_eq!(
        tree.reg(memory).unwrap(),
        [Range {
            start: Pa(0x4000_0000),
            size: 0x1_2345_6000
        }]
    );
}

/// What `adopt` makes of a tree of the user's own.
fn adopted(guest: &Guest<'_>, mut user: DeviceTree) -> DeviceTree {
    user.memory_reservations
        .push(dtoolkit::memreserve::MemoryReservation::new(
            0x4100_0000,
            0x1000,
        ));
    let dtb = user.to_dtb();
    let mut copy = Vec::new();
    let adopted = match check(&dtb, &mut copy) {
        Ok(checked) => parse(&guest.adopt(&Tree::of(&checked))),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(adopted.memory_reservations, user.memory_reservations);
    adopted
}

#[test]
fn a_tree_of_the_users_own_is_told_memory_psci_and_how_it_boots() {
    // The host's tree serves as well as any: what QEMU replaces in it is what differs from the guest's.
    let host = fdt_dts::tree(fdt_dts::HOST);
    let ours = adopted(&GUEST, host.clone());
    let guests = parse(&GUEST.tree());
    for node in ["psci", "memory@40000000"] {
        assert_eq!(ours.root.child(node), guests.root.child(node));
    }
    let names = |node: &DeviceTreeNode| {
        node.children()
            .map(|child| child.name().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&ours.root), names(&host.root));
    for child in host
        .root
        .children()
        .filter(|c| !["psci", "memory@40000000", "chosen"].contains(&c.name()))
    {
        assert_eq!(ours.root.child(child.name()), Some(child));
    }
    let chosen = ours.root.child("chosen").unwrap();
    assert_eq!(
        chosen.property("bootargs").unwrap().value(),
        b"console=ttyAMA0\0"
    );
    assert_eq!(
        chosen.property("linux,initrd-end").unwrap().value(),
        0x4801_86a0_u32.to_be_bytes()
    );
    assert_eq!(chosen.children().count(), 2);
}

#[test]
fn a_tree_of_the_users_own_keeps_its_words_and_cell_sizes() {
    let source = r#"/ { #address-cells = <1>; #size-cells = <1>; psci { }; memory@0 { reg = <0 1>; a { b { }; }; }; memory { };
        x { memory { }; }; CHOSEN };"#;
    let guest = Guest {
        bootargs: "",
        initrd: None,
        ..GUEST
    };
    let tree = |chosen| adopted(&guest, fdt_dts::tree(&source.replace("CHOSEN", chosen)));
    let ours = tree(r#"chosen { bootargs = "own"; linux,initrd-start = <1>; };"#);
    let names: Vec<_> = ours.root.children().map(|child| child.name()).collect();
    assert_eq!(names, ["psci", "memory@40000000", "x", "chosen"]);
    let memory = ours.root.child("memory@40000000").unwrap();
    assert_eq!(
        memory.property("reg").unwrap().value(),
        [0x40, 0, 0, 0, 0x10, 0, 0, 0]
    );
    assert!(ours.find_node("/x/memory").is_some());
    let chosen = ours.root.child("chosen").unwrap();
    assert_eq!(chosen.property("bootargs").unwrap().value(), b"own\0");
    assert!(chosen.property("linux,initrd-start").is_none());
    assert!(tree("").root.child("chosen").is_some());
}

#[test]
fn it_says_where_devices_are_and_what_the_description_adds() {
    let mut places = Places::QEMU;
    for (id, address) in [
        (0, 0x0d00_0000),
        (1, 0x0d01_0000),
        (1 << 16, 0x0e00_0000),
        (2 << 16, 0x0e01_0000),
    ] {
        places.set(id, address).unwrap();
    }
    let region = RegionConfig {
        name: "uart@9100000".into(),
        properties: vec![("compatible".into(), b"arm,pl011\0".to_vec())],
        ..RegionConfig::default()
    };
    let silent = RegionConfig {
        name: "rom@9200000".into(),
        ..RegionConfig::default()
    };
    let served = Served {
        region: "other/uart@1".into(),
        size: 0x1000,
    };
    let dtb = Guest {
        places,
        regions: &[region, silent],
        serves: &[served.clone(), served],
        ..GUEST
    }
    .tree();
    let mut copy = Vec::new();
    let checked = check(&dtb, &mut copy).unwrap();
    let tree = Tree::of(&checked);
    let reg = |path| tree.reg(tree.find(path).unwrap()).unwrap();
    assert_eq!(reg("/intc")[0].start, Pa(0x0d00_0000));
    assert_eq!(
        (reg("/intc")[1].start, reg("/intc")[1].size),
        (Pa(0x0d01_0000), 0x2000)
    );
    assert_eq!(reg("/pl011@e000000")[0].start, Pa(0x0e00_0000));
    assert_eq!(reg("/pl031@e010000")[0].start, Pa(0x0e01_0000));
    let chosen = tree.find("/chosen").unwrap();
    assert_eq!(
        tree.property(chosen, "stdout-path"),
        Some(&b"/pl011@e000000\0"[..])
    );
    assert!(tree.find("/uart@9100000").is_some() && tree.find("/rom@9200000").is_none());
    let ring = tree.find("/device-model@b001000").unwrap();
    assert_eq!(reg("/device-model@b001000")[0].start, Pa(0x0b00_1000));
    assert_eq!(
        tree.property(ring, "armillary,ring"),
        Some(&[0, 0, 0, 1][..])
    );
    assert_eq!(
        tree.property(ring, "armillary,region"),
        Some(&b"other/uart@1\0"[..])
    );
}
