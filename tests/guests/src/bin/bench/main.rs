//! Measures what a hypervisor costs: prints `BENCH name count` for every sample, in instructions under QEMU's `-icount
//! shift=0` (otherwise in nanoseconds of the counter), without the loop around the operation.
//!
//! CNTVCT advances by one for each 16 instructions, so a figure comes from enough repetitions to be exact to a tenth, or
//! from PMCCNTR where the guest has it.
//! Command line: `region=N` (an address to load from), `samples=N`, `only=WORD`, `exactly` (`only` is a whole name), `no_pmu` (CNTVCT alone), `one_cpu` (the VM's two vCPUs share a CPU), `emulated` (the clock is Armillary's),
//! `create` (VMs), `give [vfp]` (nothing but to give the CPU away), `beside [vfp]` (that to another VM, which has `give`).
#![no_std]
#![no_main]

mod create;
mod latency;
mod switch;
mod two;

use bare::exception::catch;
use bare::machine::{self, has, machine};
use bare::{armillary, console, gic, mcr, mrc, mrrc, println, psci, timer, xen};
use core::arch::asm;

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    if has("give") {
        switch::give(has("vfp"));
        psci::system_off();
    }
    let clock = Clock::find();
    println!(
        "bench: counted by {}",
        if clock.pmu { "PMCCNTR" } else { "CNTVCT" }
    );
    if wanted("boot_to_guest") {
        // The physical count starts at the machine's reset.
        let ticks = i64::from(machine::reset().cntpct);
        print_figure(
            "boot_to_guest",
            ticks * i64::from(clock.nanoseconds_per_tick) * 10,
            1,
        );
    }
    if has("create") {
        create::all();
    } else if has("beside") {
        switch::between_vms(&clock);
    } else {
        loops(&clock);
        latency::all(&clock);
        two::all(&clock);
    }
    println!("bench: done");
    psci::system_off();
}

/// What counts: the cycle counter where there is one, which icount makes count instructions, else the virtual counter.
struct Clock {
    pmu: bool,
    nanoseconds_per_tick: u32,
}

impl Clock {
    fn find() -> Self {
        // ID_DFR0.PerfMon: 0 none, 15 none of ARM's.
        let listed = !matches!(mrc!(15, 0, 0, 1, 2) >> 24 & 15, 0 | 15);
        let pmu = !has("no_pmu") && listed && catch(start_cycle_counter).is_ok() && counts();
        Self {
            pmu,
            nanoseconds_per_tick: 1_000_000_000 / timer::frequency().max(1),
        }
    }

    #[inline(always)]
    fn read(&self) -> u64 {
        if self.pmu {
            u64::from(mrc!(15, 0, 9, 13, 0))
        } else {
            mrrc!(1, 14) * u64::from(self.nanoseconds_per_tick)
        }
    }

    /// Instructions that `f` takes.
    #[inline(always)]
    fn time(&self, f: impl FnOnce()) -> u64 {
        let start = self.read();
        f();
        let passed = self.read().wrapping_sub(start);
        if self.pmu {
            passed & 0xffff_ffff
        } else {
            passed
        }
    }
}

fn start_cycle_counter() {
    mcr!(15, 0, 9, 12, 5; 31); // PMSELR: the cycle counter's filter
    mcr!(15, 0, 9, 13, 1; 1 << 27); // PMXEVTYPER.NSH: count in Hyp too, where this guest may ask for that
    mcr!(15, 0, 9, 12, 1; 1 << 31); // PMCNTENSET
    mcr!(15, 0, 9, 12, 0; 5); // PMCR: enable, reset the cycle counter
}

/// A cycle counter that stands still is none.
fn counts() -> bool {
    let start = mrc!(15, 0, 9, 13, 0);
    timer::delay(1);
    mrc!(15, 0, 9, 13, 0) != start
}

/// Why not, of a form that another form stands for.
const OTHER_FORM: &str = "in another form";

fn skip(name: &str, why: &str) {
    if why != OTHER_FORM {
        println!("SKIP {name} {why}");
    }
}

/// Prints the samples of one figure in tenths: `sample` returns the instructions of `n` operations.
fn report(name: &str, n: u32, mut sample: impl FnMut() -> i64) {
    for _ in 0..machine::number("samples", 5) {
        print_figure(name, sample() * 10, n);
    }
}

fn print_figure(name: &str, tenths: i64, n: u32) {
    let n = i64::from(n);
    let rounded = (tenths + n / 2).div_euclid(n);
    println!(
        "BENCH {name} {}{}.{}",
        if rounded < 0 { "-" } else { "" },
        rounded.abs() / 10,
        rounded.abs() % 10
    );
}

/// Whether the command line lets this figure be measured.
fn wanted(name: &str) -> bool {
    let only = machine::argument("only").unwrap_or_default();
    if has("exactly") {
        name == only
    } else {
        name.contains(only)
    }
}

/// Operations that a loop repeats, with registers named where a hypervisor may treat one unlike another: name, repetitions, why not here (or empty), instructions that prepare the operation and are
/// not counted, the operation, and operands.
macro_rules! loops {
    ($clock:ident; $($name:ident $n:literal $absent:expr => [$($before:literal),*] [$($code:literal),*] ($($operands:tt)*))*) => {$(
        if wanted(stringify!($name)) {
            let absent: &str = $absent;
            let run = |n: u32| around!(n, [$($before,)* $($code),*] $($operands)*);
            let prepare = |n: u32| around!(n, [$($before),*] out("r0") _, out("r12") _);
            if !absent.is_empty() {
                skip(stringify!($name), absent);
            } else if let Err(fault) = catch(|| run(1)) {
                println!("SKIP {} it ends in an exception: {:?}", stringify!($name), fault.kind);
            } else {
                report(stringify!($name), $n, || {
                    let empty = $clock.time(|| prepare($n));
                    $clock.time(|| run($n)) as i64 - empty as i64
                });
            }
        }
    )*};
}

/// The loop: `n` times the code.
macro_rules! around {
    ($n:expr, [$($code:literal),*] $($operands:tt)*) => {{
        let n: u32 = $n;
        // SAFETY: the code of each figure names what it changes.
        unsafe { asm!(".arch_extension virt", "2:", $($code,)* "subs {n}, {n}, #1", "bne 2b", n = inout(reg) n => _, $($operands)*) }
    }};
}

fn loops(clock: &Clock) {
    let uart = machine().uart;
    let gicd = machine().gicd;
    let (alone, xen) = match (armillary::present(), xen::present()) {
        (true, _) => ("", OTHER_FORM),
        (_, true) => (OTHER_FORM, ""),
        _ => ("no hypervisor with a null call", OTHER_FORM),
    };
    let conduit = if machine().psci == Some(machine::Conduit::Hvc) {
        ""
    } else {
        "PSCI is not called by HVC"
    };
    let region = machine::number("region", 0);
    let without_region = if region == 0 { "no region" } else { "" };
    loops! { clock;
        null_hypercall 4096 alone => ["movw r0, #1", "movt r0, #0x8600"] ["hvc #0"] (out("r0") _, out("r1") _, out("r2") _, out("r3") _)
        null_hypercall 4096 xen => ["mov r0, #0", "mov r12, #17"] ["hvc #0xea1"] (out("r0") _, out("r1") _, out("r2") _, out("r3") _, out("r12") _)
        psci_version 4096 conduit => ["mov r0, #0x84000000"] ["hvc #0"] (out("r0") _, out("r1") _, out("r2") _, out("r3") _)
        gicd_read 4096 "" => [] ["ldr r3, [{a}]"] (a = in(reg) gicd + gic::gicd::TYPER, out("r3") _)
        gicd_write 4096 "" => [] ["str r3, [{a}]"] (a = in(reg) gicd + gic::gicd::ISENABLER, in("r3") 0)
        uart_read 4096 "" => [] ["ldr r3, [{a}]"] (a = in(reg) uart + console::FR, out("r3") _)
        region_read 4096 without_region => [] ["ldr r3, [{a}]"] (a = in(reg) region, out("r3") _)
        nosyndrome_store 4096 "" => [] ["str r3, [{a}], #0"] (a = inout(reg) uart + 0x38 => _, in("r3") 0)
        cp15_trap 4096 "" => [] ["mrc p15, 0, r3, c1, c0, 1"] (out("r3") _)
        cp15_timer_read 4096 "" => [] ["mrc p15, 0, r3, c14, c2, 1"] (out("r3") _)
    }
    if wanted("unmapped") {
        unmapped(clock);
    }
    if wanted("uart_char") {
        uart_char(clock);
    }
    if wanted("forwarded")
        && let Some(device) = machine().forwarded
    {
        forwarded(clock, device);
    }
    if wanted("first_touch") {
        first_touch(clock);
    }
    if wanted("plain_ppm") {
        plain(clock);
    }
}

/// A load from a device that another VM emulates.
fn forwarded(clock: &Clock, device: u32) {
    const N: u32 = 256;
    // PMCCNTR counts one CPU's cycles: the virtual count is common to both.
    let clock = Clock {
        pmu: false,
        ..*clock
    };
    report("forwarded", N, || {
        clock.time(|| {
            for _ in 0..N {
                let _ = bare::mmio::read(device);
            }
        }) as i64
    });
}

/// A load from where nothing is, until the handler of the abort is back behind it.
fn unmapped(clock: &Clock) {
    const NOWHERE: u32 = 0x0c00_0000;
    const N: u32 = 1024;
    if catch(|| bare::mmio::read(NOWHERE)).is_ok() {
        return println!("SKIP unmapped something is there");
    }
    let old = latency::install();
    report("unmapped", N, || {
        let empty = clock.time(|| around!(N, ["adr r12, 3f", "3:"] out("r12") _));
        clock.time(|| around!(N, ["adr r12, 3f", "ldr {v}, [{a}]", "3:"] a = in(reg) NOWHERE, v = out(reg) _, out("r12") _)) as i64
            - empty as i64
    });
    latency::restore(old);
}

/// Console output by polling, for each character of full lines; the least that a driver does.
fn uart_char(clock: &Clock) {
    const LINE: &[u8; 64] = b"The quick brown fox jumps over the lazy dog and then it rests.\r\n";
    const LINES: u32 = 16;
    let line = || {
        // SAFETY: the UART's registers, and the bytes of LINE.
        unsafe {
            asm!(
                "2: ldr r3, [{uart}, #0x18]", "tst r3, #0x20", "bne 3f",
                "ldrb r2, [{text}], #1", "strb r2, [{uart}]", "cmp {text}, {end}", "bne 2b", "b 4f",
                "3: yield", "b 2b", "4:",
                uart = in(reg) machine().uart, text = inout(reg) LINE.as_ptr() => _, end = in(reg) LINE.as_ptr_range().end,
                out("r2") _, out("r3") _, options(nostack)
            );
        }
    };
    report("uart_char", 64 * LINES, || {
        clock.time(|| (0..LINES).for_each(|_| line())) as i64
    });
}

/// The first store to each page of memory that nobody used before: one sample is all there is.
fn first_touch(clock: &Clock) {
    const PAGES: u32 = 1024;
    let start = machine::image().base + (8 << 20);
    let store = |n: u32, a: u32| around!(n, ["str {a}, [{a}]", "add {a}, {a}, #0x1000"] a = inout(reg) a => _);
    let first = clock.time(|| store(PAGES, start));
    let again = clock.time(|| store(PAGES, start));
    print_figure("first_touch", (first as i64 - again as i64) * 10, PAGES);
}

/// Plain computation: how many millionths longer 200 million instructions take than that many.
fn plain(clock: &Clock) {
    const N: u32 = 100_000_000;
    // CNTVCT alone does not wrap in this.
    let clock = Clock {
        pmu: false,
        ..*clock
    };
    for _ in 0..machine::number("plain_samples", 1) {
        let passed = clock.time(|| around!(N, []));
        print_figure(
            "plain_ppm",
            (passed as i64 - i64::from(2 * N)) * 10,
            2 * N / 1_000_000,
        );
    }
}
