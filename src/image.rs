//! Kernel image formats: what a module holds, where its parts go, and in which registers it is told so.
//!
//! QEMU's `virt` machine (7.2, `-kernel` and `-bios`) is the reference, so that what was built for it runs:
//!
//! | format | goes to | starts with | device tree |
//! |---|---|---|---|
//! | zImage, any other raw image | RAM + 0x1_0000, started there | r0 = 0, r1 = 0xffff_ffff, r2 = tree | after the initrd |
//! | uImage | where its header says | the same, if its header says Linux | the same |
//! | ELF | where its segments say | r0 = r1 = r2 = 0 | start of RAM |
//! | firmware | 0 | r0 = r1 = r2 = 0 | start of RAM |
//!
//! Linux's uncompressed `Image` goes to RAM plus the offset that it was linked for, which QEMU leaves
//! to the user. Each may be packed by gzip. An initrd lies 128 MiB into RAM, or half-way if that is
//! less, and beyond the kernel.
//!
//! A zImage of Linux that says how large its kernel is, and lies on whole pages, is not copied: the
//! guest sees it where it need not get out of its kernel's way ([`Image::lift`]).
//!
//! The bytes lie in memory that is not mapped: they are read through [`Source`], a little at a time,
//! and what comes out is a plan. A stored image is copied, or mapped in place, by whoever carries the
//! plan out; a packed one is unpacked by [`Image::unpack`] through a window of 32 KiB.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::addr::{Ipa, PAGE, Pa};
use crate::lent::GRAIN;
use inflate::{End, Inflate, Output};

mod inflate;

/// Start of a guest's RAM, unless that is mapped one to one.
pub const RAM: Ipa = Ipa(0x4000_0000);
/// End of a guest's two flash banks, which start at 0.
pub const FLASH_END: Ipa = Ipa(0x0800_0000);
/// Size of one flash bank, bytes.
pub const FLASH_BANK: u64 = 64 << 20;

/// Where a raw image goes, from the start of RAM.
const RAW_OFFSET: u64 = 0x1_0000;
/// Where a uImage of type "kernel, no load address" goes, from the start of RAM, after its header.
const NOLOAD_OFFSET: u64 = 0x200_0000 + UIMAGE_HEADER;
const UIMAGE_HEADER: u64 = 64;
/// Most segments of an ELF that are loaded.
const MAX_SEGMENTS: usize = 32;
/// What is looked at to tell a format, bytes.
const HEAD: usize = 256;
/// What is unpacked to tell the format of a packed image, bytes: an ELF's program headers must lie in it.
const UNPACKED_HEAD: usize = 4096;

/// Bytes that may not be mapped.
pub trait Source {
    /// How many there are.
    fn size(&self) -> u64;

    /// Reads the bytes at `offset` into all of `buffer`.
    ///
    /// # Errors
    ///
    /// Where not all of them are there.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError>;
}

impl Source for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let start = usize::try_from(offset).ok();
        let bytes = start
            .and_then(|start| self.get(start..))
            .and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or_else(truncated)?);
        Ok(())
    }
}

/// What is wrong with an image, and what to do about it: completes "the kernel is ...".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageError(Box<str>);

impl ImageError {
    /// An error about an image that is `found`: `fix` puts it right.
    #[cold]
    #[inline(never)]
    #[must_use]
    pub fn new(found: fmt::Arguments<'_>, fix: &str) -> Self {
        Self(format!("{found}; {fix}").into())
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error for an image whose end is missing.
#[cold]
#[inline(never)]
pub(crate) fn truncated() -> ImageError {
    ImageError::new(format_args!("cut short"), WHOLE)
}

#[cold]
#[inline(never)]
fn damaged() -> ImageError {
    ImageError::new(
        format_args!("packed by gzip and damaged"),
        "pack and load it again",
    )
}

const WHOLE: &str = "give its whole size in reg";
const OTHER_KERNEL: &str = "give a 32-bit little-endian Arm kernel";

/// Formats, packing aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Linux's self-unpacking image.
    ZImage,
    /// Linux's uncompressed image.
    LinuxImage,
    /// U-Boot's legacy image.
    UImage,
    /// ELF32, little-endian, Arm.
    Elf,
    /// Anything else that may be code.
    Raw,
    /// What runs from address 0.
    Firmware,
}

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts: in the module for a stored image, in what is unpacked for a packed one.
    pub offset: u64,
    /// Where it goes.
    pub ipa: Ipa,
    /// How many bytes the image has of it.
    pub bytes: u64,
    /// How many bytes it takes in memory, the rest zeroes.
    pub memory: u64,
}

impl Segment {
    /// Where it lies already, in a stored image at `module`, if whole pages of that can be given to the
    /// guest as they are. What of the last page is not the image's must be cleared.
    #[must_use]
    pub fn in_place(&self, module: Pa) -> Option<Pa> {
        let here = module.checked_add(self.offset)?;
        (here.is_aligned(PAGE) && self.ipa.is_aligned(PAGE)).then_some(here)
    }

    #[inline(never)]
    fn end(&self) -> Ipa {
        Ipa(self.ipa.0.saturating_add(self.memory))
    }
}

/// A deflate stream in a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Where it starts in the module.
    offset: u64,
    /// Its size, bytes.
    bytes: u64,
    /// Checksum of what it unpacks to.
    crc: u32,
    /// Size of what it unpacks to, bytes, modulo 2^32.
    unpacked: u32,
}

/// What a guest finds in its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// As Linux wants it: r0 = 0, r1 = 0xffff_ffff (no machine number), r2 = address of the tree.
    Linux,
    /// All registers 0; the device tree lies at the start of RAM.
    Bare,
}

/// How an image is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its format.
    pub format: Format,
    /// How it is packed, if it is.
    pub packed: Option<Packed>,
    /// Its parts, in the order of the image.
    pub segments: Vec<Segment>,
    /// Its first instruction.
    pub entry: Ipa,
    /// Whether that is a Thumb instruction.
    pub thumb: bool,
    /// What its registers hold.
    pub handover: Handover,
    /// What it needs to unpack itself, where it says so.
    pub unpacks: Option<Unpacks>,
    /// Where RAM begins.
    pub ram: Ipa,
}

/// What a kernel that unpacks itself needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacks {
    /// Bytes from the start of RAM to the end of what it unpacks.
    pub end: u64,
    /// Bytes that it uses behind itself meanwhile.
    pub heap: u64,
}

/// Where everything lies in a guest's memory, and its first registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Start of the initrd.
    pub initrd: Option<Ipa>,
    /// Start of the device tree; `None` where an ELF leaves no room for it.
    pub dtb: Option<Ipa>,
    /// r0, r1 and r2.
    pub registers: [u32; 3],
}

/// Tells what the kernel in `source` is, for a guest whose RAM begins at `ram`.
///
/// # Errors
///
/// Where it is no kernel that can be run, naming what it looks like.
pub fn kernel(source: &dyn Source, ram: Ipa) -> Result<Image, ImageError> {
    let view = View::open(source, 0, source.size())?;
    let image = if view.head.starts_with(UIMAGE_MAGIC) {
        uimage(&view, ram)?
    } else {
        view.finish(bare_kernel(&view, ram)?)
    };
    Ok(Image { ram, ..image })
}

/// Tells how the firmware in `source` is packed.
///
/// # Errors
///
/// Where it is no code, larger than a flash bank, or damaged.
pub fn firmware(source: &dyn Source) -> Result<Image, ImageError> {
    let view = View::open(source, 0, source.size())?;
    is_no_kernel(&view.head)?;
    if view.head.starts_with(b"\x7fELF") {
        return Err(ImageError::new(
            format_args!("an ELF, which is no firmware"),
            "give it as a module compatible with multiboot,kernel",
        ));
    }
    if view.size > FLASH_BANK {
        return Err(ImageError::new(
            format_args!("larger than a flash bank"),
            "give at most 64 MiB",
        ));
    }
    Ok(view.finish(whole(Format::Firmware, &view, Ipa(0), Handover::Bare)))
}

impl Image {
    /// Moves a kernel that unpacks itself, and lies on whole pages of memory at `module`, out of the way
    /// of what it unpacks, if it then ends below where an initrd goes in RAM of `ram` bytes. There it is
    /// only read, but for a few pages, and need not move itself. How many of its bytes, whole pages,
    /// can be given to the guest where they are.
    pub fn lift(&mut self, module: Pa, ram: u64) -> u64 {
        let (Some(needs), None, [part]) = (self.unpacks, self.packed, self.segments.as_mut_slice())
        else {
            return 0;
        };
        let place = needs.end.next_multiple_of(GRAIN);
        let end = place + part.memory + needs.heap;
        let moved = Segment {
            ipa: Ipa(self.ram.0 + place),
            ..*part
        };
        if end > ram_to_initrd(ram) || moved.in_place(module).is_none() {
            return 0;
        }
        *part = moved;
        self.entry = moved.ipa;
        moved.bytes & !(PAGE - 1)
    }

    /// Places the image, an initrd and a device tree of these sizes in a guest's RAM of `ram` bytes.
    ///
    /// # Errors
    ///
    /// Where a part lies neither in RAM nor in flash, two parts overlap, or not all fits.
    pub fn place(&self, ram: u64, initrd: Option<u64>, dtb: u64) -> Result<Layout, ImageError> {
        let base = self.ram;
        let ram_end = Ipa(base.0.saturating_add(ram));
        let too_large = |what: &str, size: u64| {
            let found = format_args!(
                "with {what} of {} KiB too large for {} KiB of RAM",
                size / 1024,
                ram / 1024
            );
            ImageError::new(found, "give the VM more memory")
        };
        for (nth, part) in self.segments.iter().enumerate() {
            let in_flash = part.end() <= FLASH_END;
            if !in_flash && part.ipa < base {
                let found = format_args!(
                    "for {}..{}, where a guest has neither RAM nor flash",
                    part.ipa,
                    part.end()
                );
                let fix =
                    "link it for RAM from 0x40000000, without direct-map, or for flash from 0";
                return Err(ImageError::new(found, fix));
            }
            if !in_flash && part.end() > ram_end {
                return Err(too_large("a part", part.end().0.saturating_sub(base.0)));
            }
            if self
                .segments
                .iter()
                .skip(nth + 1)
                .any(|next| part.ipa < next.end() && next.ipa < part.end())
            {
                return Err(ImageError::new(
                    format_args!("of segments that overlap"),
                    "link it again",
                ));
            }
        }
        let high = self.segments.iter().map(Segment::end).max().unwrap_or(base);
        let start = base.0.saturating_add(ram_to_initrd(ram)).max(high.0);
        let start = Ipa(start).align_up(PAGE).unwrap_or(ram_end);
        let initrd_end = start
            .checked_add(initrd.unwrap_or(0))
            .unwrap_or(Ipa(u64::MAX));
        if initrd_end > ram_end {
            return Err(too_large("an initrd", initrd.unwrap_or(0)));
        }
        let initrd = initrd.map(|_| start);
        if self.handover == Handover::Bare {
            return Ok(Layout {
                initrd,
                dtb: self.room_at_start(dtb, start),
                registers: [0; 3],
            });
        }
        // The page that the initrd ends in is trashed by some kernels.
        let at = initrd_end.align_up(PAGE).unwrap_or(ram_end);
        let end = at.checked_add(dtb);
        let fits = end.is_some_and(|end| end <= ram_end);
        let r2 = u32::try_from(at.0)
            .ok()
            .filter(|_| fits)
            .ok_or_else(|| too_large("a device tree", dtb))?;
        Ok(Layout {
            initrd,
            dtb: Some(at),
            registers: [0, u32::MAX, r2],
        })
    }

    /// The start of RAM, if `bytes` fit there below the image and `limit`.
    fn room_at_start(&self, bytes: u64, limit: Ipa) -> Option<Ipa> {
        let low = self
            .segments
            .iter()
            .filter(|part| part.end() > self.ram)
            .map(|part| part.ipa)
            .min();
        let end = self.ram.checked_add(bytes)?;
        (end <= low.unwrap_or(limit).min(limit)).then_some(self.ram)
    }

    /// Unpacks a packed image, handing each piece to `write` with its place. Bytes of memory beyond
    /// the image's are not written: they are zero in a new guest. Does nothing with a stored image.
    ///
    /// # Errors
    ///
    /// Where the stream is damaged, is not what its trailer says, or `write` fails.
    pub fn unpack(
        &self,
        source: &dyn Source,
        mut write: impl FnMut(Ipa, &[u8]) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let Some(packed) = self.packed else {
            return Ok(());
        };
        let mut crc = Crc::new();
        let mut size = 0u32;
        inflate(source, packed, &mut |offset, piece| {
            crc.update(piece);
            size = size.wrapping_add(piece.len() as u32);
            if size > packed.unpacked {
                return Err(damaged());
            }
            for part in &self.segments {
                let skipped = part.offset.saturating_sub(offset);
                let gone = offset.saturating_sub(part.offset);
                let wanted = part
                    .bytes
                    .saturating_sub(gone)
                    .min((piece.len() as u64).saturating_sub(skipped));
                let start = skipped as usize;
                if let Some(bytes) = piece
                    .get(start..start.saturating_add(wanted as usize))
                    .filter(|b| !b.is_empty())
                {
                    write(Ipa(part.ipa.0.wrapping_add(gone)), bytes)?;
                }
            }
            Ok(true)
        })?;
        if crc.finish() == packed.crc && size == packed.unpacked {
            Ok(())
        } else {
            Err(damaged())
        }
    }
}

/// An image in a source, seen unpacked: all of it where it is stored, its head where it is packed.
struct View<'s> {
    source: &'s dyn Source,
    /// Where it starts in the source.
    offset: u64,
    /// Its size, unpacked.
    size: u64,
    packed: Option<Packed>,
    head: Vec<u8>,
}

impl<'s> View<'s> {
    fn open(source: &'s dyn Source, offset: u64, size: u64) -> Result<Self, ImageError> {
        let mut head = vec![0; size.min(HEAD as u64) as usize];
        source.read(offset, &mut head)?;
        let mut view = Self {
            source,
            offset,
            size,
            packed: None,
            head,
        };
        if view.head.starts_with(&GZIP_MAGIC) {
            let packed = view.gzip()?;
            view.size = packed.unpacked.into();
            view.packed = Some(packed);
            view.head.clear();
            inflate(source, packed, &mut |_, piece| {
                view.head.extend_from_slice(piece);
                Ok(view.head.len() < UNPACKED_HEAD)
            })?;
        }
        Ok(view)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let end = offset.checked_add(buffer.len() as u64);
        end.filter(|&end| end <= self.size).ok_or_else(truncated)?;
        match self.packed {
            None => self.source.read(self.offset.wrapping_add(offset), buffer),
            Some(_) => self.head.as_slice().read(offset, buffer),
        }
    }

    /// The image of what was told from this view.
    #[inline(never)]
    fn finish(&self, mut image: Image) -> Image {
        image.packed = self.packed;
        if self.packed.is_none() {
            for segment in &mut image.segments {
                segment.offset = segment.offset.wrapping_add(self.offset);
            }
        }
        image
    }

    /// Reads the gzip header and trailer (RFC 1952, 2.3).
    fn gzip(&self) -> Result<Packed, ImageError> {
        let &[_, _, 8, flags, _, _, _, _, _, _, ref fields @ ..] = self.head.as_slice() else {
            return Err(damaged());
        };
        let mut fields = fields;
        if flags & 4 != 0 {
            let (length, rest) = fields.split_first_chunk().ok_or_else(damaged)?;
            fields = rest
                .get(usize::from(u16::from_le_bytes(*length))..)
                .ok_or_else(damaged)?;
        }
        // A name, then a comment.
        for _ in 0..(flags >> 3 & 1) + (flags >> 4 & 1) {
            let end = fields.iter().position(|&b| b == 0).ok_or_else(damaged)?;
            fields = fields.get(end + 1..).ok_or_else(damaged)?;
        }
        fields = fields.get(usize::from(flags & 2)..).ok_or_else(damaged)?;
        let header = (self.head.len() - fields.len()) as u64;
        let bytes = self.size.checked_sub(header + 8).ok_or_else(truncated)?;
        let mut trailer = [0; 8];
        self.source
            .read(self.offset + self.size - 8, &mut trailer)?;
        let [crc, unpacked] = [0, 4].map(|at| little(&trailer, at));
        Ok(Packed {
            offset: self.offset + header,
            bytes,
            crc,
            unpacked,
        })
    }
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const UIMAGE_MAGIC: &[u8] = &[0x27, 0x05, 0x19, 0x56];
const ZIMAGE_MAGIC: u32 = 0x016f_2818;

#[inline(never)]
fn little(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u32::from_le_bytes(*word))
}

fn big(bytes: &[u8], at: usize) -> u32 {
    little(bytes, at).swap_bytes()
}

/// An image of one part, entered at its start.
#[inline(never)]
fn whole(format: Format, view: &View<'_>, ipa: Ipa, handover: Handover) -> Image {
    let segments = vec![Segment {
        offset: 0,
        ipa,
        bytes: view.size,
        memory: view.size,
    }];
    Image {
        format,
        packed: None,
        segments,
        entry: ipa,
        thumb: false,
        handover,
        unpacks: None,
        ram: RAM,
    }
}

/// A kernel without U-Boot's header.
fn bare_kernel(view: &View<'_>, ram: Ipa) -> Result<Image, ImageError> {
    let head = view.head.as_slice();
    let mut format = Format::Raw;
    let mut ipa = Ipa(ram.0 + RAW_OFFSET);
    match little(head, 0x24) {
        _ if head.starts_with(b"\x7fELF") => return elf(view),
        ZIMAGE_MAGIC => {
            let (start, end) = (little(head, 0x28), little(head, 0x2c));
            if u64::from(end.wrapping_sub(start)) > view.size {
                let found = format_args!(
                    "a zImage of {} bytes, of which {} are here",
                    end.wrapping_sub(start),
                    view.size
                );
                return Err(ImageError::new(found, WHOLE));
            }
            format = Format::ZImage;
        }
        big if big == ZIMAGE_MAGIC.swap_bytes() => {
            return Err(ImageError::new(
                format_args!("a big-endian zImage"),
                OTHER_KERNEL,
            ));
        }
        _ => is_no_kernel(head)?,
    }
    if let (Format::Raw, Some(offset)) = (format, linked_offset(head)) {
        (format, ipa) = (Format::LinuxImage, Ipa(ram.0 + offset));
    }
    let mut image = whole(format, view, ipa, Handover::Linux);
    if format == Format::ZImage {
        image.unpacks = unpacks(view);
    }
    Ok(image)
}

/// What a zImage says in the table that its header points to: a list of tags, of which one has the
/// kernel's size, as kexec wants to know it (Linux since 4.15, `arch/arm/boot/compressed/vmlinux.lds.S`).
/// `None` for older ones, and for what only looks like a zImage.
fn unpacks(view: &View<'_>) -> Option<Unpacks> {
    const EXTENDED: u32 = 0x4545_4545;
    const KERNEL_SIZE: u32 = 0x5a53_4c4b;
    /// The most that a kernel leaves free below itself, and what it has as a heap: where it does
    /// not say.
    const TEXT: u32 = 0x20_8000;
    const HEAP: u32 = 0x1_0000;
    let word = |at: u32| {
        let mut bytes = [0; 4];
        view.read(at.into(), &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    (word(0x34)? == EXTENDED).then_some(())?;
    let mut at = word(0x38)?;
    // It is the only tag there is so far.
    for _ in 0..16 {
        let words = word(at)?;
        if words < 4 || word(at.checked_add(4)?)? != KERNEL_SIZE {
            at = at.checked_add(words.checked_mul(4).filter(|&size| size != 0)?)?;
            continue;
        }
        let field = |nth: u32| word(at.checked_add(4 * nth)?);
        let size = word(field(2)?)?;
        let or = |nth, usual| if words > nth { field(nth) } else { Some(usual) };
        let parts = [size, field(3)?, or(4, TEXT)?];
        return Some(Unpacks {
            end: parts.into_iter().map(u64::from).sum(),
            // Besides the heap: a stack, and variables.
            heap: u64::from(or(5, HEAP)?) + u64::from(HEAP),
        });
    }
    None
}

/// Bytes from the start of RAM, of `ram` bytes, to where QEMU puts an initrd.
#[inline(never)]
fn ram_to_initrd(ram: u64) -> u64 {
    (ram / 2).min(128 << 20)
}

/// What Linux's uncompressed `Image` was linked for, from the start of RAM. It has no header, but
/// starts by telling Hyp mode from others, and soon subtracts the offset from where it runs.
fn linked_offset(head: &[u8]) -> Option<u64> {
    // mrs r9, cpsr; eor r9, r9, #HYP_MODE; tst r9, #MODE_MASK
    const EOR_HYP_MODE: [u32; 3] = [0xe10f_9000, 0xe229_901a, 0xe319_001f];
    let word = |nth: usize| little(head, 4 * nth);
    (0..4).find(|&at| [word(at), word(at + 1), word(at + 2)] == EOR_HYP_MODE)?;
    // sub r8, r8, #offset; kernels before 5.11 have none, and were linked for 0x8000.
    let sub = (0..HEAD / 4)
        .map(word)
        .find(|&word| word & 0xffff_f000 == 0xe248_8000);
    Some(
        sub.map_or(0x8000, |sub| (sub & 0xff).rotate_right((sub >> 8 & 15) * 2))
            .into(),
    )
}

/// Refuses what is known to be something else than code.
fn is_no_kernel(head: &[u8]) -> Result<(), ImageError> {
    const NO_CODE: &[(usize, &[u8], &str, &str)] = &[
        (
            0,
            &[0xd0, 0x0d, 0xfe, 0xed],
            "a device tree",
            "give it as a module compatible with multiboot,device-tree",
        ),
        (
            0,
            b"07070",
            "an initrd (cpio)",
            "give it as a module compatible with multiboot,ramdisk",
        ),
        (0, b"#!", "a script", OTHER_KERNEL),
        (
            0,
            b"\xfd7zXZ\0",
            "packed by xz",
            "unpack it, or pack it by gzip",
        ),
        (
            0,
            b"BZh",
            "packed by bzip2",
            "unpack it, or pack it by gzip",
        ),
        (
            0,
            &[0x28, 0xb5, 0x2f, 0xfd],
            "packed by zstd",
            "unpack it, or pack it by gzip",
        ),
        (
            0,
            &[0x04, 0x22, 0x4d, 0x18],
            "packed by lz4",
            "unpack it, or pack it by gzip",
        ),
        (
            0,
            &[0x02, 0x21, 0x4c, 0x18],
            "packed by lz4",
            "unpack it, or pack it by gzip",
        ),
        (
            0,
            b"\x89LZO",
            "packed by lzop",
            "unpack it, or pack it by gzip",
        ),
        (0, &GZIP_MAGIC, "packed by gzip twice", "unpack it once"),
        (0x38, b"ARM\x64", "a 64-bit Linux kernel", OTHER_KERNEL),
        (0, b"MZ", "a program for EFI or Windows", OTHER_KERNEL),
        (0, b"\xcf\xfa\xed\xfe", "a program for macOS", OTHER_KERNEL),
    ];
    for &(at, magic, found, fix) in NO_CODE {
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(ImageError::new(format_args!("{found}"), fix));
        }
    }
    let uniform = |byte| head.iter().all(|&b| b == byte);
    if head.len() < 4 {
        return Err(ImageError::new(
            format_args!(
                "{}",
                if head.is_empty() {
                    "empty"
                } else {
                    "shorter than an instruction"
                }
            ),
            OTHER_KERNEL,
        ));
    }
    if uniform(0) || uniform(0xff) {
        return Err(ImageError::new(
            format_args!("blank memory"),
            "load it where reg says, before this starts",
        ));
    }
    if head.len() >= 16
        && head
            .iter()
            .all(|&b| (b' '..=b'~').contains(&b) || matches!(b, b'\t' | b'\n' | b'\r'))
    {
        return Err(ImageError::new(format_args!("text"), OTHER_KERNEL));
    }
    Ok(())
}

/// A legacy image of U-Boot's: a header of big-endian words, then the image.
fn uimage(outer: &View<'_>, ram: Ipa) -> Result<Image, ImageError> {
    const ARM: u8 = 2;
    const KERNEL: u8 = 2;
    const NOLOAD: u8 = 14;
    const LINUX: u8 = 5;
    let changed = || {
        Err(ImageError::new(
            format_args!("a uImage whose checksum is wrong"),
            "load it again",
        ))
    };
    let error = |found: fmt::Arguments<'_>| {
        Err(ImageError::new(
            found,
            "make it by mkimage -A arm -T kernel -C none",
        ))
    };
    if outer.packed.is_some() {
        return error(format_args!("a uImage packed as a whole"));
    }
    let mut header = [0; UIMAGE_HEADER as usize];
    outer.read(0, &mut header)?;
    let [wanted, size, load, entry, data] = [4, 12, 16, 20, 24].map(|at| big(&header, at));
    let [os, machine, kind, packing] =
        [28, 29, 30, 31].map(|at| header.get(at).copied().unwrap_or(0));
    let mut crc = Crc::new();
    crc.update(header.get(..4).unwrap_or_default());
    crc.update(&[0; 4]);
    crc.update(header.get(8..).unwrap_or_default());
    match (crc.finish() == wanted, machine, kind, packing) {
        (false, ..) => return changed(),
        (_, ARM, KERNEL | NOLOAD, 0 | 1) => {}
        (_, ARM, KERNEL | NOLOAD, _) => {
            return error(format_args!("a uImage packed by something else than gzip"));
        }
        (_, ARM, ..) => return error(format_args!("a uImage of something else than a kernel")),
        _ => return error(format_args!("a uImage for another machine")),
    }
    if u64::from(size) > outer.size - UIMAGE_HEADER {
        return Err(truncated());
    }
    if checksum(outer.source, outer.offset + UIMAGE_HEADER, size.into())? != data {
        return changed();
    }
    let view = View::open(outer.source, outer.offset + UIMAGE_HEADER, size.into())?;
    if (packing == 1) != view.packed.is_some() {
        return error(format_args!(
            "a uImage packed otherwise than its header says"
        ));
    }
    let (load, entry) = match kind {
        NOLOAD => (
            ram.0 + NOLOAD_OFFSET,
            ram.0 + NOLOAD_OFFSET + u64::from(entry),
        ),
        _ => (load.into(), entry.into()),
    };
    let handover = if os == LINUX {
        Handover::Linux
    } else {
        Handover::Bare
    };
    let image = whole(Format::UImage, &view, Ipa(load), handover);
    Ok(view.finish(Image {
        entry: Ipa(entry),
        ..image
    }))
}

/// An ELF, read by its program headers.
fn elf(view: &View<'_>) -> Result<Image, ImageError> {
    const EXECUTABLE: u32 = 1;
    const LOAD: u32 = 1;
    let mut header = [0; 52];
    view.read(0, &mut header)?;
    let half = |at| little(&header, at) & 0xffff;
    let error = |found: fmt::Arguments<'_>| Err(ImageError::new(found, OTHER_KERNEL));
    match (header[4], header[5], half(18), half(16)) {
        (1, 1, 40, 2 | 3) => {}
        (1, 1, 40, _) => {
            return error(format_args!(
                "an ELF that is no program: an object or a core"
            ));
        }
        (2, ..) => return error(format_args!("a 64-bit ELF")),
        (_, 2, ..) => return error(format_args!("a big-endian ELF")),
        _ => return error(format_args!("an ELF for another machine")),
    }
    let mut entry = little(&header, 24);
    let (start, size, count) = (little(&header, 28), half(42), half(44));
    let mut segments = Vec::new();
    for nth in 0..count {
        let mut program = [0; 32];
        view.read(
            u64::from(start) + u64::from(nth) * u64::from(size),
            &mut program,
        )?;
        let [kind, offset, from, to, bytes, memory, flags] =
            [0, 4, 8, 12, 16, 20, 24].map(|at| little(&program, at));
        if kind != LOAD || memory == 0 {
            continue;
        }
        if segments.len() == MAX_SEGMENTS {
            return error(format_args!("an ELF of more than 32 segments"));
        }
        if u64::from(offset) + u64::from(bytes) > view.size {
            return Err(ImageError::new(format_args!("an ELF cut short"), WHOLE));
        }
        if bytes > memory || to.checked_add(memory - 1).is_none() {
            return error(format_args!("an ELF with a malformed segment"));
        }
        // The entry is a virtual address; the guest starts with its MMU off.
        if flags & EXECUTABLE != 0 && from != to && little(&header, 24).wrapping_sub(from) < bytes {
            entry = little(&header, 24).wrapping_sub(from).wrapping_add(to);
        }
        let ipa = Ipa(to.into());
        segments.push(Segment {
            offset: offset.into(),
            ipa,
            bytes: bytes.into(),
            memory: memory.into(),
        });
    }
    if segments.is_empty() {
        return error(format_args!("an ELF without anything to load"));
    }
    let (thumb, entry) = (entry & 1 != 0, Ipa((entry & !1).into()));
    Ok(Image {
        format: Format::Elf,
        packed: None,
        segments,
        entry,
        thumb,
        handover: Handover::Bare,
        unpacks: None,
        ram: RAM,
    })
}

/// Inflates a stream, handing each piece with its offset to `each`, until that returns false.
fn inflate(source: &dyn Source, packed: Packed, each: Output<'_>) -> Result<(), ImageError> {
    let mut buffer = vec![0; 4096];
    let mut read = 0;
    let mut next = || {
        if read == packed.bytes {
            return Ok(None);
        }
        let at = (read % 4096) as usize;
        if at == 0 {
            let size = (packed.bytes - read).min(4096) as usize;
            buffer.truncate(size);
            source.read(packed.offset + read, &mut buffer)?;
        }
        read += 1;
        Ok(buffer.get(at).copied())
    };
    match Inflate::new(&mut next, each).run() {
        Ok(()) | Err(End::Enough) => Ok(()),
        Err(End::Wrong(why)) => Err(why),
    }
}

/// Checksum of bytes of a source.
fn checksum(source: &dyn Source, mut offset: u64, mut bytes: u64) -> Result<u32, ImageError> {
    let mut crc = Crc::new();
    let mut buffer = [0; 512];
    while bytes > 0 {
        let buffer = buffer
            .get_mut(..bytes.min(512) as usize)
            .unwrap_or_default();
        source.read(offset, buffer)?;
        crc.update(buffer);
        (offset, bytes) = (offset + buffer.len() as u64, bytes - buffer.len() as u64);
    }
    Ok(crc.finish())
}

/// The CRC-32 of gzip and uImage, by halves of bytes: a table for whole ones is a KiB of the image.
struct Crc(u32);

impl Crc {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut n = 0;
        while n < 16 {
            let mut crc = n as u32;
            let mut bit = 0;
            while bit < 4 {
                crc = crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 };
                bit += 1;
            }
            table[n] = crc;
            n += 1;
        }
        table
    };

    fn new() -> Self {
        Self(u32::MAX)
    }

    fn update(&mut self, bytes: &[u8]) {
        static TABLE: [u32; 16] = Crc::TABLE;
        let half = |crc: u32| TABLE[crc as usize & 15] ^ crc >> 4;
        self.0 = bytes
            .iter()
            .fold(self.0, |crc, &byte| half(half(crc ^ u32::from(byte))));
    }

    fn finish(&self) -> u32 {
        !self.0
    }
}
