//! PSCI, SMCCC and TRNG as a guest calls them.

use armillary::psci::{
    Answer, CpuPower, Entry, MAX_CPUS, NOT_SUPPORTED, Platform, Power, Workaround, call,
};

const VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0x8400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const FEATURES: u32 = 0x8400_000a;
const ARCH_FEATURES: u32 = 0x8000_0001;
const SOC_ID: u32 = 0x8000_0002;
const WORKAROUND_1: u32 = 0x8000_8000;
const WORKAROUND_3: u32 = 0x8000_3fff;
const TRNG: u32 = 0x8400_0050;

const INVALID_PARAMETERS: Answer = Answer::Return(-2i32 as u32);
const ALREADY_ON: Answer = Answer::Return(-4i32 as u32);
const ON_PENDING: Answer = Answer::Return(-5i32 as u32);
const INVALID_ADDRESS: Answer = Answer::Return(-9i32 as u32);
const UNKNOWN: Answer = Answer::Return(NOT_SUPPORTED);

/// A VM with memory from 1 to 2 GiB.
struct Machine {
    source: Option<Option<[u32; 3]>>,
    soc: Option<(u32, u32)>,
    workarounds: (Workaround, Workaround),
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            source: None,
            soc: None,
            workarounds: (Workaround::Required, Workaround::NotSupported),
        }
    }
}

impl Platform for Machine {
    fn is_memory(&self, address: u32) -> bool {
        address >> 30 == 1
    }
    fn workaround_1(&self) -> Workaround {
        self.workarounds.0
    }
    fn workaround_3(&self) -> Workaround {
        self.workarounds.1
    }
    fn soc_id(&self) -> Option<(u32, u32)> {
        self.soc
    }
    fn has_entropy(&self) -> bool {
        self.source.is_some()
    }
    fn entropy(&mut self) -> Option<[u32; 3]> {
        self.source.flatten()
    }
}

fn ask(power: &mut Power, function: u32, args: [u32; 3]) -> Answer {
    call(function, args, 0, power, &mut Machine::default())
}

fn info(power: &mut Power, target: u32, level: u32) -> Answer {
    ask(power, AFFINITY_INFO, [target, level, 0])
}

#[test]
fn versions_are_psci_1_1_and_smccc_1_2() {
    let mut power = Power::new(1);
    assert_eq!(ask(&mut power, VERSION, [0; 3]), Answer::Return(0x1_0001));
    assert_eq!(
        ask(&mut power, 0x8000_0000, [0; 3]),
        Answer::Return(0x1_0002)
    );
    assert_eq!(ask(&mut power, 0x8400_0006, [0; 3]), Answer::Return(2));
}

#[test]
fn the_system_goes_off_and_resets() {
    let mut power = Power::new(1);
    assert_eq!(ask(&mut power, 0x8400_0008, [0; 3]), Answer::SystemOff);
    assert_eq!(ask(&mut power, 0x8400_0009, [0; 3]), Answer::SystemReset);
}

#[test]
fn a_cpu_goes_through_off_pending_and_on_and_off_again() {
    let mut power = Power::new(2);
    let on = [1, 0x4000_1001, 7];
    assert_eq!(info(&mut power, 1, 0), Answer::Return(1));
    let entry = Entry {
        address: 0x4000_1000,
        thumb: true,
        context: 7,
    };
    assert_eq!(
        ask(&mut power, CPU_ON, on),
        Answer::StartCpu { index: 1, entry }
    );
    assert_eq!(ask(&mut power, CPU_ON, on), ON_PENDING);
    assert_eq!(info(&mut power, 1, 0), Answer::Return(2));
    power.started(1);
    assert_eq!(ask(&mut power, CPU_ON, on), ALREADY_ON);
    assert_eq!(info(&mut power, 1, 0), Answer::Return(0));
    let off = call(CPU_OFF, [0; 3], 1, &mut power, &mut Machine::default());
    assert_eq!(off, Answer::CpuOff);
    // It is still on its way out.
    assert_eq!(ask(&mut power, CPU_ON, on), ALREADY_ON);
    power.stopped(1);
    assert_eq!(info(&mut power, 1, 0), Answer::Return(1));
    assert!(matches!(
        ask(&mut power, CPU_ON, on),
        Answer::StartCpu { .. }
    ));
}

#[test]
fn a_cpu_is_only_started_where_it_can_run() {
    let mut power = Power::new(2);
    for (target, address, answer) in [
        (2, 0x4000_0000, INVALID_PARAMETERS),
        (0x0100_0001, 0x4000_0000, INVALID_PARAMETERS),
        (0x0000_0101, 0x4000_0000, INVALID_PARAMETERS),
        (u32::MAX, 0x4000_0000, INVALID_PARAMETERS),
        (1, 0x3fff_ffff, INVALID_ADDRESS),
        (1, 0x8000_0000, INVALID_ADDRESS),
        (1, 0x4000_0002, INVALID_ADDRESS),
        (0, 0x4000_0000, ALREADY_ON),
    ] {
        assert_eq!(
            ask(&mut power, CPU_ON, [target, address, 0]),
            answer,
            "{target:#x}"
        );
    }
    assert_eq!(power.cpu(1), CpuPower::Off);
}

#[test]
fn affinity_info_answers_for_every_level() {
    let mut power = Power::new(4);
    assert_eq!(info(&mut power, 3, 0), Answer::Return(1));
    assert_eq!(info(&mut power, 3, 1), Answer::Return(0));
    assert_eq!(info(&mut power, 0, 3), Answer::Return(0));
    power.stopped(0);
    assert!(power.all_off());
    assert_eq!(info(&mut power, 0, 1), Answer::Return(1));
    assert!(matches!(
        ask(&mut power, CPU_ON, [2, 0x4000_0000, 0]),
        Answer::StartCpu { index: 2, .. }
    ));
    assert!(!power.all_off());
    assert_eq!(info(&mut power, 0, 1), Answer::Return(2));
    for (target, level) in [(4, 0), (0x100, 1), (0, 4), (0x0100_0000, 0), (0, u32::MAX)] {
        assert_eq!(info(&mut power, target, level), INVALID_PARAMETERS);
    }
}

#[test]
fn a_suspended_cpu_counts_as_on() {
    let mut power = Power::new(2);
    assert_eq!(ask(&mut power, CPU_SUSPEND, [0, 0, 0]), Answer::Suspend);
    assert_eq!(power.cpu(0), CpuPower::Suspended);
    assert_eq!(info(&mut power, 0, 0), Answer::Return(0));
    assert_eq!(ask(&mut power, CPU_ON, [0, 0x4000_0000, 0]), ALREADY_ON);
    power.resumed(0);
    assert_eq!(power.cpu(0), CpuPower::On);
}

#[test]
fn a_suspend_checks_its_state_and_entry() {
    let mut power = Power::new(1);
    let down = 1 << 16;
    assert_eq!(
        ask(&mut power, CPU_SUSPEND, [1 << 17, 0, 0]),
        INVALID_PARAMETERS
    );
    assert_eq!(
        ask(&mut power, CPU_SUSPEND, [1 << 31, 0, 0]),
        INVALID_PARAMETERS
    );
    assert_eq!(ask(&mut power, CPU_SUSPEND, [down, 0, 0]), INVALID_ADDRESS);
    assert_eq!(power.cpu(0), CpuPower::On);
    let args = [down | 3 << 24 | 0xffff, 0x4000_0000, 0];
    assert_eq!(ask(&mut power, CPU_SUSPEND, args), Answer::Suspend);
}

#[test]
fn every_number_answers_and_features_tell_which_do() {
    let mut power = Power::new(1);
    for function in (0x8400_0000..=0x8400_00ff).chain(0xc400_0000..=0xc400_00ff) {
        let mut fresh = power.clone();
        let known = ask(&mut fresh, function, [VERSION, 0, 0]) != UNKNOWN;
        let told = ask(&mut power, FEATURES, [function, 0, 0]) == Answer::Return(0);
        assert_eq!(known, told, "{function:#x}");
        assert!(!known || function <= 0x8400_000a, "{function:#x}");
    }
    assert_eq!(
        ask(&mut power, FEATURES, [0x8000_0000, 0, 0]),
        Answer::Return(0)
    );
    for function in [
        0,
        1,
        0x7fff_ffff,
        0x8000_0003,
        0x8600_ff01,
        0xc200_0000,
        u32::MAX,
    ] {
        assert_eq!(ask(&mut power, function, [0; 3]), UNKNOWN);
    }
}

#[test]
fn workarounds_are_told_and_done() {
    use Workaround::{NotRequired, NotSupported, Required};
    for (kind, told, done) in [
        (NotSupported, UNKNOWN, UNKNOWN),
        (Required, Answer::Return(0), Answer::InvalidatePredictor),
        (NotRequired, Answer::Return(1), Answer::Return(0)),
    ] {
        for (function, workarounds) in [
            (WORKAROUND_1, (kind, NotSupported)),
            (WORKAROUND_3, (NotSupported, kind)),
        ] {
            let mut machine = Machine {
                workarounds,
                ..Machine::default()
            };
            let mut power = Power::new(1);
            let mut ask = |function, arg| call(function, [arg, 0, 0], 0, &mut power, &mut machine);
            assert_eq!(ask(ARCH_FEATURES, function), told);
            assert_eq!(ask(function, 0), done);
            assert_eq!(ask(ARCH_FEATURES, ARCH_FEATURES), Answer::Return(0));
            assert_eq!(ask(ARCH_FEATURES, 0x8000_7fff), UNKNOWN);
        }
    }
}

#[test]
fn the_soc_is_named_where_it_has_a_name() {
    let mut power = Power::new(1);
    assert_eq!(ask(&mut power, SOC_ID, [0; 3]), UNKNOWN);
    assert_eq!(ask(&mut power, ARCH_FEATURES, [SOC_ID, 0, 0]), UNKNOWN);
    let mut machine = Machine {
        soc: Some((0x043b_0001, 5)),
        ..Machine::default()
    };
    let mut ask = |function, arg| call(function, [arg, 0, 0], 0, &mut power, &mut machine);
    assert_eq!(ask(ARCH_FEATURES, SOC_ID), Answer::Return(0));
    assert_eq!(ask(SOC_ID, 0), Answer::Return(0x043b_0001));
    assert_eq!(ask(SOC_ID, 1), Answer::Return(5));
    assert_eq!(ask(SOC_ID, 2), Answer::Return(-3i32 as u32));
}

#[test]
fn without_a_source_there_is_no_random_number_interface() {
    let mut power = Power::new(1);
    for function in TRNG..TRNG + 4 {
        assert_eq!(ask(&mut power, function, [32, 0, 0]), UNKNOWN);
    }
}

#[test]
fn random_bits_are_as_many_as_asked_for() {
    let mut power = Power::new(1);
    let mut machine = Machine {
        source: Some(Some([u32::MAX; 3])),
        ..Machine::default()
    };
    let mut ask = |function, arg| call(function, [arg, 0, 0], 0, &mut power, &mut machine);
    assert_eq!(ask(TRNG, 0), Answer::Return(0x1_0000));
    assert_eq!(ask(TRNG + 1, TRNG + 3), Answer::Return(0));
    assert_eq!(ask(TRNG + 1, TRNG + 4), UNKNOWN);
    assert!(matches!(ask(TRNG + 2, 0), Answer::Return4(uuid) if uuid[0] != u32::MAX));
    for bits in 1..=96 {
        let Answer::Return4([0, high, middle, low]) = ask(TRNG + 3, bits) else {
            panic!("{bits} bits were refused");
        };
        let all = u128::from(high) << 64 | u128::from(middle) << 32 | u128::from(low);
        assert_eq!(all, (1 << bits) - 1);
    }
    assert_eq!(ask(TRNG + 3, 0), INVALID_PARAMETERS);
    assert_eq!(ask(TRNG + 3, 97), INVALID_PARAMETERS);
    machine.source = Some(None);
    let answer = call(TRNG + 3, [32, 0, 0], 0, &mut power, &mut machine);
    assert_eq!(answer, Answer::Return(-3i32 as u32));
}

#[test]
fn a_vm_has_at_least_one_and_at_most_all_cpus() {
    assert_eq!(info(&mut Power::new(0), 1, 0), INVALID_PARAMETERS);
    assert_eq!(
        info(&mut Power::new(99), MAX_CPUS as u32 - 1, 0),
        Answer::Return(1)
    );
    assert_eq!(
        info(&mut Power::new(99), MAX_CPUS as u32, 0),
        INVALID_PARAMETERS
    );
    assert_eq!(Power::new(1).cpu(99), CpuPower::Off);
}
