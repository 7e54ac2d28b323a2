//! A VM's memory: RAM and devices in its stage 2, and its modules loaded.

use crate::addr::{Ipa, PAGE, Pa};
use crate::bus::{Device, GICC, PLACES, RAM};
use crate::fdt::{ConfigError, Guest, Range, VmConfig};
use crate::image::{self, Image, ImageError, Source};
use crate::machine::{self, Pool};
use crate::mem::{self, ModuleMemory, NotRam, Ram};
use crate::stage2::{self, Attrs, Flush, Stage2, Tables};
use alloc::format;
use alloc::vec::Vec;

/// Bits of a guest's physical addresses.
const WIDTH: u32 = 32;
/// The most RAM that fits between its start and the end of those addresses.
const MOST_RAM: u64 = (1 << WIDTH) - RAM as u64;
/// A guest that does not say how much RAM it wants gets half of what is left, in these steps.
const STEP: u64 = 2 << 20;

/// Where a vCPU begins.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its first instruction's address.
    pub entry: u32,
    /// Whether that is a Thumb instruction.
    pub thumb: bool,
    /// Its r0, r1 and r2.
    pub registers: [u32; 3],
}

/// A VM's memory.
pub struct Memory {
    /// Stage 2.
    pub space: Stage2<Pool>,
    /// RAM, and read-only memory where firmware lies.
    pub ram: Ram,
    /// Bytes of it that are RAM, from [`RAM`] on.
    size: u64,
}

impl Source for ModuleMemory {
    fn size(&self) -> u64 {
        self.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let fits = offset
            .checked_add(buffer.len() as u64)
            .is_some_and(|end| end <= self.size());
        if !fits {
            return Err(ImageError {
                found: "cut short".into(),
                fix: "give its whole size in reg",
            });
        }
        self.read(offset, buffer);
        Ok(())
    }
}

impl Memory {
    /// RAM, read-only memory and devices as `config` wants them; nothing is loaded yet.
    ///
    /// # Errors
    /// Where there is not as much memory, naming the property.
    pub fn build(config: &VmConfig) -> Result<Self, ConfigError> {
        let left = mem::free_bytes();
        let size = config
            .memory
            .unwrap_or((left / 2).min(MOST_RAM) & !(STEP - 1));
        if size > MOST_RAM {
            let fix = "give it at most 3 GiB";
            return Err(ConfigError::new(
                &config.node,
                "memory",
                format!("{} KiB", size / 1024),
                fix,
            ));
        }
        let mut ram = Ram::default();
        ram.add(Ipa(RAM.into()), size)
            .map_err(|_| config.no_memory(size, left))?;
        let rom = config
            .firmware
            .as_ref()
            .map_or(0, |module| module.range.size.div_ceil(PAGE) * PAGE);
        ram.add(Ipa(0), rom)
            .map_err(|_| config.no_memory(size + rom, left))?;
        let no_tables = |why: stage2::Error| {
            ConfigError::new(
                &config.node,
                "memory",
                format!("{why}"),
                "give it less or rounder memory",
            )
        };
        let space = Self::map(&ram).map_err(no_tables)?;
        Ok(Self { space, ram, size })
    }

    /// Stage 2 for `ram` and every device.
    fn map(ram: &Ram) -> Result<Stage2<Pool>, stage2::Error> {
        // The root, the devices' tables, and up to two at the edges of each piece.
        let pages = 8 + 2 * ram.extents().len() as u32;
        let pool = Pool::new(pages.next_power_of_two())
            .ok_or(stage2::Error::OutOfTables { needed: pages })?;
        let mut space = Stage2::new(pool, WIDTH)?;
        let mut owed = Flush::None;
        for piece in ram.extents() {
            let attrs = if piece.ipa.0 < RAM.into() {
                Attrs::ROM
            } else {
                Attrs::RAM
            };
            owed = owed.and(space.map(piece.ipa, piece.pa, piece.size, attrs)?);
        }
        // GICC_DIR is the hardware's until it has to be watched.
        for place in PLACES
            .iter()
            .filter(|place| place.device != Device::GiccDir)
        {
            owed = owed.and(space.set_slot(
                Ipa(place.base.into()),
                place.size.into(),
                place.slot(),
            )?);
        }
        let gicv = machine::wiring().gicv.start;
        owed = owed.and(space.map(Ipa(GICC.into()), gicv, 2 * PAGE, Attrs::DEVICE)?);
        if owed == Flush::Vmid {
            space.tables_mut().flush();
        }
        Ok(space)
    }

    /// Traps the guest's accesses to `device` from now on.
    ///
    /// # Errors
    /// Where there is no table left for it.
    pub fn trap(&mut self, device: Device) -> Result<(), stage2::Error> {
        for place in PLACES.iter().filter(|place| place.device == device) {
            let (ipa, size) = (Ipa(place.base.into()), place.size.into());
            if self.space.unmap(ipa, size)? == Flush::Vmid {
                self.space.tables_mut().flush();
            }
            if self.space.set_slot(ipa, size, place.slot())? == Flush::Vmid {
                self.space.tables_mut().flush();
            }
        }
        Ok(())
    }

    /// Loads the modules of `config` into memory that holds zeroes; where the first vCPU begins.
    ///
    /// # Errors
    /// Where a module is not what it should be, or they don't all fit, naming its node.
    pub fn load(&mut self, config: &VmConfig) -> Result<Start, ConfigError> {
        let (kind, module) = match (&config.kernel, &config.firmware) {
            (_, Some(firmware)) => ("firmware", firmware),
            (Some(kernel), None) => ("kernel", kernel),
            (None, None) => {
                return Err(ConfigError::new(
                    &config.node,
                    "kernel",
                    "absent",
                    "give a multiboot,kernel module",
                ));
            }
        };
        let bad = |why: ImageError| VmConfig::bad_module(kind, module, &why.found, why.fix);
        let source = mem::module(module.range);
        let image = if kind == "firmware" {
            image::firmware(&source)
        } else {
            image::kernel(&source)
        };
        let image = image.map_err(bad)?;
        let initrd = config
            .ramdisk
            .as_ref()
            .map(|module| mem::module(module.range));
        let initrd_size = initrd.map(|module| module.size());
        // The tree's size does not depend on where the initrd goes.
        let tree = Tree::of(
            config,
            self.size,
            initrd_size.map(|size| Range { start: Pa(0), size }),
        );
        let layout = image
            .place(self.size, initrd_size, tree.size())
            .map_err(bad)?;
        let initrd_range = layout.initrd.zip(initrd_size).map(|(at, size)| Range {
            start: Pa(at.0),
            size,
        });
        let tree = Tree::of(config, self.size, initrd_range);
        self.load_image(&image, &source).map_err(bad)?;
        let mut put = |at: Option<Ipa>, from: Option<ModuleMemory>| match (at, from) {
            (Some(at), Some(from)) => self.ram.load(at, &from, 0, from.size()),
            _ => Ok(()),
        };
        put(layout.initrd, initrd).map_err(|at| bad(outside(at)))?;
        match (tree, layout.dtb) {
            (Tree::Given(module), Some(at)) => self.ram.load(at, &module, 0, module.size()),
            (Tree::Made(bytes), Some(at)) => self.ram.write(at, &bytes),
            (_, None) => Ok(()),
        }
        .map_err(|at| bad(outside(at)))?;
        // The guest begins with its caches off.
        self.ram.clean_all();
        machine::forget_instructions();
        Ok(Start {
            entry: image.entry.0 as u32,
            thumb: image.thumb,
            registers: layout.registers,
        })
    }

    /// Carries out the image's plan.
    fn load_image(&mut self, image: &Image, source: &ModuleMemory) -> Result<(), ImageError> {
        if image.packed.is_some() {
            image.unpack(source, |at, bytes| {
                self.ram.write(at, bytes).map_err(outside)
            })?;
        } else {
            for part in &image.segments {
                self.ram
                    .load(part.ipa, source, part.offset, part.bytes)
                    .map_err(outside)?;
            }
        }
        Ok(())
    }
}

/// The device tree that a guest is given.
enum Tree {
    /// The user's own.
    Given(ModuleMemory),
    /// One that describes what there is.
    Made(Vec<u8>),
}

impl Tree {
    fn of(config: &VmConfig, memory: u64, initrd: Option<Range>) -> Self {
        if let Some(module) = &config.device_tree {
            return Self::Given(mem::module(module.range));
        }
        Self::Made(
            Guest {
                memory,
                cpus: config.cpus,
                cpu: machine::cpu_compatible(),
                bootargs: &config.bootargs,
                initrd,
                seed: None,
                flash: false,
                rtc: true,
                virtio: 0,
            }
            .tree(),
        )
    }

    fn size(&self) -> u64 {
        match self {
            Self::Given(module) => module.size(),
            Self::Made(bytes) => bytes.len() as u64,
        }
    }
}

fn outside(at: NotRam) -> ImageError {
    ImageError {
        found: format!("for {}, where the guest has no RAM", at.0).into(),
        fix: "give the VM more memory",
    }
}
