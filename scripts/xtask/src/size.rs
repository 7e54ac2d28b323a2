//! Sizes of memory as QEMU's `-m` takes them: `64M`, `1G`; a bare number counts MiB.

use std::fmt;
use std::str::FromStr;

/// One KiB in bytes.
pub const KIB: u64 = 1 << 10;
/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;
/// One GiB in bytes.
pub const GIB: u64 = 1 << 30;

/// A size in bytes, never zero and a multiple of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// A size of `count` MiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count * MIB)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is no size: write a number and K, M or G, as in 64M or 1G");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = match unit.to_ascii_lowercase().as_str() {
            "k" | "kib" => KIB,
            "" | "m" | "mib" => MIB,
            "g" | "gib" => GIB,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let bytes = number.checked_mul(unit).ok_or_else(wrong)?;
        if bytes == 0 || bytes % (4 * KIB) != 0 {
            return Err(format!("'{text}' is not a positive multiple of 4K"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (divisor, unit) = [(GIB, "G"), (MIB, "M"), (KIB, "K")]
            .into_iter()
            .find(|(divisor, _)| self.0.is_multiple_of(*divisor))
            .unwrap_or((1, ""));
        write!(out, "{}{unit}", self.0 / divisor)
    }
}

impl<'de> serde::Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = String::deserialize(source)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_reads_as_qemu_reads_it_and_prints_short() {
        for (text, bytes, printed) in [
            ("64M", 64 * MIB, "64M"),
            ("1g", GIB, "1G"),
            ("8GiB", 8 * GIB, "8G"),
            ("512", 512 * MIB, "512M"),
            ("1536m", 1536 * MIB, "1536M"),
            ("64k", 64 * KIB, "64K"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed));
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "0",
            "1K",
            "1.5G",
            "-1M",
            "64X",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
