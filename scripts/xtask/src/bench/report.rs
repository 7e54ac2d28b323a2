//! What was measured, shown: a table, JSON, a report with a chart, and the README's figures.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::chart::{self, Row};
use super::figures::{Figure, Figures, KINDS, Kind, Samples, Unit, Wanted, grouped, known};
use super::targets::{self, Missed};
use super::{CLOCK, GUEST, HOST, xen};
use crate::build::{self, root};
use crate::cli::Bench;
use crate::progress;
use crate::qemu::Machine;

/// What surrounds the README's part that `--save` writes.
const MARKS: [&str; 2] = ["<!-- cargo xtask bench --save -->\n", "<!-- end -->\n"];

/// How the work in Linux is made the same each time.
const LINUX: &str = "Linux at work: by SCHED_FIFO, once its random numbers are ready, without address space randomisation, each time after its \
    caches of small objects were shrunk. Each of these otherwise decides how much there is to do, on the bare machine as in a VM: the turns of the \
    default scheduler are by how long each process has run, to the nanosecond, so that hackbench switches 2,000 times or 7,000, 3,000 instructions \
    each (linux_hackbench_other_ppm is that); until the random numbers are ready, by the device tree or by what interrupts there were, it takes a quarter more; and by \
    which objects were freed in which order up to a hundredth";
/// How two VMs at once are measured.
const TWO_VMS: &str = "Two Linux VMs at once: by the board's real-time clock, which counts virtual time, and which each has, on Armillary as the device that it \
    emulates and on Xen as the board's own, passed through to both, with its interrupt to the first. Both work from the same second on, and \
    each says at last what its log's time is at a second's edge: so it is counted from the first begin to the last end, three times, \
    against twice the work alone on the bare machine";
/// One system's figures.
#[derive(Debug)]
pub(super) struct Column {
    key: &'static str,
    figures: Figures,
    absent: BTreeMap<String, String>,
    version: Option<String>,
}

impl Column {
    /// The wanted ones.
    pub(super) fn new(key: &'static str, samples: Samples, wanted: Wanted<'_>) -> Self {
        Self {
            key,
            figures: samples.figures(wanted),
            version: samples.version.clone(),
            absent: samples.into_absent(),
        }
    }

    /// Its heading.
    fn title(&self) -> &'static str {
        match self.key {
            "native" => "bare machine",
            "armillary" => "Armillary",
            "xen" => "Xen",
            _ => "Xen, vwfi=native",
        }
    }

    /// Why there is no figure of this name.
    fn why(&self, name: &str) -> &str {
        self.absent.get(name).map_or("not measured", String::as_str)
    }
}

/// How it was measured.
#[derive(Debug, Serialize)]
struct About {
    date: String,
    commit: String,
    qemu: String,
    machine: String,
    xen: Option<String>,
    settings: Vec<String>,
}

impl About {
    fn of(machine: &Machine, columns: &[Column]) -> Self {
        let says = |command: &mut Command| -> String {
            let output = progress::captured(command.current_dir(root()), |_| ());
            let text = output.map_or_else(|_| String::new(), |(_, text)| text);
            text.lines().next().unwrap_or("unknown").trim().to_owned()
        };
        let qemu = says(Command::new(&machine.qemu).arg("--version"));
        let qemu = qemu.strip_prefix("QEMU emulator version ").unwrap_or(&qemu);
        let version = columns.iter().find_map(|column| column.version.clone());
        Self {
            date: says(Command::new("date").args(["-u", "+%Y-%m-%d"])),
            commit: says(Command::new("git").args([
                "describe",
                "--always",
                "--dirty",
                "--exclude=*",
            ])),
            qemu: qemu.to_owned(),
            machine: format!("{}, {}", machine.board.machine, machine.board.cpu),
            settings: settings(version.is_some()),
            xen: version,
        }
    }
}

/// What is set, and whom it favours.
fn settings(xen: bool) -> Vec<String> {
    let mut settings = vec![
        format!(
            "QEMU: -icount shift=0,sleep=off: an instruction is a nanosecond of virtual time, on every CPU together; {}",
            CLOCK.join(" ")
        ),
        format!("RAM: {HOST} of the machine's, {GUEST} of the guest's, and of the bare machine's"),
        "Counted by PMCCNTR where the guest has it (the bare machine, one CPU), else by CNTVCT, which advances once in 16 instructions".into(),
        "The real-time clock, whose interrupt device_irq counts, is the board's own PL031: Armillary and Xen pass it through to the guest. That of device_irq_emulated is Armillary's".into(),
    ];
    settings.push(LINUX.into());
    settings.push(TWO_VMS.into());
    if xen {
        settings.push(format!(
            "Xen: {}: no scrubbing of free memory at boot, which favours Xen in boot_to_guest; its default scheduler, credit2, where sched=null would \
             not let two vCPUs share a CPU; asynchronous console whose input goes to nobody, which favours Xen in uart_char: with the input at the guest that is 2,950",
            xen::ARGUMENTS
        ));
        settings.push(format!(
            "Xen on a board with 64 MiB: {}, and loaded to the middle of RAM. Its heap, of whatever size, has to be in 32 MiB that begin at a multiple of \
             32 MiB and hold nothing else; as QEMU loads it, it is in the first of the two and its device tree in the second, and it panics with \"Not \
             enough space for xenheap\" before it has a console; and a heap of its own choice takes all 32 MiB, which leaves too little for the guest's",
            xen::SMALL
        ));
        settings.push("Xen, vwfi=native: a guest's WFI does not trap, so that its CPU is nobody else's meanwhile".into());
        settings.push(
            "own_ram_bytes: Armillary's image, stacks and heap; of Xen's host what is neither free nor the guest's".into(),
        );
    }
    settings
}

/// Writes the files and prints.
pub(super) fn finish(
    options: &Bench,
    machine: &Machine,
    columns: &[Column],
    missed: &[Missed],
) -> anyhow::Result<u8> {
    let about = About::of(machine, columns);
    let kinds = kinds(columns);
    let mut names = columns.iter().flat_map(|column| column.figures.keys());
    if let Some(name) = names.find(|name| known(name).is_none()) {
        bail!("{name} was measured, but is not in the list of figures");
    }
    let place = build::target_directory().join("bench");
    let json = serde_json::to_string_pretty(&json(&about, &kinds, columns)?)? + "\n";
    let report = markdown(&about, &kinds, columns, missed, "chart.svg");
    let chart = chart::draw(&rows(&kinds, columns))?;
    for (name, contents) in [
        ("results.json", &json),
        ("report.md", &report),
        ("chart.svg", &chart),
    ] {
        build::write(&place.join(name), contents.as_bytes())?;
    }
    let mut out = std::io::stdout().lock();
    if options.json {
        out.write_all(json.as_bytes())?;
    } else {
        out.write_all(table(&kinds, columns).as_bytes())?;
    }
    eprintln!(
        "written: {}/results.json, report.md, chart.svg",
        place.display()
    );
    if options.save {
        save(machine, &about, &kinds, columns, missed)?;
    }
    Ok(0)
}

/// What is in any of the columns.
fn kinds(columns: &[Column]) -> Vec<Kind> {
    let there = |kind: &&Kind| {
        columns
            .iter()
            .any(|column| column.figures.contains_key(kind.name))
    };
    KINDS.iter().filter(there).copied().collect()
}

/// `{"about": …, "figures": {NAME: {"armillary": {"min": …, "median": …, "max": …, "n": …}, "native": null, …, "why": {"native": …}}}}`
fn json(about: &About, kinds: &[Kind], columns: &[Column]) -> anyhow::Result<Value> {
    let mut figures = serde_json::Map::new();
    for kind in kinds {
        let mut figure = serde_json::Map::new();
        let mut why = serde_json::Map::new();
        for column in columns {
            let value = column.figures.get(kind.name);
            figure.insert(column.key.into(), serde_json::to_value(value)?);
            if value.is_none() {
                why.insert(column.key.into(), column.why(kind.name).into());
            }
        }
        for key in ["native", "armillary", "xen"] {
            figure.entry(key).or_insert_with(|| {
                why.insert(key.into(), "not asked for".into());
                Value::Null
            });
        }
        if !why.is_empty() {
            figure.insert("why".into(), why.into());
        }
        figure.insert("what".into(), kind.what.into());
        figure.insert("unit".into(), kind.unit.name().into());
        figures.insert(kind.name.into(), figure.into());
    }
    Ok(json!({ "about": about, "figures": figures }))
}

/// The median, and where it varies least and most.
fn cell(figure: &Figure) -> String {
    if figure.min == figure.max {
        grouped(figure.median)
    } else {
        format!(
            "{} ({} to {})",
            grouped(figure.median),
            grouped(figure.min),
            grouped(figure.max)
        )
    }
}

/// For the terminal: medians, and the spread where there is one.
fn table(kinds: &[Kind], columns: &[Column]) -> String {
    let mut lines = vec![vec!["figure".to_owned()]];
    lines[0].extend(columns.iter().map(|column| column.title().to_owned()));
    lines[0].push("n".into());
    for kind in kinds {
        let mut line = vec![kind.name.to_owned()];
        let figures = || columns.iter().map(|column| column.figures.get(kind.name));
        line.extend(figures().map(|figure| figure.map_or("–".into(), cell)));
        let n = figures().flatten().map(|figure| figure.n).max();
        line.push(n.unwrap_or(0).to_string());
        lines.push(line);
    }
    let width = |at: usize| {
        lines
            .iter()
            .map(|line| line[at].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len() + 2).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        text.push_str(&format!("{:<1$}", line[0], widths[0]));
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            text.push_str(&format!("  {cell:>width$}"));
        }
        text.push('\n');
    }
    text
}

/// The figures as a table of Markdown; `spread` says whether with the least, the most and how many.
fn markdown_table(kinds: &[Kind], columns: &[Column], spread: bool) -> String {
    let mut text = String::from("| |");
    for column in columns {
        text.push_str(&format!(" {} |", column.title()));
    }
    text.push_str(if spread { " n |\n|---|" } else { "\n|---|" });
    text.push_str(&"--:|".repeat(columns.len() + usize::from(spread)));
    text.push('\n');
    for kind in kinds {
        text.push_str(&format!("| {}{} |", kind.what, kind.unit.suffix()));
        let figures = || columns.iter().map(|column| column.figures.get(kind.name));
        for figure in figures() {
            let shown = match figure {
                Some(figure) if spread => cell(figure),
                Some(figure) => figure.to_string(),
                None => "–".into(),
            };
            text.push_str(&format!(" {shown} |"));
        }
        if spread {
            let n = figures().flatten().map(|figure| figure.n).max();
            text.push_str(&format!(" {} |", n.unwrap_or(0)));
        }
        text.push('\n');
    }
    text
}

/// The report.
fn markdown(
    about: &About,
    kinds: &[Kind],
    columns: &[Column],
    missed: &[Missed],
    chart: &str,
) -> String {
    let mut text = format!(
        "# Figures\n\nOf {}, commit {}, by `cargo xtask bench` on QEMU {} ({}){}. Instructions of one operation if nothing else is said: the median \
         of n samples, in parentheses the least and the most where they differ. The loop around the operation is subtracted.\n\n![Chart]({chart})\n\n",
        about.date,
        about.commit,
        about.qemu,
        about.machine,
        about.xen.as_ref().map_or(String::new(), |version| format!(
            ", beside Xen {version} (Debian's package)"
        )),
    );
    text.push_str(&markdown_table(kinds, columns, true));
    text.push_str(&targets::markdown(missed));
    text.push_str("\n## Settings\n\n");
    for setting in &about.settings {
        text.push_str(&format!("- {setting}.\n"));
    }
    text.push_str("\n## What is missing, and why\n\n");
    for column in columns {
        let missing = kinds
            .iter()
            .filter(|kind| !column.figures.contains_key(kind.name));
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for kind in missing {
            reasons
                .entry(column.why(kind.name))
                .or_default()
                .push(kind.name);
        }
        for (why, names) in reasons {
            text.push_str(&format!(
                "- {}: {}: {why}.\n",
                column.title(),
                names.join(", ")
            ));
        }
    }
    text
}

/// The chart's rows: what is counted in instructions, and is no way from reset.
fn rows(kinds: &[Kind], columns: &[Column]) -> Vec<Row> {
    let shown = |kind: &&Kind| kind.unit == Unit::Instructions && kind.is_operation();
    let row = |kind: &Kind| Row {
        name: kind.name.to_owned(),
        bars: columns
            .iter()
            .filter(|column| chart::COLOURS.iter().any(|(key, ..)| *key == column.key))
            .filter_map(|column| Some((column.key, column.figures.get(kind.name)?.median)))
            .collect(),
    };
    kinds.iter().filter(shown).map(row).collect()
}

/// Puts report and chart beside the board's description, and the table into the README.
fn save(
    machine: &Machine,
    about: &About,
    kinds: &[Kind],
    columns: &[Column],
    missed: &[Missed],
) -> anyhow::Result<()> {
    let place = root().join("boards").join(&machine.board.name);
    build::write(
        &place.join("bench.svg"),
        chart::draw(&rows(kinds, columns))?.as_bytes(),
    )?;
    build::write(
        &place.join("bench.md"),
        markdown(about, kinds, columns, missed, "bench.svg").as_bytes(),
    )?;
    let readme = root().join("README.md");
    let text = fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
    let part = format!(
        "Of {}, commit {}, on QEMU {}{}.\n\n![Instructions of one operation](boards/{}/bench.svg)\n\n{}",
        about.date,
        about.commit,
        about.qemu,
        about
            .xen
            .as_ref()
            .map_or(String::new(), |version| format!(", beside Xen {version}")),
        machine.board.name,
        markdown_table(kinds, columns, false),
    );
    replace(&readme, &with_part(&text, &part)?)
}

fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    build::write(path, text.as_bytes())?;
    eprintln!("written: {}", path.display());
    Ok(())
}

/// `text` with `part` between the marks.
fn with_part(text: &str, part: &str) -> anyhow::Result<String> {
    let [begin, end] = MARKS;
    let (before, rest) = text
        .split_once(begin)
        .context("README.md: the figures' mark is missing")?;
    let (_, after) = rest
        .split_once(end)
        .context("README.md: the figures' end is missing")?;
    ensure!(!after.contains(begin), "README.md: two marks of figures");
    Ok(format!("{before}{begin}\n{part}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        let all = Wanted(None);
        let native = Samples::read(
            "BENCH gicd_read 1\nSKIP null_hypercall no hypervisor\nBENCH image_bytes 5\n",
        );
        let ours = Samples::read(
            "BENCH null_hypercall 42\nBENCH gicd_read 139\nBENCH gicd_read 141\nBENCH gicd_read 140.5\n",
        );
        vec![
            Column::new("native", native, all),
            Column::new("armillary", ours, all),
        ]
    }

    fn about() -> About {
        About {
            date: "2026-11-20".into(),
            commit: "abc".into(),
            qemu: "7.2".into(),
            machine: "virt".into(),
            xen: None,
            settings: settings(false),
        }
    }

    #[test]
    fn json_has_every_column_and_says_why_one_is_empty() {
        let columns = columns();
        let value = json(&about(), &kinds(&columns), &columns).unwrap();
        let figures = &value["figures"];
        assert_eq!(
            figures["gicd_read"]["armillary"],
            json!({"min": 139, "median": 140.5, "max": 141, "n": 3})
        );
        assert_eq!(figures["null_hypercall"]["native"], Value::Null);
        assert_eq!(figures["null_hypercall"]["why"]["native"], "no hypervisor");
        assert_eq!(figures["gicd_read"]["why"], json!({"xen": "not asked for"}));
    }

    #[test]
    fn the_table_lines_up_and_shows_the_spread() {
        let columns = columns();
        let table = table(&kinds(&columns), &columns);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[1],
            "null_hypercall             –                  42  1"
        );
        assert_eq!(
            lines[2],
            "gicd_read                  1  140.5 (139 to 141)  3"
        );
        let width = lines[0].chars().count();
        assert!(
            lines.iter().all(|line| line.chars().count() == width),
            "{table}"
        );
    }

    #[test]
    fn the_report_names_what_is_missing() {
        let columns = columns();
        let text = markdown(&about(), &kinds(&columns), &columns, &[], "x.svg");
        assert!(text.contains("| null hypercall | – | 42 | 1 |"), "{text}");
        assert!(
            text.contains("- bare machine: null_hypercall: no hypervisor.\n"),
            "{text}"
        );
        assert!(text.contains("| image, bytes | 5 | – | 1 |"), "{text}");
    }

    #[test]
    fn the_readmes_part_is_replaced_and_nothing_else() {
        let text = format!("a\n{}old\n{}b\n", MARKS[0], MARKS[1]);
        let new = with_part(&text, "new\n").unwrap();
        assert_eq!(new, format!("a\n{}\nnew\n\n{}b\n", MARKS[0], MARKS[1]));
        assert_eq!(with_part(&new, "new\n").unwrap(), new);
        assert!(with_part("nothing", "new").is_err());
    }

    #[test]
    fn the_chart_has_no_bytes() {
        let columns = columns();
        let rows = rows(&kinds(&columns), &columns);
        let names: Vec<&str> = rows.iter().map(|row| &*row.name).collect();
        assert_eq!(names, ["null_hypercall", "gicd_read"]);
        assert_eq!(rows[1].bars, [("native", 1.0), ("armillary", 140.5)]);
    }
}
