//! Kernel images: each format is told and placed as QEMU's `virt` does, and what is no kernel is named.

use armillary::addr::{Ipa, Pa};
use armillary::image::{Format, Handover, Image, ImageError, RAM, Source, firmware, kernel};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn zimage(size: usize) -> Vec<u8> {
    let mut image = words(&[0xe1a0_0000; 9]);
    image.extend(words(&[0x016f_2818, 0, size as u32, 0x0403_0201]));
    image.resize(size, 0x5a);
    image
}

/// An ELF of these segments, each virtual, physical address, file bytes, bytes in memory.
fn elf(entry: u32, segments: &[(u32, u32, &[u8], u32)]) -> Vec<u8> {
    let mut image = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x28\0\x01\0\0\0".to_vec();
    image.extend(words(&[
        entry,
        52,
        0,
        0x0500_0000,
        32 << 16 | 52,
        segments.len() as u32,
        0,
    ]));
    let mut offset = 52 + 32 * segments.len() as u32;
    for &(from, to, bytes, memory) in segments {
        image.extend(words(&[
            1,
            offset,
            from,
            to,
            bytes.len() as u32,
            memory,
            5,
            4,
        ]));
        offset += bytes.len() as u32;
    }
    image.extend(segments.iter().flat_map(|segment| segment.2));
    image
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 }
        })
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = b"\x1f\x8b\x08\x08\0\0\0\0\0\x03name\0".to_vec();
    packed.extend(miniz_oxide::deflate::compress_to_vec(bytes, 6));
    packed.extend(words(&[crc(bytes), bytes.len() as u32]));
    packed
}

/// A uImage: kind (2 = kernel), packing, load address, entry.
fn uimage(kind: u8, packing: u8, load: u32, entry: u32, data: &[u8]) -> Vec<u8> {
    let mut header: Vec<u8> = [0x2705_1956, 0, 1, data.len() as u32, load, entry, crc(data)]
        .iter()
        .flat_map(|word: &u32| word.to_be_bytes())
        .collect();
    header.extend([5, 2, kind, packing]);
    header.resize(64, b'x');
    let sum = crc(&header);
    header[4..8].copy_from_slice(&sum.to_be_bytes());
    header.extend(data);
    header
}

fn noise(size: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size)
        .map(|n| if n % 3 == 0 { next() } else { n as u8 })
        .collect()
}

/// The error less what it says to do about it.
fn found_by<T>(result: Result<T, ImageError>) -> String {
    let why = result.err().map(|why| why.to_string()).unwrap_or_default();
    why.split("; ").take(1).collect()
}

fn told(bytes: &[u8]) -> Result<Image, ImageError> {
    kernel(&bytes, RAM)
}

/// What a guest's memory holds where the image puts something.
fn loaded(image: &Image, module: &[u8]) -> Vec<(Ipa, Vec<u8>)> {
    let mut pieces: Vec<(Ipa, Vec<u8>)> = Vec::new();
    if image.packed.is_none() {
        for part in &image.segments {
            let bytes = &module[part.offset as usize..][..part.bytes as usize];
            pieces.push((part.ipa, bytes.to_vec()));
        }
        return pieces;
    }
    let write = |ipa: Ipa, bytes: &[u8]| {
        match pieces
            .iter_mut()
            .find(|(start, piece)| start.0 + piece.len() as u64 == ipa.0)
        {
            Some((_, piece)) => piece.extend(bytes),
            None => pieces.push((ipa, bytes.to_vec())),
        }
        Ok(())
    };
    assert_eq!(image.unpack(&module, write), Ok(()));
    pieces
}

#[test]
fn a_zimage_goes_64_kib_into_ram_and_is_told_its_tree_in_r2() {
    let image = told(&zimage(5000)).unwrap();
    assert_eq!(
        (image.format, image.handover),
        (Format::ZImage, Handover::Linux)
    );
    assert_eq!((image.entry, image.thumb), (Ipa(0x4001_0000), false));
    // As QEMU 7.2 does with 1 GiB and an initrd of 100,000 bytes.
    let layout = image.place(1024 * MIB, Some(100_000), 0x2000).unwrap();
    assert_eq!(layout.initrd, Some(Ipa(0x4800_0000)));
    assert_eq!(layout.dtb, Some(Ipa(0x4801_9000)));
    assert_eq!(layout.registers, [0, 0xffff_ffff, 0x4801_9000]);
    // Less than 256 MiB: half-way. No initrd: the tree takes its place.
    let layout = image.place(64 * MIB, None, 0x2000).unwrap();
    assert_eq!((layout.initrd, layout.dtb), (None, Some(Ipa(0x4200_0000))));
}

#[test]
fn a_kernel_larger_than_half_of_ram_pushes_the_initrd_on() {
    let image = told(&noise(3 * MIB as usize)).unwrap();
    let layout = image.place(4 * MIB, Some(0x1234), 0x2000).unwrap();
    assert_eq!(layout.initrd, Some(Ipa(0x4031_0000)));
    assert_eq!(layout.dtb, Some(Ipa(0x4031_2000)));
}

#[test]
fn whole_pages_of_a_stored_image_can_be_given_as_they_are() {
    let part = told(&zimage(5000)).unwrap().segments[0];
    assert_eq!(part.in_place(Pa(0x5000_0000)), Some(Pa(0x5000_0000)));
    assert_eq!(part.in_place(Pa(0x5000_0800)), None);
    let part = told(&elf(0x4010_0000, &[(0x4010_0000, 0x4010_0000, &[1; 8], 8)]))
        .unwrap()
        .segments[0];
    assert_eq!(part.in_place(Pa(0x5000_0000)), None);
    assert_eq!(part.in_place(Pa(0x5000_1000 - 84)), Some(Pa(0x5000_1000)));
}

/// A zImage that says what it unpacks to: `kernel` bytes at its end, `bss` and more.
fn telling(size: usize, tag: &[u32], kernel: u32) -> Vec<u8> {
    let mut image = zimage(size);
    let table = size as u32 - 256;
    image[0x34..0x3c].copy_from_slice(&words(&[0x4545_4545, table]));
    let at = table as usize;
    image[at..at + 4 * tag.len()].copy_from_slice(&words(tag));
    image[size - 4..].copy_from_slice(&kernel.to_le_bytes());
    image
}

const KERNEL_SIZE: u32 = 0x5a53_4c4b;

#[test]
fn a_zimage_that_says_what_it_unpacks_is_used_where_it_lies() {
    let tag = [6, KERNEL_SIZE, 20_000 - 4, 0x3_0000, 0x8000, 0x2_0000];
    let mut image = told(&telling(20_000, &tag, 0x10_0001)).unwrap();
    assert_eq!(image.lift(Pa(0x5000_1000), 64 * MIB), 16384);
    // 0x13_8001 bytes from the start of RAM on are the kernel's.
    assert_eq!(image.entry, Ipa(0x4014_0000));
    assert_eq!(image.segments[0].ipa, image.entry);
    let layout = image.place(64 * MIB, Some(1), 0x1000).unwrap();
    assert_eq!(layout.initrd, Some(Ipa(0x4200_0000)));
}

#[test]
fn a_zimage_is_copied_where_that_is_needed() {
    let tag = [4, KERNEL_SIZE, 20_000 - 4, 0x3_0000];
    let image = told(&telling(20_000, &tag, 0x10_0000)).unwrap();
    let end = 0x20_8000 + 0x13_0000 + 0x8000 + 20_000 + 0x2_0000;
    let lift = |module, ram| {
        let mut image = image.clone();
        (image.lift(module, ram), image.entry)
    };
    let copied = (0, Ipa(0x4001_0000));
    assert_eq!(lift(Pa(0x5000_0000), 2 * end), (16384, Ipa(0x4034_0000)));
    // The initrd comes too soon, and the module is not on pages.
    assert_eq!(lift(Pa(0x5000_0000), 2 * end - 2), copied);
    assert_eq!(lift(Pa(0x5000_0800), 64 * MIB), copied);
    // No table, none in the image, one of other tags alone, and packed.
    let others: Vec<u32> = [2, 7].repeat(20);
    let mut astray = telling(20_000, &tag, 0);
    astray[0x38..0x3c].copy_from_slice(&u32::MAX.to_le_bytes());
    let dull = [
        zimage(20_000),
        telling(20_000, &[0; 8], 0),
        telling(20_000, &others, 0),
        telling(20_000, &[6, KERNEL_SIZE, u32::MAX, 0, 0, 0], 0),
        astray,
        gzip(&telling(20_000, &tag, 0x10_0000)),
    ];
    for bytes in dull {
        let mut image = told(&bytes).unwrap();
        assert_eq!((image.lift(Pa(0x5000_0000), 64 * MIB), image.entry), copied);
    }
}

#[test]
fn any_other_bytes_are_a_raw_image() {
    let image = told(&words(&[0xeaff_fffe])).unwrap();
    assert_eq!((image.format, image.entry), (Format::Raw, Ipa(0x4001_0000)));
    assert_eq!(image.handover, Handover::Linux);
}

#[test]
fn linuxs_image_goes_where_it_was_linked_for() {
    let mut code = words(&[0xeb00_0000, 0xe10f_9000, 0xe229_901a, 0xe319_001f]);
    code.extend(words(&[0xe3c9_901f, 0xe248_8982, 0xe1a0_0000]));
    let image = told(&code).unwrap();
    assert_eq!(
        (image.format, image.entry),
        (Format::LinuxImage, Ipa(0x4020_8000))
    );
}

#[test]
fn an_elf_goes_where_its_physical_addresses_say() {
    let file = elf(
        0xc000_0011,
        &[
            (0xc000_0000, 0x4010_0000, &[1; 64], 128),
            (0, 0x1000, &[2; 32], 32),
        ],
    );
    let image = told(&file).unwrap();
    assert_eq!(
        (image.format, image.handover),
        (Format::Elf, Handover::Bare)
    );
    assert_eq!((image.entry, image.thumb), (Ipa(0x4010_0010), true));
    assert_eq!(image.segments[0].memory, 128);
    assert_eq!(
        loaded(&image, &file),
        [(Ipa(0x4010_0000), vec![1; 64]), (Ipa(0x1000), vec![2; 32])]
    );
    let layout = image.place(64 * MIB, None, 0x2000).unwrap();
    assert_eq!((layout.dtb, layout.registers), (Some(RAM), [0; 3]));
}

#[test]
fn an_elf_at_the_start_of_ram_gets_no_tree() {
    let at = |to| {
        told(&elf(to, &[(to, to, &[1; 8], 8)]))
            .unwrap()
            .place(64 * MIB, None, 0x2000)
            .unwrap()
            .dtb
    };
    assert_eq!(at(0x4000_0000), None);
    assert_eq!(at(0x4000_1ffc), None);
    assert_eq!(at(0x4000_2000), Some(RAM));
    assert_eq!(at(0x0000_0000), Some(RAM));
}

#[test]
fn a_uimage_goes_where_its_header_says() {
    let data = zimage(4097);
    let file = uimage(2, 0, 0x4100_0000, 0x4100_0040, &data);
    let image = told(&file).unwrap();
    assert_eq!(
        (image.format, image.entry),
        (Format::UImage, Ipa(0x4100_0040))
    );
    assert_eq!(loaded(&image, &file), [(Ipa(0x4100_0000), data.clone())]);
    assert_eq!(
        told(&uimage(14, 0, 0, 8, &data)).unwrap().entry,
        Ipa(0x4200_0048)
    );
    let file = uimage(2, 1, 0x4100_0000, 0x4100_0000, &gzip(&data));
    assert_eq!(
        loaded(&told(&file).unwrap(), &file),
        [(Ipa(0x4100_0000), data)]
    );
}

#[test]
fn packed_images_unpack_to_what_was_packed() {
    let raw = noise(300_000);
    let file = gzip(&raw);
    assert_eq!(
        loaded(&told(&file).unwrap(), &file),
        [(Ipa(0x4001_0000), raw.clone())]
    );
    let program = elf(
        0x4010_0000,
        &[
            (0x4010_0000, 0x4010_0000, &raw[..100_000], 100_000),
            (0, 0, &raw[7..70_000], 80_000),
        ],
    );
    let file = gzip(&program);
    let image = told(&file).unwrap();
    assert_eq!(
        loaded(&image, &file),
        [
            (Ipa(0x4010_0000), raw[..100_000].to_vec()),
            (Ipa(0), raw[7..70_000].to_vec())
        ]
    );
}

#[test]
fn firmware_runs_from_0_with_the_tree_at_the_start_of_ram() {
    let file = noise(1000);
    let image = firmware(&file.as_slice()).unwrap();
    let layout = image.place(64 * MIB, None, 0x2000).unwrap();
    assert_eq!(
        (image.entry, layout.dtb, layout.registers),
        (Ipa(0), Some(RAM), [0; 3])
    );
}

#[test]
fn what_is_no_kernel_is_named() {
    let mut big_endian = elf(0, &[(0, 0, &[1; 4], 4)]);
    let mut other_machine = big_endian.clone();
    let mut object = big_endian.clone();
    (big_endian[5], other_machine[18], object[16]) = (2, 3, 1);
    let mut wide = big_endian.clone();
    wide[4] = 2;
    let mut changed = uimage(2, 0, 0, 0, &[1; 100]);
    changed[120] ^= 4;
    let mut damaged = gzip(&noise(9000));
    damaged[600] ^= 0x10;
    let table: &[(&[u8], &str)] = &[
        (b"", "empty"),
        (&[1, 2], "shorter than an instruction"),
        (
            &zimage(5000)[..4000],
            "a zImage of 5000 bytes, of which 4000 are here",
        ),
        (&wide, "a 64-bit ELF"),
        (&big_endian, "a big-endian ELF"),
        (&other_machine, "an ELF for another machine"),
        (&object, "an ELF that is no program: an object or a core"),
        (&elf(0, &[]), "an ELF without anything to load"),
        (
            &elf(0, &[(0, 0, &[1; 8], 4)]),
            "an ELF with a malformed segment",
        ),
        (&elf(0, &[(0, 0, &[1; 80], 80)])[..120], "an ELF cut short"),
        (b"\xd0\x0d\xfe\xed\0\0\0\x48", "a device tree"),
        (b"070701000000", "an initrd (cpio)"),
        (&gzip(b"07070100000000000000000"), "an initrd (cpio)"),
        (b"#!/bin/sh\necho\n", "a script"),
        (b"Linux version 6.1.0 (debian)", "text"),
        (&[0; 64], "blank memory"),
        (b"\xfd7zXZ\0\0\0", "packed by xz"),
        (
            &uimage(3, 0, 0, 0, &[1; 100]),
            "a uImage of something else than a kernel",
        ),
        (
            &uimage(2, 3, 0, 0, &[1; 100]),
            "a uImage packed by something else than gzip",
        ),
        (&uimage(2, 0, 0, 0, &[1; 100])[..150], "cut short"),
        (&changed, "a uImage whose checksum is wrong"),
    ];
    for (bytes, found) in table {
        assert_eq!(found_by(told(bytes)), *found);
    }
    let image = told(&damaged);
    let unpacked = image.and_then(|image| image.unpack(&damaged.as_slice(), |_, _| Ok(())));
    assert_eq!(found_by(unpacked), "packed by gzip and damaged");
}

#[test]
fn what_does_not_fit_is_refused() {
    let place = |file: &[u8], ram, initrd, dtb| {
        told(file)
            .unwrap()
            .place(ram, initrd, dtb)
            .unwrap_err()
            .to_string()
    };
    let tail = "KiB too large for 1024 KiB of RAM; give the VM more memory";
    assert_eq!(
        place(&noise(MIB as usize), MIB, None, 0),
        format!("with a part of 1088 {tail}")
    );
    assert_eq!(
        place(&noise(5), MIB, Some(600 << 10), 0),
        format!("with an initrd of 600 {tail}")
    );
    assert_eq!(
        place(&noise(5), MIB, Some(500 << 10), 16 << 10),
        format!("with a device tree of 16 {tail}")
    );
    assert_eq!(
        place(&elf(0, &[(0, 0x0900_0000, &[1; 8], 16)]), MIB, None, 0),
        "for 0x9000000..0x9000010, where a guest has neither RAM nor flash; \
         link it for RAM from 0x40000000, without direct-map, or for flash from 0"
    );
    let twice = elf(
        0,
        &[(0, 0x4000_0000, &[1; 8], 8), (0, 0x4000_0004, &[1; 8], 8)],
    );
    assert_eq!(
        place(&twice, MIB, None, 0),
        "of segments that overlap; link it again"
    );
}

/// Reads fail beyond its end, as those of memory that is not there.
struct Short(Vec<u8>, u64);

impl Source for Short {
    fn size(&self) -> u64 {
        self.1
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.0.as_slice().read(offset, buffer)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(
        kind in 0..6,
        noise in proptest::collection::vec(any::<u8>(), 0..600),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        size in prop_oneof![0..4096u64, any::<u64>()],
        ram in prop_oneof![any::<u64>(), 0..0x4000_0000u64],
    ) {
        let mut file = match kind {
            0 => noise,
            1 => zimage(500),
            2 => elf(0, &[(0, 0, &noise, 4000), (9, 0x4000_0000, &noise, 1 << 20)]),
            3 => uimage(2, 0, 0x4100_0000, 0x4100_0000, &noise),
            4 => gzip(&elf(0, &[(0, 0, &noise, 4000)])),
            _ => uimage(2, 1, 0x4100_0000, 0x4100_0000, &gzip(&noise)),
        };
        for (at, byte) in changes {
            if !file.is_empty() {
                let at = at.index(file.len());
                file[at] = byte;
            }
        }
        let sources: [&dyn Source; 2] = [&file.as_slice(), &Short(file.clone(), size)];
        for source in sources {
            for image in [kernel(source, RAM), firmware(source)].into_iter().flatten() {
                let _ = image.unpack(source, |_, _| Ok(()));
                let _ = image.place(ram, Some(size), size);
                let _ = image.place(ram, None, 8192);
            }
        }
    }
}
