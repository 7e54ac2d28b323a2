//! Device trees: what is damaged is refused, never a panic; boards are read; wrong VM descriptions are named.

mod fdt_dts;

use armillary::addr::Pa;
use armillary::fdt::{
    Board, Conduit, ConfigError, CpuStart, Interrupt, Range, Served, Taken, Tree, UartKind,
    VmConfig, check, vms,
};
use armillary::region::Answer;
use fdt_dts::{HOST, compile};

/// A board with as little as there can be.
const BOARD: &str = r#"/dts-v1/; / {
    #address-cells = <1>; #size-cells = <1>;
    memory@40000000 { reg = <0x40000000 0x40000000>; };
    cpus { #address-cells = <1>; #size-cells = <0>; cpu@0 { reg = <0>; }; };
    intc { compatible = "arm,gic-400"; interrupts = <1 9 4>;
        reg = <0x8000000 0x1000 0x8010000 0x2000 0x8030000 0x2000 0x8040000 0x2000>; };
    timer { compatible = "arm,armv7-timer"; interrupts = <1 13 4 1 14 4 1 11 4 1 10 4>; };
};"#;

fn range(start: u64, size: u64) -> Range {
    Range {
        start: Pa(start),
        size,
    }
}

/// What is found in a flattened tree.
fn read(dtb: &[u8]) -> Result<(Board, Vec<VmConfig>, Vec<ConfigError>), String> {
    let taken: [Taken; 1] = [("the hypervisor", range(0x7000_0000, 0x10_0000))];
    let mut copy = Vec::new();
    let checked = check(dtb, &mut copy).map_err(|e| e.to_string())?;
    let tree = Tree::of(&checked);
    let board = Board::read(&tree).map_err(|e| e.to_string())?;
    let (good, bad) = vms(&tree, &board.memory, &taken);
    Ok((board, good, bad))
}

/// The board of `source`, added to the smallest one.
fn board(source: &str) -> Result<Board, String> {
    read(&compile(&format!("{BOARD} / {{ {source} }};"))).map(|(board, ..)| board)
}

#[test]
fn qemus_virt_is_read() {
    let (board, good, bad) = read(&compile(HOST)).unwrap();
    assert_eq!(board.memory, [range(0x4000_0000, 0x4000_0000)]);
    assert_eq!(
        board
            .cpus
            .iter()
            .map(|cpu| (cpu.mpidr, cpu.start))
            .collect::<Vec<_>>(),
        [(0, CpuStart::Psci), (1, CpuStart::Psci)]
    );
    let psci = board.psci.unwrap();
    assert_eq!(
        (psci.conduit, psci.standard, psci.cpu_on),
        (Conduit::Smc, true, 0x8400_0003)
    );
    assert_eq!(board.gic.gicd, range(0x800_0000, 0x1_0000));
    assert_eq!(board.gic.gicv, range(0x804_0000, 0x1_0000));
    assert_eq!(board.gic.maintenance, 25);
    assert_eq!(
        (board.timer.physical, board.timer.virt, board.timer.hyp),
        (30, 27, 26)
    );
    let uart = board.uart.unwrap();
    assert_eq!(
        (uart.kind, uart.registers),
        (UartKind::Pl011, range(0x900_0000, 0x1000))
    );
    assert_eq!(
        uart.interrupt,
        Some(Interrupt {
            id: 33,
            edge: false
        })
    );
    assert_eq!(board.rtc, Some(range(0x901_0000, 0x1000)));
    assert_eq!(bad, []);
    let [guest] = good.as_slice() else {
        panic!("one VM, not {good:?}")
    };
    assert_eq!(
        (guest.name.as_str(), guest.memory, guest.cpus),
        ("guest", None, 1)
    );
    assert_eq!(guest.bootargs, "console=ttyAMA0");
    assert_eq!(
        guest.kernel.as_ref().unwrap().range,
        range(0x4600_0000, 100_000)
    );
    assert_eq!(
        guest.ramdisk.as_ref().unwrap().range,
        range(0x4800_0000, 100_000)
    );
}

#[test]
fn the_smallest_board_is_read() {
    let board = board("").unwrap();
    assert_eq!(board.memory, [range(0x4000_0000, 0x4000_0000)]);
    assert_eq!((board.psci, board.uart, board.rtc), (None, None, None));
    assert_eq!(board.cpus[0].start, CpuStart::Other);
}

#[test]
fn memory_beyond_4_gib_is_read_and_beyond_40_bits_is_not() {
    let board = board(
        "#address-cells = <2>; #size-cells = <2>;
        memory@40000000 { reg = <0 0x40000000 0 0x80000000>, <2 0 1 0>; };
        memory@ff00000000 { reg = <0xff 0 2 0 0x100 0 1 0>; };
        memory@1 { status = \"disabled\"; reg = <0 0 0 0x1000>; };
        intc { reg = <0 0x8000000 0 0x1000 0 0x8010000 0 0x2000 0 0x8030000 0 0x2000 0 0x8040000 0 0x2000>; };",
    );
    let gib = 1 << 30;
    assert_eq!(
        board.unwrap().memory,
        [
            range(gib, 2 * gib),
            range(8 * gib, 4 * gib),
            range(0xff << 32, 4 * gib)
        ]
    );
}

#[test]
fn reservations_and_an_initrd_are_kept_out() {
    let board = board(
        r#"reserved-memory { #address-cells = <1>; #size-cells = <1>; ranges;
            secure@50000000 { reg = <0x50000000 0x100000>; };
            pool { size = <0x1000>; };
        };
        chosen { linux,initrd-start = <0x60000000>; linux,initrd-end = <0 0x60001000>; };"#,
    );
    assert_eq!(
        board.unwrap().reserved,
        [range(0x5000_0000, 0x10_0000), range(0x6000_0000, 0x1000)]
    );
    let mut tree = fdt_dts::tree(BOARD);
    tree.memory_reservations
        .push(dtoolkit::memreserve::MemoryReservation::new(
            0x7f00_0000_0000,
            0x3000,
        ));
    assert_eq!(
        read(&tree.to_dtb()).unwrap().0.reserved,
        [range(0x7f00_0000_0000, 0x3000)]
    );
}

#[test]
fn cpus_that_are_off_or_elsewhere_are_told() {
    let board = board(
        r#"cpus { enable-method = "psci";
            cpu@1 { reg = <0x101>; enable-method = "spin-table"; };
            cpu@2 { reg = <2>; status = "disabled"; };
            cpu@3 { reg = <3>; status = "okay"; };
            cpu-map { };
        };
        psci { compatible = "arm,psci"; method = "hvc"; cpu_on = <0x95c10002>; cpu_off = <0x95c10001>; };"#,
    )
    .unwrap();
    let cpus: Vec<_> = board
        .cpus
        .iter()
        .map(|cpu| (cpu.mpidr, cpu.start))
        .collect();
    assert_eq!(
        cpus,
        [
            (0, CpuStart::Psci),
            (0x101, CpuStart::Other),
            (3, CpuStart::Psci)
        ]
    );
    let psci = board.psci.unwrap();
    assert_eq!((psci.conduit, psci.standard), (Conduit::Hvc, false));
    assert_eq!((psci.cpu_on, psci.cpu_off), (0x95c1_0002, 0x95c1_0001));
}

#[test]
fn a_uart_behind_buses_and_an_interrupt_map_is_found() {
    // The shape of the Versatile Express.
    let board = board(
        r#"aliases { serial0 = "/bus@8000000/motherboard/iofpga@3,0/uart@90000"; };
        chosen { stdout-path = "serial0:115200n8"; };
        intc { phandle = <1>; #interrupt-cells = <3>; #address-cells = <0>; };
        bus@8000000 { compatible = "simple-bus"; #address-cells = <2>; #size-cells = <1>;
            ranges = <0 0 0x8000000 0x4000000>, <3 0 0x1c000000 0x4000000>;
            #interrupt-cells = <1>; interrupt-map-mask = <0 0 63>;
            interrupt-map = <0 0 4 1 0 4 4>, <0 0 5 1 0 5 1>;
            motherboard { #address-cells = <2>; #size-cells = <1>; ranges;
                iofpga@3,0 { #address-cells = <1>; #size-cells = <1>; ranges = <0 3 0 0x200000>;
                    uart@a0000 { compatible = "arm,pl011"; reg = <0xa0000 0x1000>; interrupts = <4>; };
                    uart@90000 { compatible = "arm,pl011"; reg = <0x90000 0x1000>; interrupts = <5>; };
                };
            };
        };"#,
    );
    let uart = board.unwrap().uart.unwrap();
    assert_eq!(uart.registers, range(0x1c09_0000, 0x1000));
    assert_eq!(uart.interrupt, Some(Interrupt { id: 37, edge: true }));
}

#[test]
fn uarts_are_told_by_their_compatible() {
    let kind = |compatible: &str, more: &str| {
        let source =
            format!("serial@1000 {{ compatible = {compatible}; reg = <0x1000 0x100>; {more} }};");
        board(&source).unwrap().uart.map(|uart| uart.kind)
    };
    let ns16550 = |reg_shift, io_width| {
        Some(UartKind::Ns16550 {
            reg_shift,
            io_width,
        })
    };
    assert_eq!(
        kind(r#""arm,pl011", "arm,primecell""#, ""),
        Some(UartKind::Pl011)
    );
    assert_eq!(kind(r#""ns16550a""#, ""), ns16550(0, 1));
    assert_eq!(
        kind(
            r#""snps,dw-apb-uart""#,
            "reg-shift = <2>; reg-io-width = <4>;"
        ),
        ns16550(2, 4)
    );
    assert_eq!(
        kind(r#""nvidia,tegra124-uart", "nvidia,tegra20-uart""#, ""),
        ns16550(2, 4)
    );
    assert_eq!(kind(r#""st,stm32h7-uart""#, ""), Some(UartKind::Stm32));
    assert_eq!(
        kind(r#""fsl,imx7d-uart", "fsl,imx6q-uart""#, ""),
        Some(UartKind::Imx)
    );
    assert_eq!(
        kind(r#""samsung,exynos4210-uart""#, ""),
        Some(UartKind::Exynos)
    );
    assert_eq!(kind(r#""unknown,uart""#, ""), None);
    assert_eq!(kind(r#""arm,pl011""#, r#"status = "disabled";"#), None);
}

#[test]
fn the_hypervisors_own_words_win() {
    let words = |source: &str| board(&format!("chosen {{ {source} }};")).unwrap().words;
    assert_eq!(words(r#"bootargs = "loglevel=3";"#), "loglevel=3");
    assert_eq!(
        words(r#"armillary,bootargs = "loglevel=5"; bootargs = "quiet";"#),
        "loglevel=5"
    );
    assert_eq!(words(""), "");
}

#[test]
fn a_board_that_lacks_something_is_refused() {
    let without = |from: &str, to: &str| read(&compile(&BOARD.replace(from, to))).unwrap_err();
    let table = [
        (
            "#address-cells = <1>; #size-cells = <1>;",
            "#address-cells = <0>; #size-cells = <0>;",
            "/memory@40000000: reg is on a bus without addresses; give the bus #address-cells of at least 1",
        ),
        (
            "memory@",
            "x@",
            "/: memory is absent; give a memory node whose reg lies below 2^40",
        ),
        (
            "cpu@0 { reg = <0>; };",
            "",
            "/: cpus is absent; give a cpu node for each CPU, with the CPU's affinity in reg",
        ),
        (
            "reg = <0>",
            "reg = <0x1000000>",
            "/cpus/cpu@0: reg is absent or malformed; give the CPU's affinity, MPIDR[23:0], in one cell",
        ),
        (
            "arm,gic-400",
            "arm,cortex-a9-gic",
            "/: interrupt controller is absent; \
             give a GICv2 with virtualization extensions, such as arm,gic-400",
        ),
        (
            "0x8030000 0x2000 0x8040000 0x2000",
            "",
            "/intc: reg is of 2 ranges; give GICD, GICC, GICH and GICV",
        ),
        (
            "interrupts = <1 9 4>;",
            "interrupts = <0 9 4>;",
            "/intc: interrupts is not a private interrupt; give the maintenance interrupt, such as <1 9 4>",
        ),
        (
            "arm,armv7-timer",
            "t",
            "/: timer is absent; give a node compatible with arm,armv7-timer",
        ),
        (
            "1 10 4>",
            "0 10 4>",
            "/timer: interrupts is not four private interrupts; \
             give the private interrupts of the secure, non-secure, virtual and Hyp timers",
        ),
        (
            "0x40000000 0x40000000>",
            "0x40000000>",
            "/memory@40000000: reg is of another length than its cells; \
             give each range an address of 1 and a size of 1 cells",
        ),
    ];
    for (from, to, message) in table {
        assert_eq!(without(from, to), message);
    }
    let message = board(r#"psci { compatible = "arm,psci-1.0"; method = "svc"; };"#).unwrap_err();
    assert_eq!(
        message,
        "/psci: method is neither \"smc\" nor \"hvc\"; give the one that firmware answers to"
    );
    let message =
        board("bus { intc { compatible = \"arm,gic-400\"; reg = <0 0 9>; }; }; intc { compatible = \"\"; };").unwrap_err();
    assert_eq!(
        message,
        "/bus/intc: reg is 0x0..0x9, which no bus above it translates; give the buses above it fitting ranges"
    );
    let message = board(
        "bus { #address-cells = <0>; #size-cells = <0>; ranges = <1>; intc { compatible = \"arm,gic-400\"; reg = <1>; }; };
        intc { compatible = \"\"; };",
    );
    assert_eq!(
        message.unwrap_err(),
        "/bus/intc: reg is on a bus without addresses; give the bus #address-cells of at least 1"
    );
    let message =
        board("chosen { linux,initrd-start = <9>; linux,initrd-end = <8>; };").unwrap_err();
    assert_eq!(
        message,
        "/chosen: linux,initrd-end is 0x8, below its start; give the address after the initrd's last byte"
    );
}

#[test]
fn a_gic_that_hides_its_virtual_interfaces_has_them_where_the_core_has_them() {
    let board = board("intc { reg = <0xa0021000 0x1000 0xa0022000 0x2000>; };").unwrap();
    assert_eq!(board.gic.gich, range(0xa002_4000, 0x2000));
    assert_eq!(board.gic.gicv, range(0xa002_6000, 0x2000));
    let message = read(&compile(
        &BOARD
            .replace("0x8030000 0x2000 0x8040000 0x2000", "")
            .replace("interrupts = <1 9 4>;", ""),
    ));
    assert!(message.is_err(), "but not where they are far apart");
}

/// Two VMs as dom0less describes them.
const TWO: &str = r#" / { chosen { #address-cells = <1>; #size-cells = <1>;
    domU1 { compatible = "xen,domain"; #address-cells = <1>; #size-cells = <1>;
        memory = <0 0x80000>; cpus = <2>; vpl011;
        module@50000000 { compatible = "multiboot,kernel", "multiboot,module";
            reg = <0x50000000 0x545200>; bootargs = "console=ttyAMA0"; };
        module@50600000 { compatible = "multiboot,ramdisk", "multiboot,module"; reg = <0x50600000 0xd7c78>; };
    };
    domU2 { compatible = "xen,domain"; #address-cells = <2>; #size-cells = <2>;
        memory = <0 1024>; armillary,control; armillary,name = "boot";
        module@58000000 { compatible = "armillary,firmware", "multiboot,module"; reg = <0 0x58000000 0 0x1000>; };
        module@59000000 { compatible = "multiboot,device-tree", "multiboot,module"; reg = <0 0x59000000 0 0x1000>; };
    };
}; };"#;

fn two(from: &str, to: &str) -> (Vec<VmConfig>, Vec<ConfigError>) {
    assert!(TWO.contains(from), "{from} is not in the description");
    let source = format!("{BOARD}{}", TWO.replacen(from, to, 1));
    read(&compile(&source))
        .map(|(_, good, bad)| (good, bad))
        .unwrap_or_default()
}

#[test]
fn dom0less_vms_are_read() {
    let (good, bad) = two("", "");
    assert_eq!(bad, []);
    let [one, two] = good.as_slice() else {
        panic!("two VMs, not {good:?}")
    };
    assert_eq!(
        (one.name.as_str(), one.memory, one.cpus),
        ("domU1", Some(512 << 20), 2)
    );
    assert_eq!(
        (one.vpl011, one.control, one.bootargs.as_str()),
        (true, false, "console=ttyAMA0")
    );
    assert_eq!(
        one.kernel.as_ref().unwrap().range,
        range(0x5000_0000, 0x54_5200)
    );
    assert_eq!(
        one.ramdisk.as_ref().unwrap().range,
        range(0x5060_0000, 0xd_7c78)
    );
    assert_eq!(
        (two.name.as_str(), two.memory, two.cpus),
        ("boot", Some(1 << 20), 1)
    );
    assert_eq!((two.vpl011, two.control), (false, true));
    assert_eq!(
        two.firmware.as_ref().unwrap().range,
        range(0x5800_0000, 0x1000)
    );
    assert_eq!(
        two.device_tree.as_ref().unwrap().range,
        range(0x5900_0000, 0x1000)
    );
}

#[test]
fn vms_may_share_a_module_that_is_the_same_to_both() {
    let (good, bad) = two(
        "compatible = \"armillary,firmware\", \"multiboot,module\"; reg = <0 0x58000000 0 0x1000>;",
        "compatible = \"multiboot,kernel\", \"multiboot,module\"; reg = <0 0x50000000 0 0x545200>;",
    );
    assert_eq!(bad, []);
    assert!(
        good.iter()
            .all(|vm| vm.kernel.as_ref().is_some_and(|kernel| kernel.shared))
    );
    assert!(!good[0].ramdisk.as_ref().unwrap().shared);
}

#[test]
fn each_wrong_description_gets_its_own_message_and_the_other_vm_starts() {
    let memory = "give the VM's RAM in KiB, a multiple of 4, as two cells";
    let modules = "give multiboot,module with multiboot,kernel, multiboot,ramdisk, multiboot,device-tree or armillary,firmware, or armillary,region";
    let kernel = "compatible = \"multiboot,kernel\", \"multiboot,module\"";
    let one_each = "describe each VM in a node of its own, compatible with xen,domain, and give it one of each kind";
    let table = [
        ("memory = <0 0x80000>;", "", format!("/chosen/domU1: memory is absent; {memory}")),
        ("<0 0x80000>", "<0 0>", format!("/chosen/domU1: memory is zero; {memory}")),
        ("<0 0x80000>", "<0 0x80001>", format!("/chosen/domU1: memory is 524289 KiB, which is not a whole number of pages; {memory}")),
        ("<0 0x80000>", "<0xffffffff 0>", format!("/chosen/domU1: memory is 18446744069414584320 KiB, which is more than there can be; {memory}")),
        ("<0 0x80000>", "<1 2 3>", format!("/chosen/domU1: memory is not a number; {memory}")),
        ("cpus = <2>", "cpus = <0>", "/chosen/domU1: cpus is 0; give 1 to 8 vCPUs in one cell".into()),
        ("cpus = <2>", "cpus = <9>", "/chosen/domU1: cpus is 9; give 1 to 8 vCPUs in one cell".into()),
        ("cpus = <2>", "cpus", "/chosen/domU1: cpus is not one cell; give 1 to 8 vCPUs in one cell".into()),
        ("vpl011;", "armillary,priority = <256>;", "/chosen/domU1: armillary,priority is 256; give 0 to 255 in one cell".into()),
        ("vpl011;", "armillary,budget-us = <3000>; armillary,period-us = <1000>;", "/chosen/domU1: armillary,budget-us is 3000, more than the VM's vCPUs can use in a period of 1000 us; give less, or a longer armillary,period-us".into()),
        ("vpl011;", "armillary,cpus = <0 9>;", "/chosen/domU1: armillary,cpus is 9, which no CPU has; give the numbers of CPUs, 0 to 7, a cell each".into()),
        ("vpl011;", "armillary,cpus;", "/chosen/domU1: armillary,cpus is empty; give the numbers of CPUs, 0 to 7, a cell each".into()),
        ("vpl011;", "armillary,on-crash = \"again\";", "/chosen/domU1: armillary,on-crash is again; give \"stop\", \"restart\" or \"dump\"".into()),
        ("vpl011;", "armillary,colour = <1>;", "/chosen/domU1: a property is armillary,colour, which is unknown; use one of armillary,control, armillary,device-addr, armillary,hold, armillary,name, armillary,unassigned, armillary,priority, armillary,slice-us, armillary,budget-us, armillary,period-us, armillary,cpus, armillary,on-crash".into()),
        ("vpl011;", "armillary,name;", "/chosen/domU1: armillary,name is not a name; give 1 to 31 visible ASCII characters".into()),
        ("vpl011;", "armillary,name = \"01234567890123456789012345678901\";", "/chosen/domU1: armillary,name is not a name; give 1 to 31 visible ASCII characters".into()),
        ("vpl011;", "armillary,name = \"a b\";", "/chosen/domU1: armillary,name is not a name; give 1 to 31 visible ASCII characters".into()),
        ("vpl011;", "armillary,name = \"a\x1b[2J\";", "/chosen/domU1: armillary,name is not a name; give 1 to 31 visible ASCII characters".into()),
        ("armillary,name = \"boot\"", "armillary,name = \"domU1\"", "/chosen/domU2: the name is domU1, the name of /chosen/domU1 too; give each VM a name of its own".into()),
        (kernel, "compatible = \"multiboot,xsm\", \"multiboot,module\"", format!("/chosen/domU1/module@50000000: compatible is multiboot,xsm, multiboot,module, which names no kind of module; {modules}")),
        (kernel, "", format!("/chosen/domU1/module@50000000: compatible is absent; {modules}")),
        (kernel, "compatible = \"multiboot,device-tree\", \"multiboot,module\"", "/chosen/domU1: the kernel is absent; give one module compatible with multiboot,kernel or armillary,firmware".into()),
        ("\"multiboot,ramdisk\"", "\"multiboot,kernel\"", format!("/chosen/domU1/module@50600000: the module is the VM's second kernel, after /chosen/domU1/module@50000000; {one_each}")),
        ("\"multiboot,ramdisk\"", "\"armillary,firmware\"", "/chosen/domU1/module@50000000: the kernel is there beside firmware, which would not run it; give one module compatible with multiboot,kernel or armillary,firmware".into()),
        ("reg = <0x50600000 0xd7c78>;", "", "/chosen/domU1/module@50600000: reg is absent; give each range an address of 1 and a size of 1 cells".into()),
        ("0x50600000 0xd7c78", "0x50600000", "/chosen/domU1/module@50600000: reg is of another length than its cells; give each range an address of 1 and a size of 1 cells".into()),
        ("0x50600000 0xd7c78", "1 2 3 4", "/chosen/domU1/module@50600000: reg is of 2 ranges; give one address and one size".into()),
        ("0x50600000 0xd7c78", "0x50600000 0", "/chosen/domU1/module@50600000: reg is 0x50600000..0x50600000, which is empty; give the module's size in bytes".into()),
        ("0x50600000 0xd7c78", "0x50545000 0xd7c78", "/chosen/domU1/module@50600000: reg is 0x50545000..0x5061cc78, which overlaps /chosen/domU1/module@50000000 at 0x50000000..0x50545200; load one of them elsewhere".into()),
        ("0 0x58000000 0 0x1000", "0 0x50600000 0 0x1000", "/chosen/domU2/module@58000000: reg is 0x50600000..0x50601000, which overlaps /chosen/domU1/module@50600000 at 0x50600000..0x506d7c78; load one of them elsewhere".into()),
        ("0x50600000 0xd7c78", "0x700ff000 0xd7c78", "/chosen/domU1/module@50600000: reg is 0x700ff000..0x701d6c78, which overlaps the hypervisor at 0x70000000..0x70100000; load the module elsewhere".into()),
        ("0x50600000 0xd7c78", "0x7fffff00 0xd7c78", "/chosen/domU1/module@50600000: reg is 0x7fffff00..0x800d7b78, which is not all RAM; load the module into RAM, and give its address and size here".into()),
        ("0x50600000 0xd7c78", "0xffffff00 0xffffffff", "/chosen/domU1/module@50600000: reg is 0xffffff00..0x1fffffeff, which is not all RAM; load the module into RAM, and give its address and size here".into()),
    ];
    for (from, to, message) in table {
        let (good, bad) = two(from, to);
        assert_eq!(
            bad.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [message]
        );
        assert_eq!(good.len(), 1, "the other VM starts");
    }
}

#[test]
fn the_vm_under_chosen_can_say_more() {
    let vm = |more: &str| {
        let module = r#"module@50000000 { compatible = "multiboot,module", "multiboot,kernel"; reg = <0 0x50000000 0 0x1000>; };"#;
        let (_, good, bad) = read(&compile(&format!(
            "{BOARD} / {{ chosen {{ {more} {module} }}; }};"
        )))
        .unwrap();
        bad.first().map(ToString::to_string).map_or(Ok(good), Err)
    };
    let good =
        vm("armillary,vcpus = <4>; armillary,memory = <0x10000>; armillary,name = \"a\";").unwrap();
    assert_eq!(
        (good[0].name.as_str(), good[0].cpus, good[0].memory),
        ("a", 4, Some(64 << 20))
    );
    assert_eq!(vm("armillary,bootargs = \"x\";").unwrap()[0].bootargs, "");
    assert_eq!(
        vm("armillary,ram = <1>;").unwrap_err(),
        "/chosen: a property is armillary,ram, which is unknown; use one of armillary,control, armillary,device-addr, armillary,hold, armillary,name, armillary,unassigned, \
         armillary,priority, armillary,slice-us, armillary,budget-us, armillary,period-us, armillary,cpus, armillary,on-crash, armillary,bootargs, armillary,memory, armillary,vcpus"
    );
}

#[test]
fn what_only_the_loader_finds_is_said_in_the_same_way() {
    let (good, _) = two("", "");
    assert_eq!(
        good[0].no_memory(512 << 20, 3 << 20).to_string(),
        "/chosen/domU1: memory is 524288 KiB, of which the board has only 3072 KiB left; give this VM or one before it less"
    );
    let kernel = good[0].kernel.as_ref().unwrap();
    let error =
        armillary::image::kernel(&b"#!/bin/sh".as_slice(), armillary::image::RAM).unwrap_err();
    assert_eq!(
        VmConfig::bad_module("the kernel", kernel, &error).to_string(),
        "/chosen/domU1/module@50000000: the kernel is a script; give a 32-bit little-endian Arm kernel"
    );
}

#[test]
fn regions_with_the_same_interrupt_are_refused() {
    let both = format!(
        "{UART} {}",
        UART.replace("vpl011; ", "").replace("9100000", "9200000")
    );
    let (good, bad) = two("vpl011;", &both);
    assert_eq!(good.len(), 1);
    assert_eq!(
        bad.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "/chosen/domU1/uart@9200000: interrupts is that of /chosen/domU1/uart@9100000 too; \
          give each device an interrupt of its own"
        ]
    );
}

/// A UART that the other VM emulates.
const UART: &str = r#"vpl011; uart@9100000 {
    compatible = "armillary,region", "arm,pl011", "arm,primecell"; reg = <0x9100000 0x1000>; interrupts = <0 8 4>;
    armillary,backend = "boot"; armillary,timeout-us = <500>; armillary,posted; clock-names = "uartclk"; };"#;

#[test]
fn a_region_is_read_and_its_backend_gets_a_ring() {
    let (good, bad) = two("vpl011;", UART);
    assert_eq!(bad, []);
    let region = &good[0].regions[0];
    assert_eq!(region.ranges, [range(0x0910_0000, 0x1000)]);
    assert_eq!([region.read, region.write], [Answer::Forward(0); 2]);
    assert_eq!(
        (
            region.timeout_us,
            region.posted,
            region.interrupt,
            region.ring
        ),
        (500, true, Some(40), Some(0))
    );
    let served = Served {
        region: "domU1/uart@9100000".into(),
        size: 0x1000,
    };
    assert_eq!(good[1].serves, [served]);
    // The guest's tree has it without what is not the guest's.
    let kept: Vec<&str> = region
        .properties
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(kept, ["compatible", "reg", "interrupts", "clock-names"]);
    assert_eq!(region.properties[0].1, b"arm,pl011\0arm,primecell\0");
    assert_eq!(
        region.properties[1].1[4..],
        [9, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]
    );
}

#[test]
fn a_region_answers_as_its_properties_say() {
    let answers = |properties: &str| {
        let node = format!(
            "vpl011; r {{ compatible = \"armillary,region\"; reg = <0x10 4 0x20 4>; {properties} }};"
        );
        let (good, bad) = two("vpl011;", &node);
        assert_eq!(bad, [], "{properties}");
        let region = &good[0].regions[0];
        assert!(region.properties.is_empty() && region.ranges.len() == 2);
        [region.read, region.write]
    };
    let image = "armillary,image = <0 0x5a000000 0 0x100>;";
    assert_eq!(answers(""), [Answer::Zero; 2]);
    assert_eq!(answers(image), [Answer::Memory, Answer::Zero]);
    assert_eq!(
        answers(&format!("{image} armillary,write = \"abort\";")),
        [Answer::Memory, Answer::Abort]
    );
    assert_eq!(
        answers("armillary,read = \"abort\";"),
        [Answer::Abort, Answer::Zero]
    );
}

#[test]
fn a_region_that_is_described_wrongly_is_refused() {
    let one_range = "0x9100000 0x1000";
    for (from, to, part) in [
        (
            "timeout-us = <500>",
            "timeout-us = <0>",
            "uart@9100000: a property is armillary,timeout-us, unknown or of a value",
        ),
        (
            "armillary,posted",
            "armillary,post",
            "uart@9100000: a property is armillary,post, unknown or of a value",
        ),
        (
            "<0 8 4>",
            "<1 8 4>",
            "uart@9100000: a property is interrupts, unknown",
        ),
        (
            "<0 8 4>",
            "<0 1 4>",
            "uart@9100000: a property is interrupts, unknown",
        ),
        (
            "<0 8 4>",
            "<0 256 4>",
            "uart@9100000: a property is interrupts, unknown",
        ),
        (
            "armillary,posted",
            "armillary,write = \"memory\"",
            "uart@9100000: a property is armillary,write, unknown",
        ),
        (
            "armillary,backend = \"boot\"",
            "armillary,read = \"forward\"",
            "uart@9100000: armillary,backend is not what armillary,read",
        ),
        (
            one_range,
            "0x9100000 0x1000 0x9200000 0x1000",
            "uart@9100000: reg is not one range",
        ),
        (
            one_range,
            "0x9100000 0",
            "uart@9100000: reg is empty or beyond 4 GiB",
        ),
        (
            one_range,
            "0xfffff000 0x1001",
            "uart@9100000: reg is empty or beyond 4 GiB",
        ),
        (
            "armillary,posted",
            "armillary,read = \"memory\"",
            "uart@9100000: armillary,image is not what armillary,read says",
        ),
        (
            "armillary,posted",
            "armillary,image = <0 0 0 0x100>",
            "uart@9100000: reg is 0x0..0x100, which is not all RAM",
        ),
    ] {
        let (good, bad) = two("vpl011;", &UART.replace(from, to));
        let [bad] = bad.as_slice() else {
            panic!("{to} is not refused once: {bad:?}");
        };
        assert!(bad.to_string().contains(part), "{bad}");
        assert_eq!(good.len(), 1, "the other VM starts");
    }
}

#[test]
fn places_and_policies_are_read_or_refused() {
    let (good, bad) = two(
        "vpl011;",
        "armillary,unassigned = \"zero\"; armillary,hold; armillary,device-addr = <1 0 0xd000000 0x10000 0 0xe000000>;",
    );
    assert_eq!(bad, []);
    assert!(good[0].unassigned_zero && good[0].hold && !good[1].hold);
    assert_eq!(
        (good[0].places.gicc, good[0].places.uart),
        (0x0d00_0000, 0x0e00_0000)
    );
    for (property, part) in [
        (
            "armillary,unassigned = \"maybe\"",
            "armillary,unassigned is maybe; give \"abort\" or \"zero\"",
        ),
        (
            "armillary,device-addr = <0 0>",
            "armillary,device-addr is 0x0 0x0, which is cut short",
        ),
        (
            "armillary,device-addr = <0x90000 0 0>",
            "0x90000 0x0, which is of a device that there is not",
        ),
        (
            "armillary,device-addr = <2 0 0>",
            "0x2 0x0, which is of an address that the device has not",
        ),
        (
            "armillary,device-addr = <0 1 0>",
            "0x0 0x100000000, which is outside of the guest's addresses",
        ),
        (
            "armillary,device-addr = <0 0 0x10>",
            "0x0 0x10, which is not where a page begins",
        ),
        (
            "armillary,device-addr = <0 0 0 0 0 0>",
            "0x0 0x0, which is given twice",
        ),
    ] {
        let (_, bad) = two("vpl011;", &format!("{property};"));
        assert!(
            bad.len() == 1 && bad[0].to_string().contains(part),
            "{property}: {bad:?}"
        );
    }
}
