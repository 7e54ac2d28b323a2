//! Device tree source, as much of it as the tests need: nodes, strings, cells, bytes and flags.
#![allow(dead_code, reason = "no test uses all of it")]

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

/// QEMU's `virt` as a host, with modules of guest-loader.
pub(crate) const HOST: &str = include_str!("qemu-virt-host.dts");

/// The flattened tree of `source`.
pub(crate) fn compile(source: &str) -> Vec<u8> {
    tree(source).to_dtb()
}

/// The tree of `source`. Nodes of the same name are merged.
pub(crate) fn tree(source: &str) -> DeviceTree {
    let mut tree = DeviceTree::new();
    let mut rest = skip(source);
    while let Some(after) = rest.strip_prefix("/dts-v1/;") {
        rest = skip(after);
    }
    while let Some(body) = rest.strip_prefix('/') {
        rest = node(skip(body), &mut tree.root);
    }
    assert!(rest.is_empty(), "expected a node, found {:.40}", rest);
    tree
}

/// Skips white space and comments.
fn skip(mut source: &str) -> &str {
    loop {
        source = source.trim_start();
        match source.strip_prefix("/*") {
            Some(comment) => source = comment.split_once("*/").map_or("", |(_, after)| after),
            None => return source,
        }
    }
}

fn token<'s>(source: &'s str, token: &str) -> &'s str {
    match source.strip_prefix(token) {
        Some(rest) => skip(rest),
        None => panic!("expected {token}, found {source:.40}"),
    }
}

/// Parses "{ … };" into `into`.
fn node<'s>(source: &'s str, into: &mut DeviceTreeNode) -> &'s str {
    let mut rest = token(source, "{");
    while !rest.starts_with('}') {
        let end = rest
            .find([' ', '=', ';', '{', '\n', '\t'])
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = skip(after);
        if rest.starts_with('{') {
            let mut child = into
                .remove_child(name)
                .unwrap_or_else(|| DeviceTreeNode::new_unchecked(name));
            rest = node(rest, &mut child);
            into.add_child(child);
        } else {
            let (value, after) = value(rest);
            into.add_property(DeviceTreeProperty::new_unchecked(name, value));
            rest = token(after, ";");
        }
    }
    token(token(rest, "}"), ";")
}

/// Parses "= a, b", or nothing.
fn value(source: &str) -> (Vec<u8>, &str) {
    let mut value = Vec::new();
    let Some(mut rest) = source.strip_prefix('=').map(skip) else {
        return (value, source);
    };
    loop {
        if let Some(string) = rest.strip_prefix('"') {
            let (string, after) = string.split_once('"').unwrap_or((string, ""));
            value.extend(
                string
                    .replace("\\0", "\0")
                    .replace("\\n", "\n")
                    .bytes()
                    .chain([0]),
            );
            rest = skip(after);
        } else if let Some(cells) = rest.strip_prefix('<') {
            let (cells, after) = cells.split_once('>').unwrap_or((cells, ""));
            value.extend(
                cells
                    .split_whitespace()
                    .flat_map(|cell| number(cell).to_be_bytes()),
            );
            rest = skip(after);
        } else {
            let (bytes, after) = token(rest, "[").split_once(']').unwrap_or((rest, ""));
            value.extend(
                bytes
                    .split_whitespace()
                    .map(|byte| number(&format!("0x{byte}")) as u8),
            );
            rest = skip(after);
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = skip(more),
            None => return (value, rest),
        }
    }
}

fn number(text: &str) -> u32 {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("expected a number, found {text}"))
}
