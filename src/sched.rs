//! What a scheduler decides, without the CPUs: reservations of time, and who goes first.
//!
//! **Priorities are fixed.** Of those that are ready the highest runs, and those of one priority take
//! turns. **A reservation** bounds what a VM takes and, with a priority above the others', assures it:
//! so much time in each period, as a sporadic server has it (IEEE Std 1003.1, SCHED_SPORADIC): what is
//! used comes back one period after its use began. So no stretch of one period holds more than the
//! budget, wherever it begins, and a VM that has slept finds all of its budget at once.

/// Uses of a reservation that have not come back yet: as many as a period has of the pieces in which those
/// that begin count as one, and the two at its ends.
const USES: usize = 128;

/// Time that a VM may take in each period. All times are ticks of the machine's counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    period: u64,
    /// Ticks of a piece of the period, of which it has less than [`USES`], as a power of two.
    piece: u32,
    /// Negative after a use that could not be ended in time.
    left: i64,
    /// What comes back, and when, the earliest first: so many from the first on, round the end.
    uses: [(u64, u64); USES],
    first: usize,
    count: usize,
}

impl Reservation {
    /// A reservation of `budget` in each `period`, all of it there.
    #[must_use]
    pub const fn new(budget: u64, period: u64) -> Self {
        Self {
            period,
            piece: (64 - USES.trailing_zeros()).saturating_sub(period.leading_zeros()),
            left: budget as i64,
            uses: [(0, 0); USES],
            first: 0,
            count: 0,
        }
    }

    /// Takes what was used from `since` to `now`.
    pub fn charge(&mut self, since: u64, now: u64) {
        let used = now.saturating_sub(since);
        self.refill(now);
        self.left = self.left.saturating_sub_unsigned(used);
        let back = since.saturating_add(self.period);
        if self.count != 0 {
            let last = &mut self.uses[(self.first + self.count - 1) % USES];
            // Later than it might, never earlier.
            if (last.0 ^ back) >> self.piece == 0 || self.count == USES {
                *last = (last.0.max(back), last.1.saturating_add(used));
                return;
            }
        }
        self.uses[(self.first + self.count) % USES] = (back, used);
        self.count += 1;
    }

    /// How long it lasts from `now` on; 0 where nothing is left.
    #[must_use]
    pub fn left(&mut self, now: u64) -> u64 {
        self.refill(now);
        u64::try_from(self.left).unwrap_or(0)
    }

    /// When something is left again: 0 where something is, `None` for a budget of 0.
    #[must_use]
    pub fn again(&self) -> Option<u64> {
        let mut left = self.left;
        if left > 0 {
            return Some(0);
        }
        (0..self.count).find_map(|n| {
            let (when, used) = self.uses[(self.first + n) % USES];
            left = left.saturating_add_unsigned(used);
            (left > 0).then_some(when)
        })
    }

    fn refill(&mut self, now: u64) {
        while self.count != 0 && self.uses[self.first % USES].0 <= now {
            let (_, used) = self.uses[self.first % USES];
            self.left = self.left.saturating_add_unsigned(used);
            self.first = (self.first + 1) % USES;
            self.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_used_comes_back_a_period_after_its_use_began() {
        let mut server = Reservation::new(10, 100);
        assert_eq!(server.left(0), 10);
        server.charge(5, 9);
        assert_eq!(server.left(9), 6);
        server.charge(20, 26);
        assert_eq!((server.left(26), server.again()), (0, Some(105)));
        assert_eq!(server.left(104), 0);
        assert_eq!(server.left(105), 4);
        assert_eq!(server.left(120), 10);
        assert_eq!(server.again(), Some(0));
    }

    #[test]
    fn time_taken_beyond_the_budget_is_owed() {
        let mut server = Reservation::new(10, 100);
        server.charge(0, 15);
        assert_eq!(server.left(99), 0);
        assert_eq!(server.left(100), 10);
        server.charge(100, 105);
        server.charge(110, 125);
        assert_eq!(server.again(), Some(210), "5 at 200 only pay what is owed");
    }

    /// What comes of a budget where one always wants more, and sleeps in between: parts in a thousand.
    fn taken(budget: u64, period: u64, run: u64, sleep: u64) -> u64 {
        let mut server = Reservation::new(budget, period);
        let (mut now, mut used) = (0, 0);
        while now < 200 * period {
            let wanted = run.min(server.left(now));
            server.charge(now, now + wanted);
            used += wanted;
            now += wanted;
            match server.left(now) {
                0 => now = server.again().unwrap(),
                _ => now += sleep,
            }
        }
        used * period * 1000 / now / budget
    }

    #[test]
    fn whoever_sleeps_for_moments_has_all_of_its_budget() {
        for (run, sleep) in [(90, 10), (900, 100), (50, 50), (333, 77), (7, 3), (2000, 1)] {
            for budget in [1000, 2000, 4000] {
                let taken = taken(625 * budget / 10, 625_000, 62 * run, 62 * sleep);
                assert!(
                    (985..=1001).contains(&taken),
                    "{taken} of {budget}, {run} and {sleep}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_period_holds_more_than_the_budget(
            budget in 1u64..50,
            period in 50u64..200,
            steps in prop::collection::vec((1u64..60, 1u64..60), 1..100),
        ) {
            let mut server = Reservation::new(budget, period);
            let (mut now, mut used) = (0, Vec::new());
            for (pause, wanted) in steps {
                now += pause;
                if server.left(now) == 0 {
                    now = now.max(server.again().unwrap());
                }
                let run = wanted.min(server.left(now));
                prop_assert!(run > 0);
                server.charge(now, now + run);
                used.extend(now..now + run);
                now += run;
            }
            for (n, &tick) in used.iter().enumerate() {
                let inside = used[n..].iter().take_while(|&&t| t < tick + period).count();
                prop_assert!(inside as u64 <= budget, "{inside} from {tick} on");
            }
        }
    }
}
