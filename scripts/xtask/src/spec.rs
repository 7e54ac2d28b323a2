//! `--vm SPEC`: one virtual machine in words.
//!
//! `kernel=FILE[,initrd=FILE][,append=STRING][,memory=SIZE][,cpus=N][,name=NAME][,dtb=FILE][,with=FILE][,passthrough=PATH][,direct-map]`, or `firmware=FILE`
//! in place of `kernel`. A comma inside a value is written twice, as QEMU does. In front of the other keys, `linux` stands for
//! Debian's kernel with an initramfs, and `uboot` and `uefi` for Debian's U-Boot and UEFI as firmware.

use std::path::PathBuf;
use std::str::FromStr;

use crate::debian::Item;
use crate::size::Size;

/// The command line of a Linux that has nothing else to be told.
const LINUX_CONSOLE: &str = "console=ttyAMA0";

/// What a VM is started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A kernel: zImage, uImage, ELF or raw.
    Kernel(PathBuf),
    /// Firmware, placed at guest-physical 0 and started there.
    Firmware(PathBuf),
}

/// One `--vm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What it starts from.
    pub boot: Boot,
    /// Its initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// Its kernel's command line.
    pub append: Option<String>,
    /// Its RAM.
    pub memory: Option<Size>,
    /// How many vCPUs it has.
    pub cpus: Option<u32>,
    /// Its name, which is its node's name in the device tree.
    pub name: Option<String>,
    /// A partial device tree with what is passed through to it.
    pub dtb: Option<PathBuf>,
    /// A device tree source whose root's properties and nodes are added to its node.
    pub with: Option<PathBuf>,
    /// Nodes of the board whose devices it has.
    pub passthrough: Vec<String>,
    /// Whether its RAM is mapped one to one.
    pub direct_map: bool,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = Fields::default();
        for item in split(text) {
            if fields.shorthand(&item)? {
                continue;
            }
            let (key, value) = item.split_once('=').ok_or_else(|| {
                format!("'{item}' is not KEY=VALUE (a comma inside a value is written twice)")
            })?;
            fields.set(key, value)?;
        }
        fields.finish()
    }
}

#[derive(Default)]
struct Fields {
    kernel: Option<PathBuf>,
    firmware: Option<PathBuf>,
    initrd: Option<PathBuf>,
    append: Option<String>,
    memory: Option<Size>,
    cpus: Option<u32>,
    name: Option<String>,
    dtb: Option<PathBuf>,
    with: Option<PathBuf>,
    passthrough: Vec<String>,
    direct_map: bool,
    /// Whether its kernel is Debian's, which has to be told where its console is.
    linux: bool,
}

impl Fields {
    /// Takes a word that stands for several fields; whether `word` is one.
    fn shorthand(&mut self, word: &str) -> Result<bool, String> {
        match word {
            "linux" => {
                self.file("kernel", Item::Linux)?;
                self.file("initrd", Item::Initramfs)?;
                self.linux = true;
            }
            "uboot" => self.file("firmware", Item::UBoot)?,
            "uefi" => self.file("firmware", Item::Uefi)?,
            "direct-map" => self.direct_map = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn file(&mut self, key: &str, item: Item) -> Result<(), String> {
        self.set(key, &item.file().to_string_lossy())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if value.is_empty() && key != "append" {
            return Err(format!("'{key}=' has no value"));
        }
        let twice = match key {
            "kernel" => self.kernel.replace(value.into()).is_some(),
            "firmware" => self.firmware.replace(value.into()).is_some(),
            "initrd" => self.initrd.replace(value.into()).is_some(),
            "append" => self.append.replace(value.into()).is_some(),
            "memory" => self.memory.replace(value.parse()?).is_some(),
            "cpus" => self.cpus.replace(cpus(value)?).is_some(),
            "name" => self.name.replace(name(value)?).is_some(),
            "dtb" => self.dtb.replace(value.into()).is_some(),
            "passthrough" => {
                self.passthrough.push(value.into());
                false
            }
            "with" => self.with.replace(value.into()).is_some(),
            _ => {
                return Err(format!(
                    "unknown key '{key}': kernel, firmware, initrd, append, memory, cpus, name, dtb, with and passthrough are known"
                ));
            }
        };
        if twice {
            return Err(format!("'{key}' is given twice"));
        }
        Ok(())
    }

    fn finish(self) -> Result<Spec, String> {
        let boot = match (self.kernel, self.firmware) {
            (Some(file), None) => Boot::Kernel(file),
            (None, Some(file)) => Boot::Firmware(file),
            _ => return Err("a VM has one of kernel=FILE and firmware=FILE".into()),
        };
        let append = match (self.linux, self.append) {
            (true, Some(more)) => Some(format!("{LINUX_CONSOLE} {more}")),
            (true, None) => Some(LINUX_CONSOLE.into()),
            (false, append) => append,
        };
        Ok(Spec {
            boot,
            initrd: self.initrd,
            append,
            memory: self.memory,
            cpus: self.cpus,
            name: self.name,
            dtb: self.dtb,
            with: self.with,
            passthrough: self.passthrough,
            direct_map: self.direct_map,
        })
    }
}

/// Splits at single commas; a doubled comma stands for one.
fn split(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(c);
        }
    }
    items
}

fn cpus(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("cpus={value}: a VM has at least one vCPU")),
    }
}

/// A name is a node name of the device tree (Devicetree Specification, 2.2.1), without a unit address.
fn name(value: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if value.len() > 31
        || !value.starts_with(|c: char| c.is_ascii_alphabetic())
        || !value.chars().all(allowed)
    {
        return Err(format!(
            "name={value}: a name is at most 31 of the characters a-z, A-Z, 0-9 and . _ + -, the first a letter"
        ));
    }
    Ok(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let spec: Spec =
            "kernel=zImage,initrd=i.cpio,append=a=b c,memory=64M,cpus=2,name=web,dtb=x.dtb,with=y.dts,passthrough=/a@1,passthrough=/b,direct-map"
                .parse()
                .unwrap();
        let expected = Spec {
            boot: Boot::Kernel("zImage".into()),
            initrd: Some("i.cpio".into()),
            append: Some("a=b c".into()),
            memory: Some(Size::mib(64)),
            cpus: Some(2),
            name: Some("web".into()),
            dtb: Some("x.dtb".into()),
            with: Some("y.dts".into()),
            passthrough: vec!["/a@1".into(), "/b".into()],
            direct_map: true,
        };
        assert_eq!(spec, expected);
    }

    #[test]
    fn linux_and_firmware_stand_for_files_of_debian() {
        let linux: Spec = "linux,append=quiet,cpus=2".parse().unwrap();
        assert_eq!(linux.boot, Boot::Kernel(Item::Linux.file()));
        assert_eq!(linux.initrd, Some(Item::Initramfs.file()));
        assert_eq!(linux.append.as_deref(), Some("console=ttyAMA0 quiet"));
        let uboot: Spec = "uboot,name=u".parse().unwrap();
        assert_eq!(uboot.boot, Boot::Firmware(Item::UBoot.file()));
        assert_eq!(uboot.append, None);
        let uefi: Spec = "uefi".parse().unwrap();
        assert_eq!(uefi.boot, Boot::Firmware(Item::Uefi.file()));
        for twice in ["linux,kernel=a", "linux,linux", "uboot,linux"] {
            twice.parse::<Spec>().unwrap_err();
        }
    }

    #[test]
    fn a_doubled_comma_is_one_comma_of_the_value() {
        let spec: Spec = "kernel=a,,b,append=console=ttyAMA0,,115200,,,cpus=3"
            .parse()
            .unwrap();
        assert_eq!(spec.boot, Boot::Kernel("a,b".into()));
        assert_eq!(spec.append.as_deref(), Some("console=ttyAMA0,115200,"));
        assert_eq!(spec.cpus, Some(3));
    }

    #[test]
    fn a_wrong_spec_says_what_is_wrong() {
        for (text, part) in [
            ("initrd=x", "one of kernel=FILE and firmware=FILE"),
            (
                "kernel=a,firmware=b",
                "one of kernel=FILE and firmware=FILE",
            ),
            ("kernel=a,kernel=b", "given twice"),
            ("kernel=a,colour=red", "unknown key 'colour'"),
            ("kernel=a,cpus=0", "at least one vCPU"),
            ("kernel=a,memory=lots", "no size"),
            ("kernel=a,name=1st", "the first a letter"),
            ("kernel=a,name=a/b", "a name is"),
            ("kernel=", "no value"),
            ("zImage", "not KEY=VALUE"),
        ] {
            let error = text.parse::<Spec>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
