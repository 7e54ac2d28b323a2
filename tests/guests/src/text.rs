//! A short text without an allocator; what does not fit is cut off.

use core::fmt;

/// At most `N` bytes of UTF-8.
#[derive(Clone)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// An empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    /// Appends as many whole characters as fit.
    pub fn push(&mut self, s: &str) {
        for c in s.chars() {
            let Some(room) = self.bytes.get_mut(self.len..self.len + c.len_utf8()) else {
                return;
            };
            self.len += c.encode_utf8(room).len();
        }
    }

    /// Takes the last character away; false if there is none.
    pub fn pop(&mut self) -> bool {
        let Some((at, _)) = self.as_str().char_indices().next_back() else {
            return false;
        };
        self.len = at;
        true
    }

    /// Makes it empty.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s);
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
