//! Debian's kernel, an initramfs of its busybox, its U-Boot and its UEFI: real guests, through apt into this tool's own cache.
//!
//! apt gets a state directory, a cache and an empty dpkg status of its own, and armhf for an architecture; of the system's
//! it reads where packages come from, with which keys, and how the network is reached. So nothing of the system's is changed,
//! and no root is needed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::slice;

use anyhow::{Context, bail};

use crate::build::{self, target_directory};
use crate::cpio::Archive;
use crate::failure::unusable;
use crate::progress::{self, Line};

/// What begins the name of one of these files in place of a path.
const PREFIX: &str = "debian:";
/// Modules of the kernel in the initramfs: for virtio disks.
const MODULES: [&str; 2] = ["virtio_mmio.ko", "virtio_blk.ko"];
/// The first process of the initramfs.
const INIT: &str = include_str!("init.sh");
/// What a Linux works at in a benchmark.
const WORK: &str = include_str!("bench/work.sh");

/// A file that a VM may name as `debian:NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The kernel of `linux-image-armmp-lpae`, a zImage.
    Linux,
    /// A file system of `busybox-static` and a script that ends in a shell.
    Initramfs,
    /// The firmware of `u-boot-qemu` for the 32-bit machine.
    UBoot,
    /// The firmware of `qemu-efi-arm`.
    Uefi,
    /// Xen, of the package that `xen-system-armhf` depends on.
    Xen,
    /// The initramfs with a script that works in several ways, and the programs that it needs: hackbench of `rt-tests`.
    Work,
}

impl Item {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Linux,
        Self::Initramfs,
        Self::UBoot,
        Self::Uefi,
        Self::Xen,
        Self::Work,
    ];

    /// The item that `file` stands for, if it does.
    #[must_use]
    pub fn named(file: &Path) -> Option<Self> {
        let name = file.to_str()?.strip_prefix(PREFIX)?;
        Self::ALL.into_iter().find(|item| item.name() == name)
    }

    /// How a VM names it.
    #[must_use]
    pub fn file(self) -> PathBuf {
        format!("{PREFIX}{}", self.name()).into()
    }

    /// The file itself, once it has been provided.
    #[must_use]
    pub fn path(self) -> PathBuf {
        place().join(match self {
            Self::Linux => "vmlinuz",
            Self::Initramfs => "initramfs.cpio",
            Self::UBoot => "u-boot.bin",
            Self::Uefi => "uefi.fd",
            Self::Xen => "xen",
            Self::Work => "work.cpio",
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Initramfs => "initramfs",
            Self::UBoot => "u-boot",
            Self::Uefi => "uefi",
            Self::Xen => "xen",
            Self::Work => "work",
        }
    }

    /// Makes sure that its file is there.
    pub fn provide(self) -> anyhow::Result<()> {
        match self {
            Self::Linux => linux(),
            Self::UBoot => from_package(&[self.path()], "u-boot-qemu", |path| {
                (path == "usr/lib/u-boot/qemu_arm/u-boot.bin").then_some("u-boot.bin")
            }),
            Self::Uefi => from_package(&[self.path()], "qemu-efi-arm", |path| {
                (path == "usr/share/AAVMF/AAVMF32_CODE.fd").then_some("uefi.fd")
            }),
            Self::Xen if !self.path().is_file() && !available() => Err(unusable(
                "Debian's xen-system-armhf comes through apt-get and dpkg-deb, which are not here",
            )),
            Self::Xen => from_package(&[self.path()], "xen-system-armhf", |path| {
                (path.starts_with("boot/xen-") && !path.ends_with(".config")).then_some("xen")
            }),
            Self::Initramfs => {
                linux()?;
                let mut more = Vec::new();
                for name in MODULES {
                    more.push((format!("lib/{name}"), fs::read(place().join(name))?));
                }
                keep(&self.path(), &initramfs(&busybox()?, &more))
            }
            Self::Work => {
                let mut more = vec![("bin/work".to_owned(), WORK.as_bytes().to_vec())];
                for (name, package, wanted) in PROGRAMS {
                    let file = place().join(name.replace('/', "-"));
                    from_package(slice::from_ref(&file), package, wanted)?;
                    more.push((name.to_owned(), fs::read(file)?));
                }
                keep(&self.path(), &initramfs(&busybox()?, &more))
            }
        }
    }
}

/// What `bin/work` needs: its path, the package that it comes from, and which file of that it is.
const PROGRAMS: [(&str, &str, Wanted); 5] = [
    ("bin/hackbench", "rt-tests", |path| {
        (path == "usr/bin/hackbench").then_some("bin-hackbench")
    }),
    ("bin/chrt", "util-linux", |path| {
        (path == "usr/bin/chrt").then_some("bin-chrt")
    }),
    ("lib/ld-linux-armhf.so.3", "libc6", |path| {
        path.ends_with("lib/arm-linux-gnueabihf/ld-linux-armhf.so.3")
            .then_some("lib-ld-linux-armhf.so.3")
    }),
    ("lib/libc.so.6", "libc6", |path| {
        path.ends_with("lib/arm-linux-gnueabihf/libc.so.6")
            .then_some("lib-libc.so.6")
    }),
    ("lib/libpthread.so.0", "libc6", |path| {
        path.ends_with("lib/arm-linux-gnueabihf/libpthread.so.0")
            .then_some("lib-libpthread.so.0")
    }),
];

fn busybox() -> anyhow::Result<Vec<u8>> {
    let busybox = place().join("busybox");
    from_package(slice::from_ref(&busybox), "busybox-static", |path| {
        path.ends_with("bin/busybox").then_some("busybox")
    })?;
    Ok(fs::read(busybox)?)
}

/// Writes a file that does not hold these `contents` already.
fn keep(file: &Path, contents: &[u8]) -> anyhow::Result<()> {
    match fs::read(file) {
        Ok(there) if there == contents => Ok(()),
        _ => replace(file, contents),
    }
}

/// Whether packages can be had here at all.
#[must_use]
pub fn available() -> bool {
    let there = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version");
        progress::captured(&mut command, |_| ()).is_ok_and(|(succeeded, _)| succeeded)
    };
    there("apt-get") && there("dpkg-deb")
}

fn place() -> PathBuf {
    target_directory().join("debian")
}

/// The kernel and its modules, which are of the same package.
fn linux() -> anyhow::Result<()> {
    let mut files = vec![Item::Linux.path()];
    files.extend(MODULES.map(|name| place().join(name)));
    from_package(&files, "linux-image-armmp-lpae", |path| {
        if path.starts_with("boot/vmlinuz-") {
            return Some("vmlinuz");
        }
        let name = path.strip_prefix("lib/modules/")?.rsplit('/').next()?;
        MODULES.into_iter().find(|module| *module == name)
    })
}

/// The file system: busybox, which makes its own links, what it needs before that, and `more` by their paths.
fn initramfs(busybox: &[u8], more: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "lib", "proc", "sys", "tmp"] {
        archive.directory(directory);
    }
    archive.device("dev/console", (5, 1));
    archive.program("bin/busybox", busybox);
    archive.program("init", INIT.as_bytes());
    for (name, contents) in more {
        archive.program(name, contents);
    }
    archive.finish()
}

/// Fetches `package` and takes the files that are `wanted`, by their names here, out of it, where not all of `files` are
/// there yet.
fn from_package(files: &[PathBuf], package: &str, wanted: Wanted) -> anyhow::Result<()> {
    if files.iter().all(|file| file.is_file()) {
        return Ok(());
    }
    if !available() {
        return Err(unusable(format!(
            "Debian's {package} comes through apt-get and dpkg-deb, which are not here. Name files of your own instead: \
             --vm kernel=FILE,initrd=FILE,append=console=ttyAMA0 or --vm firmware=FILE"
        )));
    }
    fs::create_dir_all(place())?;
    let fetched = tempfile::tempdir_in(place())?;
    let archive = Apt::new()?.fetch(package, fetched.path())?;
    let contents = progress::step(&format!("unpack {package}"), Line::IfSlow, |_| {
        unpacked(&archive, wanted)
    })?;
    for (name, contents) in contents {
        replace(&place().join(name), &contents)?;
    }
    match files.iter().find(|file| !file.is_file()) {
        Some(file) => bail!("{}: it holds no {}", archive.display(), file.display()),
        None => Ok(()),
    }
}

/// The name here of a file that is wanted, by its path in the package.
type Wanted = fn(&str) -> Option<&'static str>;

/// The files that are `wanted` of the package `archive`.
fn unpacked(archive: &Path, wanted: Wanted) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(archive);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| progress::shown(&command))?;
    let files = child.stdout.take().context("no output")?;
    let found = find(files, wanted);
    let _ = child.kill();
    child.wait()?;
    found
}

fn find(files: impl Read, wanted: Wanted) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in tar::Archive::new(files).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let name = wanted(path.trim_start_matches("./"));
        if let Some(name) = name.filter(|name| found.iter().all(|(other, _)| other != name)) {
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents)?;
            found.push((name, contents));
        }
    }
    Ok(found)
}

/// Writes a file whole, even where others read or write it at this moment.
fn replace(file: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let directory = tempfile::tempdir_in(place())?;
    let new = directory.path().join("new");
    build::write(&new, contents)?;
    fs::rename(&new, file).with_context(|| file.display().to_string())
}

/// apt with a state of its own.
struct Apt {
    configuration: PathBuf,
}

impl Apt {
    fn new() -> anyhow::Result<Self> {
        let place = place().join("apt");
        for directory in ["lists/partial", "archives/partial", "none"] {
            fs::create_dir_all(place.join(directory))?;
        }
        build::write(&place.join("status"), b"")?;
        let configuration = place.join("apt.conf");
        let text = format!(
            "APT::Architecture \"armhf\";\n\
             APT::Architectures {{ \"armhf\"; }};\n\
             Dir::State \"{0}\";\n\
             Dir::State::status \"{0}/status\";\n\
             Dir::Cache \"{0}\";\n\
             Dir::Etc::main \"\";\n\
             Dir::Etc::parts \"{0}/none\";\n\
             Acquire::Languages \"none\";\n\
             {1}",
            place.display(),
            network()?
        );
        build::write(&configuration, text.as_bytes())?;
        Ok(Self { configuration })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", &self.configuration)
            .args(arguments);
        command
    }

    /// Fetches `package`, or what it stands for, into `place`.
    fn fetch(&self, package: &str, place: &Path) -> anyhow::Result<PathBuf> {
        if let Ok(archive) = self.download(package, place) {
            return Ok(archive);
        }
        let mut update = self.command("apt-get", &["update"]);
        // One of many lists may fail, and not be the one that is needed.
        let output = progress::step("fetch Debian's package lists", Line::Always, |bar| {
            progress::captured(&mut update, |text| bar.set_message(text.to_owned()))
        })?
        .1;
        self.download(package, place)
            .map_err(|error| unusable(format!("{}\n{error}", output.trim_end())))
    }

    fn download(&self, package: &str, place: &Path) -> anyhow::Result<PathBuf> {
        let package = self.meant(package)?;
        let mut download = self.command("apt-get", &["--quiet", "download", &package]);
        download.current_dir(place);
        progress::command(
            &format!("fetch Debian's {package}"),
            Line::Always,
            &mut download,
        )?;
        let mut files = fs::read_dir(place)?.flatten().map(|entry| entry.path());
        files
            .find(|path| path.extension().is_some_and(|kind| kind == "deb"))
            .with_context(|| format!("apt-get fetched no {package}"))
    }

    /// The package that `package` stands for: a kernel's, and Xen's, depends on the one of the newest version.
    fn meant(&self, package: &str) -> anyhow::Result<String> {
        let mut depends = self.command("apt-cache", &["depends", "--important", package]);
        let (succeeded, output) = progress::captured(&mut depends, |_| ())?;
        if !succeeded {
            bail!("{}", output.trim_end());
        }
        Ok(versioned(&output).unwrap_or(package).into())
    }
}

/// The kernel, or the Xen, that the one of a plain name depends on, by what apt-cache prints.
fn versioned(depends: &str) -> Option<&str> {
    let mut names = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-") || name.starts_with("xen-hypervisor-"))
}

/// How the system's apt reaches the network: proxies and the like.
fn network() -> anyhow::Result<String> {
    let mut dump = Command::new("apt-config");
    dump.arg("dump");
    let (_, output) = progress::captured(&mut dump, |_| ())?;
    let lines = output
        .lines()
        .filter(|line| line.starts_with("Acquire::http"));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_known_by_its_name() {
        for item in Item::ALL {
            assert_eq!(Item::named(&item.file()), Some(item));
        }
        assert_eq!(Item::named(Path::new("debian:hurd")), None);
        assert_eq!(Item::named(Path::new("linux")), None);
    }

    #[test]
    fn a_kernels_plain_name_stands_for_a_version() {
        let output = "linux-image-armmp-lpae\n  Depends: linux-image-6.1.0-50-armmp-lpae\n  Depends: libc6\n";
        assert_eq!(versioned(output), Some("linux-image-6.1.0-50-armmp-lpae"));
        let output = "xen-system-armhf\n  Depends: xen-hypervisor-4.17-armhf\n  Depends: xen-hypervisor-common\n";
        assert_eq!(versioned(output), Some("xen-hypervisor-4.17-armhf"));
        assert_eq!(versioned("u-boot-qemu\n  Depends: libc6\n"), None);
    }

    #[test]
    fn a_file_is_found_in_a_package_by_its_path() {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, contents) in [("./boot/config-6", "no"), ("./boot/vmlinuz-6", "kernel")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_cksum();
            tar.append_data(&mut header, path, contents.as_bytes())
                .unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let kernel: Wanted = |path| path.starts_with("boot/vmlinuz-").then_some("k");
        assert_eq!(find(&tar[..], kernel).unwrap(), [("k", b"kernel".to_vec())]);
        assert_eq!(find(&tar[..], |_| None).unwrap(), []);
    }
}
