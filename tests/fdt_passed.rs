//! Devices of the board for VMs: what the two trees say is read, what can't be had is refused by node and property.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fdt_dts;

use armillary::addr::Pa;
use armillary::fdt::{Board, Guest, Interrupt, Range, Spare, Tree, Wire, check, passed};
use fdt_dts::compile;

/// A board with devices to give away, and some that it had better keep.
const BOARD: &str = r#"/dts-v1/; / {
    #address-cells = <1>; #size-cells = <1>;
    memory@40000000 { reg = <0x40000000 0x40000000>; };
    cpus { #address-cells = <1>; #size-cells = <0>; cpu@0 { reg = <0>; }; };
    intc { compatible = "arm,gic-400"; interrupts = <1 9 4>;
        reg = <0x8000000 0x1000 0x8010000 0x2000 0x8030000 0x2000 0x8040000 0x2000>; };
    timer { compatible = "arm,armv7-timer"; interrupts = <1 13 4 1 14 4 1 11 4 1 10 4>; };
    clock@9010000 { compatible = "arm,pl031"; reg = <0x9010000 0x1000>; interrupts = <0 2 4>; xen,passthrough; };
    uart@9000000 { compatible = "arm,pl011"; reg = <0x9000000 0x1000>; interrupts = <0 1 4>; };
    soc { #address-cells = <1>; #size-cells = <1>; ranges = <0 0xa000000 0x100000>; compatible = "simple-bus";
        disk@0 { reg = <0 0x200>; interrupts = <0 16 1 0 17 4>; xen,passthrough; };
        disk@200 { reg = <0x200 0x200>; interrupts = <0 18 1>; xen,passthrough; };
        net@3000 { reg = <0x3000 0x200>; xen,passthrough; };
        phy@3800 { reg = <0x3800 0x100>; };
        watch@4000 { reg = <0x4000 0x1000>; interrupts = <0 1 4>; xen,passthrough; };
        beep@5000 { reg = <0x5000 0x1000>; interrupts = <0 18 4>; xen,passthrough; };
    };
};"#;

/// What VM `b` is given of it.
const PARTIAL: &str = r#"/dts-v1/; / {
    #address-cells = <2>; #size-cells = <2>;
    aliases { rtc0 = "/passthrough/rtc@9010000"; };
    passthrough {
        compatible = "simple-bus"; ranges; #address-cells = <2>; #size-cells = <1>;
        clock { compatible = "fixed-clock"; #clock-cells = <0>; phandle = <1>; };
        rtc@9010000 { compatible = "arm,pl031"; clocks = <1>; interrupt-parent = <0xfde8>; interrupts = <0 40 4>;
            xen,path = "/clock@9010000"; xen,reg = <0 0x9010000 0x1000 0 0x9020000>; xen,force-assign-without-iommu; };
    };
};"#;

fn with_tree<R>(source: &str, what: impl FnOnce(&Tree<'_, '_>) -> R) -> R {
    let dtb = compile(source);
    let mut copy = Vec::new();
    let checked = check(&dtb, &mut copy).unwrap();
    what(&Tree::of(&checked))
}

fn board(source: &str) -> Board {
    with_tree(source, |tree| Board::read(tree).unwrap())
}

fn given(
    partial: &str,
    spares: &[Spare],
    direct: bool,
) -> Result<Vec<armillary::fdt::Passed>, String> {
    with_tree(partial, |tree| {
        passed(tree, "/chosen/b/dtb", spares, direct)
    })
    .map_err(|why| why.to_string())
}

fn irq(id: u32, edge: bool) -> Interrupt {
    Interrupt { id, edge }
}

#[test]
fn a_board_says_what_it_has_to_give_and_uses_none_of_it() {
    let board = board(BOARD);
    assert_eq!(board.rtc, None);
    assert_eq!(
        board.uart.map(|uart| uart.registers.start),
        Some(Pa(0x900_0000))
    );
    let nodes: Vec<_> = board
        .spares
        .iter()
        .map(|spare| (spare.node.as_str(), spare.conflict.as_deref()))
        .collect();
    assert_eq!(
        nodes,
        [
            ("/clock@9010000", None),
            ("/soc/disk@0", None),
            ("/soc/disk@200", None),
            (
                "/soc/net@3000",
                Some("shares a page with /soc/phy@3800, which is for no VM")
            ),
            ("/soc/watch@4000", Some("has the console's interrupt")),
            ("/soc/beep@5000", None),
        ]
    );
    assert_eq!(board.spares[1].registers[0].start, Pa(0xa00_0000));
    assert_eq!(board.spares[1].interrupts, [irq(48, true), irq(49, false)]);
    let marked = |node: &str| {
        let source = BOARD.replace(node, &format!("{node} xen,passthrough;"));
        self::board(&source)
            .spares
            .into_iter()
            .find_map(|spare| spare.conflict)
    };
    assert_eq!(
        marked("intc {").as_deref(),
        Some("is the interrupt controller")
    );
    let console = "chosen { stdout-path = \"/uart@9000000\"; }; uart@9000000 {";
    let source = BOARD.replace("uart@9000000 {", console).replace(
        "<0x9000000 0x1000>;",
        "<0x9000000 0x1000>; xen,passthrough;",
    );
    let spares = self::board(&source).spares;
    assert_eq!(spares[1].conflict.as_deref(), Some("is the console"));
}

#[test]
fn a_partial_tree_says_where_a_device_and_its_interrupts_go() {
    let board = board(BOARD);
    let [device] = &given(PARTIAL, &board.spares, false).unwrap()[..] else {
        panic!("not one device")
    };
    assert_eq!(device.node, "/clock@9010000");
    let range = Range {
        start: Pa(0x901_0000),
        size: 0x1000,
    };
    assert_eq!(device.pages, [(range, 0x902_0000)]);
    let wire = Wire {
        physical: irq(34, false),
        virt: 72,
    };
    assert_eq!(device.wires, [wire]);
}

#[test]
fn the_guest_is_told_without_what_is_for_the_hypervisor() {
    let guest = Guest {
        ram: 0x6000_0000,
        memory: 16 << 20,
        cpus: 3,
        cpu: "arm,cortex-a7",
        ..Guest::default()
    };
    let dtb = with_tree(PARTIAL, |tree| guest.tree_with(Some(tree)));
    let mut copy = Vec::new();
    let checked = check(&dtb, &mut copy).unwrap();
    let tree = Tree::of(&checked);
    let rtc = tree.find("/passthrough/rtc").unwrap();
    assert!(
        tree.properties(rtc)
            .all(|property| !property.name.starts_with("xen,"))
    );
    let intc = tree.property(tree.find("/intc").unwrap(), "phandle");
    assert_eq!(tree.property(rtc, "interrupt-parent"), intc);
    assert_eq!(
        tree.reg(rtc).unwrap(),
        [Range {
            start: Pa(0x902_0000),
            size: 0x1000
        }]
    );
    assert!(tree.find("/passthrough/clock").is_some());
    assert!(tree.find("/aliases").is_some());
    let memory = Range {
        start: Pa(0x6000_0000),
        size: 16 << 20,
    };
    assert_eq!(
        tree.reg(tree.find("/memory@60000000").unwrap()).unwrap(),
        [memory]
    );
}

#[test]
fn what_shares_a_page_or_an_interrupt_goes_to_one_vm() {
    let mut spares = board(BOARD).spares;
    let disk = |name: &str| {
        format!(
            "x{name} {{ xen,path = \"/soc/{name}\"; xen,reg = <0 0xa000000 0x1000 0 0xa000000>; }};"
        )
    };
    let partial =
        |nodes: &[String]| PARTIAL.replace("clock {", &format!("{} clock {{", nodes.concat()));
    let beep = "beep { xen,path = \"/soc/beep@5000\"; };".to_owned();
    let one = given(&partial(&[disk("disk@0")]), &spares, true);
    assert_eq!(
        one.unwrap_err(),
        "/chosen/b/dtb /passthrough/xdisk@0: xen,path is /soc/disk@0, which shares a page or an interrupt with \
         /soc/disk@200; give both to this VM"
    );
    let two = given(&partial(&[disk("disk@0"), disk("disk@200")]), &spares, true);
    assert!(
        two.unwrap_err()
            .contains("/soc/disk@200, which shares a page or an interrupt with /soc/beep@5000")
    );
    let all = given(
        &partial(&[disk("disk@0"), disk("disk@200"), beep]),
        &spares,
        true,
    );
    assert_eq!(all.unwrap().len(), 4);
    spares[0].owner = Some("/chosen/a has".into());
    assert_eq!(
        given(PARTIAL, &spares, true).unwrap_err(),
        "/chosen/b/dtb /passthrough/rtc@9010000: xen,path is /clock@9010000, which /chosen/a has; give the VM another device"
    );
}

#[test]
fn what_cannot_be_had_is_refused() {
    let path = "xen,path = \"/clock@9010000\"";
    let reg = "<0 0x9010000 0x1000 0 0x9020000>";
    let pages = "give whole pages of the device's: address, size, the guest's address";
    let shared = "give shared interrupts below 256, no more than the board's node has";
    let known = "give the path of a node of the board's, and that node xen,passthrough";
    let other = "give the VM another device";
    for (from, to, why) in [
        (path, "", "xen,path is absent; give the path of the board's node".to_owned()),
        (path, "xen,path = \"/uart@9000000\"", format!("xen,path is /uart@9000000, which is for no VM; {known}")),
        (path, "xen,path = \"/soc/watch@4000\"", format!("xen,path is /soc/watch@4000, which has the console's interrupt; {other}")),
        ("xen,force-assign-without-iommu;", "", "xen,force-assign-without-iommu is absent; give the VM's node direct-map, or this property to a device that reaches no memory by itself".into()),
        (reg, "<0 0x9010000 0x1000 0 0x9020800>", format!("xen,reg is 0x9010000..0x9011000 for 0x9020800; {pages}")),
        (reg, "<0 0x9010000 0x800 0 0x9020000>", format!("xen,reg is 0x9010000..0x9010800 for 0x9020000; {pages}")),
        (reg, "<0 0x9010000 0x2000 0 0x9020000>", format!("xen,reg is 0x9010000..0x9012000 for 0x9020000; {pages}")),
        (reg, "<0 0x9010000 0 0 0x9020000>", format!("xen,reg is 0x9010000..0x9010000 for 0x9020000; {pages}")),
        (reg, "<0 0x9010000 0x1000 1 0>", format!("xen,reg is 0x9010000..0x9011000 for 0x100000000; {pages}")),
        (reg, "<0 0x40000000 0x1000 0 0x9020000>", format!("xen,reg is 0x40000000..0x40001000 for 0x9020000; {pages}")),
        (reg, "<0 0x9010000 0x1000>", format!("xen,reg is 0x9010000..0x9011000 for 0x1; {pages}")),
        ("<0 40 4>", "<0 40 4 0 41 4>", format!("interrupts is wrong at 1; {shared}")),
        ("<0 40 4>", "<0 40>", format!("interrupts is wrong at 0; {shared}")),
        ("<0 40 4>", "<1 4 4>", format!("interrupts is wrong at 0; {shared}")),
        ("<0 40 4>", "<0 256 4>", format!("interrupts is wrong at 0; {shared}")),
    ] {
        let partial = PARTIAL.replacen(from, to, 1);
        let found = given(&partial, &board(BOARD).spares, false).unwrap_err();
        assert_eq!(found, format!("/chosen/b/dtb /passthrough/rtc@9010000: {why}"), "{to}");
    }
    let twice = PARTIAL.replace(
        "clock {",
        "again { xen,path = \"/clock@9010000\"; }; clock {",
    );
    let found = given(&twice, &board(BOARD).spares, true).unwrap_err();
    assert!(
        found.contains("/clock@9010000 once more; name it once"),
        "{found}"
    );
}
