//! Power control by PSCI (ARM DEN 0022): CPUs started, stopped and asked about, with every error and race.
//!
//! Command line: `rounds=N` of hotplug, 50 by default; `icount` where QEMU runs with it; `reset` ends by SYSTEM_RESET instead: `boot` is printed at each start.
#![no_std]
#![no_main]

use bare::armillary;
use bare::gic;
use bare::machine::{Conduit, has, machine, number};
use bare::psci::{
    self, ALREADY_ON, INVALID_ADDRESS, INVALID_PARAMETERS, NOT_SUPPORTED, ON_PENDING, function,
};
use bare::report::{Outcome, Test, run};
use bare::timer::{self, ENABLE, Timer, ticks};
use bare::{check, check_eq, cpu, println, skip, smp};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};

const TESTS: &[Test] = &[
    ("version_and_features_name_what_there_is", features),
    ("features_deny_what_there_is_not", no_features),
    ("migration_of_a_trusted_os_is_not_needed", migrate),
    ("affinity_of_the_calling_cpu_is_on", own_affinity),
    (
        "affinity_of_a_cpu_that_is_not_there_is_refused",
        wrong_affinity,
    ),
    ("cpu_on_of_the_calling_cpu_is_refused", on_self),
    ("cpu_on_of_a_cpu_that_is_not_there_is_refused", on_nobody),
    ("cpu_on_at_an_address_without_memory_is_refused", on_nowhere),
    ("suspended_cpu_goes_on_at_an_interrupt", suspend),
    (
        "workarounds_and_random_numbers_answer_by_the_standard",
        smccc,
    ),
    ("started_cpu_finds_the_reset_state_and_its_context", || {
        started(entry_arm as *const () as u32, 1)
    }),
    ("cpu_started_at_an_odd_address_runs_thumb_code", || {
        started(entry_thumb as *const () as u32 | 1, 2)
    }),
    ("cpu_that_is_on_cannot_be_started_again", on_twice),
    ("affinity_follows_a_cpu_on_and_off", affinity_follows),
    ("every_cpu_goes_off_and_on_many_times", hotplug),
    ("every_cpu_is_started_with_its_own_affinity", own_mpidr),
    ("of_two_cpus_that_start_a_third_one_succeeds", race),
    ("cpu_starts_again_the_moment_it_is_off", quick),
    (
        "cpu_off_in_the_middle_of_an_interrupt_leaves_none_behind",
        off_in_interrupt,
    ),
    (
        "suspended_second_cpu_goes_on_at_a_software_interrupt",
        suspend_second,
    ),
];

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    println!("boot");
    if has("reset") {
        psci::system_reset();
    }
    run(TESTS)
}

global_asm!(include_str!("entry.s"), options(raw));

unsafe extern "C" {
    safe fn entry_arm();
    safe fn entry_thumb();
}

/// What a CPU found at its start; entry.s knows the order.
#[repr(C)]
#[derive(Default)]
struct State {
    r: [u32; 13],
    sp: u32,
    lr: u32,
    cpsr: u32,
    sctlr: u32,
    vbar: u32,
    ttbcr: u32,
    cpacr: u32,
    state: AtomicU32,
}

fn second() -> Result<u32, bare::report::Reason> {
    if smp::count() < 2 {
        skip!("one CPU");
    }
    Ok(machine().cpus[1])
}

fn feature(number: u32) -> u32 {
    psci::call(function::FEATURES, number, 0, 0)
}

fn features() -> Outcome {
    check!(
        psci::version() >= 0x1_0000,
        "version {:#x}",
        psci::version()
    );
    let there = [
        function::VERSION,
        function::CPU_SUSPEND,
        function::CPU_OFF,
        function::CPU_ON,
        function::AFFINITY_INFO,
        function::SYSTEM_OFF,
        function::SYSTEM_RESET,
        function::FEATURES,
    ];
    for number in there {
        check!(
            feature(number) as i32 >= 0,
            "FEATURES of {number:#x} is {:#x}",
            feature(number)
        );
    }
    Ok(())
}

fn no_features() -> Outcome {
    for number in [0x8400_001f, 0x8400_0100, 0x8500_0000, 0xffff_ffff] {
        check_eq!(feature(number), NOT_SUPPORTED, "FEATURES of {number:#x}");
    }
    Ok(())
}

fn migrate() -> Outcome {
    let kind = psci::call(function::MIGRATE_INFO_TYPE, 0, 0, 0);
    check!(
        kind == 2 || kind == NOT_SUPPORTED,
        "MIGRATE_INFO_TYPE is {kind:#x}"
    );
    Ok(())
}

fn own_affinity() -> Outcome {
    check_eq!(psci::affinity_info(machine().cpus[0]), 0, "AFFINITY_INFO");
    Ok(())
}

/// Affinities that no CPU here has.
const NOBODY: [u32; 4] = [0x7, 0x0000_0100, 0x0001_0000, 0x00ff_ffff];

fn nobody() -> impl Iterator<Item = u32> {
    NOBODY
        .into_iter()
        .filter(|affinity| !machine().cpus[..smp::count()].contains(affinity))
}

fn wrong_affinity() -> Outcome {
    for affinity in nobody() {
        check_eq!(
            psci::affinity_info(affinity),
            INVALID_PARAMETERS,
            "AFFINITY_INFO of {affinity:#x}"
        );
    }
    Ok(())
}

fn on_self() -> Outcome {
    check_eq!(
        psci::cpu_on(machine().cpus[0], smp::entry(), 0),
        ALREADY_ON,
        "CPU_ON"
    );
    Ok(())
}

fn on_nobody() -> Outcome {
    for affinity in nobody() {
        check_eq!(
            psci::cpu_on(affinity, smp::entry(), 0),
            INVALID_PARAMETERS,
            "CPU_ON of {affinity:#x}"
        );
    }
    Ok(())
}

fn on_nowhere() -> Outcome {
    let affinity = second()?;
    if !armillary::present() {
        skip!("QEMU does not look at the address");
    }
    for address in [0x0c00_0000, machine().gicd, machine().uart] {
        let answer = psci::cpu_on(affinity, address, 0);
        check!(
            answer == INVALID_ADDRESS || answer == INVALID_PARAMETERS,
            "CPU_ON at {address:#x} is {answer:#x}"
        );
        check_eq!(psci::affinity_info(affinity), 1, "AFFINITY_INFO afterwards");
    }
    Ok(())
}

fn suspend() -> Outcome {
    gic::init();
    gic::enable(Timer::Virtual.interrupt());
    for _ in 0..20 {
        let deadline = Timer::Virtual.count() + ticks(500);
        Timer::Virtual.set_deadline(deadline);
        Timer::Virtual.set_control(ENABLE);
        // A standby state: it comes back here. It may come back early.
        let answer = psci::call(function::CPU_SUSPEND, 0, 0, 0);
        check_eq!(answer, 0, "CPU_SUSPEND");
        check!(
            timer::wait(1_000_000, || gic::next() == Timer::Virtual.interrupt()),
            "no interrupt"
        );
        check!(timer::now() >= deadline, "an interrupt before its time");
        let iar = gic::acknowledge();
        Timer::Virtual.set_control(0);
        gic::end(iar);
    }
    gic::disable(Timer::Virtual.interrupt());
    Ok(())
}

fn smccc() -> Outcome {
    const WORKAROUND_1: u32 = 0x8000_8000;
    const WORKAROUND_3: u32 = 0x8000_3fff;
    const TRNG_VERSION: u32 = 0x8400_0050;
    const TRNG_RND: u32 = 0x8400_0053;
    if psci::call(function::SMCCC_VERSION, 0, 0, 0) == NOT_SUPPORTED && !armillary::present() {
        skip!("this firmware has no SMCCC");
    }
    let feature = |number| psci::call(function::ARCH_FEATURES, number, 0, 0);
    check_eq!(
        feature(function::SMCCC_VERSION),
        0,
        "ARCH_FEATURES of SMCCC_VERSION"
    );
    check_eq!(
        feature(function::ARCH_FEATURES),
        0,
        "ARCH_FEATURES of ARCH_FEATURES"
    );
    check_eq!(
        feature(0x8000_7777),
        NOT_SUPPORTED,
        "ARCH_FEATURES of nothing"
    );
    for number in [WORKAROUND_1, WORKAROUND_3] {
        let answer = feature(number) as i32;
        check!(
            (-1..=1).contains(&answer),
            "ARCH_FEATURES of {number:#x} is {answer}"
        );
        if answer == 0 {
            psci::call(number, 0, 0, 0);
        }
    }
    if psci::call(TRNG_VERSION, 0, 0, 0) as i32 > 0 && machine().psci == Some(Conduit::Hvc) {
        let (one, two) = (psci::hvc(TRNG_RND, 96, 0, 0), psci::hvc(TRNG_RND, 96, 0, 0));
        check!(
            one[0] == 0 && two[0] == 0,
            "TRNG_RND {:#x}, {:#x}",
            one[0],
            two[0]
        );
        check!(one[1..] != two[1..], "the same random number twice");
        check_eq!(
            psci::hvc(TRNG_RND, 97, 0, 0)[0],
            INVALID_PARAMETERS,
            "TRNG_RND of too many bits"
        );
    }
    Ok(())
}

fn started(entry: u32, state: u32) -> Outcome {
    let affinity = second()?;
    if machine().psci != Some(Conduit::Hvc) {
        skip!("entry.s turns the CPU off by HVC");
    }
    let found = State::default();
    for _ in 0..10 {
        found.state.store(0, Ordering::Release);
        let context = core::ptr::from_ref(&found) as u32;
        check_eq!(psci::cpu_on(affinity, entry, context), 0, "CPU_ON");
        check!(
            timer::wait(5_000_000, || found.state.load(Ordering::Acquire) != 0),
            "the CPU did not start"
        );
        check!(smp::wait_off(1), "the CPU is not off");
        check_eq!(
            found.state.load(Ordering::Acquire),
            state,
            "instruction set"
        );
        check_eq!(found.r[0], context, "r0");
        check_eq!(
            found.cpsr & 0x3df,
            0x1d3,
            "CPSR: SVC mode, little-endian, all masked"
        );
        check_eq!(
            found.sctlr & 0x7210_3007,
            0,
            "SCTLR: MMU, caches, alignment check, vectors, endianness off"
        );
        check_eq!(found.vbar, 0, "VBAR");
        check_eq!(found.ttbcr, 0, "TTBCR");
        check_eq!(found.cpacr & 0xf << 20, 0, "CPACR");
    }
    Ok(())
}

static STOP: AtomicU32 = AtomicU32::new(0);
static SEEN: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];

/// Says that it runs, and runs until it is told to stop.
fn until_stopped() {
    SEEN[cpu::index()].fetch_add(1, Ordering::AcqRel);
    while STOP.load(Ordering::Acquire) == 0 {
        cpu::relax();
    }
}

/// Says that it runs.
fn once() {
    SEEN[cpu::index()].fetch_add(1, Ordering::AcqRel);
}

fn seen(cpu: usize) -> u32 {
    SEEN[cpu].load(Ordering::Acquire)
}

/// With one thread for each CPU QEMU 7.2 lets two calls start the same CPU, and says off until it runs.
fn not_qemu() -> Outcome {
    if !armillary::present() && !has("icount") {
        skip!("QEMU starts a CPU twice unless it runs by icount");
    }
    Ok(())
}

fn on_twice() -> Outcome {
    not_qemu()?;
    let affinity = second()?;
    STOP.store(0, Ordering::Release);
    let before = seen(1);
    check_eq!(smp::start(1, until_stopped), 0, "the first CPU_ON");
    let again = smp::start(1, until_stopped);
    check!(
        again == ALREADY_ON || again == ON_PENDING,
        "the second CPU_ON is {again:#x}"
    );
    let ran = timer::wait(5_000_000, || seen(1) > before);
    let third = smp::start(1, until_stopped);
    let affinity_info = psci::affinity_info(affinity);
    STOP.store(1, Ordering::Release);
    check!(ran && smp::wait_off(1), "the CPU did not start and stop");
    check_eq!(third, ALREADY_ON, "CPU_ON of a running CPU");
    check_eq!(affinity_info, 0, "AFFINITY_INFO of a running CPU");
    check_eq!(seen(1), before + 1, "starts");
    Ok(())
}

fn affinity_follows() -> Outcome {
    not_qemu()?;
    let affinity = second()?;
    for _ in 0..20 {
        check_eq!(
            psci::affinity_info(affinity),
            1,
            "AFFINITY_INFO before CPU_ON"
        );
        STOP.store(0, Ordering::Release);
        let before = seen(1);
        check_eq!(smp::start(1, until_stopped), 0, "CPU_ON");
        let pending = psci::affinity_info(affinity);
        let ran = timer::wait(5_000_000, || seen(1) > before);
        let running = psci::affinity_info(affinity);
        STOP.store(1, Ordering::Release);
        check!(
            pending == 0 || pending == 2,
            "AFFINITY_INFO after CPU_ON is {pending}"
        );
        check!(ran, "the CPU did not start");
        check_eq!(running, 0, "AFFINITY_INFO of a running CPU");
        check!(smp::wait_off(1), "the CPU is not off");
    }
    Ok(())
}

fn hotplug() -> Outcome {
    second()?;
    for round in 0..number("rounds", 50) {
        for cpu in 1..smp::count() {
            let before = seen(cpu);
            check_eq!(
                smp::start(cpu, once),
                0,
                "CPU_ON of CPU {cpu} in round {round}"
            );
            check!(smp::wait_off(cpu), "CPU {cpu} is not off in round {round}");
            check_eq!(
                seen(cpu),
                before + 1,
                "starts of CPU {cpu} in round {round}"
            );
        }
    }
    Ok(())
}

fn own_mpidr() -> Outcome {
    static MPIDR: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];
    static NEXT: AtomicU32 = AtomicU32::new(0);
    second()?;
    for (cpu, mpidr) in MPIDR.iter().enumerate().take(smp::count()) {
        NEXT.store(cpu as u32, Ordering::Release);
        let store = || {
            MPIDR[NEXT.load(Ordering::Acquire) as usize]
                .store(bare::mrc!(15, 0, 0, 0, 5), Ordering::Release);
        };
        if cpu == 0 {
            store();
        } else {
            check_eq!(smp::start(cpu, store), 0, "CPU_ON of CPU {cpu}");
            check!(smp::wait_off(cpu), "CPU {cpu} is not off");
        }
        let found = mpidr.load(Ordering::Acquire);
        check_eq!(
            found & 0x00ff_ffff,
            machine().cpus[cpu],
            "affinity in MPIDR of CPU {cpu}"
        );
        check_eq!(
            found >> 30,
            2,
            "MPIDR of CPU {cpu}: multiprocessing format, part of a cluster"
        );
    }
    Ok(())
}

fn race() -> Outcome {
    static GO: AtomicU32 = AtomicU32::new(0);
    static ANSWER: AtomicU32 = AtomicU32::new(0);
    not_qemu()?;
    if smp::count() < 3 {
        skip!("fewer than three CPUs");
    }
    for round in 0..50 {
        GO.store(0, Ordering::Release);
        ANSWER.store(1, Ordering::Release);
        STOP.store(0, Ordering::Release);
        let before = seen(2);
        check_eq!(
            smp::start(1, || {
                GO.store(1, Ordering::Release);
                while GO.load(Ordering::Acquire) != 2 {
                    cpu::relax();
                }
                ANSWER.store(smp::start(2, until_stopped), Ordering::Release);
            }),
            0,
            "CPU_ON of CPU 1"
        );
        check!(
            timer::wait(5_000_000, || GO.load(Ordering::Acquire) == 1),
            "CPU 1 did not start"
        );
        GO.store(2, Ordering::Release);
        let mine = smp::start(2, until_stopped);
        let answered = timer::wait(5_000_000, || ANSWER.load(Ordering::Acquire) != 1);
        let ran = timer::wait(5_000_000, || seen(2) > before);
        STOP.store(1, Ordering::Release);
        let theirs = ANSWER.load(Ordering::Acquire);
        check!(
            answered && ran && smp::wait_off(1) && smp::wait_off(2),
            "round {round} did not end"
        );
        let lost = |answer| answer == ALREADY_ON || answer == ON_PENDING;
        check!(
            (mine == 0 && lost(theirs)) || (theirs == 0 && lost(mine)),
            "{mine:#x} and {theirs:#x} in round {round}"
        );
        check_eq!(seen(2), before + 1, "starts in round {round}");
    }
    Ok(())
}

fn quick() -> Outcome {
    not_qemu()?;
    second()?;
    let before = seen(1);
    for round in 0..200 {
        let done = timer::wait(5_000_000, || {
            !matches!(smp::start(1, once), ALREADY_ON | ON_PENDING)
        });
        check!(done, "CPU_ON was refused in round {round}");
    }
    check!(smp::wait_off(1), "the CPU is not off");
    check_eq!(seen(1), before + 200, "starts");
    Ok(())
}

/// A CPU turned off while a software interrupt is active on it starts again with none, and takes new ones.
fn off_in_interrupt() -> Outcome {
    second()?;
    gic::init();
    let before = seen(1);
    let take_and_leave = || {
        gic::init_cpu();
        gic::send(3, 1 << cpu::index());
        let iar = gic::acknowledge();
        if iar & 0x3ff == 3 {
            SEEN[cpu::index()].fetch_add(1, Ordering::AcqRel);
        }
        // End it, or the running priority would outlive the CPU's life on hardware too; leave another pending.
        gic::end(iar);
        gic::send(4, 1 << cpu::index());
    };
    for round in 0..20 {
        check_eq!(smp::start(1, take_and_leave), 0, "CPU_ON");
        check!(smp::wait_off(1), "the CPU is not off");
        check_eq!(seen(1), before + round + 1, "software interrupts taken");
    }
    Ok(())
}

fn suspend_second() -> Outcome {
    second()?;
    gic::init();
    let before = seen(1);
    check_eq!(
        smp::start(1, || {
            gic::init_cpu();
            once();
            while gic::next() == gic::SPURIOUS {
                psci::call(function::CPU_SUSPEND, 0, 0, 0);
            }
            gic::end(gic::acknowledge());
            once();
        }),
        0,
        "CPU_ON"
    );
    check!(
        timer::wait(5_000_000, || seen(1) == before + 1),
        "the CPU did not start"
    );
    timer::delay(5_000);
    check_eq!(seen(1), before + 1, "it went on without an interrupt");
    gic::send(2, 2);
    check!(smp::wait_off(1), "it did not go on");
    check_eq!(seen(1), before + 2, "it did not go on");
    Ok(())
}
