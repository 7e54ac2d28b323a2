//! What guests of tests report on the console: `PASS name`, `FAIL name why`, `SKIP name why`, and last
//! `SUMMARY p passed, f failed, s skipped`.

use regex::Regex;

use crate::console::expression;

/// A report's lines. With several VMs a line begins with its VM's name.
const LINE: &str = r"^(?:\[[^\]\n]*\] |\S+: )?(PASS|FAIL|SKIP|SUMMARY) (.*)$";

/// That no guest reports a failure.
pub fn no_failure(console: &str) -> Result<(), String> {
    let line = expression(LINE)?;
    let failures: Vec<&str> = line
        .captures_iter(console)
        .filter(|found| &found[1] == "FAIL")
        .filter_map(|found| Some(found.get(2)?.as_str()))
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{} failed:\n{}",
            failures.len(),
            failures.join("\n")
        ))
    }
}

/// Judges what `guests` guests of tests report; the error says what failed or is missing.
pub fn judge(console: &str, guests: usize) -> Result<(), String> {
    no_failure(console)?;
    let (mut seen, mut summaries) = ([0, 0], Vec::new());
    for found in expression(LINE)?.captures_iter(console) {
        match &found[1] {
            "PASS" => seen[0] += 1,
            "SKIP" => seen[1] += 1,
            _ => summaries.push(counts(&found[2])?),
        }
    }
    if summaries.len() != guests {
        return Err(format!(
            "{} of {guests} guests came to their summary",
            summaries.len()
        ));
    }
    let sum = |index: usize| summaries.iter().map(|counts| counts[index]).sum::<usize>();
    match [sum(0), sum(1), sum(2)] {
        // A line lost on the console is a failure too.
        [p, 0, s] if [p, s] == seen && p > 0 => Ok(()),
        [p, f, s] => Err(format!(
            "the summaries say {p} passed, {f} failed, {s} skipped; seen were {} passed and {} skipped",
            seen[0], seen[1]
        )),
    }
}

/// The numbers of `p passed, f failed, s skipped`.
fn counts(summary: &str) -> Result<[usize; 3], String> {
    let wrong = || format!("no summary: '{summary}'");
    let shape = Regex::new(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")
        .map_err(|error| error.to_string())?;
    let found = shape.captures(summary).ok_or_else(wrong)?;
    let mut counts = [0; 3];
    for (count, group) in counts.iter_mut().zip(1..) {
        *count = found[group].parse().map_err(|_| wrong())?;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_that_pass_to_their_summaries_pass() {
        let one = "booting\nPASS a\nSKIP b no such core\nSUMMARY 1 passed, 0 failed, 1 skipped\n";
        judge(one, 1).unwrap();
        let two = "[x] PASS a\ny: PASS a\n[x] SUMMARY 1 passed, 0 failed, 0 skipped\ny: SUMMARY 1 passed, 0 failed, 0 skipped\n";
        judge(two, 2).unwrap();
    }

    #[test]
    fn a_failure_a_lost_line_and_a_missing_summary_are_errors() {
        for (console, guests, part) in [
            (
                "PASS a\nFAIL b was 3\nSUMMARY 1 passed, 1 failed, 0 skipped\n",
                1,
                "b was 3",
            ),
            ("PASS a\n", 1, "0 of 1"),
            (
                "PASS a\nSUMMARY 1 passed, 0 failed, 0 skipped\n",
                2,
                "1 of 2",
            ),
            (
                "PASS a\nSUMMARY 2 passed, 0 failed, 0 skipped\n",
                1,
                "seen were 1 passed",
            ),
            ("SUMMARY 0 passed, 0 failed, 0 skipped\n", 1, "0 passed"),
            ("PASS a\nSUMMARY all well\n", 1, "no summary"),
            (
                "PASS a\nSUMMARY 1 passed, 1 failed, 0 skipped\n",
                1,
                "1 failed",
            ),
        ] {
            let error = judge(console, guests).unwrap_err();
            assert!(error.contains(part), "{console}: {error}");
        }
    }
}
