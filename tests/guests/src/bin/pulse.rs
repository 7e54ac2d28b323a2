//! Lives in a VM to which things happen, and tells by a device of another VM how it fares, see `control`.
//!
//! In each round every vCPU sleeps to its timer's interrupt, gets an SGI of the first vCPU and answers it by one. So the rounds
//! go on only as long as no interrupt is lost. The clocks are compared in each, too, and one has an alarm set, which rings in time. Command line: `period=N`, microseconds that
//! a vCPU sleeps, 10,000 by default.
#![no_std]
#![no_main]

use bare::cpu::{self, MAX_CPUS};
use bare::exception::{self, Frame};
use bare::machine::{machine, number};
use bare::report::{Outcome, Reason};
use bare::timer::{self, ENABLE, Timer, now, physical_now};
use bare::{check, gic, mmio, println, psci, smp};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// SGIs from the first vCPU, and to it.
const ASK: u32 = 1;
const ANSWER: u32 = 2;

type PerCpu = [AtomicU32; MAX_CPUS];
/// Timer interrupts that each vCPU has had, and sleeps that it has ended.
static FIRED: PerCpu = [const { AtomicU32::new(0) }; MAX_CPUS];
static SLEPT: PerCpu = [const { AtomicU32::new(0) }; MAX_CPUS];
/// The round that is asked for, which of them each vCPU has answered, and when.
static ROUND: AtomicU32 = AtomicU32::new(0);
static ANSWERED: PerCpu = [const { AtomicU32::new(0) }; MAX_CPUS];
static ANSWERED_AT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Alarms of the real-time clock.
static RUNG: AtomicU32 = AtomicU32::new(0);

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    exception::on_irq(interrupt);
    gic::init();
    tell(0, 0);
    for n in 1..smp::count() {
        smp::start(n, follow);
    }
    if let Err(Reason::Failed(why) | Reason::Skipped(why)) = lead() {
        println!("FAIL pulse {why}");
    }
    psci::system_off();
}

/// Stores a word in the device.
fn tell(offset: u32, value: u32) {
    if let Some(device) = machine().forwarded {
        mmio::write(device + offset, value);
    }
}

fn interrupt(_: &mut Frame) {
    let iar = gic::acknowledge();
    let own = cpu::index();
    match iar & 0x3ff {
        gic::SPURIOUS => return,
        ASK => {
            ANSWERED_AT[own].store(now(), Ordering::Relaxed);
            ANSWERED[own].store(ROUND.load(Ordering::Acquire), Ordering::Release);
            gic::send(ANSWER, 1);
        }
        ANSWER => {}
        id if machine().rtc_irq == Some(id) => {
            alarm_register(Alarm::ICR, 1);
            RUNG.fetch_add(1, Ordering::Relaxed);
        }
        _ => {
            Timer::Virtual.set_control(0);
            FIRED[own].fetch_add(1, Ordering::Relaxed);
        }
    }
    gic::end(iar);
}

/// Sleeps until `done`, which an interrupt may change.
fn wait(mut done: impl FnMut() -> bool) {
    cpu::mask_irq();
    while !done() {
        cpu::wfi();
        cpu::unmask_irq();
        cpu::mask_irq();
    }
    cpu::unmask_irq();
}

/// Sleeps for a period.
fn sleep() -> Outcome {
    let (own, timer) = (cpu::index(), Timer::Virtual);
    let fired = FIRED[own].load(Ordering::Relaxed);
    let deadline = now() + timer::ticks(number("period", 10_000));
    timer.set_deadline(deadline);
    timer.set_control(ENABLE);
    wait(|| FIRED[own].load(Ordering::Relaxed) != fired);
    let early = deadline.saturating_sub(now());
    check!(early == 0, "vCPU {own} woke {early} ticks early");
    let times = FIRED[own].load(Ordering::Relaxed).wrapping_sub(fired);
    check!(times == 1, "vCPU {own}'s timer interrupted {times} times");
    SLEPT[own].fetch_add(1, Ordering::Release);
    Ok(())
}

/// What another vCPU than the first does.
fn follow() {
    gic::init_cpu();
    gic::enable(Timer::Virtual.interrupt());
    cpu::unmask_irq();
    loop {
        if let Err(Reason::Failed(why) | Reason::Skipped(why)) = sleep() {
            println!("FAIL pulse {why}");
            psci::system_off();
        }
        gic::send(ANSWER, 1);
    }
}

fn lead() -> Outcome {
    gic::enable(Timer::Virtual.interrupt());
    cpu::unmask_irq();
    let others = || 1..smp::count();
    let slept = |n: usize| SLEPT[n].load(Ordering::Acquire);
    // They can be asked once they have an interrupt interface.
    wait(|| others().all(|n| slept(n) != 0));
    let mut clocks = Clocks::default();
    let mut alarm = Alarm::set();
    for round in 1u32.. {
        let before: [u32; MAX_CPUS] = core::array::from_fn(slept);
        sleep()?;
        let asked = now();
        ROUND.store(round, Ordering::Release);
        if smp::count() > 1 {
            gic::send(ASK, (1 << smp::count()) - 2);
        }
        let answered = |n: usize| ANSWERED[n].load(Ordering::Acquire) == round;
        wait(|| others().all(|n| answered(n) && slept(n) != before[n]));
        for n in others() {
            let at = ANSWERED_AT[n].load(Ordering::Relaxed);
            let between = (asked..=now()).contains(&at);
            check!(between, "vCPU {n}'s count is {at} after {asked}");
        }
        clocks.compare()?;
        if let Some(alarm) = &mut alarm {
            alarm.look()?;
        }
        if let Some(start) = clocks.start() {
            tell(4, start);
        }
        tell(0, round);
        if round.is_multiple_of(64) {
            println!("round {round}");
        }
    }
    Ok(())
}

/// An alarm of the real-time clock (PL031), again and again.
struct Alarm {
    due: u32,
    /// How many have rung, with the one before.
    rung: u32,
    /// Whether it was over already in the round before.
    late: bool,
}

fn alarm_register(offset: u32, value: u32) {
    if let Some(rtc) = machine().rtc {
        mmio::write(rtc + offset, value);
    }
}

impl Alarm {
    const MR: u32 = 0x4;
    const IMSC: u32 = 0x10;
    const ICR: u32 = 0x1c;

    /// Sets the first one.
    fn set() -> Option<Self> {
        let irq = machine().rtc_irq?;
        gic::set_targets(irq, 1);
        gic::enable(irq);
        alarm_register(Self::IMSC, 1);
        Some(Self::after(machine().rtc?, 0))
    }

    /// One that is to ring in the second after the next.
    fn after(rtc: u32, rung: u32) -> Self {
        let due = mmio::read(rtc).wrapping_add(2);
        alarm_register(Self::MR, due);
        Self {
            due,
            rung,
            late: false,
        }
    }

    /// It rings in its second, and once.
    fn look(&mut self) -> Outcome {
        let Some(rtc) = machine().rtc else {
            return Ok(());
        };
        let rung = RUNG.load(Ordering::Relaxed);
        let second = mmio::read(rtc);
        let over = second.wrapping_sub(self.due).cast_signed();
        if rung == self.rung {
            // What came while this VM was paused it gets by the next round.
            check!(!(self.late && over > 0), "no alarm at {}", self.due);
            self.late = over > 0;
            return Ok(());
        }
        check!(
            rung == self.rung + 1,
            "the alarm at {} rings twice",
            self.due
        );
        check!(over >= 0, "the alarm at {} rings at {second}", self.due);
        *self = Self::after(rtc, rung);
        Ok(())
    }
}

/// Between what bounds a difference of two clocks lies, by all readings so far.
struct Difference {
    least: i64,
    most: i64,
}

impl Default for Difference {
    fn default() -> Self {
        Self {
            least: i64::MIN,
            most: i64::MAX,
        }
    }
}

impl Difference {
    /// One clock has been read between two readings of the other.
    fn read(&mut self, before: u64, it: u64, after: u64) -> bool {
        self.least = self.least.max(it.wrapping_sub(after) as i64);
        self.most = self.most.min(it.wrapping_sub(before) as i64);
        self.least <= self.most
    }
}

/// The clocks that go alike.
#[derive(Default)]
struct Clocks {
    counts: Difference,
    seconds: Difference,
}

impl Clocks {
    fn compare(&mut self) -> Outcome {
        let (before, it, after) = (now(), physical_now(), now());
        let alike = self.counts.read(before, it, after);
        check!(alike, "the physical count drifts from the virtual one");
        if let Some(rtc) = machine().rtc {
            let seconds = || physical_now() / u64::from(timer::frequency());
            let (before, it, after) = (seconds(), mmio::read(rtc), seconds());
            let alike = self.seconds.read(before, it.into(), after);
            check!(alike, "the real-time clock drifts from the count");
        }
        Ok(())
    }

    /// What the real-time clock showed when the count was 0, once that is known.
    fn start(&self) -> Option<u32> {
        let Difference { least, most } = self.seconds;
        (least == most).then_some(least as u32)
    }
}
