//! Damaged device trees: each kind of damage is refused where it is, and no damage makes a reader panic.

mod fdt_dts;

use armillary::fdt::{Board, Guest, MAX_DEPTH, Tree, check, vms};
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use fdt_dts::{HOST, compile};

const DOM0LESS: &str = r#"/ { chosen { #address-cells = <1>; #size-cells = <1>; bootargs = "loglevel=3";
    linux,initrd-start = <0x60000000>; linux,initrd-end = <0x60001000>;
    domU1 { compatible = "xen,domain"; #address-cells = <1>; #size-cells = <1>; memory = <0 0x80000>; cpus = <2>; vpl011;
        module@50000000 { compatible = "multiboot,kernel", "multiboot,module"; reg = <0x50000000 0x545200>; };
        module@50600000 { compatible = "multiboot,ramdisk", "multiboot,module"; reg = <0x50600000 0xd7c78>; };
    };
}; reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges; a@0 { reg = <0 0x7f000000 0 0x1000>; }; };
bus { #address-cells = <1>; #size-cells = <1>; ranges = <0 0 0x10000000 0x1000000>; #interrupt-cells = <1>;
    interrupt-map-mask = <0 63>; interrupt-map = <0 5 0x8003 0 0 0 5 4>;
    serial@0 { compatible = "ns16550a"; reg = <0 0x100>; interrupts = <5>; };
}; };"#;

const GUEST: Guest<'_> = Guest {
    ram: 0x4000_0000,
    memory: 64 << 20,
    cpus: 1,
    cpu: "arm,cortex-a7",
    bootargs: "quiet",
    initrd: None,
    seed: None,
    flash: false,
    rtc: false,
    virtio: 0,
    places: armillary::bus::Places::QEMU,
    regions: &[],
    serves: &[],
};

/// Everything that is read of a tree, for what it does on the way; `None` where the check refuses it.
fn read(dtb: &[u8], thoroughly: bool) -> Option<(bool, usize)> {
    let mut copy = Vec::new();
    let checked = check(dtb, &mut copy).map_err(|e| e.to_string()).ok()?;
    let tree = Tree::of(&checked);
    assert_eq!(
        tree.ids().count(),
        checked.nodes(),
        "fdt sees the nodes that the check saw"
    );
    let board = Board::read(&tree);
    if let Ok(board) = &board {
        for error in vms(&tree, &board.memory, &[]).1 {
            let _ = error.to_string();
        }
    }
    if thoroughly {
        let adopted = GUEST.adopt(&tree);
        assert_eq!(
            check(&adopted, &mut Vec::new()).map(|_| ()),
            Ok(()),
            "an adopted tree is whole"
        );
    }
    for id in tree.ids().filter(|_| thoroughly) {
        assert_eq!(
            tree.children(id)
                .filter(|&child| tree.parent(child) != id)
                .count(),
            0
        );
        let _ = tree.find(&tree.path(id));
        let _ = (
            tree.reg(id),
            tree.reg_off_bus(id),
            tree.cells(id),
            tree.is_disabled(id),
        );
        let _ = (
            tree.compatible(id).count(),
            tree.properties(id).map(|p| p.value.len()).sum::<usize>(),
        );
    }
    Some((board.is_ok(), checked.nodes()))
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }
}

/// Changes a tree in one to four places.
fn mutate(dtb: &mut Vec<u8>, random: &mut Random) {
    // Mostly in the structure block; the header, where nearly any change is fatal, every eighth time.
    for _ in 0..=random.below(4) {
        let from = if random.below(8) == 0 { 0 } else { 40 };
        let at = from + random.below(dtb.len() - from);
        let word = at & !3;
        let size = (1 << random.below(10)).min(dtb.len() - at);
        match random.below(7) {
            0 => dtb[at] = random.next() as u8,
            1 => dtb[at] ^= 1 << random.below(8),
            2 => dtb[at..at + size.min(16)].fill_with(|| random.next() as u8),
            3 if word + 4 <= dtb.len() => {
                let telling = [
                    0,
                    1,
                    2,
                    3,
                    4,
                    9,
                    5,
                    8,
                    0xffff_ffff,
                    0x7fff_ffff,
                    0x8000_0000,
                    dtb.len() as u32,
                ];
                let value = telling[random.below(telling.len())];
                dtb[word..word + 4].copy_from_slice(&u32::to_be_bytes(value));
            }
            4 => {
                let to = random.below(dtb.len() - size) & !3;
                dtb.copy_within(at..at + size, to);
            }
            5 => {
                let end = (word + (size & !3)).min(dtb.len() & !3);
                for nop in dtb[word.min(end)..end].chunks_exact_mut(4) {
                    nop.copy_from_slice(&[0, 0, 0, 4]);
                }
            }
            _ if random.below(8) == 0 => {
                dtb.truncate(at.max(48));
                let size = dtb.len() as u32;
                dtb[4..8].copy_from_slice(&size.to_be_bytes());
            }
            _ => dtb.rotate_left(0),
        }
    }
}

#[test]
fn a_hundred_thousand_damaged_trees_give_an_error_or_a_tree() {
    let whole = compile(&format!("{HOST}{DOM0LESS}"));
    assert!(read(&whole, true).is_some_and(|(board, nodes)| board && nodes > 60));
    let mut random = Random(0x5eed);
    let (mut trees, mut boards) = (0, 0);
    for round in 0..100_000 {
        let mut dtb = whole.clone();
        mutate(&mut dtb, &mut random);
        if let Some((board, _)) = read(&dtb, round % 8 == 0) {
            trees += 1;
            boards += u32::from(board);
        }
    }
    // Neither is rare: both the check and the readers behind it were at work.
    assert!(
        (20_000..80_000).contains(&trees),
        "{trees} trees were accepted"
    );
    assert!(
        (10_000..trees).contains(&boards),
        "{boards} boards were read"
    );
}

#[test]
fn random_bytes_and_every_truncation_are_refused() {
    let mut random = Random(0xabcd);
    for _ in 0..10_000 {
        let mut bytes: Vec<u8> = (0..random.below(200))
            .map(|_| random.next() as u8)
            .collect();
        assert_eq!(read(&bytes, true), None);
        bytes.splice(0..0, [0xd0, 0x0d, 0xfe, 0xed]);
        assert_eq!(read(&bytes, true), None);
    }
    let whole = compile(HOST);
    for size in 0..whole.len() {
        assert_eq!(read(&whole[..size], true), None);
    }
}

/// A tree whose structure block is `tokens`, with the names "reg" (0), "compatible" (4) and "#size-cells" (15).
fn flat(tokens: &[u32]) -> Vec<u8> {
    let strings = b"reg\0compatible\0#size-cells\0";
    let (start, size) = (56, 4 * tokens.len() as u32);
    let header = [
        0xd00d_feed,
        start + size + 27,
        start,
        start + size,
        40,
        17,
        16,
        0,
        27,
        size,
        0,
        0,
        0,
        0,
    ];
    let mut dtb: Vec<u8> = header
        .iter()
        .chain(tokens)
        .flat_map(|word| word.to_be_bytes())
        .collect();
    dtb.extend(strings);
    dtb
}

#[test]
fn each_kind_of_damage_is_named_where_it_is() {
    let changed = |at: usize, value: u32| {
        let mut dtb = flat(&[1, 0, 2, 9]);
        dtb[at..at + 4].copy_from_slice(&value.to_be_bytes());
        dtb
    };
    let table: &[(Vec<u8>, usize, &str)] = &[
        (vec![], 0, "a header of 40 bytes"),
        (
            vec![0xd0, 0x0d, 0xfe, 0xed],
            4,
            "a size of at least 40 bytes",
        ),
        (changed(0, 0), 0, "the magic number d0 0d fe ed"),
        (changed(4, 39), 4, "a size of at least 40 bytes"),
        (changed(4, 0x1000), 4, "a size within the memory it lies in"),
        (changed(4, 0xffff_fff0), 4, "a size of at most 64 MiB"),
        (changed(8, 0x1000), 8, "a structure block within the tree"),
        (changed(8, 57), 8, "a structure block aligned to 4 bytes"),
        (
            changed(36, 0xffff_fffc),
            8,
            "a structure block within the tree",
        ),
        (changed(12, 0x1000), 12, "a strings block within the tree"),
        (changed(32, 26), 98, "a NUL after the last property name"),
        (changed(72, 0x80), 72, "property names in ASCII"),
        (
            changed(16, 41),
            16,
            "a memory reservation block aligned to 8 bytes",
        ),
        (
            changed(16, 96),
            96,
            "a memory reservation block that ends in a zero entry",
        ),
        (
            changed(20, 16),
            20,
            "format version 17 or one compatible with it",
        ),
        (
            changed(24, 18),
            20,
            "format version 17 or one compatible with it",
        ),
        (flat(&[]), 56, "another token"),
        (flat(&[9]), 56, "one root node, then the end of the tree"),
        (flat(&[2]), 56, "one root node, then the end of the tree"),
        (flat(&[1, 0, 2]), 68, "another token"),
        (
            flat(&[1, 0, 2, 1, 0, 2, 9]),
            68,
            "one root node, then the end of the tree",
        ),
        (flat(&[1, 0, 9]), 64, "a node, a property or the node's end"),
        (
            flat(&[1, 0, 7, 2, 9]),
            64,
            "a node, a property or the node's end",
        ),
        (
            flat(&[1, 0x6161_6161]),
            60,
            "a node name in ASCII, ended by a NUL",
        ),
        (
            flat(&[1, 0x6180_0000, 2, 9]),
            60,
            "a node name in ASCII, ended by a NUL",
        ),
        (
            flat(&[3, 0, 0, 9]),
            56,
            "no property outside a node or after a child node",
        ),
        (
            flat(&[1, 0, 1, 0x6100_0000, 2, 3, 0, 0, 2, 9]),
            76,
            "no property outside a node or after a child node",
        ),
        (flat(&[1, 0, 3, 0]), 68, "a property's length and name"),
        (
            flat(&[1, 0, 3, 0, 27, 2, 9]),
            72,
            "a name within the strings block",
        ),
        (
            flat(&[1, 0, 3, 0xffff_ffff, 0, 2, 9]),
            68,
            "a value within the structure block",
        ),
        (
            flat(&[1, 0, 3, 9, 0, 2, 9]),
            68,
            "a value within the structure block",
        ),
        (
            flat(&[1, 0, 3, 3, 15, 0, 2, 9]),
            76,
            "one cell in #size-cells",
        ),
    ];
    for (dtb, offset, expected) in table {
        let error = check(dtb, &mut Vec::new()).unwrap_err();
        assert_eq!((error.offset, error.expected), (*offset, *expected));
    }
    let error = check(&[], &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "device tree damaged at offset 0x0: expected a header of 40 bytes"
    );
}

#[test]
fn nodes_may_nest_as_deep_as_is_said_and_no_deeper() {
    let nested = |depth| {
        let node = (1..depth).fold(DeviceTreeNode::new_unchecked("n"), |inner, _| {
            let mut outer = DeviceTreeNode::new_unchecked("n");
            outer.add_child(inner);
            outer
        });
        let mut tree = DeviceTree::new();
        tree.root = node;
        tree.to_dtb()
    };
    assert_eq!(read(&nested(MAX_DEPTH), true), Some((false, MAX_DEPTH)));
    assert_eq!(read(&nested(MAX_DEPTH + 1), true), None);
}

#[test]
fn what_firmware_deleted_is_as_if_it_had_never_been() {
    let whole = compile(&format!("{HOST}{DOM0LESS}"));
    let (mut copy, mut none) = (Vec::new(), Vec::new());
    let checked = check(&whole, &mut none).unwrap();
    let mut dtb = whole.clone();
    // Delete every other virtio node, and each property called "interrupts", in place.
    let word = |dtb: &[u8], at: usize| {
        u32::from_be_bytes([dtb[at], dtb[at + 1], dtb[at + 2], dtb[at + 3]]) as usize
    };
    let (structure, strings) = (word(&whole, 8), word(&whole, 12));
    let (mut at, mut deleting, mut deleted) = (structure, false, 0);
    loop {
        let token = word(&whole, at);
        let name = |at: usize| whole[at..].split(|&b| b == 0).next().unwrap();
        let size = match token {
            1 => 4 + ((name(at + 4).len() + 4) & !3),
            3 => 12 + ((word(&whole, at + 4) + 3) & !3),
            _ => 4,
        };
        let virtio = token == 1 && name(at + 4).starts_with(b"virtio_mmio@") && at % 8 == 0;
        deleting |= virtio;
        deleted += usize::from(virtio);
        if deleting || token == 3 && name(strings + word(&whole, at + 8)) == b"interrupts" {
            for nop in dtb[at..at + size].chunks_exact_mut(4) {
                nop.copy_from_slice(&[0, 0, 0, 4]);
            }
        }
        deleting &= token != 2;
        at += size;
        if token == 9 {
            break;
        }
    }
    assert!(deleted > 4);
    let short = check(&dtb, &mut copy).unwrap();
    let tree = Tree::of(&short);
    assert_eq!(tree.ids().count(), checked.nodes() - deleted);
    assert!(
        tree.ids()
            .all(|id| tree.property(id, "interrupts").is_none())
    );
    assert!(tree.find("/chosen/domU1/module@50600000").is_some());
    assert!(none.is_empty(), "a tree without NOPs is not copied");
}

#[test]
fn every_node_is_found_by_its_path() {
    let dtb = compile(HOST);
    let mut copy = Vec::new();
    let checked = check(&dtb, &mut copy).unwrap();
    let tree = Tree::of(&checked);
    for id in tree.ids() {
        assert_eq!(tree.find(&tree.path(id)), Some(id));
    }
    assert_eq!(tree.find("/cpus/cpu"), tree.find("/cpus/cpu@0"));
    assert_eq!(
        (tree.find("/cpu"), tree.find("cpus"), tree.find("")),
        (None, None, None)
    );
}
