//! Addresses of an ELF file as functions: its symbols, and from its debug information what was inlined there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::mem;
use std::path::Path;
use std::rc::Rc;

use anyhow::Context as _;
use elf::ElfBytes;
use elf::abi::{SHF_EXECINSTR, STT_FUNC};
use elf::endian::AnyEndian;
use gimli::{Dwarf, EndianRcSlice, RunTimeEndian};

use crate::build;

/// Where an address is: a function, in which functions it was inlined, the outermost first; each with a line of its source.
pub(super) type Frames = Rc<[Frame]>;

/// One function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// Its name, without that of this crate.
    pub(super) name: String,
    /// Its file and line, if it has one.
    pub(super) line: String,
}

/// One ELF file.
pub(super) struct Symbols {
    /// By address.
    names: BTreeMap<u32, String>,
    context: addr2line::Context<EndianRcSlice<RunTimeEndian>>,
}

impl Symbols {
    /// Those of the sections of code that are loaded, or of the `section`.
    pub(super) fn of(path: &Path, section: Option<&str>) -> anyhow::Result<Self> {
        let file = fs::read(path).with_context(|| path.display().to_string())?;
        let elf = ElfBytes::<AnyEndian>::minimal_parse(&file)
            .with_context(|| path.display().to_string())?;
        let dwarf = Dwarf::load(|id| -> anyhow::Result<_> {
            // Those of a section elsewhere would be taken for the image's.
            let header = elf.section_header_by_name(id.name())?;
            let data = match header.filter(|_| section.is_none()) {
                Some(header) => elf.section_data(&header)?.0,
                None => &[],
            };
            Ok(EndianRcSlice::new(data.into(), RunTimeEndian::Little))
        })?;
        Ok(Self {
            names: names(&elf, section)?,
            context: addr2line::Context::from_dwarf(dwarf)?,
        })
    }

    /// The address of this symbol.
    pub(super) fn address(&self, name: &str) -> anyhow::Result<u32> {
        let found = self.names.iter().find(|(_, known)| *known == name);
        let (address, _) = found.with_context(|| format!("there is no symbol {name}"))?;
        Ok(*address)
    }

    /// The functions that `address` is in, the outermost first. What a library has inlined counts as its caller's.
    pub(super) fn frames(&self, address: u32) -> anyhow::Result<Frames> {
        let mut frames = Vec::new();
        let mut found = self.context.find_frames(address.into()).skip_all_loads()?;
        while let Some(frame) = found.next()? {
            let name = frame.function.as_ref().map(|name| name.raw_name());
            let name = name.transpose()?.unwrap_or(Cow::Borrowed("?"));
            let location = frame.location.as_ref();
            let file = location.and_then(|place| place.file).unwrap_or_default();
            let line = location.and_then(|place| place.line).unwrap_or(0);
            frames.push(Frame {
                name: plain(&name),
                line: format!("{}:{line}", shown(file)),
            });
        }
        frames.reverse();
        let symbol = self.names.range(..=address).next_back();
        let name = symbol.map_or("?", |(_, name)| name);
        match frames.first_mut() {
            // The debug information has the last part of the name only.
            Some(outermost) => outermost.name = name.into(),
            None => frames.push(Frame {
                name: name.into(),
                line: String::new(),
            }),
        }
        let mut outermost = true;
        frames.retain(|frame| mem::take(&mut outermost) || !foreign(frame));
        Ok(frames.into())
    }
}

/// The bytes of a section.
pub(super) fn section_size(path: &Path, section: &str) -> anyhow::Result<u32> {
    let file = fs::read(path).with_context(|| path.display().to_string())?;
    let elf = ElfBytes::<AnyEndian>::minimal_parse(&file)?;
    let header = elf.section_header_by_name(section)?;
    let header = header.with_context(|| format!("no section {section}"))?;
    Ok(u32::try_from(header.sh_size)?)
}

/// The addresses of a T16 instruction in the code that is loaded; and some that are none of an instruction.
pub(super) fn find(path: &Path, instruction: u16) -> anyhow::Result<Vec<u32>> {
    let file = fs::read(path).with_context(|| path.display().to_string())?;
    let elf = ElfBytes::<AnyEndian>::minimal_parse(&file)?;
    let mut found = Vec::new();
    for header in elf.section_headers().context("no sections")? {
        if header.sh_flags & u64::from(SHF_EXECINSTR) == 0 || header.sh_addr == 0 {
            continue;
        }
        let start = u32::try_from(header.sh_addr)?;
        let code = elf.section_data(&header)?.0;
        let halves = code.chunks_exact(2).zip((start..).step_by(2));
        let there = halves.filter(|(half, _)| **half == instruction.to_le_bytes());
        found.extend(there.map(|(_, address)| address));
    }
    Ok(found)
}

/// Whether a function's file is none of ours.
fn foreign(frame: &Frame) -> bool {
    frame.line.starts_with('<')
}

/// The names of code by address; where one has several, a function's.
fn names(
    elf: &ElfBytes<'_, AnyEndian>,
    section: Option<&str>,
) -> anyhow::Result<BTreeMap<u32, String>> {
    let (sections, strings) = elf.section_headers_with_strtab()?;
    let (sections, strings) = sections.zip(strings).context("no sections")?;
    let wanted = |index: u16| -> anyhow::Result<bool> {
        let Ok(header) = sections.get(index.into()) else {
            return Ok(false);
        };
        let name = strings.get(usize::try_from(header.sh_name)?)?;
        Ok(match section {
            Some(section) => name == section,
            None => header.sh_flags & u64::from(SHF_EXECINSTR) != 0 && header.sh_addr != 0,
        })
    };
    let mut names = BTreeMap::<u32, (bool, String)>::new();
    let (symbols, strings) = elf.symbol_table()?.context("no symbols")?;
    for symbol in symbols {
        let name = strings.get(usize::try_from(symbol.st_name)?)?;
        // `$t` and the like say what kind of code follows.
        if name.is_empty() || name.starts_with('$') || !wanted(symbol.st_shndx)? {
            continue;
        }
        let function = symbol.st_symtype() == STT_FUNC;
        let address = u32::try_from(symbol.st_value)? & !1;
        let known = names.entry(address).or_default();
        if known.1.is_empty() || function && !known.0 {
            *known = (
                function,
                plain(&addr2line::demangle_auto(name.into(), None)),
            );
        }
    }
    let names = names
        .into_iter()
        .map(|(address, (_, name))| (address, name));
    Ok(names.collect())
}

/// A name without that of the crate.
fn plain(name: &str) -> String {
    name.replace("armillary::", "")
}

/// A file's name below the repository; in brackets, below the place of a library's.
fn shown(file: &str) -> String {
    if let Ok(inside) = Path::new(file).strip_prefix(build::root()) {
        return inside.display().to_string();
    }
    let registry = |file: &str| {
        Some(
            file.split_once("/registry/src/")?
                .1
                .split_once('/')?
                .1
                .into(),
        )
    };
    let library = |file: &str| Some(file.split_once("/library/")?.1.into());
    let inside: Option<String> = registry(file).or_else(|| library(file));
    format!("<{}>", inside.as_deref().unwrap_or(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_files_are_shown_without_what_all_have() {
        assert_eq!(plain("<armillary::vm::Vm>::lock"), "<vm::Vm>::lock");
        let own = build::root().join("src/exit/mmio.rs");
        assert_eq!(shown(own.to_str().unwrap()), "src/exit/mmio.rs");
        assert_eq!(
            shown("/rustc/ab/library/core/src/cmp.rs"),
            "<core/src/cmp.rs>"
        );
        let registry = "/home/a/.cargo/registry/src/index.crates.io-1/fdt-0.1.5/src/node.rs";
        assert_eq!(shown(registry), "<fdt-0.1.5/src/node.rs>");
    }
}
