//! `cargo xtask image`: the ELF file as a raw image and as a U-Boot image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::AnyEndian;

use crate::build::{self, Profile};
use crate::pack;
use crate::progress::Line;

/// Where a U-Boot image is loaded if nothing is said.
pub const DEFAULT_LOAD: u32 = 0x4020_8000;
/// More than any image; a gap between segments would make a raw image this large.
const LARGEST: u64 = 64 << 20;

/// What the flash of a small board has for the packed image. The budget of a board is what fails.
const FLASH: usize = 128 << 10;

/// The files that `cargo xtask image` writes.
#[derive(Clone, Debug)]
pub struct Images {
    /// The ELF file, with symbols.
    pub elf: PathBuf,
    /// The raw image, packed: a zImage header first, to be loaded anywhere.
    pub raw: PathBuf,
    /// The raw image behind a U-Boot header.
    pub uimage: PathBuf,
}

/// Builds the hypervisor and writes its images, the U-Boot one for the address `load`; where `profile` is not that of releases,
/// into a directory of its own.
pub fn build(profile: Profile, load: u32, line: Line) -> anyhow::Result<Images> {
    let elf = build::hypervisor(profile, line)?;
    let contents = fs::read(&elf).with_context(|| elf.display().to_string())?;
    let raw = packed(&contents).with_context(|| elf.display().to_string())?;
    if profile == Profile::Release && raw.len() > FLASH {
        eprintln!(
            "warning: the image takes {} bytes packed: more than the flash's {FLASH}",
            raw.len()
        );
    }
    let mut at = build::output_directory();
    if profile != Profile::Release {
        at.push(profile.name());
    }
    let images = Images {
        elf: at.join("armillary.elf"),
        raw: at.join("armillary.bin"),
        uimage: at.join("armillary.uimage"),
    };
    for (path, contents) in [
        (&images.elf, &contents),
        (&images.raw, &raw),
        (&images.uimage, &uimage(&raw, load)),
    ] {
        replace(path, contents)?;
    }
    Ok(images)
}

/// Writes a file in one step, so that a QEMU that starts meanwhile reads the old one or the new one.
fn replace(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    build::write(&new, contents)?;
    fs::rename(&new, path).with_context(|| path.display().to_string())
}

/// The packed raw image of an ELF file: its section `.unpack`, then what that unpacks.
pub fn packed(file: &[u8]) -> anyhow::Result<Vec<u8>> {
    /// Where a zImage header has the file's size.
    const SIZE: std::ops::Range<usize> = 0x2c..0x30;

    let elf = ElfBytes::<AnyEndian>::minimal_parse(file).context("not an ELF file")?;
    let section = elf
        .section_header_by_name(".unpack")?
        .context("no section .unpack")?;
    let (stub, _) = elf.section_data(&section)?;
    let mut packed = stub.to_vec();
    let (raw, starts) = flatten(file)?;
    packed.extend(pack::pack(&raw, &starts)?);
    let size = u32::try_from(packed.len())?;
    let field = packed.get_mut(SIZE).context("no header in .unpack")?;
    field.copy_from_slice(&size.to_le_bytes());
    Ok(packed)
}

/// The loaded bytes of an ELF file, by physical address from the lowest, and where among them each segment starts.
pub fn flatten(file: &[u8]) -> anyhow::Result<(Vec<u8>, Vec<usize>)> {
    let elf = ElfBytes::<AnyEndian>::minimal_parse(file).context("not an ELF file")?;
    let segments = elf.segments().context("no program headers")?;
    let mut loaded: Vec<_> = segments
        .iter()
        .filter(|segment| segment.p_type == PT_LOAD && segment.p_filesz > 0)
        .collect();
    loaded.sort_by_key(|segment| segment.p_paddr);
    let lowest = loaded.first().context("nothing to load")?.p_paddr;
    let (mut raw, mut starts) = (Vec::new(), Vec::new());
    for segment in &loaded {
        let start = segment.p_paddr - lowest;
        ensure!(
            start >= raw.len() as u64,
            "segments overlap at {:#x}",
            segment.p_paddr
        );
        ensure!(
            start + segment.p_filesz <= LARGEST,
            "segments lie too far apart for a raw image"
        );
        raw.resize(usize::try_from(start)?, 0);
        starts.push(raw.len());
        raw.extend(
            elf.segment_data(segment)
                .context("a segment beyond the file's end")?,
        );
    }
    Ok((raw, starts))
}

/// A legacy U-Boot image of a kernel for ARM Linux, uncompressed, loaded and entered at `load`.
#[must_use]
pub fn uimage(contents: &[u8], load: u32) -> Vec<u8> {
    const MAGIC: u32 = 0x2705_1956;
    const OS_LINUX: u8 = 5;
    const ARCH_ARM: u8 = 2;
    const TYPE_KERNEL: u8 = 2;
    const UNCOMPRESSED: u8 = 0;
    const CHECKSUM: std::ops::Range<usize> = 4..8;

    let mut name = [0; 32];
    name[..9].copy_from_slice(b"Armillary");
    let mut header = Vec::new();
    // No time stamp: the same sources give the same file.
    for word in [
        MAGIC,
        0,
        0,
        contents.len() as u32,
        load,
        load,
        crc32fast::hash(contents),
    ] {
        header.extend(word.to_be_bytes());
    }
    header.extend([OS_LINUX, ARCH_ARM, TYPE_KERNEL, UNCOMPRESSED]);
    header.extend(name);
    let checksum = crc32fast::hash(&header);
    header[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    header.extend(contents);
    header
}

/// The address at which an ELF file is entered.
pub fn entry(path: &Path) -> anyhow::Result<u64> {
    let file = fs::read(path).with_context(|| path.display().to_string())?;
    let elf =
        ElfBytes::<AnyEndian>::minimal_parse(&file).with_context(|| path.display().to_string())?;
    if elf.ehdr.e_entry == 0 {
        bail!("{}: no entry point", path.display());
    }
    Ok(elf.ehdr.e_entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 32-bit little-endian ELF file with one program header for each (physical address, bytes).
    fn elf(segments: &[(u32, &[u8])]) -> Vec<u8> {
        let (ehsize, phentsize) = (52u32, 32u32);
        let mut offset = ehsize + phentsize * segments.len() as u32;
        let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let half = |file: &mut Vec<u8>, v: u32| file.extend((v as u16).to_le_bytes());
        let word = |file: &mut Vec<u8>, v: u32| file.extend(v.to_le_bytes());
        for v in [2, 40] {
            half(&mut file, v);
        }
        for v in [1, 0x8000_0000, ehsize, 0, 0] {
            word(&mut file, v);
        }
        for v in [ehsize, phentsize, segments.len() as u32, 40, 0, 0] {
            half(&mut file, v);
        }
        for (address, bytes) in segments {
            let size = bytes.len() as u32;
            for v in [
                PT_LOAD,
                offset,
                address + 0x1000_0000,
                *address,
                size,
                size + 8,
                5,
                4,
            ] {
                word(&mut file, v);
            }
            offset += size;
        }
        file.extend(segments.iter().flat_map(|(_, bytes)| bytes.iter()));
        file
    }

    #[test]
    fn segments_are_laid_out_by_physical_address() {
        let file = elf(&[(0x4020_0008, b"data"), (0x4020_0000, b"text!")]);
        let (raw, starts) = flatten(&file).unwrap();
        assert_eq!(raw, b"text!\0\0\0data");
        assert_eq!(starts, [0, 8]);
    }

    #[test]
    fn what_cannot_be_flattened_is_refused() {
        assert!(flatten(b"not ELF").is_err());
        assert!(
            flatten(&elf(&[]))
                .unwrap_err()
                .to_string()
                .contains("nothing to load")
        );
        let apart = elf(&[(0, b"a"), (0x8000_0000, b"b")]);
        assert!(
            flatten(&apart)
                .unwrap_err()
                .to_string()
                .contains("too far apart")
        );
        let overlap = elf(&[(0, b"abcd"), (2, b"b")]);
        assert!(
            flatten(&overlap)
                .unwrap_err()
                .to_string()
                .contains("overlap")
        );
    }

    #[test]
    fn a_uimage_header_carries_both_checksums_and_the_address() {
        let image = uimage(b"contents", 0x4020_8000);
        let word = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
        assert_eq!(
            (word(0), word(12), word(16), word(20)),
            (0x2705_1956, 8, 0x4020_8000, 0x4020_8000)
        );
        assert_eq!(word(24), crc32fast::hash(b"contents"));
        let mut header = image[..64].to_vec();
        header[4..8].fill(0);
        assert_eq!(word(4), crc32fast::hash(&header));
        assert_eq!(&image[64..], b"contents");
    }
}
