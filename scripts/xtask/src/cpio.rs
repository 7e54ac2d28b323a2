//! Writes cpio archives in the "newc" format, which Linux unpacks as its initial file system (initramfs buffer format,
//! Documentation/driver-api/early-userspace/buffer-format.rst).

/// What an entry is: the file type bits of its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory = 0o04_0000,
    /// A character device.
    Device = 0o02_0000,
    /// A regular file.
    File = 0o10_0000,
}

/// An archive that is being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, Kind::Directory as u32 | 0o755, (0, 0), &[]);
    }

    /// Adds an executable file.
    pub fn program(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, Kind::File as u32 | 0o755, (0, 0), contents);
    }

    /// Adds a character device by its major and minor number.
    pub fn device(&mut self, path: &str, number: (u32, u32)) {
        self.entry(path, Kind::Device as u32 | 0o600, number, &[]);
    }

    /// The whole archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let (inode, links) = (self.entries, 1);
        let (user, group, time, checksum) = (0, 0, 0, 0);
        let (size, name_size) = (contents.len() as u32, path.len() as u32 + 1);
        let fields = [
            inode, mode, user, group, links, time, size, 0, 0, device.0, device.1, name_size,
            checksum,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes().chain([0]));
        self.align();
        self.bytes.extend(contents);
        self.align();
    }

    /// Names and contents end at multiples of 4 bytes.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_linux_reads_it() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.device("dev/console", (5, 1));
        archive.program("init", b"hello");
        let bytes = archive.finish();
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        while !rest.is_empty() {
            assert!(rest.starts_with(b"070701"));
            let field = |n: usize| {
                let digits = std::str::from_utf8(&rest[6 + 8 * n..][..8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let name = String::from_utf8(rest[110..][..field(11) - 1].to_vec()).unwrap();
            let start = (110 + field(11)).next_multiple_of(4);
            let contents = rest[start..][..field(6)].to_vec();
            seen.push((name, field(1), field(9), field(10), contents));
            rest = &rest[(start + field(6)).next_multiple_of(4)..];
        }
        let expected = [
            ("dev", 0o40755, 0, 0, &b""[..]),
            ("dev/console", 0o20600, 5, 1, b""),
            ("init", 0o100755, 0, 0, b"hello"),
            ("TRAILER!!!", 0, 0, 0, b""),
        ];
        let expected =
            expected.map(|(name, mode, a, b, data)| (name.to_owned(), mode, a, b, data.to_vec()));
        assert_eq!(seen, expected);
    }
}
