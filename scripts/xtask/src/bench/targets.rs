//! What Armillary's figures shall be at most, by the board's `targets.toml`; for those that are more, why, and where it goes.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context;
use serde::Deserialize;

use super::figures::{Figures, KINDS, grouped};
use crate::board::Board;

/// What one figure shall be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    /// Its most.
    pub(super) most: f64,
    /// What it can't be less than.
    floor: Option<f64>,
    /// Why not.
    why: Option<String>,
}

/// By the figure's name.
pub(super) type Targets = BTreeMap<String, Target>;

/// Those of the board.
pub(super) fn targets(board: &Board) -> anyhow::Result<Targets> {
    let path = board.targets();
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

/// A figure that is above its target.
#[derive(Clone, Debug)]
pub(super) struct Missed {
    /// Its name.
    pub(super) name: &'static str,
    measured: f64,
    target: Target,
    /// Where its instructions go.
    pub(super) trace: Option<String>,
}

/// The figures that are above their targets, in the order of all.
pub(super) fn missed(figures: &Figures, targets: &Targets) -> Vec<Missed> {
    let missed = KINDS.iter().filter_map(|kind| {
        let (measured, target) = (figures.get(kind.name)?.median, targets.get(kind.name)?);
        (measured > target.most).then(|| Missed {
            name: kind.name,
            measured,
            target: target.clone(),
            trace: None,
        })
    });
    missed.collect()
}

/// The report's part about them.
pub(super) fn markdown(missed: &[Missed]) -> String {
    let mut text = String::from("\n## Targets that are not met\n\n");
    if missed.is_empty() {
        return text + "None.\n";
    }
    text.push_str("| | target | measured | floor |\n|---|--:|--:|--:|\n");
    for one in missed {
        text.push_str(&format!(
            "| {} | {} | {} | {} |\n",
            one.name,
            grouped(one.target.most),
            grouped(one.measured),
            one.target.floor.map_or("–".into(), grouped)
        ));
    }
    for one in missed {
        let why = one.target.why.as_deref();
        text.push_str(&format!(
            "\n### {}\n\n{}\n",
            one.name,
            why.unwrap_or("Why is not known yet.").trim()
        ));
        if let Some(trace) = &one.trace {
            text.push_str(&format!("\n```\n{}\n```\n", trace.trim_end()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{Samples, Wanted, known};
    use crate::board;

    fn some() -> Vec<Missed> {
        let targets: Targets = toml::from_str(
            "uart_read = { most = 5, why = \"A reason.\" }\ngicd_read = { most = 7, floor = 8 }\ncp15_trap = { most = 9 }\nunmapped = { most = 9 }",
        )
        .unwrap();
        let samples = Samples::read(
            "BENCH uart_read 5.5\nBENCH gicd_read 1234.5\nBENCH cp15_trap 9\nBENCH sgi_self 9\n",
        );
        missed(&samples.figures(Wanted(None)), &targets)
    }

    #[test]
    fn figures_above_their_targets_are_missed_and_no_others() {
        let names: Vec<_> = some().iter().map(|missed| missed.name).collect();
        assert_eq!(names, ["gicd_read", "uart_read"]);
    }

    #[test]
    fn what_is_missed_is_told_with_its_floor_its_reason_and_its_trace() {
        let mut missed = some();
        missed[0].trace = Some("total own\n 5 f\n".into());
        let text = markdown(&missed);
        for part in [
            "| gicd_read | 7 | 1,234.5 | 8 |\n| uart_read | 5 | 5.5 | – |\n",
            "\n### gicd_read\n\nWhy is not known yet.\n\n```\ntotal own\n 5 f\n```\n",
            "\n### uart_read\n\nA reason.\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(markdown(&[]).ends_with("\n\nNone.\n"));
    }

    #[test]
    fn every_target_is_of_a_figure_and_above_no_floor() {
        let targets = targets(&Board::named(board::DEFAULT).unwrap()).unwrap();
        for (name, target) in targets {
            assert!(known(&name).is_some(), "{name}");
            assert!(
                target
                    .floor
                    .is_none_or(|floor| floor > target.most && target.why.is_some()),
                "{name}: a floor needs a reason, and a target that is not above it"
            );
        }
    }
}
