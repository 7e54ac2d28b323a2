//! What the device tree says of the machine, copied out at the start: a test may overwrite the tree.

use crate::cpu::MAX_CPUS;
use crate::text::Text;
use core::cell::UnsafeCell;
use fdt::Fdt;
use fdt::node::FdtNode;

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// First address.
    pub base: u32,
    /// Bytes.
    pub size: u32,
}

/// A ring that tells of accesses to a device that this VM emulates for another.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Its number.
    pub number: u32,
    /// Its page.
    pub page: u32,
    /// Its interrupt's number.
    pub irq: u32,
    /// Whether the device is a UART by the name of its node.
    pub uart: bool,
}

/// How PSCI is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By HVC #0.
    Hvc,
    /// By SMC #0.
    Smc,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    /// Where the tree lay.
    pub dtb: Range,
    /// RAM below 4 GiB, the first bank; zero-sized if there is none.
    pub memory: Range,
    /// PL011, or the part of it that an SBSA UART has.
    pub uart: u32,
    /// The UART's interrupt number, if it has one.
    pub uart_irq: Option<u32>,
    /// PL031, if there.
    pub rtc: Option<u32>,
    /// PL031's interrupt number, if it has one.
    pub rtc_irq: Option<u32>,
    /// GIC distributor.
    pub gicd: u32,
    /// GIC CPU interface.
    pub gicc: u32,
    /// Interrupt number of the physical (non-secure) timer.
    pub ptimer_irq: u32,
    /// Interrupt number of the virtual timer.
    pub vtimer_irq: u32,
    /// How PSCI is called, if there.
    pub psci: Option<Conduit>,
    /// The device that another VM emulates for tests, if there.
    pub forwarded: Option<u32>,
    /// Its interrupt number, if it has one.
    pub forwarded_irq: Option<u32>,
    /// The rings of the devices that this VM emulates for others.
    pub rings: [Option<Ring>; 4],
    /// MPIDR affinity of each CPU.
    pub cpus: [u32; MAX_CPUS],
    /// How many CPUs there are; at most eight are counted.
    pub cpu_count: usize,
    /// The command line.
    pub bootargs: Text<256>,
    /// The tree's `model`.
    pub model: Text<64>,
}

/// What the registers held at the first instruction.
#[derive(Debug)]
#[repr(C)]
pub struct Reset {
    /// r0 to r12.
    pub r: [u32; 13],
    /// lr.
    pub lr: u32,
    /// CPSR.
    pub cpsr: u32,
    /// SCTLR.
    pub sctlr: u32,
    /// CPACR.
    pub cpacr: u32,
    /// TTBCR.
    pub ttbcr: u32,
    /// VBAR.
    pub vbar: u32,
    /// CONTEXTIDR.
    pub contextidr: u32,
    /// TPIDRURW, TPIDRURO, TPIDRPRW.
    pub tpidr: [u32; 3],
    /// CNTKCTL.
    pub cntkctl: u32,
    /// CNTP_CTL.
    pub cntp_ctl: u32,
    /// CNTV_CTL.
    pub cntv_ctl: u32,
    /// CNTPCT, bits 31:0.
    pub cntpct: u32,
}

unsafe extern "C" {
    static reset_state: Reset;
    static __image_start: u8;
    static __memory_end: u8;
}

/// What the first CPU's registers held at its first instruction.
#[must_use]
pub fn reset() -> &'static Reset {
    // SAFETY: boot.s wrote it once, before Rust ran; the layout is `Reset`.
    unsafe { &reset_state }
}

/// The guest's own image with its stacks.
#[must_use]
pub fn image() -> Range {
    let (start, end) = (
        &raw const __image_start as u32,
        &raw const __memory_end as u32,
    );
    Range {
        base: start,
        size: end - start,
    }
}

struct Cell(UnsafeCell<Option<Machine>>);
// SAFETY: written once by the first CPU before any other runs, only read after that.
unsafe impl Sync for Cell {}
static MACHINE: Cell = Cell(UnsafeCell::new(None));

/// The machine; stops here when no tree was found.
pub fn machine() -> &'static Machine {
    // SAFETY: see `Cell`.
    match unsafe { &*MACHINE.0.get() } {
        Some(machine) => machine,
        None => loop {
            crate::cpu::wfe();
        },
    }
}

/// Reads the tree at `address`, or where QEMU puts it for an ELF image when `address` is 0.
pub(crate) fn discover(address: u32) {
    const START_OF_RAM: u32 = 0x4000_0000;
    let address = if address == 0 { START_OF_RAM } else { address };
    // SAFETY: the boot protocols put a tree there; from_ptr checks its magic number.
    let Ok(tree) = (unsafe { Fdt::from_ptr(address as *const u8) }) else {
        return;
    };
    // SAFETY: only the first CPU runs, and nobody holds a reference yet.
    unsafe { *MACHINE.0.get() = read(&tree, address) };
}

fn read(tree: &Fdt<'_>, address: u32) -> Option<Machine> {
    let base = |node: FdtNode<'_, '_>, n| node.reg()?.nth(n).map(|r| r.starting_address as u32);
    let find = |names: &[&str]| tree.find_compatible(names);
    let uart = find(&["arm,pl011", "arm,sbsa-uart"])?;
    let gic = find(&["arm,cortex-a15-gic", "arm,gic-400", "arm,cortex-a7-gic"])?;
    let timer = find(&["arm,armv7-timer"]);
    let psci = find(&["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]);
    let chosen = tree.find_node("/chosen");

    let mut cpus = [0; MAX_CPUS];
    let mut cpu_count = 0;
    for node in tree
        .find_node("/cpus")
        .into_iter()
        .flat_map(FdtNode::children)
    {
        if node.name.starts_with("cpu@") && cpu_count < MAX_CPUS {
            cpus[cpu_count] = cell(node, "reg", 0)?;
            cpu_count += 1;
        }
    }
    Some(Machine {
        dtb: Range {
            base: address,
            size: tree.total_size() as u32,
        },
        memory: memory(tree),
        uart: base(uart, 0)?,
        uart_irq: cell(uart, "interrupts", 1).map(|n| n + 32),
        rtc: find(&["arm,pl031"]).and_then(|node| base(node, 0)),
        rtc_irq: find(&["arm,pl031"])
            .and_then(|node| cell(node, "interrupts", 1))
            .map(|n| n + 32),
        gicd: base(gic, 0)?,
        gicc: base(gic, 1)?,
        ptimer_irq: timer
            .and_then(|t| cell(t, "interrupts", 4))
            .map_or(30, |n| n + 16),
        vtimer_irq: timer
            .and_then(|t| cell(t, "interrupts", 7))
            .map_or(27, |n| n + 16),
        psci: psci.map(
            |node| match node.property("method").and_then(|p| p.as_str()) {
                Some("smc") => Conduit::Smc,
                _ => Conduit::Hvc,
            },
        ),
        forwarded: find(&["armillary,test-memory"]).and_then(|node| base(node, 0)),
        forwarded_irq: find(&["armillary,test-memory"])
            .and_then(|node| cell(node, "interrupts", 1))
            .map(|n| n + 32),
        rings: rings(tree),
        cpus,
        cpu_count,
        bootargs: text(chosen, "bootargs"),
        model: text(tree.find_node("/"), "model"),
    })
}

fn rings(tree: &Fdt<'_>) -> [Option<Ring>; 4] {
    let is_ring = |node: &FdtNode<'_, '_>| {
        let mut compatible = node.compatible().into_iter().flat_map(|all| all.all());
        compatible.any(|one| one == "armillary,device-model")
    };
    let mut nodes = tree.all_nodes().filter(is_ring).map(|node| {
        Some(Ring {
            number: cell(node, "armillary,ring", 0)?,
            page: cell(node, "reg", 1)?,
            irq: cell(node, "interrupts", 1)? + 32,
            uart: node
                .property("armillary,region")?
                .as_str()?
                .contains("/uart"),
        })
    });
    core::array::from_fn(|_| nodes.next().flatten())
}

/// The first bank, cut at 4 GiB; the crate's own reader would cut the size to 32 bits.
fn memory(tree: &Fdt<'_>) -> Range {
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    tree.all_nodes()
        .find(|node| node.property("device_type").and_then(|p| p.as_str()) == Some("memory"))
        .and_then(|node| node.raw_reg()?.next())
        .map(|reg| (number(reg.address), number(reg.size)))
        .filter(|(base, _)| *base < 1 << 32)
        .map(|(base, size)| Range {
            base: base as u32,
            size: size.min((1 << 32) - base - 1) as u32 & !0xfff,
        })
        .unwrap_or_default()
}

fn cell(node: FdtNode<'_, '_>, name: &str, n: usize) -> Option<u32> {
    let bytes = node.property(name)?.value.get(4 * n..4 * n + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn text<const N: usize>(node: Option<FdtNode<'_, '_>>, name: &str) -> Text<N> {
    let value = node.and_then(|n| n.property(name)).and_then(|p| p.as_str());
    let mut text = Text::new();
    text.push(value.unwrap_or_default());
    text
}

/// The value of `name=…` on the command line.
pub fn argument(name: &str) -> Option<&'static str> {
    words().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The value of `name=…` on the command line as a decimal number, or `default`.
#[must_use]
pub fn number(name: &str, default: u32) -> u32 {
    argument(name)
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Whether the command line has this word.
#[must_use]
pub fn has(word: &str) -> bool {
    words().any(|w| w == word)
}

/// The words of the command line.
pub fn words() -> impl Iterator<Item = &'static str> {
    machine().bootargs.as_str().split_ascii_whitespace()
}
