//! A VM's memory: RAM and devices in its stage 2, and its modules loaded.

use crate::addr::{BLOCK, Ipa, PAGE, Pa};
use crate::bus::{Device, FLASH, GICC, PLACES, RAM};
use crate::fdt::{self, ConfigError, Guest, Range, VmConfig};
use crate::image::{self, Image, ImageError, Source};
use crate::machine::{self, Pool};
use crate::mem::{self, ModuleMemory, NotRam, Ram};
use crate::stage2::{self, Attrs, Flush, Stage2, Tables};
use alloc::format;
use alloc::vec;
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
    /// Bytes of RAM.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

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
        let kernel = config.kernel.as_ref().map_or(0, |kernel| kernel.range.size);
        let lent = 2 + (kernel / BLOCK) as u32;
        let space = Self::map(&ram, lent).map_err(no_tables)?;
        Ok(Self { space, ram, size })
    }

    /// Stage 2 for `ram` and every device, with room for `lent` tables of what is lent by the page.
    fn map(ram: &Ram, lent: u32) -> Result<Stage2<Pool>, stage2::Error> {
        // The root, the devices' tables, and up to two at the edges of each piece.
        let pages = 8 + 2 * ram.extents().len() as u32 + lent;
        let pool = Pool::new(pages.next_power_of_two())
            .ok_or(stage2::Error::OutOfTables { needed: pages })?;
        let mut space = Stage2::new(pool, WIDTH)?;
        let mut owed = Flush::None;
        let mut rom = 0;
        for piece in ram.extents() {
            let attrs = if piece.ipa.0 < RAM.into() {
                rom = rom.max(piece.ipa.0 + piece.size);
                Attrs::ROM
            } else {
                Attrs::RAM
            };
            owed = owed.and(space.map(piece.ipa, piece.pa, piece.size, attrs)?);
        }
        owed = owed.and(space.set_slot(Ipa(rom), u64::from(FLASH) - rom, Device::Flash as u32)?);
        // Of the flash some may be there; GICC_DIR is the hardware's until it has to be watched.
        for place in PLACES
            .iter()
            .filter(|place| !matches!(place.device, Device::GiccDir | Device::Flash))
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
            let owed = self.space.unmap(ipa, size)?;
            self.pay(owed);
            let owed = self.space.set_slot(ipa, size, place.slot())?;
            self.pay(owed);
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
        let mut image = image.map_err(bad)?;
        let lent = image.lift(module.range.start, self.size);
        let initrd = config
            .ramdisk
            .as_ref()
            .map(|module| mem::module(module.range));
        let initrd_size = initrd.map(|module| module.size());
        // The tree's size does not depend on where the initrd goes.
        let somewhere = initrd_size.map(|size| Range { start: Pa(0), size });
        let tree_size = tree(config, self.size, somewhere)?.len() as u64;
        let layout = image
            .place(self.size, initrd_size, tree_size)
            .map_err(bad)?;
        let initrd_range = layout.initrd.zip(initrd_size).map(|(at, size)| Range {
            start: Pa(at.0),
            size,
        });
        let tree = tree(config, self.size, initrd_range)?;
        self.load_image(&image, &source, lent).map_err(bad)?;
        if let (Some(at), Some(initrd)) = (layout.initrd, initrd) {
            self.put_module(at, &initrd, 0, initrd.size())
                .map_err(bad)?;
        }
        if let Some(at) = layout.dtb {
            self.put(at, &tree).map_err(bad)?;
        }
        machine::forget_instructions();
        Ok(Start {
            entry: image.entry.0 as u32,
            thumb: image.thumb,
            registers: layout.registers,
        })
    }

    /// Carries out the image's plan; its first `lent` bytes, whole pages, stay where they are.
    fn load_image(
        &mut self,
        image: &Image,
        source: &ModuleMemory,
        lent: u64,
    ) -> Result<(), ImageError> {
        if image.packed.is_some() {
            image.unpack(source, |at, bytes| self.put(at, bytes))?;
        }
        for part in &image.segments {
            if image.packed.is_none() {
                let lent = match lent {
                    0 => 0,
                    _ => self.lend(part.ipa, source, part.offset, lent)?,
                };
                let rest = Ipa(part.ipa.0.saturating_add(lent));
                self.put_module(rest, source, part.offset + lent, part.bytes - lent)?;
            }
            let rest = Ipa(part.ipa.0.saturating_add(part.bytes));
            let size = part.memory.saturating_sub(part.bytes);
            self.ram.clear(rest, size).map_err(outside)?;
            self.ram.clean(rest, size);
        }
        Ok(())
    }

    /// Lets the guest have `size` bytes of a module, read-only, in place of its RAM at `at`; how
    /// many of them it has: none where there is no table left for them.
    fn lend(
        &mut self,
        at: Ipa,
        from: &ModuleMemory,
        offset: u64,
        size: u64,
    ) -> Result<u64, ImageError> {
        let pa = self.ram.lend(at, from, offset, size).map_err(outside)?;
        if self.remap(at, pa, size, Attrs::ROM).is_ok() {
            return Ok(size);
        }
        self.ram.take_back();
        let own = self.map_own(at, size);
        own.map(|()| 0).map_err(|why| ImageError {
            found: format!("not to be mapped: {why}").into(),
            fix: "give the VM rounder memory",
        })
    }

    /// Maps the guest's own RAM for `size` bytes at `at`.
    fn map_own(&mut self, at: Ipa, size: u64) -> Result<(), stage2::Error> {
        let mut done = 0;
        while done < size {
            let at = Ipa(at.0 + done);
            let (pa, room) = self.ram.find(at).map_err(|_| stage2::Error::Outside)?;
            let part = room.min(size - done);
            self.remap(at, pa, part, Attrs::RAM)?;
            done += part;
        }
        Ok(())
    }

    /// Puts `size` bytes at `pa` in place of what is at `at`.
    fn remap(&mut self, at: Ipa, pa: Pa, size: u64, attrs: Attrs) -> Result<(), stage2::Error> {
        let owed = self.space.unmap(at, size)?;
        self.pay(owed);
        let owed = self.space.map(at, pa, size, attrs)?;
        self.pay(owed);
        Ok(())
    }

    fn pay(&mut self, owed: Flush) {
        if owed == Flush::Vmid {
            self.space.tables_mut().flush();
        }
    }

    /// Lets the guest have its own copy of what it was lent around `ipa`; whether it was.
    pub fn keep(&mut self, ipa: Ipa) -> bool {
        let Some((at, size)) = self.ram.keep(ipa) else {
            return false;
        };
        let mapped = self.map_own(at, size);
        debug_assert_eq!(mapped, Ok(()), "pages for pages take no table");
        // The copy has other physical addresses, of which caches may hold older instructions.
        machine::forget_instructions();
        true
    }

    /// Writes `bytes` to memory itself, not only to the caches: the guest begins with its own off.
    fn put(&mut self, at: Ipa, bytes: &[u8]) -> Result<(), ImageError> {
        self.ram.write(at, bytes).map_err(outside)?;
        self.ram.clean(at, bytes.len() as u64);
        Ok(())
    }

    /// The same with `size` bytes of a module, from `offset` on.
    fn put_module(
        &mut self,
        at: Ipa,
        from: &ModuleMemory,
        offset: u64,
        size: u64,
    ) -> Result<(), ImageError> {
        self.ram.load(at, from, offset, size).map_err(outside)?;
        self.ram.clean(at, size);
        Ok(())
    }
}

/// The device tree that a guest is given: the user's own with what QEMU would set in it, or one that
/// describes what there is.
fn tree(config: &VmConfig, memory: u64, initrd: Option<Range>) -> Result<Vec<u8>, ConfigError> {
    let guest = Guest {
        memory,
        cpus: config.cpus,
        cpu: machine::cpu_compatible(),
        bootargs: &config.bootargs,
        initrd,
        seed: None,
        flash: true,
        rtc: true,
        virtio: 0,
    };
    let Some(module) = &config.device_tree else {
        return Ok(guest.tree());
    };
    let bad =
        |found: &str| VmConfig::bad_module("device tree", module, found, "give a flattened tree");
    let source = mem::module(module.range);
    // The tree, the notes of its nodes, and what comes of them.
    let size = usize::try_from(source.size())
        .ok()
        .filter(|&size| size <= fdt::MAX_SIZE);
    let size = size.ok_or_else(|| bad("too large"))?;
    if !mem::reserve_heap(4 * size) {
        return Err(bad("larger than the memory that is left for reading it"));
    }
    let mut bytes = vec![0; size];
    source.read(0, &mut bytes);
    let mut copy = Vec::new();
    let checked = fdt::check(&bytes, &mut copy).map_err(|why| bad(&format!("damaged: {why}")))?;
    Ok(guest.adopt(&fdt::Tree::of(&checked)))
}

fn outside(at: NotRam) -> ImageError {
    ImageError {
        found: format!("for {}, where the guest has no RAM", at.0).into(),
        fix: "give the VM more memory",
    }
}
