//! The layer check: `src/lib.rs` lists the modules in dependency order, in groups headed by `// 1.`, `// 2.`, `// 3.`.
//!
//! A module uses `crate::` modules above it only, and the first and the third group hold no `unsafe`. Comments and
//! strings do not count. The image itself, `src/main.rs`, may use everything.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, bail};
use regex::Regex;

/// The group that may hold `unsafe`: the machine.
const MACHINE: u32 = 2;

struct Module {
    name: String,
    group: u32,
}

/// Checks the tree below `source`, which holds `lib.rs`; the error lists every breach as file:line and rule.
pub fn check(source: &Path) -> anyhow::Result<()> {
    let map = source.join("lib.rs");
    let text = fs::read_to_string(&map).with_context(|| map.display().to_string())?;
    let modules = modules(&text)?;
    let mut breaches = Vec::new();
    for path in files(source)? {
        let inside = path.strip_prefix(source)?;
        let first = inside
            .components()
            .next()
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        let name = first.unwrap_or_default().trim_end_matches(".rs").to_owned();
        if matches!(inside.to_str(), Some("lib.rs" | "main.rs")) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let shown = format!("src/{}", inside.display());
        match modules.iter().position(|module| module.name == name) {
            Some(index) => breaches.extend(breaches_in(&shown, &text, &modules, index)),
            None => breaches.push(format!(
                "{shown}:1: '{name}' is not listed as 'pub mod {name};' in src/lib.rs"
            )),
        }
    }
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("{}", breaches.join("\n"))
}

/// The modules that the text of lib.rs lists, in its order.
fn modules(text: &str) -> anyhow::Result<Vec<Module>> {
    let heading = Regex::new(r"^// ([123])\. ")?;
    let declaration = Regex::new(r"^(?:pub(?:\([a-z]+\))? )?mod (\w+);")?;
    let mut group = 0;
    let mut modules = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(found) = heading.captures(line) {
            group = found[1].parse()?;
        } else if let Some(found) = declaration.captures(line.trim_start()) {
            if group == 0 {
                bail!(
                    "src/lib.rs:{}: a module before the heading '// 1. …'",
                    index + 1
                );
            }
            modules.push(Module {
                name: found[1].to_owned(),
                group,
            });
        }
    }
    Ok(modules)
}

fn files(directory: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn breaches_in(shown: &str, text: &str, modules: &[Module], index: usize) -> Vec<String> {
    let this = &modules[index];
    let code = code_only(text);
    let line = |at: usize| code[..at].matches('\n').count() + 1;
    let mut breaches = Vec::new();
    for (used, at) in uses(&code) {
        if modules
            .iter()
            .skip(index + 1)
            .any(|module| module.name == used)
        {
            let rule = format!(
                "'{}' uses 'crate::{used}', which src/lib.rs lists below it",
                this.name
            );
            breaches.push(format!("{shown}:{}: {rule}", line(at)));
        }
    }
    if this.group != MACHINE {
        for at in words(&code, "unsafe") {
            let rule = format!(
                "'unsafe' in group {}; only group {MACHINE}, the machine, holds it",
                this.group
            );
            breaches.push(format!("{shown}:{}: {rule}", line(at)));
        }
    }
    breaches
}

/// The first names after `crate::`, those in braces too, each with where it is.
fn uses(code: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        let rest = &code[at..];
        let Some(path) = rest["crate".len()..].trim_start().strip_prefix("::") else {
            continue;
        };
        let path = path.trim_start();
        let start = code.len() - path.len();
        if let Some(list) = path.strip_prefix('{') {
            found.extend(
                listed(list)
                    .into_iter()
                    .map(|range| (&list[range.clone()], start + 1 + range.start)),
            );
        } else {
            let end = path.find(|c: char| !is_word(c)).unwrap_or(path.len());
            found.push((&path[..end], start));
        }
    }
    found
}

/// The first name of each item of a use list, up to its closing brace.
fn listed(list: &str) -> Vec<Range<usize>> {
    let mut names = Vec::new();
    let (mut depth, mut fresh) = (0, true);
    let mut at = 0;
    while let Some(c) = list[at..].chars().next() {
        if fresh && is_word(c) {
            let end = list[at..]
                .find(|c: char| !is_word(c))
                .map_or(list.len(), |length| at + length);
            names.push(at..end);
            fresh = false;
            at = end;
            continue;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ => {}
        }
        at += c.len_utf8();
    }
    names
}

/// Where `word` stands as a word of its own.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| {
            let before = code[..at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            !before.is_some_and(|c| is_word(c) || c == '$') && !after.is_some_and(is_word)
        })
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The text with comments, strings and characters blanked, line for line.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let inside_word = code.ends_with(is_word);
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest, 1, "\"", true),
            'r' if !inside_word => raw_string(rest, 1),
            'b' if !inside_word && rest.starts_with("br") => raw_string(rest, 2),
            '\'' => character(rest),
            _ => 0,
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(
                rest[..skipped]
                    .chars()
                    .map(|c| if c == '\n' { c } else { ' ' }),
            );
            rest = &rest[skipped..];
        }
    }
    code
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a string literal whose contents begin at `from` and that `end` ends.
fn string(text: &str, from: usize, end: &str, escapes: bool) -> usize {
    let mut at = from;
    while at < text.len() {
        let rest = &text[at..];
        if escapes && rest.starts_with('\\') {
            at += 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
        } else if rest.starts_with(end) {
            return at + end.len();
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a raw string with `prefix` letters before its hashes, or 0 if it is none.
fn raw_string(text: &str, prefix: usize) -> usize {
    let hashes = text[prefix..]
        .bytes()
        .take_while(|&byte| byte == b'#')
        .count();
    let from = prefix + hashes + 1;
    if text[prefix + hashes..].starts_with('"') {
        string(text, from, &format!("\"{}", "#".repeat(hashes)), false)
    } else {
        0
    }
}

/// The length of a character literal, or 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut inside = text[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => string(text, 1, "'", true),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "//! Docs.\n// 1. Models\npub mod low;\n// 2. The machine\n#[cfg(x)]\npub mod machine;\n// 3. The hypervisor\npub mod high;\n";

    fn checked(files: &[(&str, &str)]) -> Result<(), String> {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("lib.rs"), MAP).unwrap();
        for (name, text) in files {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        check(place.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn uses_of_modules_above_and_unsafe_in_the_machine_are_fine() {
        checked(&[
            ("low.rs", "use crate::low::X;\n// crate::high, unsafe\nconst A: &str = \"unsafe crate::high\";"),
            ("machine/mod.rs", "use crate::low;\nunsafe fn f() {}"),
            ("high.rs", "#![forbid(unsafe_code)]\nuse crate::{low, machine::{a, b}};\nfn f<'a>(x: &'a str) -> char { '\"' }"),
            ("main.rs", "use armillary::high; unsafe {}"),
        ])
        .unwrap();
    }

    #[test]
    fn a_use_of_a_module_below_is_named_with_file_line_and_rule() {
        let error = checked(&[
            ("low.rs", "\nuse crate::high::X;"),
            ("machine/a.rs", "use crate::{\n low,\n high::{x},\n};"),
        ])
        .unwrap_err();
        assert!(
            error.contains("src/low.rs:2: 'low' uses 'crate::high'"),
            "{error}"
        );
        assert!(
            error.contains("src/machine/a.rs:3: 'machine' uses 'crate::high'"),
            "{error}"
        );
        let inline = checked(&[("low.rs", "fn f() { crate :: machine::g() }")]).unwrap_err();
        assert!(inline.contains("src/low.rs:1:"), "{inline}");
    }

    #[test]
    fn unsafe_outside_the_machine_is_named_even_after_tricky_literals() {
        let text = "const A: &str = r#\"a \" // \"#;\nconst B: char = '\\'';\n/* a /* b */ */ unsafe impl Send for X {}";
        let error = checked(&[("high.rs", text)]).unwrap_err();
        assert!(
            error.contains("src/high.rs:3: 'unsafe' in group 3"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_no_module_claims_is_named() {
        let error = checked(&[("stray/x.rs", "")]).unwrap_err();
        assert!(
            error.contains("src/stray/x.rs:1: 'stray' is not listed"),
            "{error}"
        );
    }
}
