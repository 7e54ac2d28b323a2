//! The machine that Armillary runs on, as its device tree describes it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Arguments;

use super::passed::{self, Spare};
use super::tree::{cell, is_named, number, string, strings, whole};
use super::{ConfigError, Id, Range, Tree};
use crate::addr::Pa;

/// End of the physical addresses that LPAE reaches.
const PA_END: u64 = 1 << 40;

/// A board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// RAM, below 2^40, in the tree's order.
    pub memory: Vec<Range>,
    /// What of it is not for us: reservations, and an initrd given to us.
    pub reserved: Vec<Range>,
    /// The CPUs that may be started, in the tree's order.
    pub cpus: Vec<Cpu>,
    /// Firmware that starts and stops CPUs.
    pub psci: Option<Psci>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The generic timer.
    pub timer: Timer,
    /// The console.
    pub uart: Option<Uart>,
    /// Registers of a PL031 real-time clock.
    pub rtc: Option<Range>,
    /// The words on the hypervisor's own command line.
    pub words: String,
    /// What it has to give to VMs.
    pub spares: Vec<Spare>,
}

/// A physical CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its affinity fields as in MPIDR\[23:0\].
    pub mpidr: u32,
    /// How it is started.
    pub start: CpuStart,
}

/// `enable-method` of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuStart {
    /// By PSCI.
    Psci,
    /// Another method, or none said: the board's own way.
    Other,
}

/// The instruction that calls firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// Secure monitor call.
    Smc,
    /// Hypervisor call: whoever offers it runs below us.
    Hvc,
}

/// PSCI as firmware offers it (ARM DEN 0022).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Psci {
    /// How it is called.
    pub conduit: Conduit,
    /// Whether it is of version 0.2 or later, with PSCI_VERSION and the standard function numbers.
    pub standard: bool,
    /// Function number of CPU_ON.
    pub cpu_on: u32,
    /// Function number of CPU_OFF.
    pub cpu_off: u32,
}

/// A GICv2 with the Virtualization Extensions (ARM IHI 0048B).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gic {
    /// Distributor.
    pub gicd: Range,
    /// CPU interface.
    pub gicc: Range,
    /// Virtual interface control.
    pub gich: Range,
    /// Virtual CPU interface.
    pub gicv: Range,
    /// Interrupt number of the maintenance interrupt.
    pub maintenance: u32,
}

/// The generic timer: its interrupt numbers, and its frequency where the tree gives one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Non-secure PL1 physical timer.
    pub physical: u32,
    /// Virtual timer.
    pub virt: u32,
    /// PL2 physical timer.
    pub hyp: u32,
    /// `clock-frequency`, Hz: where firmware leaves CNTFRQ unset.
    pub frequency: Option<u32>,
}

/// A wired interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its number at the GIC: 16 to 31 private, 32 and up shared.
    pub id: u32,
    /// Whether it is edge-triggered.
    pub edge: bool,
}

/// Kinds of UART that have a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// Arm PrimeCell PL011.
    Pl011,
    /// 16550 and what is compatible with it; registers lie `1 << reg_shift` bytes apart, each accessed
    /// `io_width` bytes wide.
    Ns16550 {
        /// log2 of the registers' distance, 0 to 3.
        reg_shift: u8,
        /// Width of an access: 1, 2 or 4 bytes.
        io_width: u8,
    },
    /// STM32 USART with FIFO.
    Stm32,
    /// NXP i.MX.
    Imx,
    /// Samsung Exynos.
    Exynos,
}

/// A UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Which driver it wants.
    pub kind: UartKind,
    /// Its registers.
    pub registers: Range,
    /// Its interrupt; without one it can only be polled.
    pub interrupt: Option<Interrupt>,
}

impl Board {
    /// Reads the board's description.
    ///
    /// # Errors
    ///
    /// The first thing missing or malformed that Armillary can't run without.
    pub fn read(tree: &Tree<'_, '_>) -> Result<Self, ConfigError> {
        let mut found = Found::default();
        for id in tree.ids() {
            found.look_at(tree, id)?;
        }
        let absent =
            |what, fix: Arguments<'_>| ConfigError::new("/", what, format_args!("absent"), fix);
        if found.memory.is_empty() {
            return Err(absent(
                "memory",
                format_args!("give a memory node whose reg lies below 2^40"),
            ));
        }
        if found.cpus.is_empty() {
            return Err(absent(
                "cpus",
                format_args!("give a cpu node for each CPU, with the CPU's affinity in reg"),
            ));
        }
        found.reserved.extend_from_slice(tree.reservations());
        let gic = found.gic.ok_or_else(|| {
            absent(
                "interrupt controller",
                format_args!("give a GICv2 with virtualization extensions, such as arm,gic-400"),
            )
        })?;
        let uart = Uart::chosen(tree).or(found.uart);
        let mut used = [gic.gicd, gic.gicc, gic.gich, gic.gicv]
            .map(|range| ("the interrupt controller", range))
            .to_vec();
        used.extend(uart.map(|uart| ("the console", uart.registers)));
        let heard = uart.and_then(|uart| uart.interrupt).map(|irq| irq.id);
        Ok(Self {
            spares: passed::spares(tree, &used, heard),
            memory: found.memory,
            reserved: found.reserved,
            cpus: found.cpus,
            psci: found.psci,
            gic,
            timer: found.timer.ok_or_else(|| {
                absent(
                    "timer",
                    format_args!("give a node compatible with arm,armv7-timer"),
                )
            })?,
            uart,
            rtc: found.rtc,
            words: found.words,
        })
    }
}

#[derive(Default)]
struct Found<'a> {
    memory: Vec<Range>,
    reserved: Vec<Range>,
    cpus: Vec<Cpu>,
    psci: Option<Psci>,
    gic: Option<Gic>,
    timer: Option<Timer>,
    uart: Option<Uart>,
    rtc: Option<Range>,
    words: String,
    /// What a node was compatible with that is nothing of ours: boards have many of one kind.
    nothing: &'a [u8],
}

/// What a board has one of, UARTs aside: [`Found::look_at`] knows them by their places.
static DEVICES: [&[u8]; 10] = [
    b"arm,psci",
    b"arm,psci-0.2",
    b"arm,psci-1.0",
    b"arm,armv7-timer",
    b"arm,armv8-timer",
    b"arm,pl031",
    b"arm,gic-400",
    b"arm,cortex-a15-gic",
    b"arm,cortex-a7-gic",
    b"brcm,brahma-b15-gic",
];

impl<'a> Found<'a> {
    fn look_at(&mut self, tree: &Tree<'_, 'a>, id: Id) -> Result<(), ConfigError> {
        let (name, above) = tree.place(id);
        match above {
            None if is_named(name, "memory") => self.memory(tree, id)?,
            None if name == "chosen" => self.chosen(tree, id)?,
            Some("cpus") if is_named(name, "cpu") => self.cpu(tree, id)?,
            Some("reserved-memory") if tree.property(id, "reg").is_some() => {
                self.reserved.extend(tree.reg_off_bus(id)?);
            }
            _ => {}
        }
        let all = tree.all_compatible(id);
        if all == self.nothing {
            return Ok(());
        }
        let mut known = false;
        for compatible in strings(all) {
            let device = DEVICES.iter().position(|&device| device == compatible);
            let is_uart = device.is_none() && UartKind::of(compatible).is_some();
            known |= device.is_some() || is_uart;
            match device {
                Some(nth @ 0..=2) if self.psci.is_none() => {
                    self.psci = Some(Psci::read(tree, id, nth != 0)?);
                }
                Some(3..=4) if self.timer.is_none() => {
                    self.timer = Some(Timer::read(tree, id)?);
                }
                Some(5) if self.rtc.is_none() && !tree.is_disabled(id) && !tree.is_spare(id) => {
                    self.rtc = tree.reg(id).ok().and_then(|reg| reg.first().copied());
                }
                Some(6..) if self.gic.is_none() => self.gic = Some(Gic::read(tree, id)?),
                None if self.uart.is_none()
                    && is_uart
                    && !tree.is_disabled(id)
                    && !tree.is_spare(id) =>
                {
                    self.uart = Uart::read(tree, id);
                }
                _ => {}
            }
        }
        if !known {
            self.nothing = all;
        }
        Ok(())
    }

    fn memory(&mut self, tree: &Tree<'_, '_>, id: Id) -> Result<(), ConfigError> {
        if tree.is_disabled(id) {
            return Ok(());
        }
        let reachable = tree
            .reg(id)?
            .into_iter()
            .filter(|range| range.size > 0 && range.start.0 < PA_END);
        self.memory.extend(reachable.map(|range| Range {
            size: range.size.min(PA_END - range.start.0),
            ..range
        }));
        Ok(())
    }

    fn cpu(&mut self, tree: &Tree<'_, '_>, id: Id) -> Result<(), ConfigError> {
        if tree.is_disabled(id) {
            return Ok(());
        }
        let (cells, _) = tree.cells(tree.parent(id));
        let mut reg = tree.property(id, "reg").unwrap_or_default();
        let mpidr = number(&mut reg, cells.max(1)).and_then(|reg| u32::try_from(reg).ok());
        let mpidr = mpidr.filter(|mpidr| mpidr >> 24 == 0).ok_or_else(|| {
            tree.error(
                id,
                "reg",
                format_args!("absent or malformed"),
                format_args!("give the CPU's affinity, MPIDR[23:0], in one cell"),
            )
        })?;
        let method = |id| tree.property(id, "enable-method");
        let start = match method(id).or_else(|| method(tree.parent(id))) {
            Some(b"psci\0") => CpuStart::Psci,
            _ => CpuStart::Other,
        };
        self.cpus.push(Cpu { mpidr, start });
        Ok(())
    }

    fn chosen(&mut self, tree: &Tree<'_, '_>, id: Id) -> Result<(), ConfigError> {
        let (mut start, mut end, mut bootargs, mut own) = (None, None, None, None);
        for property in tree.properties(id) {
            match property.name {
                "linux,initrd-start" => start = Some(property.value),
                "linux,initrd-end" => end = Some(property.value),
                "bootargs" => bootargs = Some(property.value),
                "armillary,bootargs" => own = Some(property.value),
                _ => {}
            }
        }
        if let (Some(start), Some(end)) = (start.and_then(whole), end.and_then(whole)) {
            let size = end.checked_sub(start).ok_or_else(|| {
                let fix = format_args!("give the address after the initrd's last byte");
                tree.error(
                    id,
                    "linux,initrd-end",
                    format_args!("{end:#x}, below its start"),
                    fix,
                )
            })?;
            self.reserved.push(Range {
                start: Pa(start),
                size,
            });
        }
        self.words = own.or(bootargs).and_then(string).unwrap_or_default().into();
        Ok(())
    }
}

impl Psci {
    fn read(tree: &Tree<'_, '_>, id: Id, standard: bool) -> Result<Self, ConfigError> {
        let error = |property, value: Arguments<'_>, fix: Arguments<'_>| {
            tree.error(id, property, value, fix)
        };
        let conduit = match tree.property(id, "method") {
            Some(b"smc\0") => Conduit::Smc,
            Some(b"hvc\0") => Conduit::Hvc,
            _ => {
                return Err(error(
                    "method",
                    format_args!("neither \"smc\" nor \"hvc\""),
                    format_args!("give the one that firmware answers to"),
                ));
            }
        };
        let number = |name| {
            let fix = format_args!("give the function's number in one cell");
            tree.property(id, name)
                .and_then(cell)
                .ok_or_else(|| error(name, format_args!("absent or malformed"), fix))
        };
        // ARM DEN 0022, 5.1: the numbers of the 32-bit calls.
        let (cpu_on, cpu_off) = if standard {
            (0x8400_0003, 0x8400_0002)
        } else {
            (number("cpu_on")?, number("cpu_off")?)
        };
        Ok(Self {
            conduit,
            standard,
            cpu_on,
            cpu_off,
        })
    }
}

impl Gic {
    /// The maintenance interrupt of the Cortex-A15, Cortex-A7 and GIC-400 (Cortex-A7 MPCore TRM,
    /// 8.2).
    const MAINTENANCE: u32 = 25;

    fn read(tree: &Tree<'_, '_>, id: Id) -> Result<Self, ConfigError> {
        let reg = tree.reg(id)?;
        let (gicd, gicc, gich, gicv) = match *reg.as_slice() {
            [gicd, gicc, gich, gicv, ..] => (gicd, gicc, gich, gicv),
            // Some trees leave out what only a hypervisor needs: it lies where these cores have it
            // (the same, GIC memory map).
            [gicd, gicc] if gicd.start.checked_add(0x1000) == Some(gicc.start) => {
                let beyond = |offset| Range {
                    start: Pa(gicc.start.0.saturating_add(offset)),
                    size: 0x2000,
                };
                (gicd, gicc, beyond(0x2000), beyond(0x4000))
            }
            _ => {
                let value = format_args!("of {} ranges", reg.len());
                return Err(tree.error(
                    id,
                    "reg",
                    value,
                    format_args!("give GICD, GICC, GICH and GICV"),
                ));
            }
        };
        let maintenance = match tree.property(id, "interrupts") {
            None => Self::MAINTENANCE,
            Some(value) => Interrupt::read(value)
                .map(|irq| irq.id)
                .filter(|&id| id < 32)
                .ok_or_else(|| {
                    let fix = format_args!("give the maintenance interrupt, such as <1 9 4>");
                    tree.error(
                        id,
                        "interrupts",
                        format_args!("not a private interrupt"),
                        fix,
                    )
                })?,
        };
        Ok(Self {
            gicd,
            gicc,
            gich,
            gicv,
            maintenance,
        })
    }
}

impl Timer {
    fn read(tree: &Tree<'_, '_>, id: Id) -> Result<Self, ConfigError> {
        let mut private = interrupts(tree, id)
            .skip(1)
            .map(|irq| irq.id)
            .filter(|&id| id < 32);
        let (Some(physical), Some(virt), Some(hyp)) =
            (private.next(), private.next(), private.next())
        else {
            let fix = format_args!(
                "give the private interrupts of the secure, non-secure, virtual and Hyp timers"
            );
            return Err(tree.error(
                id,
                "interrupts",
                format_args!("not four private interrupts"),
                fix,
            ));
        };
        let frequency = tree
            .property(id, "clock-frequency")
            .and_then(cell)
            .filter(|&hz| hz > 0);
        Ok(Self {
            physical,
            virt,
            hyp,
            frequency,
        })
    }
}

/// The node's interrupts, taken for wired to the GIC.
fn interrupts<'a>(tree: &Tree<'_, 'a>, id: Id) -> impl Iterator<Item = Interrupt> + use<'a> {
    let value = tree.property(id, "interrupts").unwrap_or_default();
    value.chunks_exact(12).filter_map(Interrupt::read)
}

impl Interrupt {
    /// Reads an interrupt as the GIC's binding has it: kind, number and trigger.
    pub(super) fn read(mut cells: &[u8]) -> Option<Self> {
        let (kind, n, flags) = (
            number(&mut cells, 1)?,
            number(&mut cells, 1)?,
            number(&mut cells, 1)?,
        );
        let id = match kind {
            0 if n < 988 => 32 + n as u32,
            1 if n < 16 => 16 + n as u32,
            _ => return None,
        };
        Some(Self {
            id,
            edge: flags & 3 != 0,
        })
    }

    /// The node's `nth` interrupt, the first being 0, through an interrupt map above it where it has not the GIC's three
    /// cells, as on the Versatile Express (Devicetree Specification 0.4, 2.4.3). Maps that look at
    /// addresses are not followed.
    pub(super) fn of(tree: &Tree<'_, '_>, id: Id, nth: usize) -> Option<Self> {
        let wanted = tree.property(id, "interrupts")?;
        if wanted.len() % 12 == 0 {
            return Self::read(wanted.get(12 * nth..)?);
        }
        let (bus, mut map) = tree
            .ancestors(id)
            .find_map(|bus| Some((bus, tree.property(bus, "interrupt-map")?)))?;
        let cells = cell(tree.property(bus, "#interrupt-cells")?)?;
        let mut wanted = wanted.get(4 * cells as usize * nth..)?;
        let (address_cells, _) = tree.cells(bus);
        let mut mask = tree.property(bus, "interrupt-map-mask")?;
        let (wanted, looks) = (
            number(&mut wanted, cells as usize)?,
            number(&mut mask, address_cells)?,
        );
        let mask = number(&mut mask, cells as usize).filter(|_| looks == 0)?;
        while !map.is_empty() {
            number(&mut map, address_cells)?;
            let from = number(&mut map, cells as usize)?;
            let controller = tree.with_phandle(number(&mut map, 1)? as u32)?;
            number(
                &mut map,
                tree.property(controller, "#address-cells")
                    .and_then(cell)
                    .unwrap_or(0) as usize,
            )?;
            let to = map;
            let taken = tree
                .property(controller, "#interrupt-cells")
                .and_then(cell)?;
            map = map.get((taken as usize).checked_mul(4)?..)?;
            if from == wanted & mask {
                return Self::read(to);
            }
        }
        None
    }
}

impl UartKind {
    const NS16550: Self = Self::Ns16550 {
        reg_shift: 0,
        io_width: 1,
    };

    const ALL: &[(&[u8], Self)] = &[
        (b"arm,pl011", Self::Pl011),
        (b"ns16550a", Self::NS16550),
        (b"ns16550", Self::NS16550),
        (b"snps,dw-apb-uart", Self::NS16550),
        (b"nvidia,tegra20-uart", Self::NS16550),
        (b"ti,omap4-uart", Self::NS16550),
        (b"st,stm32h7-uart", Self::Stm32),
        (b"fsl,imx21-uart", Self::Imx),
        (b"fsl,imx6q-uart", Self::Imx),
        (b"samsung,exynos4210-uart", Self::Exynos),
    ];

    #[inline(never)]
    fn of(compatible: &[u8]) -> Option<Self> {
        let named = |(name, _): &&(&[u8], Self)| *name == compatible;
        Self::ALL.iter().find(named).map(|&(_, kind)| kind)
    }
}

impl Uart {
    /// The UART that the tree chooses, or else the first that has a driver.
    #[must_use]
    pub fn find(tree: &Tree<'_, '_>) -> Option<Self> {
        Self::chosen(tree).or_else(|| {
            let mut enabled = tree
                .ids()
                .filter(|&id| !tree.is_disabled(id) && !tree.is_spare(id));
            enabled.find_map(|id| Self::read(tree, id))
        })
    }

    /// The UART that `/chosen/stdout-path` names, if it has a driver.
    #[must_use]
    pub fn chosen(tree: &Tree<'_, '_>) -> Option<Self> {
        let chosen = tree.find("/chosen")?;
        let path = tree
            .property(chosen, "stdout-path")
            .or_else(|| tree.property(chosen, "linux,stdout-path"))?;
        let path = string(path)?.split(':').next()?;
        if path.starts_with('/') {
            return Self::read(tree, tree.find(path)?);
        }
        let aliases = tree.find("/aliases")?;
        let alias = |name| string(tree.property(aliases, name)?);
        match path.split_once('/') {
            Some((name, rest)) => Self::read(tree, tree.find(&format!("{}/{rest}", alias(name)?))?),
            None => Self::read(tree, tree.find(alias(path)?)?),
        }
    }

    fn read(tree: &Tree<'_, '_>, id: Id) -> Option<Self> {
        let mut kind = tree.compatible(id).find_map(UartKind::of)?;
        if let UartKind::Ns16550 {
            reg_shift,
            io_width,
        } = &mut kind
        {
            // Tegra's and OMAP's registers are words without saying so.
            let words =
                !tree.is_compatible(id, "ns16550a") && !tree.is_compatible(id, "snps,dw-apb-uart");
            let number = |name| tree.property(id, name).and_then(cell);
            *reg_shift = number("reg-shift")
                .unwrap_or(if words { 2 } else { 0 })
                .min(3) as u8;
            *io_width = match number("reg-io-width") {
                Some(4) => 4,
                Some(2) => 2,
                None if words => 4,
                _ => 1,
            };
        }
        let registers = tree.reg(id).ok()?.first().copied()?;
        Some(Self {
            kind,
            registers,
            interrupt: Interrupt::of(tree, id, 0),
        })
    }
}
