//! Device tree source: printed whole, read in the subset that needs no preprocessor.
//!
//! The reader takes nodes, `<cells>`, `[bytes]`, "strings", empty properties and comments, not labels,
//! references, includes or expressions: what those make of a source is a blob, which `dtc` writes.

use std::fmt::Write;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

/// The source of a tree.
#[must_use]
pub fn print(tree: &DeviceTree) -> String {
    let mut out = String::from("/dts-v1/;\n");
    for reservation in &tree.memory_reservations {
        let (address, size) = (reservation.address(), reservation.size());
        line(
            &mut out,
            0,
            &format!("/memreserve/ {address:#x} {size:#x};"),
        );
    }
    out.push('\n');
    node(&mut out, &tree.root, 0);
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    for _ in 0..depth {
        out.push('\t');
    }
    out.push_str(text);
    out.push('\n');
}

fn node(out: &mut String, this: &DeviceTreeNode, depth: usize) {
    let name = this.name();
    line(
        out,
        depth,
        &format!("{} {{", if name.is_empty() { "/" } else { name }),
    );
    for property in this.properties() {
        let text = value(property.value());
        let assign = if text.is_empty() { "" } else { " = " };
        line(
            out,
            depth + 1,
            &format!("{}{assign}{text};", property.name()),
        );
    }
    for child in this.children() {
        out.push('\n');
        node(out, child, depth + 1);
    }
    line(out, depth, "};");
}

/// A value as strings if it can only be strings, as cells if it can be, else as bytes.
fn value(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    if let Some(strings) = strings(bytes) {
        return strings
            .iter()
            .map(|s| quote(s))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let mut out = String::new();
    if let (cells, []) = bytes.as_chunks::<4>() {
        let cells: Vec<String> = cells
            .iter()
            .map(|cell| format!("{:#x}", u32::from_be_bytes(*cell)))
            .collect();
        let _ = write!(out, "<{}>", cells.join(" "));
    } else {
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = write!(out, "[{}]", bytes.join(" "));
    }
    out
}

fn strings(bytes: &[u8]) -> Option<Vec<&str>> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\0')?;
    let parts: Vec<&str> = text.split('\0').collect();
    let printable = |part: &&str| {
        !part.is_empty() && !part.chars().any(|c| c.is_control() && !"\n\t".contains(c))
    };
    parts.iter().all(printable).then_some(parts)
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Reads a source. The error names the line.
pub fn parse(source: &str) -> Result<DeviceTree, String> {
    let mut reader = Reader { source, at: 0 };
    reader.expect("/dts-v1/")?;
    reader.expect(";")?;
    while reader.accept("/plugin/") {
        reader.expect(";")?;
    }
    reader.expect("/")?;
    let mut tree = DeviceTree::new();
    tree.root = reader.body("")?;
    reader.expect(";")?;
    reader.skip();
    if reader.rest().is_empty() {
        Ok(tree)
    } else {
        Err(reader.error("the end of the file"))
    }
}

struct Reader<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn error(&self, wanted: &str) -> String {
        let line = self.source[..self.at].matches('\n').count() + 1;
        let found: String = self
            .rest()
            .chars()
            .take_while(|c| *c != '\n')
            .take(30)
            .collect();
        format!("line {line}: expected {wanted}, found '{found}'")
    }

    /// Skips white space and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let space = rest.len() - rest.trim_start().len();
            let comment = match rest.trim_start() {
                text if text.starts_with("//") => text.find('\n').unwrap_or(text.len()),
                text if text.starts_with("/*") => text.find("*/").map_or(text.len(), |end| end + 2),
                _ => 0,
            };
            self.at += space + comment;
            if comment == 0 {
                return;
            }
        }
    }

    fn accept(&mut self, token: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.accept(token) {
            Ok(())
        } else {
            Err(self.error(&format!("'{token}'")))
        }
    }

    fn word(&mut self, wanted: &str) -> Result<&'a str, String> {
        self.skip();
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && !",._+?#@-".contains(c))
            .unwrap_or(rest.len());
        if end == 0 {
            return Err(self.error(wanted));
        }
        self.at += end;
        Ok(&rest[..end])
    }

    fn body(&mut self, name: &str) -> Result<DeviceTreeNode, String> {
        self.expect("{")?;
        let mut this = if name.is_empty() {
            DeviceTree::new().root
        } else {
            DeviceTreeNode::new(name).map_err(|_| self.error("a node's name before '{'"))?
        };
        while !self.accept("}") {
            let name = self.word("a node, a property or '}'")?;
            self.skip();
            if self.rest().starts_with('{') {
                let child = self.body(name)?;
                this.add_child(child);
            } else {
                let value = if self.accept("=") {
                    self.values()?
                } else {
                    Vec::new()
                };
                let property = DeviceTreeProperty::new(name, value)
                    .map_err(|_| self.error("a property's name before the value"))?;
                this.add_property(property);
            }
            self.expect(";")?;
        }
        Ok(this)
    }

    fn values(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        loop {
            if self.accept("<") {
                while !self.accept(">") {
                    bytes.extend(self.cell()?.to_be_bytes());
                }
            } else if self.accept("[") {
                while !self.accept("]") {
                    let digits = self.word("a byte")?;
                    let pair = |i| {
                        digits
                            .get(i..i + 2)
                            .and_then(|d| u8::from_str_radix(d, 16).ok())
                    };
                    for i in (0..digits.len()).step_by(2) {
                        bytes.push(
                            pair(i).ok_or_else(|| self.error("two hexadecimal digits a byte"))?,
                        );
                    }
                }
            } else if self.accept("\"") {
                self.string(&mut bytes)?;
            } else {
                return Err(self.error("<cells>, [bytes] or a \"string\""));
            }
            if !self.accept(",") {
                return Ok(bytes);
            }
        }
    }

    fn cell(&mut self) -> Result<u32, String> {
        let text = self.word("a number")?;
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.map_err(|_| self.error(&format!("a 32-bit number instead of '{text}'")))
    }

    fn string(&mut self, bytes: &mut Vec<u8>) -> Result<(), String> {
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            let c = match c {
                '"' => {
                    self.at += i + 1;
                    bytes.push(0);
                    return Ok(());
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, 't')) => '\t',
                    Some((_, c)) => c,
                    None => break,
                },
                c => c,
            };
            bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Err(self.error("'\"' at the end of the string"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"/dts-v1/;
// A comment.
/ {
    #address-cells = <2>; /* and another */
    compatible = "a,b", "c";
    chosen {
        vm@1 { vpl011; reg = <0x1 4294967295>; mac = [00 11 2233 44]; args = "say \"hi\" \\ \n\tthere"; };
    };
};
"#;

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let tree = parse(SOURCE).unwrap();
        let printed = print(&tree);
        assert_eq!(parse(&printed).unwrap(), tree, "{printed}");
        assert!(
            printed.contains("args = \"say \\\"hi\\\" \\\\ \\n\\tthere\";"),
            "{printed}"
        );
        assert!(
            printed.contains("reg = <0x1 0xffffffff>;")
                && printed.contains("mac = [00 11 22 33 44];")
        );
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (source, line) in [
            ("/ { };", "line 1"),
            ("/dts-v1/;\n/ {\n a = <x>;\n};", "line 3"),
            ("/dts-v1/;\n/ {\n a = \"b;\n};", "line 3"),
            ("/dts-v1/;\n/ {\n a = <1>\n};", "line 4"),
            ("/dts-v1/;\n/ { b {}; };\n&label {};", "line 3"),
        ] {
            let error = parse(source).unwrap_err();
            assert!(error.starts_with(line), "{source}: {error}");
        }
    }
}
