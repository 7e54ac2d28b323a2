//! What guests of tests report on the console: `PASS name`, `FAIL name why`, `SKIP name why`, and last
//! `SUMMARY p passed, f failed, s skipped`.

use regex::Regex;

use crate::console::expression;

/// Judges what `guests` guests of tests report; the error says what failed or is missing.
pub fn judge(console: &str, guests: usize) -> Result<(), String> {
    // With several VMs a line begins with its VM's name.
    let line = expression(r"^(?:\[[^\]\n]*\] |\S+: )?(PASS|FAIL|SKIP|SUMMARY) (.*)$")?;
    let (mut passed, mut skipped, mut failures, mut summaries) = (0, 0, Vec::new(), Vec::new());
    for found in line.captures_iter(console) {
        match &found[1] {
            "PASS" => passed += 1,
            "SKIP" => skipped += 1,
            "FAIL" => failures.push(found[2].to_owned()),
            _ => summaries.push(found[2].to_owned()),
        }
    }
    if !failures.is_empty() {
        return Err(format!(
            "{} failed:\n{}",
            failures.len(),
            failures.join("\n")
        ));
    }
    if summaries.len() != guests {
        return Err(format!(
            "{} of {guests} guests came to their summary",
            summaries.len()
        ));
    }
    let number = Regex::new(r"(\d+) passed, (\d+) failed, (\d+) skipped")
        .map_err(|error| error.to_string())?;
    let mut sums = [0; 3];
    for summary in &summaries {
        let counts = number
            .captures(summary)
            .ok_or_else(|| format!("no summary: '{summary}'"))?;
        for (sum, count) in sums.iter_mut().zip(1..) {
            *sum += counts[count]
                .parse::<usize>()
                .map_err(|error| error.to_string())?;
        }
    }
    match sums {
        // A line lost on the console is a failure too.
        [p, 0, s] if (p, s) == (passed, skipped) && p > 0 => Ok(()),
        [p, f, s] => Err(format!(
            "the summaries say {p} passed, {f} failed, {s} skipped; seen were {passed} passed and {skipped} skipped"
        )),
    }
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
