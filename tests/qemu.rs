//! Boots the image in QEMU, with guests, and reads what they say.
//!
//! `cargo test --test qemu` or `cargo xtask test` runs these; plain `cargo test` does not. A guest of tests reports line by
//! line (`xtask::report`); then its VM is off, and when every VM is, QEMU ends with 0. Whatever else comes fails the
//! case: a failure reported, no summary in time, another end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use libtest_mimic::{Arguments, Failed, Trial};
use regex::Regex;
use xtask::board::{self, Board};
use xtask::build::Profile;
use xtask::console::{self, Ending, Input, Outcome, Session};
use xtask::debian;
use xtask::image::{self, Images};
use xtask::progress::{self, Line};
use xtask::qemu::{Load, Machine};
use xtask::vm::{self, Vm};
use xtask::{bench, build, report, setup, test};

/// What a case is to come to.
#[derive(Clone, Copy)]
enum Expect {
    /// Each VM is a guest of tests and reports no failure; then QEMU ends with 0.
    Passes,
    /// The console matches these in turn; then QEMU ends with 0.
    Ends(&'static [&'static str]),
    /// The console matches these in turn, and nothing comes after: the machine stands still.
    Stops(&'static [&'static str]),
}

/// A machine, its VMs and what is expected of them.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// As of `--vm`, or `demo` for those of the board's.
    vms: &'static [&'static str],
    expect: Expect,
    /// What is typed when the console has matched.
    typed: &'static [(&'static str, &'static str)],
    load: Load,
    machine: &'static str,
    cpu: &'static str,
    smp: u32,
    memory: &'static str,
    bootargs: &'static str,
    icount: bool,
    /// A guest that runs in the hypervisor's place, to show that it asks of a VM what it finds on the bare machine.
    native: Option<&'static str>,
    /// Spoils the device tree.
    edit: Option<fn(&mut DeviceTree)>,
    /// What else must hold of the console's text.
    check: Option<fn(&str) -> Result<(), String>>,
    /// More of QEMU's options; `{guests}` is where the guests are.
    more: &'static [&'static str],
    seconds: u64,
    /// Whether the hypervisor is built with overflow checks and assertions.
    checked: bool,
    /// Left out of an ordinary run.
    soak: bool,
}

/// A disk in the board's last virtio slot.
const DISK: &[&str] = &[
    "-drive",
    "if=none,file={guests}/hello,format=raw,read-only=on,id=disk",
    "-device",
    "virtio-blk-device,drive=disk",
];

/// One CPU, 1 GiB and the hello guest, which is off after its greeting.
const PLAIN: Case = Case {
    name: "",
    vms: &["kernel=guest:hello,append=once,memory=16M"],
    expect: Expect::Ends(&["Hello from a bare-metal guest", "under +Armillary"]),
    typed: &[],
    load: Load::Raw,
    machine: "virt,virtualization=on",
    cpu: "cortex-a15",
    smp: 1,
    memory: "1G",
    bootargs: "",
    icount: false,
    native: None,
    edit: None,
    check: None,
    more: &[],
    seconds: 60,
    checked: false,
    soak: false,
};

/// One CPU with instructions counted, for guests of tests.
const GUESTS: Case = Case {
    vms: &[],
    expect: Expect::Passes,
    memory: "512M",
    icount: true,
    seconds: 120,
    ..PLAIN
};

/// Debian's Linux, which does what its command line says in `run=` and is off then.
const LINUX: Case = Case {
    vms: &[],
    seconds: 240,
    ..PLAIN
};

/// Whatever a storm in one VM does, the other's memory and devices keep what was written, until a key is typed at the storm's end.
const STORM: Case = Case {
    vms: &["kernel=guest:storm,memory=64M,cpus=2,name=storm", CANARY],
    typed: &[("storm: SUMMARY", "\x011 ")],
    smp: 2,
    icount: false,
    checked: true,
    seconds: 300,
    ..GUESTS
};

const CANARY: &str = "kernel=guest:canary,memory=32M,append=seed=2 stride=64 key,name=canary";

/// Commands for `run=` that may use `clock NAME`, which prints the second that begins by the real-time clock, and the time by
/// Linux's.
macro_rules! clock {
    ($commands:literal) => {
        concat!(
            "r=/sys/class/rtc/rtc0/since_epoch; clock() { read a < $r; while read b < $r; [ $a = $b ]; do :; done; ",
            "echo clock $1 $b $EPOCHREALTIME; }; ",
            $commands
        )
    };
}

/// A guest whose device another VM emulates; that one does not end by itself.
macro_rules! forwarded {
    ($name:literal, $guest:literal, $model:literal) => {
        Case {
            name: concat!("forwarded::", $name),
            vms: &[
                concat!(
                    "kernel=guest:",
                    $guest,
                    ",memory=64M,name=client,with=tests/guests/forwarded.dts"
                ),
                concat!("kernel=guest:model,memory=16M,name=model", $model),
            ],
            expect: Expect::Ends(&[r"SUMMARY [1-9]\d* passed, 0 failed"]),
            typed: &[("SUMMARY.*skipped", "\x01x")],
            smp: 2,
            ..GUESTS
        }
    };
}

/// Commands for Linux's `run=` that say what a second UART gives back, and how many interrupts it has had.
const SECOND_UART: &str = concat!(
    "linux,memory=128M,name=client,with=boards/qemu-virt/second-uart.dts,append=quiet run=\"exec 3<>/dev/ttyAMA1; ",
    "stty -F /dev/ttyAMA1 raw -echo; for w in one two three; do echo $w >&3; read -t 9 x <&3; echo back $x; done; ",
    "grep uart-pl011 /proc/interrupts\""
);
const UART_MODEL: &str = "kernel=guest:model,memory=16M,name=model";

/// Sixteen VMs that count what they get of the CPUs, and four of eight vCPUs each.
const SIXTEEN: [&str; 16] = ["kernel=guest:share,memory=16M,append=from=300"; 16];
const FOUR: [&str; 4] = ["kernel=guest:share,memory=16M,cpus=8,append=from=300"; 4];
const SIXTEEN_LATER: [&str; 16] = ["kernel=guest:share,memory=16M,append=from=1500 for=1500"; 16];
const FOUR_LATER: [&str; 4] = ["kernel=guest:share,memory=16M,cpus=8,append=from=1500 for=1500"; 4];

/// VMs that ask for nothing have even shares.
const EVEN: Case = Case {
    vms: &SIXTEEN,
    expect: Expect::Ends(&["SHARE"]),
    check: Some(|text| shares(text, 16)),
    seconds: 300,
    ..GUESTS
};

/// VMs on several CPUs at once, where time is the host's, all make progress.
const PROGRESS: Case = Case {
    expect: Expect::Ends(&["TOTAL", "every VM is off"]),
    check: Some(|text| {
        let rounds = numbers(text, r"SHARE \d+ (\d+)$")?;
        if rounds.is_empty() || rounds.contains(&0.0) {
            return Err(format!("what each vCPU has done: {rounds:?}"));
        }
        Ok(())
    }),
    icount: false,
    ..GUESTS
};

/// Each of `count` VMs got what it asked for, in thousandths of the CPU, within 2 %; all the same where they ask for nothing.
fn shares(text: &str, count: usize) -> Result<(), String> {
    let totals = numbers(text, r"TOTAL (\d+)")?;
    let asked = numbers(text, r"TOTAL \d+ (\d+)")?;
    let sum: f64 = totals.iter().sum();
    let right = totals.iter().zip(&asked).all(|(total, asked)| {
        let part = if *asked == 0.0 {
            1.0 / count as f64
        } else {
            asked / 1000.0
        };
        (total / (sum * part) - 1.0).abs() < 0.02
    });
    if right && totals.len() == count && asked.len() == count {
        Ok(())
    } else {
        Err(format!("of shares {asked:?} came {totals:?}"))
    }
}

/// The VM with a period of 1 ms did all of its jobs in time, though three others kept the hypervisor busy as best they could.
fn in_time(text: &str) -> Result<(), String> {
    let late = numbers(text, r"LATE (\d+)")?;
    let jobs = numbers(text, r"LATE 0 of (\d+)")?;
    let rounds = numbers(text, r"FLOOD (\d+)")?;
    let interrupts: f64 = numbers(text, r"FLOOD \d+ (\d+)")?.iter().sum();
    let busy = rounds.len() == 3 && rounds.iter().all(|&n| n > 100.0) && interrupts > 100_000.0;
    if jobs.iter().all(|&n| n > 990.0) && jobs.len() == 1 && busy {
        Ok(())
    } else {
        Err(format!(
            "late {late:?}, rounds {rounds:?}, {interrupts} interrupts"
        ))
    }
}

/// VMs to which a last one with control does whatever it can: guests that tell it of each round of theirs, one with little time of
/// a high priority, one on one CPU alone, and two that are busy.
macro_rules! deeds {
    ($append:literal $(, $more:literal)*) => {
        &[
            "kernel=guest:pulse,memory=8M,name=a,with=tests/guests/pulse-bounded.dts",
            "kernel=guest:pulse,memory=4M,cpus=2,name=b,with=tests/guests/pulse.dts",
            "kernel=guest:pulse,memory=4M,cpus=4,name=c,with=tests/guests/pulse.dts",
            "kernel=guest:pulse,memory=4M,name=d,with=tests/guests/pulse-pinned.dts",
            $($more,)*
            concat!(
                "kernel=guest:control,memory=4M,name=control,with=tests/guests/control.dts,append=",
                $append
            ),
        ]
    };
    (busy $append:literal $(, $more:literal)*) => {
        deeds!(
            $append,
            "kernel=guest:flood,memory=4M,append=interrupts calls until=100000000,name=e",
            "kernel=guest:flood,memory=4M,append=exits console until=100000000,name=f"
            $(, $more)*
        )
    };
}

const LIFE: Case = Case {
    expect: Expect::Ends(&["every VM is off"]),
    check: Some(|text| lives(text, 20)),
    ..GUESTS
};

/// One VM starts some thousand times, and another with two vCPUs goes on.
macro_rules! again {
    ($rounds:literal) => {
        Case {
            vms: &[
                "kernel=guest:pulse,memory=4M,name=goes,with=tests/guests/pulse.dts",
                "kernel=guest:pulse,memory=4M,cpus=2,name=stays,with=tests/guests/pulse.dts",
                concat!(
                    "kernel=guest:control,memory=4M,name=control,with=tests/guests/control.dts,append=only=again vms=2 rounds=",
                    $rounds
                ),
            ],
            check: Some(|text| {
                lives(text, 8)?;
                match numbers(text, r"GAP of VM 1: (\d+) us")?[..] {
                    // A slice of another's, and a VM loaded in one go.
                    [gap] if gap < 11_200.0 => Ok(()),
                    ref gaps => Err(format!("between two rounds of 10 ms: {gaps:?} us")),
                }
            }),
            ..LIFE
        }
    };
}

/// The guest with control has found nothing wrong, and in the end as much memory is free as at first and `mib` MiB more: those of all
/// that were destroyed. At first a VM that was created may have been there, of 4 MiB and a page.
fn lives(text: &str, mib: u32) -> Result<(), String> {
    report::no_failure(text)?;
    each(
        text,
        &[
            r"PASS (others_live|one_starts)",
            "SUMMARY 1 passed, 0 failed",
        ],
    )?;
    let free = numbers(text, r"^\[info\] \S+: [a-z]+ \((\d+) KiB free\)$")?;
    let gained = free
        .last()
        .zip(free.first())
        .map(|(last, first)| last - first);
    let lost = gained.map(|gained| f64::from(mib << 10) - gained);
    if matches!(lost, Some(0.0 | -4100.0)) && free.len() > 20 {
        Ok(())
    } else {
        Err(format!("KiB free: {:?} to {:?}", free.first(), free.last()))
    }
}

/// A VM with nothing wrong, beside one that has.
const GOOD: &str = "kernel=guest:hello,append=once,memory=16M,name=good";

const CASES: &[Case] = &[
    // The same image file, wherever and however it is loaded.
    Case {
        name: "boot::raw_at_the_usual_address",
        ..PLAIN
    },
    Case {
        name: "boot::raw_low_in_ram",
        load: Load::At(0x4020_0000),
        ..PLAIN
    },
    Case {
        name: "boot::raw_at_an_odd_page",
        load: Load::At(0x4765_9000),
        ..PLAIN
    },
    Case {
        name: "boot::raw_high_in_ram",
        load: Load::At(0x7800_0000),
        ..PLAIN
    },
    Case {
        name: "boot::uimage_at_the_default_address",
        load: Load::Uimage(image::DEFAULT_LOAD),
        ..PLAIN
    },
    Case {
        name: "boot::uimage_at_another_address",
        load: Load::Uimage(0x6000_8000),
        ..PLAIN
    },
    Case {
        name: "boot::elf",
        load: Load::Elf,
        ..PLAIN
    },
    // Sizes of RAM, numbers and kinds of CPUs.
    Case {
        name: "boot::with_64_mib",
        memory: "64M",
        ..PLAIN
    },
    Case {
        name: "boot::with_8_gib",
        memory: "8G",
        ..PLAIN
    },
    Case {
        name: "boot::a_vm_larger_than_4_gib_of_host_leaves_below",
        memory: "8G",
        vms: &["kernel=guest:hello,append=once,memory=2500M"],
        ..PLAIN
    },
    Case {
        name: "boot::with_2_cpus",
        smp: 2,
        ..PLAIN
    },
    Case {
        name: "boot::with_8_cpus",
        smp: 8,
        ..PLAIN
    },
    Case {
        name: "boot::elf_with_2_cpus_and_64_mib",
        load: Load::Elf,
        smp: 2,
        memory: "64M",
        ..PLAIN
    },
    Case {
        name: "boot::cortex_a7",
        cpu: "cortex-a7",
        ..PLAIN
    },
    Case {
        name: "boot::cortex_a7_with_2_cpus",
        cpu: "cortex-a7",
        smp: 2,
        ..PLAIN
    },
    Case {
        name: "boot::with_instructions_counted",
        icount: true,
        ..PLAIN
    },
    Case {
        name: "boot::without_hyp_mode_it_says_so_and_stops",
        machine: "virt",
        expect: Expect::Stops(&["Hyp mode"]),
        ..PLAIN
    },
    // Descriptions of VMs; a wrong one is named, and the other VM still starts.
    Case {
        name: "vms::by_hand_with_guest_loader",
        vms: &[],
        more: &[
            "-device",
            "guest-loader,addr=0x48410000,kernel={guests}/hello,bootargs=once",
        ],
        ..PLAIN
    },
    Case {
        name: "vms::two_at_once",
        vms: &[
            "kernel=guest:hello,append=once,memory=16M,name=one",
            "kernel=guest:hello,append=once,memory=16M,name=two",
        ],
        expect: Expect::Ends(&[
            "Hello from a bare-metal guest",
            "Hello from a bare-metal guest",
        ]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::no_memory_left",
        vms: &["kernel=guest:hello,memory=2G,name=bad", GOOD],
        expect: Expect::Ends(&["bad.*memory", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::a_kernel_that_is_none",
        vms: &["kernel=/bin/sh,memory=16M,name=bad", GOOD],
        expect: Expect::Ends(&["bad.*kernel", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::no_cpus",
        vms: &["kernel=guest:hello,memory=16M,name=bad", GOOD],
        edit: Some(|tree| {
            bad(tree)
                .into_iter()
                .for_each(|vm| set(vm, "cpus", &[0; 4]));
        }),
        expect: Expect::Ends(&["bad.*cpus", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::unknown_module",
        vms: &["kernel=guest:hello,memory=16M,name=bad", GOOD],
        edit: Some(|tree| {
            for module in modules(tree) {
                set(module, "compatible", b"multiboot,harp\0multiboot,module\0");
            }
        }),
        expect: Expect::Ends(&["bad.*compatible", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::modules_that_overlap",
        vms: &[
            "kernel=guest:hello,initrd=README.md,memory=16M,name=bad",
            GOOD,
        ],
        edit: Some(|tree| {
            // The ramdisk lies where the kernel does.
            let first = modules(tree).next().map(|module| bytes(module, "reg"));
            for (module, reg) in modules(tree).zip(first.iter().cycle()) {
                set(module, "reg", reg);
            }
        }),
        expect: Expect::Ends(&["bad.*overlap", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    // The guests of tests: on the bare machine, alone, and beside each other on one CPU and on more.
    Case {
        name: "native::faults",
        native: Some("faults"),
        ..GUESTS
    },
    Case {
        name: "native::registers",
        native: Some("registers"),
        ..GUESTS
    },
    Case {
        name: "native::vfp",
        native: Some("vfp"),
        ..GUESTS
    },
    Case {
        name: "native::translate",
        native: Some("translate"),
        ..GUESTS
    },
    Case {
        name: "guests::translate",
        vms: &["kernel=guest:translate,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::faults",
        vms: &["kernel=guest:faults,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::hypercalls",
        vms: &["kernel=guest:hypercalls,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::hypercalls_ended_by_cpu_off",
        vms: &["kernel=guest:hypercalls,memory=64M,append=end=cpu_off"],
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_one_vcpu",
        vms: &["kernel=guest:registers,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_three_vms_on_one_cpu",
        vms: &[
            "kernel=guest:registers,memory=32M,append=seed=1,name=one",
            "kernel=guest:registers,memory=32M,append=seed=2,name=two",
            "kernel=guest:registers,memory=32M,append=seed=3,name=three",
        ],
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_three_vcpus_on_one_cpu",
        vms: &["kernel=guest:registers,memory=64M,cpus=3"],
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_four_vcpus_on_two_cpus",
        vms: &["kernel=guest:registers,memory=64M,cpus=4"],
        smp: 2,
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_two_vms_that_do_what_harm_they_can",
        vms: &[
            "kernel=guest:registers,memory=32M,append=harm seed=1,name=one",
            "kernel=guest:registers,memory=32M,append=harm seed=2,name=two",
        ],
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_two_vms_that_do_what_harm_they_can_on_two_cpus",
        vms: &[
            "kernel=guest:registers,memory=32M,cpus=2,append=harm seed=1,name=one",
            "kernel=guest:registers,memory=32M,cpus=2,append=harm seed=2,name=two",
            "kernel=guest:canary,memory=32M,append=seed=3 stride=64,name=memory",
        ],
        smp: 2,
        icount: false,
        checked: true,
        ..GUESTS
    },
    Case {
        name: "guests::vfp",
        vms: &["kernel=guest:vfp,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::vfp_of_three_vms_on_one_cpu",
        vms: &[
            "kernel=guest:vfp,memory=32M,append=busy,name=one",
            "kernel=guest:vfp,memory=32M,append=busy,name=two",
            "kernel=guest:vfp,memory=32M,append=busy,name=three",
        ],
        ..GUESTS
    },
    Case {
        name: "guests::gic_of_one_vcpu",
        vms: &["kernel=guest:gic,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::gic_of_two_vcpus",
        vms: &["kernel=guest:gic,memory=64M,cpus=2"],
        smp: 2,
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::canary_in_three_vms",
        vms: &[
            "kernel=guest:canary,memory=32M,append=seed=1,name=one",
            "kernel=guest:canary,memory=48M,append=seed=2,name=two",
            "kernel=guest:canary,memory=64M,append=seed=3,name=three",
        ],
        ..GUESTS
    },
    Case {
        name: "guests::storm_beside_a_canary",
        ..STORM
    },
    Case {
        name: "guests::storm_of_ten_million_beside_a_canary",
        vms: &[
            "kernel=guest:storm,memory=64M,cpus=2,append=seed=2 thousands=10000,name=storm",
            CANARY,
        ],
        seconds: 3600,
        soak: true,
        ..STORM
    },
    Case {
        name: "guests::canary_lives_more_often_than_there_are_vmids",
        vms: &["kernel=guest:canary,memory=4M,append=resets stride=4096"],
        expect: Expect::Stops(&["(?s:(boot.*?){300})"]),
        ..GUESTS
    },
    Case {
        name: "guests::psci_of_one_vcpu",
        vms: &["kernel=guest:psci,memory=64M,append=icount"],
        ..GUESTS
    },
    Case {
        name: "guests::psci_of_four_vcpus_on_one_cpu",
        vms: &["kernel=guest:psci,memory=64M,cpus=4"],
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::psci_of_four_vcpus_on_two_cpus",
        vms: &["kernel=guest:psci,memory=64M,cpus=4"],
        smp: 2,
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::timers_of_one_vcpu",
        vms: &["kernel=guest:timers,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::timers_beside_a_vm_that_sleeps_for_long",
        vms: &[
            "kernel=guest:timers,memory=64M",
            "kernel=guest:pulse,memory=64M,append=period=100000000",
        ],
        expect: Expect::Stops(&["SUMMARY 24 passed, 0 failed"]),
        ..GUESTS
    },
    Case {
        name: "guests::runtime_of_the_hypervisor",
        vms: &["kernel=guest:runtime,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::clock",
        vms: &["kernel=guest:clock,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "shares::of_sixteen_vms_are_even",
        ..EVEN
    },
    Case {
        name: "shares::of_four_vms_with_eight_vcpus_are_even",
        vms: &FOUR,
        check: Some(|text| shares(text, 4)),
        ..EVEN
    },
    Case {
        name: "shares::are_what_reservations_say",
        vms: &[
            "kernel=guest:share,memory=16M,append=from=200 asked=500,with=tests/guests/half.dts",
            "kernel=guest:share,memory=16M,append=from=200 asked=200,with=tests/guests/fifth.dts",
            "kernel=guest:share,memory=16M,append=from=200 asked=150",
            "kernel=guest:share,memory=16M,append=from=200 asked=150",
        ],
        expect: Expect::Ends(&["SHARE"]),
        check: Some(|text| shares(text, 4)),
        ..GUESTS
    },
    // With instructions counted QEMU runs the CPUs by turns, each until it yields. These guests do so all the time: so the CPUs get
    // equal parts of it, and what each guest has done says what it got of them.
    Case {
        name: "shares::of_sixteen_vms_are_even_on_two_cpus",
        smp: 2,
        ..EVEN
    },
    Case {
        name: "shares::of_sixteen_vms_are_even_on_four_cpus",
        smp: 4,
        ..EVEN
    },
    Case {
        name: "shares::of_four_vms_with_eight_vcpus_are_even_on_two_cpus",
        vms: &FOUR,
        smp: 2,
        check: Some(|text| shares(text, 4)),
        ..EVEN
    },
    Case {
        name: "shares::of_four_vms_with_eight_vcpus_are_even_on_four_cpus",
        vms: &FOUR,
        smp: 4,
        check: Some(|text| shares(text, 4)),
        ..EVEN
    },
    Case {
        name: "shares::sixteen_vms_make_progress_on_two_cpus",
        vms: &SIXTEEN_LATER,
        smp: 2,
        ..PROGRESS
    },
    Case {
        name: "shares::thirty_two_vcpus_make_progress_on_four_cpus",
        vms: &FOUR_LATER,
        smp: 4,
        ..PROGRESS
    },
    Case {
        name: "shares::a_period_of_a_millisecond_is_kept_beside_three_floods",
        vms: &[
            "kernel=guest:share,memory=16M,append=from=100 period=1000,with=tests/guests/real-time.dts,name=real",
            "kernel=guest:flood,memory=16M,append=interrupts until=1100,name=interrupts",
            "kernel=guest:flood,memory=16M,append=calls exits until=1100,name=exits",
            "kernel=guest:flood,memory=16M,append=console until=1100,name=console",
        ],
        expect: Expect::Ends(&["LATE"]),
        check: Some(in_time),
        ..GUESTS
    },
    Case {
        name: "guests::timers_of_two_vcpus_on_two_cpus",
        vms: &["kernel=guest:timers,memory=64M,cpus=2,append=late_us=200000"],
        smp: 2,
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::tables_of_two_vcpus_on_one_cpu",
        vms: &["kernel=guest:tables,memory=64M,cpus=2"],
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::console_of_one_vcpu",
        vms: &["kernel=guest:console,memory=64M"],
        ..GUESTS
    },
    // What a guest does to itself, beside one that goes on.
    Case {
        name: "hostile::whatever_is_tried_does_the_others_no_harm",
        vms: &[
            "kernel=guest:hostile,memory=32M,append=step=4099,name=bad",
            "kernel=guest:canary,memory=48M,append=seed=2,name=good",
        ],
        checked: true,
        ..GUESTS
    },
    Case {
        // Those that the calling convention forms: 2^32 would take hours.
        name: "hostile::every_call_number_of_the_convention",
        vms: &["kernel=guest:hostile,memory=32M,append=only=call_number every"],
        icount: false,
        seconds: 1800,
        soak: true,
        ..GUESTS
    },
    Case {
        // Its vectors are nowhere, too: that can't go on.
        name: "hostile::a_jump_to_nowhere_ends_a_vm_alone_which_begins_anew_five_times",
        vms: &[
            "kernel=guest:hostile,memory=32M,append=nowhere,name=bad,with=tests/guests/restart.dts",
            GOOD,
        ],
        expect: Expect::Ends(&[
            "(?s:NOWHERE.*?bad: vCPU 0 stopped at 0x0c00000c: prefetch abort.*?bad: reset.*?){5}",
            "bad: crashed 5 times in a minute",
            "bad: off",
        ]),
        check: Some(|text| each(text, &["Hello from a bare-metal guest"])),
        ..GUESTS
    },
    Case {
        name: "hostile::a_flood_of_output_leaves_the_others_their_console",
        vms: &[
            "kernel=guest:hostile,memory=32M,append=flood,name=bad",
            GOOD,
        ],
        // Either may be the first.
        expect: Expect::Stops(&[
            "(?s)FLOOD.*good.*Hello from a bare-metal guest|good.*Hello from a bare-metal guest.*FLOOD",
            r"flood \d+",
        ]),
        icount: false,
        ..GUESTS
    },
    Case {
        name: "hostile::a_loop_with_interrupts_masked_leaves_the_others_their_cpu",
        vms: &["kernel=guest:hostile,memory=32M,append=spin,name=bad", GOOD],
        expect: Expect::Stops(&["SPIN", "good.*Hello from a bare-metal guest"]),
        ..GUESTS
    },
    Case {
        name: "hostile::a_wait_for_nothing_leaves_the_others_their_cpu",
        vms: &[
            "kernel=guest:hostile,memory=32M,append=sleep,name=bad",
            GOOD,
        ],
        expect: Expect::Stops(&["SLEEP", "good.*Hello from a bare-metal guest"]),
        ..GUESTS
    },
    Case {
        name: "console::what_is_typed_reaches_the_guest",
        vms: &["kernel=guest:hello,memory=16M"],
        typed: &[("(?m)^> ", "good day\r"), ("You said: good day\n", "off\r")],
        expect: Expect::Ends(&["You said: good day", "Good-bye"]),
        ..PLAIN
    },
    Case {
        name: "console::the_shell_rules_two_vms",
        vms: &[
            "kernel=guest:hello,memory=16M,name=one",
            "kernel=guest:hello,memory=32M,name=two",
        ],
        typed: &[
            ("(?s)(Type help.*){2}", "\x01hlist\r"),
            ("1 two: 32 MiB, 1 vCPUs, on", "lsit\r"),
            ("lsit: list, perhaps\\?", "info tw\r"),
            ("1 two: (?s:.*)exits", "regs 1\r"),
            ("dfsr dfar ifsr ifar +[0-9a-f]", "mem\r"),
            ("two +32768 KiB", "irq\r"),
            ("(?s)two\n.*enabled 0-15", "res\t\x17reset two\r"),
            ("(?s)two: reset.*two: Type help", "con\ttw\t\rgood day\r"),
            ("two: You said: good day", "\x01hpause two\rlist\r"),
            ("2 MiB, 1 vCPUs, paused", "resume two\rconsole two\rmore\r"),
            ("two: You said: more", "\x01hdestroy one\r"),
            ("one: off", "list\r"),
            ("0 two: 32 MiB, 1 vCPUs, on", "console two\roff\r"),
        ],
        expect: Expect::Ends(&[
            "0 one: 16 MiB, 1 vCPUs, on",
            "vCPU 0 on CPU 0: (waits|runs), .*; exits.* data",
            r"two vCPU 0: \w+ mode\n(?s:.*)cpsr sctlr ttbcr dacr +[0-9a-f]{8} ",
            r"free +\d+ KiB",
            "kick 0, maintenance 25",
            "resume reset",
            "two: reset from the console",
            "input goes to two",
            "You said: more",
            "one: off",
            "0 two: 32 MiB",
            "two: off",
            "every VM is off",
        ]),
        ..PLAIN
    },
    Case {
        name: "console::the_shell_is_there_beside_a_flood_of_output",
        vms: &[
            "kernel=guest:hostile,memory=32M,append=flood,name=bad",
            "kernel=guest:hello,memory=16M,name=good",
        ],
        typed: &[
            ("flood 0+5 ", "\x01hl"),
            ("armillary> l", "ist\r"),
            ("1 good: 16 MiB", "destroy bad\r"),
            ("bad: off", "console good\r"),
            ("input goes to good", "off\r"),
        ],
        expect: Expect::Ends(&["bad: off", "good: off|every VM is off"]),
        icount: false,
        ..GUESTS
    },
    Case {
        name: "console::the_machine_is_reset_from_the_shell",
        vms: &["kernel=guest:hello,memory=16M"],
        typed: &[
            ("(?m)^> ", "\x01hreboot\r"),
            ("(?s)reset from the console.*^> ", "off\r"),
        ],
        expect: Expect::Ends(&["reset from the console", "Armillary 0", "every VM is off"]),
        ..PLAIN
    },
    // What a VM with control does to others, in turn and at random.
    Case {
        name: "life::a_vm_starts_a_thousand_times_and_another_does_not_notice",
        ..again!("1000")
    },
    Case {
        name: "life::a_vm_starts_ten_thousand_times_and_another_does_not_notice",
        seconds: 1800,
        soak: true,
        ..again!("10000")
    },
    Case {
        name: "life::a_period_of_a_millisecond_is_kept_while_a_vm_starts_again_and_again",
        vms: &[
            "kernel=guest:pulse,memory=64M,name=goes,with=tests/guests/pulse.dts",
            "kernel=guest:control,memory=4M,name=control,with=tests/guests/control.dts,append=only=again vms=1 rounds=100",
            "kernel=guest:share,memory=4M,append=from=100 period=1000,with=tests/guests/real-time.dts,name=real",
        ],
        check: Some(|text| {
            lives(text, 64)?;
            each(text, &[r"LATE 0 of (99\d|1000),"])
        }),
        ..LIFE
    },
    Case {
        name: "life::vms_live_through_whatever_is_done_to_them",
        vms: deeds!("only=random vms=4 for=5000"),
        ..LIFE
    },
    Case {
        name: "life::vms_live_through_whatever_is_done_to_them_on_two_cpus",
        vms: deeds!(busy "only=random vms=6 for=12000 patience=30000"),
        check: Some(|text| lives(text, 28)),
        smp: 2,
        icount: false,
        checked: true,
        ..LIFE
    },
    Case {
        name: "life::vms_live_through_half_an_hour_of_it",
        vms: deeds!("only=random vms=4 for=1800000 pause=100"),
        seconds: 4 * 3600,
        soak: true,
        ..LIFE
    },
    Case {
        name: "life::vms_live_through_half_an_hour_of_it_on_four_cpus",
        vms: deeds!(busy "only=random vms=7 for=1800000 pause=1000 patience=60000",
            "linux,memory=64M,cpus=2,name=g"),
        check: Some(|text| lives(text, 28 + 64)),
        smp: 4,
        icount: false,
        seconds: 3600,
        soak: true,
        ..LIFE
    },
    // Linux, from Debian's packages: kinds of machines.
    Case {
        name: "linux::boots_with_1_vcpu_and_64_mib",
        vms: &[r#"linux,memory=64M,append=quiet run="poweroff -f""#],
        expect: Expect::Ends(&["init: up, Linux .*, 1 CPUs", "vm0: off"]),
        ..LINUX
    },
    Case {
        name: "linux::boots_verbosely_with_1_vcpu_and_128_mib",
        vms: &[r#"linux,memory=128M,append=run="poweroff -f""#],
        expect: Expect::Ends(&[
            "Booting Linux on physical CPU 0x0",
            "init: up, Linux .*, 1 CPUs",
            "Power down",
            "vm0: off",
        ]),
        ..LINUX
    },
    Case {
        name: "linux::boots_with_2_vcpus_and_512_mib",
        vms: &[r#"linux,cpus=2,memory=512M,append=quiet run="poweroff -f""#],
        expect: Expect::Ends(&["init: up, Linux .*, 2 CPUs", "vm0: off"]),
        smp: 2,
        ..LINUX
    },
    Case {
        name: "linux::boots_verbosely_with_2_vcpus_on_1_cpu",
        vms: &[r#"linux,cpus=2,memory=256M,append=run="poweroff -f""#],
        expect: Expect::Ends(&[
            "SMP: Total of 2 processors",
            "init: up, Linux .*, 2 CPUs",
            "vm0: off",
        ]),
        ..LINUX
    },
    Case {
        name: "linux::boots_with_4_vcpus_and_2_gib",
        vms: &[r#"linux,cpus=4,memory=2G,append=quiet run="poweroff -f""#],
        expect: Expect::Ends(&["init: up, Linux .*, 4 CPUs", "vm0: off"]),
        smp: 4,
        memory: "4G",
        ..LINUX
    },
    Case {
        name: "linux::boots_verbosely_with_4_vcpus_on_2_cpus",
        vms: &[r#"linux,cpus=4,memory=256M,append=run="poweroff -f""#],
        expect: Expect::Ends(&[
            "SMP: Total of 4 processors",
            "init: up, Linux .*, 4 CPUs",
            "vm0: off",
        ]),
        smp: 2,
        ..LINUX
    },
    Case {
        name: "linux::boots_on_cortex_a7",
        vms: &[r#"linux,cpus=2,memory=128M,append=quiet run="poweroff -f""#],
        expect: Expect::Ends(&["init: up, Linux .*, 2 CPUs", "vm0: off"]),
        cpu: "cortex-a7",
        smp: 2,
        ..LINUX
    },
    // Several VMs.
    Case {
        name: "linux::two_vms_and_a_bare_metal_guest_on_2_cpus",
        vms: &[
            r#"linux,cpus=2,memory=256M,name=one,append=run="poweroff -f""#,
            r#"linux,cpus=2,memory=256M,name=two,append=run="poweroff -f""#,
            GOOD,
        ],
        expect: Expect::Ends(&["every VM is off"]),
        check: Some(|text| {
            each(
                text,
                &[
                    // The last one up has the console to itself, without its name.
                    "(?s:init: up, Linux [^\n]*, 2 CPUs.*init: up, Linux [^\n]*, 2 CPUs)",
                    "good: .*Hello from a bare-metal guest",
                ],
            )
        }),
        smp: 2,
        ..LINUX
    },
    Case {
        name: "linux::poweroff_of_one_leaves_the_other_running",
        vms: &[
            r#"linux,memory=128M,name=one,append=quiet run="poweroff -f""#,
            r#"linux,memory=128M,name=two,append=quiet run="sleep 20; echo still here; poweroff -f""#,
        ],
        expect: Expect::Ends(&["one: off", "still here", "two: off"]),
        ..LINUX
    },
    Case {
        name: "linux::reboot_is_of_one_vm_and_loses_no_page",
        vms: &[
            r#"linux,memory=128M,name=one,append=quiet run="reboot -f""#,
            r#"linux,memory=128M,name=two,append=quiet run="while sleep 1; do read a b < /proc/uptime; echo tick $a; done""#,
        ],
        expect: Expect::Stops(&[r"(?s:(one: init: up.*?){11})", "two: tick"]),
        check: Some(reboots),
        smp: 2,
        ..LINUX
    },
    // Devices that another VM emulates.
    forwarded!("every_form_of_access_is_made", "mmio", ""),
    Case {
        smp: 1,
        ..forwarded!("every_form_of_access_is_made_on_one_cpu", "mmio", "")
    },
    forwarded!("values_and_interrupts_come", "forwarded", ""),
    Case {
        smp: 1,
        ..forwarded!("values_and_interrupts_come_on_one_cpu", "forwarded", "")
    },
    forwarded!(
        "a_silent_device_model_is_given_up",
        "forwarded,append=dead",
        ",append=after=5 silent"
    ),
    forwarded!(
        "a_refusal_aborts",
        "forwarded,append=dead",
        ",append=after=5 refuses"
    ),
    forwarded!(
        "a_lying_device_model_aborts",
        "forwarded,append=dead",
        ",append=after=5 lies"
    ),
    forwarded!(
        "a_device_model_goes_off_in_an_access",
        "forwarded,append=dead",
        ",append=after=5 off"
    ),
    forwarded!(
        "a_device_model_resets_in_an_access",
        "forwarded,append=dead",
        ",append=after=5 reset"
    ),
    Case {
        smp: 1,
        ..forwarded!(
            "a_silent_device_model_is_given_up_on_one_cpu",
            "forwarded,append=dead",
            ",append=after=5 silent"
        )
    },
    Case {
        name: "forwarded::linux_uses_a_second_uart",
        vms: &[SECOND_UART, UART_MODEL],
        typed: &[("back three[^$]*29:.*uart-pl011", "\x01x")],
        expect: Expect::Ends(&[
            "client: back one",
            "client: back two",
            "client: back three",
            r"29: +[1-9]\d* +GIC",
        ]),
        smp: 2,
        ..LINUX
    },
    Case {
        name: "forwarded::linux_uses_a_second_uart_on_one_cpu",
        vms: &[SECOND_UART, UART_MODEL],
        typed: &[("back three[^$]*29:.*uart-pl011", "\x01x")],
        expect: Expect::Ends(&["client: back one", "client: back two", "client: back three"]),
        ..LINUX
    },
    // A VM that makes others.
    Case {
        name: "guests::create",
        vms: &["kernel=guest:create,memory=64M,with=tests/guests/create.dts"],
        check: Some(as_much_is_free),
        ..GUESTS
    },
    Case {
        name: "guests::create_beside_another_vm_on_two_cpus",
        vms: &[
            "kernel=guest:create,memory=64M,append=rounds=300,with=tests/guests/create.dts",
            "kernel=guest:canary,memory=32M,append=rounds=30",
        ],
        smp: 2,
        icount: false,
        check: Some(as_much_is_free),
        ..GUESTS
    },
    Case {
        name: "guests::create_ten_thousand_beside_a_period_of_a_millisecond",
        vms: &[
            "kernel=guest:create,memory=64M,append=rounds=10000,with=tests/guests/create.dts",
            "kernel=guest:share,memory=4M,append=from=100 for=60000 period=1000,with=tests/guests/real-time.dts",
        ],
        expect: Expect::Ends(&[r"every VM is off"]),
        check: Some(|text| {
            report::no_failure(text)?;
            each(text, &["PASS a_vm_is_created", r"LATE 0 of \d{5},"])
        }),
        seconds: 3600,
        soak: true,
        ..GUESTS
    },
    // Devices at other places.
    Case {
        name: "guests::mmio",
        vms: &["kernel=guest:mmio,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "placed::the_interrupt_controller_and_the_clock_work_elsewhere",
        vms: &[
            "kernel=guest:gic,memory=64M,name=gic,with=tests/guests/placed.dts",
            "kernel=guest:clock,memory=64M,name=clock,with=tests/guests/placed.dts",
        ],
        ..GUESTS
    },
    Case {
        name: "placed::linux_finds_its_devices",
        vms: &[
            r#"linux,memory=128M,with=tests/guests/placed.dts,append=quiet run="ls -1 /proc/device-tree; cat /sys/class/rtc/rtc0/since_epoch; poweroff -f""#,
        ],
        expect: Expect::Ends(&[
            "intc@d000000",
            "pl011@3fffe000",
            "pl031@e345000",
            r"^\d{10}$",
            "vm0: off",
        ]),
        ..LINUX
    },
    // Devices of the board's.
    Case {
        name: "passed::the_clock_of_the_board_interrupts_its_vm",
        vms: &[
            "kernel=guest:passed,memory=32M,name=passed,passthrough=/pl031@9010000",
            "kernel=guest:clock,memory=32M,name=clock",
        ],
        ..GUESTS
    },
    Case {
        name: "passed::linux_reads_a_disk_of_the_board",
        vms: &[
            concat!(
                "linux,memory=128M,cpus=2,direct-map,passthrough=/virtio_mmio@a003e00,append=quiet run=\"",
                "dd if=/dev/vda bs=1 skip=1 count=3; echo; for i in 1 2 3; do md5sum </dev/vda; ",
                "echo 3 >/proc/sys/vm/drop_caches; done | sort -u | wc -l; ",
                "dd if=/dev/vda of=/dev/null bs=512 iflag=direct count=60; grep virtio0 /proc/interrupts; poweroff -f\""
            ),
            "kernel=guest:hello,append=once,memory=16M",
        ],
        expect: Expect::Ends(&["ELF", "^(vm0: )?1$", r"60\+0 records out", "virtio0", "off"]),
        smp: 2,
        more: DISK,
        ..LINUX
    },
    Case {
        name: "passed::a_device_that_reaches_memory_is_refused_unless_ram_is_where_it_seems",
        vms: &[
            "kernel=guest:hello,append=once,memory=16M,passthrough=/virtio_mmio@a003e00,name=a",
            "kernel=guest:hello,append=once,memory=16M,passthrough=/pl011@9000000,name=b",
            "kernel=guest:passed,memory=32M,name=c,passthrough=/pl031@9010000",
            "kernel=guest:passed,memory=32M,name=d,passthrough=/pl031@9010000",
        ],
        expect: Expect::Ends(&[
            "/chosen/a/module@[0-9a-f]+ /passthrough/virtio_mmio@a003[02e]00: xen,force-assign-without-iommu is absent; give the VM's node direct-map",
            "/chosen/b/module@[0-9a-f]+ /passthrough/pl011@9000000: xen,path is /pl011@9000000, which is the console; ",
            "/chosen/d/module@[0-9a-f]+ /passthrough/pl031@9010000: xen,path is /pl031@9010000, which /chosen/c has; ",
            "SUMMARY 6 passed, 0 failed",
        ]),
        icount: true,
        ..PLAIN
    },
    // What it does with its machine.
    Case {
        name: "linux::every_cpu_gets_its_interrupts",
        vms: &[concat!(
            "linux,cpus=4,memory=256M,append=quiet run=\"u=$(grep uart-pl011 /proc/interrupts | cut -d: -f1); ",
            "for c in 1 2 4 8; do echo $c > /proc/irq/$((u))/smp_affinity; echo key $c; read x; done; ",
            "cat /proc/interrupts; poweroff -f\""
        )],
        typed: &[
            ("^key 1$", "\r"),
            ("^key 2$", "\r"),
            ("^key 4$", "\r"),
            ("^key 8$", "\r"),
        ],
        expect: Expect::Ends(&["vm0: off"]),
        check: Some(interrupts),
        smp: 2,
        ..LINUX
    },
    Case {
        name: "linux::cpus_go_and_come_50_times",
        vms: &[concat!(
            "linux,cpus=4,memory=256M,append=quiet run=\"for i in $(seq 50); do for c in 1 2 3; do ",
            "f=/sys/devices/system/cpu/cpu$c/online; echo 0 > $f; echo 1 > $f; done; done; ",
            "echo $(nproc) CPUs after $i rounds; poweroff -f\""
        )],
        expect: Expect::Ends(&["4 CPUs after 50 rounds", "vm0: off"]),
        smp: 2,
        ..LINUX
    },
    Case {
        name: "linux::clocks_of_two_vms_go_alike_for_an_hour",
        vms: &[
            concat!(
                "linux,memory=128M,name=one,append=quiet run=\"",
                clock!("sleep 20; clock one; sleep 3600; clock one; poweroff -f"),
                "\""
            ),
            concat!(
                "linux,memory=128M,name=two,append=quiet run=\"",
                clock!("sleep 40; clock two; sleep 3600; clock two; poweroff -f"),
                "\""
            ),
        ],
        expect: Expect::Ends(&["one: off", "two: off"]),
        check: Some(clocks),
        icount: true,
        ..LINUX
    },
    Case {
        name: "linux::its_shell_answers",
        vms: &["linux,memory=128M,append=quiet"],
        typed: &[("/ # ", "echo $((6 * 7))\r"), ("^42\n", "poweroff -f\r")],
        expect: Expect::Ends(&["^42$", "vm0: off"]),
        ..LINUX
    },
    Case {
        name: "linux::a_paste_of_64_kib_arrives_whole",
        vms: &[concat!(
            "linux,memory=128M,append=quiet run=\"stty raw -echo; echo ready; head -c 65538 > /tmp/pasted; stty sane; ",
            "seq 10001 20923 | cmp - /tmp/pasted && echo it is whole; poweroff -f\""
        )],
        typed: &[("^ready$", "{10001 to 20923}")],
        expect: Expect::Ends(&["^it is whole$", "vm0: off"]),
        ..LINUX
    },
    Case {
        name: "demo::each_console_answers",
        vms: &["demo"],
        typed: &[
            ("(?s)(/ # .*){2}", "\x010echo first $((6 * 7))\r"),
            ("first 42$", "\x011echo second $((6 * 7))\r"),
            ("second 42$", "\x012good day\r"),
            ("You said: good day$", "\x01i"),
            ("2 hello: 16 MiB(?s:.*)exits", "off\r"),
            ("hello: off", "\x010poweroff -f\r"),
            ("linux1: off", "\x011poweroff -f\r"),
        ],
        expect: Expect::Ends(&[
            "linux1: first 42$",
            "linux2: second 42$",
            "hello: You said: good day$",
            "0 linux1: 256 MiB",
            r"vCPU 1 on CPU \d: (waits|runs), .*; exits",
            "1 linux2: 256 MiB",
            "every VM is off",
        ]),
        smp: 2,
        ..LINUX
    },
    Case {
        name: "uboot::takes_commands_at_its_prompt",
        vms: &["uboot,memory=256M"],
        typed: &[
            ("Hit any key", " "),
            ("^=> ", "echo $board\r"),
            ("^qemu-arm$", "poweroff\r"),
        ],
        expect: Expect::Ends(&["U-Boot 20", "DRAM: +256 MiB", "^qemu-arm$", "vm0: off"]),
        ..LINUX
    },
    // The environment is in flash, which a reset leaves as it is.
    Case {
        name: "uboot::keeps_its_environment",
        vms: &["uboot,memory=256M"],
        typed: &[
            ("Hit any key", " "),
            ("^=> ", "setenv kept $board\r"),
            ("^=> ", "saveenv\r"),
            ("^OK", "reset\r"),
            ("Hit any key", " "),
            ("^=> ", "echo found $kept\r"),
            ("^found qemu-arm$", "poweroff\r"),
        ],
        expect: Expect::Ends(&["bad CRC", "^OK", "^found qemu-arm$", "vm0: off"]),
        ..LINUX
    },
    // It does not start without flash that keeps its variables.
    Case {
        name: "uefi::starts_its_shell_and_keeps_a_variable",
        vms: &["uefi,memory=256M"],
        typed: &[
            ("any other key", "x"),
            ("Shell>", "set greeting kept\r"),
            ("Shell>", "reset -c\r"),
            ("any other key", "x"),
            ("Shell>", "set greeting\r"),
            ("greeting *= *kept", "reset -s\r"),
        ],
        expect: Expect::Ends(&["UEFI Interactive Shell", "greeting *= *kept", "vm0: off"]),
        ..LINUX
    },
    // Files that are no good; the other VM still starts.
    Case {
        name: "vms::wrong::a_kernel_larger_than_its_memory",
        vms: &["linux,memory=4M,name=bad", GOOD],
        expect: Expect::Ends(&["bad.*memory", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::an_initrd_with_no_room_beside_the_kernel",
        vms: &[
            "kernel=debian:linux,initrd=debian:linux,memory=8M,name=bad",
            GOOD,
        ],
        expect: Expect::Ends(&["bad.*initrd", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::a_kernel_cut_short",
        vms: &["linux,memory=64M,name=bad", GOOD],
        edit: Some(|tree| {
            // The kernel's module is a page only.
            for module in modules(tree).take(1) {
                let mut reg = bytes(module, "reg");
                reg.truncate(8);
                reg.extend(4096u64.to_be_bytes());
                set(module, "reg", &reg);
            }
        }),
        expect: Expect::Ends(&[
            "bad.*kernel is a zImage of .* bytes, of which 4096 are here",
            "Hello from a bare-metal guest",
        ]),
        ..PLAIN
    },
    Case {
        name: "bench::the_guest_of_measurements_ends_well",
        vms: &["kernel=guest:bench,memory=64M"],
        expect: Expect::Ends(&[r"BENCH null_hypercall \d+"]),
        icount: true,
        ..PLAIN
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = CASES.iter().copied().chain(guests_of_tests());
    let trials = cases.map(|case| {
        let left_out = case.soak || case.of_debian() && !debian::available();
        Trial::test(case.name, move || case.run()).with_ignored_flag(left_out)
    });
    let trials = trials.chain([Trial::test(
        "bench::figures_are_within_their_budget",
        figures,
    )]);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn figures() -> Result<(), Failed> {
    let (qemu, images) = built(Profile::Release)?;
    let figures = bench::measure(qemu.clone(), images.clone())?;
    match bench::over_budget(&figures, &Board::named(board::DEFAULT)?)?.as_slice() {
        [] => Ok(()),
        excesses => Err(excesses.join("\n").into()),
    }
}

/// A case for every guest of tests that no case names: alone, with instructions counted.
fn guests_of_tests() -> Vec<Case> {
    let directory = build::root().join("tests/guests/src/bin");
    let mut cases = Vec::new();
    for guest in build::guest_names() {
        let sources = [
            directory.join(format!("{guest}.rs")),
            directory.join(&guest).join("main.rs"),
        ];
        let lists_tests = sources
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .any(|source| source.contains("tests!"));
        let kernel = format!("kernel=guest:{guest},");
        let named = CASES
            .iter()
            .flat_map(|case| case.vms)
            .any(|vm| format!("{vm},").contains(&kernel));
        if lists_tests && !named {
            // They live as long as the process, as those of the table do.
            let vms: &[&str] = Vec::leak(vec![&*String::leak(format!("{kernel}memory=64M"))]);
            let name = String::leak(format!("guests::{guest}"));
            cases.push(Case {
                name,
                vms,
                ..GUESTS
            });
        }
    }
    cases
}

/// What every case needs: QEMU and the images, with the guests built.
fn built(profile: Profile) -> Result<&'static (PathBuf, Images), Failed> {
    type Built = OnceLock<Result<(PathBuf, Images), String>>;
    static RELEASE: Built = OnceLock::new();
    static CHECKED: Built = OnceLock::new();
    let built = match profile {
        Profile::Release => &RELEASE,
        Profile::Checked => &CHECKED,
    };
    let build = || -> anyhow::Result<(PathBuf, Images)> {
        let asked = std::env::var_os(test::QEMU_VARIABLE).map(PathBuf::from);
        let qemu = match asked {
            Some(path) => path,
            None => setup::qemu(None)?,
        };
        let images = image::build(profile, image::DEFAULT_LOAD, Line::IfSlow)?;
        build::guests(Line::IfSlow)?;
        Ok((qemu, images))
    };
    let result = built.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    result.as_ref().map_err(|error| error.into())
}

impl Case {
    /// Whether it needs files of Debian's packages.
    fn of_debian(&self) -> bool {
        let words = ["linux,", "uboot,", "uefi,", "debian:", "demo"];
        self.vms
            .iter()
            .any(|vm| words.iter().any(|word| vm.contains(word)))
    }

    fn run(&self) -> Result<(), Failed> {
        let place = tempfile::tempdir()?;
        let mut prepared = self
            .machine(place.path())?
            .prepare(&place.path().join("case.dtb"))?;
        let session = Session {
            until: match self.expect {
                Expect::Stops(lines) => Some(console::expression(&in_turn(lines))?),
                Expect::Passes | Expect::Ends(_) => None,
            },
            timeout: Some(Duration::from_secs(self.seconds)),
            input: Input::Script(self.script()?),
            show: false,
        };
        let outcome = console::run(&mut prepared.command, session)?;
        self.judge(&outcome).map_err(|why| {
            let command = progress::shown(&prepared.command);
            format!(
                "{why}\n--- the console's end\n{}\n--- {command}",
                tail(&outcome.text)
            )
            .into()
        })
    }

    fn machine(&self, place: &Path) -> Result<Machine, Failed> {
        let (qemu, images) = built(Profile::checked(self.checked))?;
        let mut images = images.clone();
        if let Load::Uimage(address) = self.load {
            images.uimage = place.join("armillary.uimage");
            fs::write(
                &images.uimage,
                image::uimage(&fs::read(&images.raw)?, address),
            )?;
        }
        let board = Board {
            machine: if self.native.is_some() {
                "virt"
            } else {
                self.machine
            }
            .into(),
            cpu: self.cpu.into(),
            smp: self.smp,
            memory: self.memory.parse()?,
            ..Board::named(board::DEFAULT)?
        };
        if let Some(guest) = self.native {
            images.elf = build::file(Path::new(&format!("guest:{guest}")));
        }
        let mut vms = Vec::new();
        if self.vms == ["demo"] {
            vms = vm::demo(&board.demo())?;
        }
        for (index, vm) in self.vms.iter().enumerate().filter(|(_, vm)| **vm != "demo") {
            vms.push(Vm::from_spec(&vm.parse()?, index, board.memory)?);
        }
        {
            // One at a time: what the first has fetched is there for the others.
            static FETCHING: Mutex<()> = Mutex::new(());
            let _fetching = FETCHING.lock();
            vms.iter().try_for_each(Vm::provide)?;
        }
        let guests = build::file(Path::new("guest:hello"));
        let guests = guests
            .parent()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        Ok(Machine {
            load: if self.native.is_some() {
                Load::Elf
            } else {
                self.load
            },
            vms,
            edit: self.edit,
            bootargs: (!self.bootargs.is_empty()).then(|| self.bootargs.into()),
            icount: self.icount,
            more: self
                .more
                .iter()
                .map(|word| word.replace("{guests}", &guests).into())
                .collect(),
            ..Machine::new(qemu.clone(), board, images)
        })
    }

    fn script(&self) -> Result<Vec<(Regex, String)>, Failed> {
        let mut script = Vec::new();
        for (question, answer) in self.typed {
            script.push((console::expression(question)?, typed(answer)));
        }
        Ok(script)
    }

    fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        self.judge_end(outcome)?;
        self.check.map_or(Ok(()), |check| check(&outcome.text))
    }

    fn judge_end(&self, outcome: &Outcome) -> Result<(), String> {
        let stops = matches!(self.expect, Expect::Stops(_));
        match outcome.ending {
            Ending::Matched if stops => return report::no_failure(&outcome.text),
            Ending::Exited(status) if status.success() && !stops => {}
            Ending::TimedOut => return Err(format!("not done after {} s", self.seconds)),
            other => return Err(format!("QEMU did not end as expected: {other:?}")),
        }
        match self.expect {
            Expect::Passes => report::judge(&outcome.text, self.vms.len().max(1)),
            Expect::Ends(lines) | Expect::Stops(lines) => {
                let expected = console::expression(&in_turn(lines))?;
                if expected.is_match(&outcome.text) {
                    Ok(())
                } else {
                    Err(format!("the console does not match {lines:?} in turn"))
                }
            }
        }
    }
}

/// Every one of `lines` is somewhere in `text`.
fn each(text: &str, lines: &[&str]) -> Result<(), String> {
    for line in lines {
        if !console::expression(line)?.is_match(text) {
            return Err(format!("the console does not match {line:?}"));
        }
    }
    Ok(())
}

/// What the expression `line` captures first, wherever it matches.
fn numbers(text: &str, line: &str) -> Result<Vec<f64>, String> {
    let matches = console::expression(line)?;
    let matches = matches.captures_iter(text);
    matches
        .map(|found| found[1].parse().map_err(|_| found[0].to_owned()))
        .collect()
}

/// The VM `one` was reset ten times with as much memory free each time, and `two` did not notice.
fn reboots(text: &str) -> Result<(), String> {
    let free = numbers(text, r"one: reset \((\d+) KiB free")?;
    // One more where the other's next second comes late.
    if !(10..=11).contains(&free.len()) || free.iter().any(|&size| size != free[0]) {
        return Err(format!("KiB free at each reset of ten: {free:?}"));
    }
    let ticks = numbers(text, r"two: tick ([\d.]+)")?;
    if ticks.is_empty() || !ticks.is_sorted() {
        return Err(format!("the other's uptime: {ticks:?}"));
    }
    Ok(())
}

/// Whether there is as much free memory in the end as when the first VM that has been made starts. On another CPU the one
/// before may still be on its way out, for which the heap grows once, by 256 KiB.
fn as_much_is_free(text: &str) -> Result<(), String> {
    let free = numbers(text, r"made: started \((\d+) KiB free")?;
    let (first, last) = (free.first(), free.iter().rev().take(10));
    let most = last.copied().fold(0.0, f64::max);
    if free.len() < 20 || first.is_none_or(|&first| most + 256.0 < first) {
        return Err(format!("KiB free at each start: {free:?}"));
    }
    Ok(())
}

/// Each of four CPUs has had IPIs, and interrupts of the timer and of the UART, by /proc/interrupts.
fn interrupts(text: &str) -> Result<(), String> {
    let mut counts = [[0u64; 4]; 3];
    for line in text.lines() {
        let kind = match line {
            line if line.starts_with("IPI") => 0,
            line if line.ends_with("arch_timer") => 1,
            line if line.ends_with("uart-pl011") => 2,
            _ => continue,
        };
        let columns = line.split_whitespace().skip(1);
        for (count, column) in counts[kind].iter_mut().zip(columns) {
            *count += column.parse::<u64>().map_err(|_| line.to_owned())?;
        }
    }
    if counts.iter().flatten().all(|&count| count > 0) {
        Ok(())
    } else {
        Err(format!("IPIs, timer, UART on each CPU: {counts:?}"))
    }
}

/// The two VMs' clocks are as far apart after an hour as before, within 1 ms. Each is read at the edge of a second of the
/// real-time clock, which counts alike in all VMs.
fn clocks(text: &str) -> Result<(), String> {
    let mut gained = Vec::new();
    for vm in ["one", "two"] {
        let seconds = numbers(text, &format!(r"clock {vm} (\d+) "))?;
        let times = numbers(text, &format!(r"clock {vm} \d+ ([\d.]+)"))?;
        let ([before, after], [from, to]) = (&seconds[..], &times[..]) else {
            return Err(format!("{vm} has not read its clock twice: {times:?}"));
        };
        if after - before < 3600.0 {
            return Err(format!("{vm}: {} s are no hour", after - before));
        }
        gained.push((to - from) - (after - before));
    }
    if (gained[0] - gained[1]).abs() < 0.001 {
        Ok(())
    } else {
        Err(format!("seconds gained on the real-time clock: {gained:?}"))
    }
}

/// What an answer means: `{FROM to TO}` are the numbers between, a line each.
fn typed(answer: &str) -> String {
    let range = answer
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}')?.split_once(" to "));
    let bounds = range.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    match bounds {
        Some((from, to)) => (from..=to).map(|n: u32| format!("{n}\n")).collect(),
        None => answer.to_owned(),
    }
}

/// The VM that is to be spoilt.
fn bad(tree: &mut DeviceTree) -> Option<&mut DeviceTreeNode> {
    tree.find_node_mut("/chosen/bad")
}

fn modules(tree: &mut DeviceTree) -> impl Iterator<Item = &mut DeviceTreeNode> {
    bad(tree).into_iter().flat_map(DeviceTreeNode::children_mut)
}

fn set(node: &mut DeviceTreeNode, name: &str, value: &[u8]) {
    node.remove_property(name);
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

fn bytes(node: &DeviceTreeNode, name: &str) -> Vec<u8> {
    node.property(name)
        .map(|property| property.value().to_vec())
        .unwrap_or_default()
}

/// One expression for several in turn, whatever lies between.
fn in_turn(lines: &[&str]) -> String {
    lines.join(r"(?s:.*?)")
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
