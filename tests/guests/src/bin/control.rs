//! A VM that does to others what a VM with control can, and watches over how they fare: each is a `pulse`, which tells by the
//! device that is emulated here, or a VM that is only kept busy.
//!
//! Command line: `vms=N`, how many others there are, numbers 0 to N-1, those with a device first; `patience=N`, after how many
//! milliseconds without a sign one is taken to hang, 10,000 by default. At random: `seed=N`, else it is drawn from the clock;
//! `for=N`, milliseconds, 10,000 by default; `pause=N`, milliseconds between two deeds at most, 50 by default. Again and again:
//! `rounds=N`, 100 by default.
#![no_std]
#![no_main]

use bare::armillary::{Control, control, state};
use bare::describe::{Tree, waiter};
use bare::machine::{machine, number};
use bare::random::Random;
use bare::report::Outcome;
use bare::ring::Ring;
use bare::timer::{self, ENABLE, Timer, now};
use bare::{check, check_eq, cpu, fail, gic, mmio, println, tests};

tests! {
    others_live_through_whatever_is_done_to_them_at_random => at_random,
    one_starts_again_and_again_and_another_does_not_notice => again_and_again,
}

/// What STATE says.
const UP: i32 = 0;
const OFF: i32 = 1;
const PAUSED: i32 = 2;
const NONE: i32 = -3;

fn milliseconds(count: u32) -> u64 {
    u64::from(count) * u64::from(timer::frequency() / 1000)
}

/// Another VM.
struct Other {
    id: u32,
    ring: Option<Ring>,
    /// What it should be doing, and since when.
    doing: i32,
    since: u64,
    /// The round that it has told of last, and when.
    round: u32,
    told: u64,
    /// The longest time between two rounds that it has told of, ticks.
    gap: u64,
    /// Lives that it may begin.
    lives: u32,
}

impl Other {
    fn new(id: u32, ring: Option<Ring>, doing: i32) -> Self {
        Self {
            id,
            ring,
            doing,
            since: now(),
            round: 0,
            told: 0,
            gap: 0,
            lives: 1,
        }
    }

    /// Takes what it tells.
    fn listen(&mut self) -> Outcome {
        while let Some(request) = self.ring.as_mut().and_then(Ring::take) {
            if let (Some(ring), Some(tag)) = (&self.ring, request.tag) {
                ring.answer(tag, 0);
            }
            let at = now();
            // One that runs on another CPU may take a moment to stop.
            let late = at.saturating_sub(self.since) > milliseconds(1000);
            check!(
                self.doing == UP || !late,
                "VM {} runs, though it is {}",
                self.id,
                self.doing
            );
            match (request.offset, request.store) {
                (0, Some(round)) => self.hear(round, at)?,
                (4, Some(start)) => check_eq!(start, clock_start(), "VM {}'s clock at 0", self.id),
                other => check!(false, "VM {} accesses {other:x?}", self.id),
            }
        }
        Ok(())
    }

    fn hear(&mut self, round: u32, at: u64) -> Outcome {
        if round == 0 {
            check!(self.lives > 0, "VM {} begins by itself", self.id);
            self.lives -= 1;
        } else {
            check_eq!(round, self.round + 1, "the next round of VM {}", self.id);
            if round > 1 && self.told > self.since {
                self.gap = self.gap.max(at - self.told);
            }
        }
        (self.round, self.told) = (round, at);
        Ok(())
    }

    /// Looks whether it does what it should.
    fn look(&self) -> Outcome {
        check_eq!(state(self.id), self.doing, "state of VM {}", self.id);
        let sign = self.told.max(self.since);
        let hangs = now().saturating_sub(sign) > patience();
        check!(
            !(hangs && self.doing == UP && self.ring.is_some()),
            "VM {} hangs after round {}",
            self.id,
            self.round
        );
        Ok(())
    }
}

fn patience() -> u64 {
    milliseconds(number("patience", 10_000))
}

/// What the real-time clock showed when the count was 0.
fn clock_start() -> u32 {
    let Some(rtc) = machine().rtc else { return 0 };
    let second = || (now() / u64::from(timer::frequency())) as u32;
    loop {
        let (before, clock) = (second(), mmio::read(rtc));
        if second() == before {
            return clock.wrapping_sub(before);
        }
    }
}

/// The others, and how often each deed has been done.
struct Others {
    all: [Option<Other>; 12],
    done: [u32; 6],
    created: u32,
}

impl Others {
    fn find() -> Self {
        gic::init();
        let rings = machine().rings;
        let other = |n: usize| {
            let described = rings.get(n).copied().flatten();
            if let Some(irq) = described.map(|ring| ring.irq) {
                // The interrupt is of an edge.
                let config = gic::gicd::ICFGR + irq / 16 * 4;
                gic::write(config, gic::read(config) | 2 << (irq % 16 * 2));
                gic::enable(irq);
            }
            Other::new(n as u32, described.and_then(Ring::open), UP)
        };
        let count = number("vms", 1) as usize;
        gic::enable(Timer::Virtual.interrupt());
        Self {
            all: core::array::from_fn(|n| (n < count).then(|| other(n))),
            done: [0; 6],
            created: 0,
        }
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Other> {
        self.all.iter_mut().flatten()
    }

    /// Sleeps, and listens, until `until` or `done`.
    fn watch(&mut self, until: u64, mut done: impl FnMut(&mut Self) -> bool) -> Outcome {
        let timer = Timer::Virtual;
        while now() < until && !done(self) {
            timer.set_deadline(until.min(now() + milliseconds(1)));
            timer.set_control(ENABLE);
            // Masked, a pending interrupt ends WFI all the same.
            cpu::wfi();
            timer.set_control(0);
            gic::dismiss_one();
            self.each().try_for_each(Other::listen)?;
        }
        Ok(())
    }

    /// Memory of a VM that is gone may come back a moment later, where it was on another CPU.
    fn settle(&mut self) -> Outcome {
        self.watch(now() + milliseconds(500), |_| false)
    }

    /// Does something to VM `n`, and waits until it has come of it what should.
    fn act(&mut self, n: usize, what: Control) -> Outcome {
        let Some(other) = &mut self.all[n] else {
            return Ok(());
        };
        let id = other.id;
        other.listen()?;
        other.since = now();
        other.doing = match what {
            Control::Start | Control::Resume | Control::Reset => UP,
            Control::Pause => PAUSED,
            Control::Stop => OFF,
            Control::Destroy => NONE,
        };
        if matches!(what, Control::Start | Control::Reset) {
            other.lives = 1;
        }
        let doing = other.doing;
        self.done[(what as u32 - Control::Start as u32) as usize] += 1;
        let answer = control(what, id);
        check_eq!(answer, 0, "{what:?} of VM {id}");
        self.watch(now() + patience(), |_| state(id) == doing)?;
        check_eq!(state(id), doing, "state of VM {id} after {what:?}");
        Ok(())
    }

    /// Makes a VM, which is number `n` here.
    fn create(&mut self, n: usize) -> Outcome {
        let made = Tree::of("made", waiter()).create();
        let Ok(id) = made else {
            fail!("CREATE: {made:x?}")
        };
        check_eq!(state(id), OFF, "state of VM {id}, which is new");
        self.all[n] = Some(Other::new(id, None, OFF));
        self.created += 1;
        Ok(())
    }

    fn doing(&self, n: usize) -> i32 {
        self.all[n].as_ref().map_or(NONE, |other| other.doing)
    }

    /// All are up again, and get through so many rounds.
    fn recover(&mut self, count: usize, rounds: u32) -> Outcome {
        for n in 0..count {
            match self.doing(n) {
                OFF => self.act(n, Control::Start)?,
                PAUSED => self.act(n, Control::Resume)?,
                _ => {}
            }
        }
        let fine = |other: &Other| other.ring.is_none() || other.round >= rounds;
        self.watch(now() + 2 * patience(), |others| {
            others.each().all(|other| fine(other))
        })?;
        for other in self.each() {
            check!(fine(other), "VM {} is in round {}", other.id, other.round);
        }
        Ok(())
    }
}

fn at_random() -> Outcome {
    let mut others = Others::find();
    let count = others.each().count();
    let seed = number("seed", mmio::read(machine().rtc.unwrap_or_default()));
    println!("SEED {seed}");
    let mut random = Random::new(seed);
    // The log says how much memory is free, after the hypervisor has taken what it needs to make a VM.
    let made = count;
    others.create(made)?;
    others.act(made, Control::Destroy)?;
    others.settle()?;
    others.act(0, Control::Reset)?;
    let until = now() + milliseconds(number("for", 10_000));
    while now() < until {
        let pause = random.below(number("pause", 50) * 1000);
        others.watch(now() + timer::ticks(pause), |_| false)?;
        others.each().try_for_each(|other| other.look())?;
        // The one that comes and goes is as busy as two.
        let n = made.min(random.below(count as u32 + 2) as usize);
        if others.doing(n) == NONE {
            others.create(n)?;
            continue;
        }
        let choices: &[Control] = match others.doing(n) {
            UP => &[
                Control::Pause,
                Control::Reset,
                Control::Stop,
                Control::Destroy,
            ],
            PAUSED => &[
                Control::Resume,
                Control::Resume,
                Control::Reset,
                Control::Stop,
                Control::Destroy,
            ],
            _ => &[Control::Start, Control::Destroy],
        };
        // Only that one can be had again.
        let few = choices.len() - usize::from(n != made);
        others.act(n, choices[random.below(few as u32) as usize])?;
    }
    if others.doing(made) != NONE {
        others.act(made, Control::Destroy)?;
    }
    // For long enough that an alarm is due.
    others.recover(count, 250)?;
    // Whatever each is doing.
    for n in 0..count {
        match random.below(3) {
            0 => others.act(n, Control::Stop)?,
            1 => others.act(n, Control::Pause)?,
            _ => {}
        }
        others.act(n, Control::Destroy)?;
    }
    others.settle()?;
    println!(
        "DONE start, pause, resume, reset, stop, destroy: {:?}, create: {}",
        others.done, others.created
    );
    Ok(())
}

fn again_and_again() -> Outcome {
    let mut others = Others::find();
    let count = others.each().count();
    others.recover(count, 20)?;
    for round in 0..number("rounds", 100) {
        others.act(0, Control::Stop)?;
        others.act(0, Control::Start)?;
        others.each().try_for_each(|other| other.look())?;
        // Now and then it is seen to live.
        if round % 64 == 0 {
            others.recover(count, 20)?;
        }
    }
    others.recover(count, 20)?;
    for other in others.each().skip(1) {
        let gap = other.gap / timer::ticks(1);
        println!("GAP of VM {}: {gap} us", other.id);
    }
    for n in 0..count {
        others.act(n, Control::Destroy)?;
    }
    others.settle()
}
