//! A VM's memory: RAM and devices in its stage 2, and its modules loaded.

use crate::addr::{BLOCK, Ipa, PAGE, Pa};
use crate::assign::Assigned;
use crate::bus::interrupt::{self, RINGS as RINGS_INTERRUPT};
use crate::bus::{Device, FLASH, Places, RAM, RINGS};
use crate::fdt::{self, ConfigError, Guest, Module, Range, VmConfig, Wire};
use crate::image::{self, Image, ImageError, Source};
use crate::machine::{self, Pool};
use crate::mem::{self, ModuleMemory, NotRam, Ram};
use crate::region::{Answer, MOST, Map, Region};
use crate::ring::{self, Page};
use crate::stage2::{self, Attrs, Flush, Stage2, Tables};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

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
    /// Where it begins for the guest.
    base: u32,
    /// Bytes of it that are RAM, from there on.
    size: u64,
    /// Bytes of firmware at 0, in whole pages.
    rom: u64,
    /// Everything that the guest has, RAM included.
    pub regions: Map,
    /// Where its devices are.
    pub places: Places,
    /// The board's devices that it has.
    pub assigned: Assigned,
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
            return Err(image::truncated());
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
            let fix = format_args!("give it at most 3 GiB");
            return Err(ConfigError::new(
                &config.node,
                "memory",
                format_args!("{} KiB", size / 1024),
                fix,
            ));
        }
        let mut ram = Ram::default();
        let mut base = RAM;
        if config.direct_map {
            let free = ram.add_direct(size);
            let error = || {
                let shown = format_args!(
                    "for {} KiB, of which not as many are free in one piece",
                    size / 1024
                );
                ConfigError::new(
                    &config.node,
                    "direct-map",
                    shown,
                    format_args!("give it less memory"),
                )
            };
            base = free.ok_or_else(error)?.0 as u32;
        }
        let mut wanted = 0;
        let add: &mut dyn FnMut(u64, u64) -> Result<(), ConfigError> = &mut |ipa, size| {
            wanted += size;
            ram.add(Ipa(ipa), size)
                .map_err(|_| config.no_memory(wanted, left))
        };
        if !config.direct_map {
            add(RAM.into(), size)?;
        }
        let rom = config.firmware.as_ref();
        let rom = rom.map_or(0, |module| module.range.size.div_ceil(PAGE) * PAGE);
        add(0, rom)?;
        for number in 0..config.serves.len() as u64 {
            add(u64::from(RINGS) + number * PAGE, PAGE)?;
        }
        // Several regions may share a page of memory.
        let mut done = 0;
        let places = config.places;
        let assigned = assigned(config)?;
        let regions = regions(config, &places, (base, size), rom, &assigned)?;
        for region in regions
            .regions()
            .iter()
            .filter(|region| region.owner >= DESCRIBED)
        {
            if region.read == Answer::Memory {
                let end = (u64::from(region.last) + 1).next_multiple_of(PAGE);
                let start = u64::from(region.first).max(done) & !(PAGE - 1);
                add(start, end.saturating_sub(start))?;
                done = end;
            }
        }
        // The root, the devices' tables, up to two at the edges of each piece, those of regions, and of
        // what is lent by the page.
        let kernel = config.kernel.as_ref().map_or(0, |kernel| kernel.range.size);
        let mut blocks = 2 + (kernel / BLOCK) as u32;
        let mut last = u32::MAX;
        for region in regions.regions() {
            for block in [region.first, region.last].map(|address| address >> 21) {
                blocks += u32::from(block != last);
                last = block;
            }
        }
        let pages = 8 + 2 * ram.extents().len() as u32 + blocks;
        let tables = stage2::Error::OutOfTables { needed: pages };
        if !mem::reserve_heap((pages.next_power_of_two() * PAGE as u32) as usize) {
            return Err(no_tables(config, tables));
        }
        let pool = Pool::new(pages.next_power_of_two()).ok_or_else(|| no_tables(config, tables))?;
        let space = Stage2::new(pool, WIDTH).map_err(|why| no_tables(config, why))?;
        let mut memory = Self {
            space,
            ram,
            base,
            size,
            rom,
            regions,
            places,
            assigned,
        };
        memory.map().map_err(|why| no_tables(config, why))?;
        Ok(memory)
    }

    /// Moves its devices, before the first vCPU has run.
    ///
    /// # Errors
    /// Where something else is; nothing has moved then.
    pub fn place(&mut self, config: &VmConfig, places: Places) -> Result<(), ConfigError> {
        let old = self.places;
        self.arrange(config, places).inspect_err(|_| {
            // What was there before fits again.
            let _ = self.arrange(config, old);
        })
    }

    /// Maps everything anew, with devices at `places`.
    fn arrange(&mut self, config: &VmConfig, places: Places) -> Result<(), ConfigError> {
        self.regions = regions(
            config,
            &places,
            (self.base, self.size),
            self.rom,
            &self.assigned,
        )?;
        self.places = places;
        self.ram.take_back();
        let unmapped = self.space.unmap(Ipa(0), 1 << WIDTH);
        let mapped = unmapped.and_then(|owed| {
            self.pay(owed);
            self.map()
        });
        mapped.map_err(|why| no_tables(config, why))
    }

    /// Stage 2, of which nothing is mapped, for all that there is.
    fn map(&mut self) -> Result<(), stage2::Error> {
        let Self { space, ram, .. } = self;
        let mut owed = Flush::None;
        for pages in self.regions.pages() {
            let region = pages
                .region
                .and_then(|index| self.regions.regions().get(index));
            let (first, end) = (u64::from(pages.first), u64::from(pages.last) + 1);
            let (pa, attrs) = match region.map(|region| (region.owner, region.read, region.write)) {
                Some((GICC_OWNER, ..)) => (Some(machine::wiring().gicv.start), Attrs::DEVICE),
                Some((PASSED_OWNER, ..)) => (self.assigned.find(first), Attrs::DEVICE),
                Some((_, Answer::Memory, Answer::Memory)) => (None, Attrs::RAM),
                Some((_, Answer::Memory, _)) => (None, Attrs::ROM),
                _ => {
                    owed = owed.and(space.set_slot(Ipa(first), end - first, pages.slot)?);
                    continue;
                }
            };
            if let Some(pa) = pa {
                owed = owed.and(space.map(Ipa(first), pa, end - first, attrs)?);
                continue;
            }
            for piece in ram.extents() {
                let start = piece.ipa.0.max(first);
                let size = (piece.ipa.0 + piece.size).min(end).saturating_sub(start);
                if size != 0 {
                    let pa = Pa(piece.pa.0 + (start - piece.ipa.0));
                    owed = owed.and(space.map(Ipa(start), pa, size, attrs)?);
                }
            }
        }
        self.pay(owed);
        Ok(())
    }

    /// Traps the guest's accesses to GICC_DIR, in the second page of the CPU interface, from now on.
    ///
    /// # Errors
    /// Where there is no table left for it.
    pub fn trap_dir(&mut self) -> Result<(), stage2::Error> {
        let ipa = Ipa((self.places.gicc + PAGE as u32).into());
        let owed = self.space.unmap(ipa, PAGE)?;
        self.pay(owed);
        let owed = self.space.set_slot(ipa, PAGE, Device::GiccDir as u32)?;
        self.pay(owed);
        Ok(())
    }

    /// A ring's page as it is at first.
    fn begin_rings(&mut self, rings: usize) -> Result<(), NotRam> {
        for number in 0..rings as u64 {
            let at = Ipa(u64::from(RINGS) + number * PAGE);
            self.ram.clear(at, PAGE)?;
            {
                let mut words = self.ram.words(at)?;
                for (nth, word) in (0..).zip(ring::HEADER) {
                    words.store(4 * nth, word);
                }
            }
            self.ram.clean(at, PAGE);
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
                    format_args!("absent"),
                    format_args!("give a multiboot,kernel module"),
                ));
            }
        };
        self.ram.begin();
        let bad = |why: ImageError| VmConfig::bad_module(kind, module, &why);
        let source = mem::module(module.range);
        let image = if kind == "firmware" {
            image::firmware(&source)
        } else {
            image::kernel(&source, Ipa(self.base.into()))
        };
        let mut image = image.map_err(bad)?;
        // What is lent is not where a device would look for it.
        let lent = match config.direct_map {
            true => 0,
            false => image.lift(module.range.start, self.size),
        };
        let initrd = config
            .ramdisk
            .as_ref()
            .map(|module| mem::module(module.range));
        let initrd_size = initrd.map(|module| module.size());
        // The tree's size does not depend on where the initrd goes.
        let somewhere = initrd_size.map(|size| Range { start: Pa(0), size });
        let mut tree = self.tree(config, somewhere)?;
        let tree_size = tree.len() as u64;
        let layout = image
            .place(self.size, initrd_size, tree_size)
            .map_err(bad)?;
        let initrd_range = layout.initrd.zip(initrd_size).map(|(at, size)| Range {
            start: Pa(at.0),
            size,
        });
        if initrd_range.is_some() {
            tree = self.tree(config, initrd_range)?;
        }
        self.load_image(&image, &source, lent).map_err(bad)?;
        self.load_regions(config).map_err(bad)?;
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

    /// What regions hold, and the rings.
    fn load_regions(&mut self, config: &VmConfig) -> Result<(), ImageError> {
        // Several may share a page, so that all are cleared before the first is filled.
        for filling in [false, true] {
            for region in &config.regions {
                let Some(module) = &region.image else {
                    continue;
                };
                let source = mem::module(module.range);
                let mut offset = 0;
                for range in &region.ranges {
                    if filling {
                        let size = range.size.min(source.size().saturating_sub(offset));
                        self.put_module(Ipa(range.start.0), &source, offset, size)?;
                        offset += size;
                    } else {
                        let start = Ipa(range.start.0).align_down(PAGE);
                        let size = (range.end().0 - start.0).next_multiple_of(PAGE);
                        self.ram.clear(start, size).map_err(outside)?;
                        self.ram.clean(start, size);
                    }
                }
            }
        }
        self.begin_rings(config.serves.len()).map_err(outside)
    }

    /// The device tree that the guest is given: the user's own with what QEMU would set in it, or one that
    /// describes what there is.
    fn tree(&self, config: &VmConfig, initrd: Option<Range>) -> Result<Vec<u8>, ConfigError> {
        let guest = Guest {
            ram: self.base,
            memory: self.size,
            cpus: config.cpus,
            cpu: machine::cpu_compatible(),
            bootargs: &config.bootargs,
            initrd,
            seed: None,
            flash: true,
            rtc: !self.assigned.is_at(self.places.rtc.into()),
            virtio: 0,
            places: self.places,
            regions: &config.regions,
            serves: &config.serves,
        };
        match &config.device_tree {
            Some(module) => with_tree(module, |tree| match tree.find("/passthrough") {
                Some(_) => guest.tree_with(Some(tree)),
                None => guest.adopt(tree),
            }),
            None => Ok(guest.tree()),
        }
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
        own.map(|()| 0).map_err(|why| {
            ImageError::new(
                format_args!("not to be mapped: {why}"),
                "give the VM rounder memory",
            )
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

/// The board's devices that the VM is given.
fn assigned(config: &VmConfig) -> Result<Assigned, ConfigError> {
    let Some(module) = &config.device_tree else {
        return Ok(Assigned::default());
    };
    let given = with_tree(module, |tree| Assigned::take(config, tree, &module.node))??;
    let rings = RINGS_INTERRUPT..RINGS_INTERRUPT + config.serves.len() as u32;
    for (nth, wire) in given.wires().enumerate() {
        let is_own = match wire.virt {
            interrupt::UART => true,
            interrupt::RTC => !given.is_at(config.places.rtc.into()),
            virt => {
                rings.contains(&virt)
                    || config
                        .regions
                        .iter()
                        .any(|region| region.interrupt == Some(virt))
            }
        };
        let clashes = |other: Wire| other.virt == wire.virt && other.physical != wire.physical;
        if is_own || given.wires().take(nth).any(clashes) {
            return Err(ConfigError::new(
                &module.node,
                "interrupts",
                format_args!(
                    "shared interrupt {}, which another device of the VM has",
                    wire.virt - 32
                ),
                format_args!("give it another number"),
            ));
        }
    }
    Ok(given)
}

/// Does `what` with the tree that is `module`.
fn with_tree<R>(
    module: &Module,
    what: impl FnOnce(&fdt::Tree<'_, '_>) -> R,
) -> Result<R, ConfigError> {
    let bad = |found: fmt::Arguments<'_>| {
        let fix = "give a flattened tree";
        VmConfig::bad_module("device tree", module, &ImageError::new(found, fix))
    };
    let source = mem::module(module.range);
    // The tree, the notes of its nodes, and what comes of them.
    let size = usize::try_from(source.size())
        .ok()
        .filter(|&size| size <= fdt::MAX_SIZE);
    let size = size.ok_or_else(|| bad(format_args!("too large")))?;
    if !mem::reserve_heap(4 * size) {
        return Err(bad(format_args!(
            "larger than the memory that is left for reading it"
        )));
    }
    let mut bytes = vec![0; size];
    source.read(0, &mut bytes);
    let mut copy = Vec::new();
    let checked =
        fdt::check(&bytes, &mut copy).map_err(|why| bad(format_args!("damaged: {why}")))?;
    Ok(what(&fdt::Tree::of(&checked)))
}

#[cold]
#[inline(never)]
fn outside(at: NotRam) -> ImageError {
    ImageError::new(
        format_args!("for {}, where the guest has no RAM", at.0),
        "give the VM more memory",
    )
}

/// Owners of regions that every VM has; the described ones' follow from [`DESCRIBED`] on.
const OWNERS: [&str; 9] = [
    "the RAM",
    "the flash",
    "the distributor",
    "the CPU interface",
    "the UART",
    "the clock",
    "the rings",
    "the firmware",
    "a device of the board's",
];
const GICC_OWNER: u32 = 3;
const ROM_OWNER: u32 = 7;
const PASSED_OWNER: u32 = 8;
const DESCRIBED: u32 = 9;

/// The error for a VM whose memory can't be mapped.
#[cold]
fn no_tables(config: &VmConfig, why: stage2::Error) -> ConfigError {
    let fix = format_args!("give it less or rounder memory, or regions closer together");
    ConfigError::new(&config.node, "memory", format_args!("{why}"), fix)
}

/// All regions of a VM, its RAM of `size` bytes from `base` on and `rom` bytes of firmware included.
fn regions(
    config: &VmConfig,
    places: &Places,
    (base, size): (u32, u64),
    rom: u64,
    assigned: &Assigned,
) -> Result<Map, ConfigError> {
    let count: usize = config
        .regions
        .iter()
        .map(|region| region.ranges.len())
        .sum();
    if count > MOST {
        let fix = format_args!("give at most {MOST}");
        return Err(ConfigError::new(
            &config.node,
            "the regions",
            format_args!("too many"),
            fix,
        ));
    }
    let mut map = Map::default();
    let bases = [
        base,
        rom as u32,
        places.gicd,
        places.gicc,
        places.uart,
        places.rtc,
        RINGS,
    ];
    let flash = FLASH.saturating_sub(rom as u32);
    let rings = config.serves.len() as u32 * PAGE as u32;
    // A real clock takes the place of the emulated one.
    let rtc = 0x1000 * u32::from(!assigned.is_at(places.rtc.into()));
    let sizes = [size as u32, flash, 0x1000, 0x2000, 0x1000, rtc, rings];
    for (owner, (base, size)) in (0..).zip(bases.into_iter().zip(sizes)) {
        let answer = match owner {
            1 => Answer::Device(Device::Flash as u32),
            2 => Answer::Device(Device::GICD),
            4 => Answer::Device(Device::UART),
            5 => Answer::Device(Device::Rtc as u32),
            _ => Answer::Memory,
        };
        add(
            &mut map,
            config,
            owner,
            (base.into(), size.into()),
            [answer; 2],
        )?;
    }
    add(
        &mut map,
        config,
        ROM_OWNER,
        (0, rom),
        [Answer::Memory, Answer::Zero],
    )?;
    for place in assigned.places() {
        add(&mut map, config, PASSED_OWNER, place, [Answer::Memory; 2])?;
    }
    for (number, described) in (0..).zip(&config.regions) {
        let answers = [described.read, described.write].map(|answer| match answer {
            Answer::Forward(_) => Answer::Forward(number),
            answer => answer,
        });
        for range in &described.ranges {
            add(
                &mut map,
                config,
                DESCRIBED + number,
                (range.start.0, range.size),
                answers,
            )?;
        }
    }
    map.list();
    Ok(map)
}

/// Adds a region, if it is not empty.
#[inline(never)]
fn add(
    map: &mut Map,
    config: &VmConfig,
    owner: u32,
    (base, size): (u64, u64),
    answers: [Answer; 2],
) -> Result<(), ConfigError> {
    match Region::new(base, size, owner, answers) {
        Some(region) => map
            .add(region)
            .map_err(|other| overlap(config, region, other)),
        None => Ok(()),
    }
}

/// The error for two regions that overlap.
#[cold]
fn overlap(config: &VmConfig, a: Region, b: Region) -> ConfigError {
    let name = |region: Region| match region.owner.checked_sub(DESCRIBED) {
        None => OWNERS.get(region.owner as usize).copied().unwrap_or(""),
        Some(number) => config
            .regions
            .get(number as usize)
            .map_or("", |region| &region.node),
    };
    let shown = format_args!(
        "{} at {:#x}, which overlaps {} at {:#x}",
        name(a),
        a.first,
        name(b),
        b.first
    );
    ConfigError::new(
        &config.node,
        "a region",
        shown,
        format_args!("put one of them elsewhere"),
    )
}
