//! PSCI 1.1 (ARM DEN 0022), SMCCC 1.2 (ARM DEN 0028) and TRNG 1.0 (ARM DEN 0098): what a guest's
//! HVC or SMC asks for, and the power state of a VM's CPUs.
//!
//! [`call`] decides and says what to do; the owner does it, and says when it is done. A CPU is Off
//! only when its vCPU has been put ([`Power::stopped`]), so that a CPU_ON never meets one that is
//! still on its way out; until then it answers ALREADY_ON. It is On when it runs its first
//! instruction ([`Power::started`]), and ON_PENDING between.
//!
//! A CPU_SUSPEND waits like WFI and returns: a power-down that wakes at once, which the caller has
//! to expect (ARM DEN 0022, 5.4), and as QEMU has it.

use smccc::arch::{
    SMCCC_ARCH_FEATURES, SMCCC_ARCH_SOC_ID, SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_3,
    SMCCC_VERSION, error as smccc_error,
};
use smccc::psci::{
    PSCI_AFFINITY_INFO_32, PSCI_CPU_OFF, PSCI_CPU_ON_32, PSCI_CPU_SUSPEND_32, PSCI_FEATURES,
    PSCI_MIGRATE_INFO_TYPE, PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_VERSION, error,
};

/// What every unknown function answers (ARM DEN 0028, 5.2), r0.
pub const NOT_SUPPORTED: u32 = error::NOT_SUPPORTED as u32;
const SUCCESS: u32 = 0;
const INVALID_PARAMETERS: u32 = error::INVALID_PARAMETERS as u32;

/// Functions of the TRNG interface (ARM DEN 0098, 2).
mod trng {
    pub(super) const VERSION: u32 = 0x8400_0050;
    pub(super) const FEATURES: u32 = 0x8400_0051;
    pub(super) const GET_UUID: u32 = 0x8400_0052;
    pub(super) const RND32: u32 = 0x8400_0053;
    pub(super) const NO_ENTROPY: u32 = -3i32 as u32;
    /// Names this implementation.
    pub(super) const UUID: [u32; 4] = [0x6f1d_52a3, 0x4c0e_9b47, 0x8a61_d73c, 0x15e8_204b];
}

/// Most CPUs of a VM.
pub const MAX_CPUS: usize = crate::vgic::MAX_VCPUS;

/// The state of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuPower {
    /// Powered off.
    Off,
    /// Powered on by a call, and not yet running.
    OnPending,
    /// Running or in WFI.
    On,
    /// In CPU_SUSPEND; to other CPUs this is on.
    Suspended,
}

/// The power states of a VM's CPUs. CPU n has affinity n at level 0 and zero above.
#[derive(Clone, Debug)]
pub struct Power {
    cpus: [CpuPower; MAX_CPUS],
    count: usize,
}

impl Power {
    /// The CPUs of a VM that starts: CPU 0 is on, the others of `count` (1 to [`MAX_CPUS`], else
    /// the nearest) are off.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let mut power = Self {
            cpus: [CpuPower::Off; MAX_CPUS],
            count: count.clamp(1, MAX_CPUS),
        };
        power.cpus[0] = CpuPower::On;
        power
    }

    /// The state of CPU `index`; off where there is none.
    #[must_use]
    pub fn cpu(&self, index: usize) -> CpuPower {
        self.cpus.get(index).copied().unwrap_or(CpuPower::Off)
    }

    /// Whether no CPU is on or about to be: nothing can wake this VM.
    #[must_use]
    pub fn all_off(&self) -> bool {
        self.cpus.iter().all(|&cpu| cpu == CpuPower::Off)
    }

    /// CPU `index` runs, after [`Answer::StartCpu`].
    pub fn started(&mut self, index: usize) {
        self.set(index, CpuPower::On);
    }

    /// CPU `index` no longer runs, after [`Answer::CpuOff`].
    pub fn stopped(&mut self, index: usize) {
        self.set(index, CpuPower::Off);
    }

    /// CPU `index` woke, after [`Answer::Suspend`].
    pub fn resumed(&mut self, index: usize) {
        self.set(index, CpuPower::On);
    }

    fn set(&mut self, index: usize, state: CpuPower) {
        if let Some(cpu) = self.cpus.get_mut(index) {
            *cpu = state;
        }
    }

    /// The CPU that `affinity` (MPIDR) names.
    fn index(&self, affinity: u32) -> Option<usize> {
        let index = affinity as usize;
        (index < self.count).then_some(index)
    }
}

/// Whether the machine needs a mitigation that a guest can ask for (ARM DEN 0028, 7.5.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workaround {
    /// There is none: the function must not be called.
    NotSupported,
    /// The CPUs are affected, the call mitigates.
    Required,
    /// The CPUs are not affected, the call does nothing.
    NotRequired,
}

/// What the answers depend on.
pub trait Platform {
    /// Whether a CPU may start at `address`: the VM has memory there.
    fn is_memory(&self, address: u32) -> bool;

    /// SMCCC_ARCH_WORKAROUND_1, for CVE-2017-5715.
    fn workaround_1(&self) -> Workaround;

    /// SMCCC_ARCH_WORKAROUND_3, for CVE-2022-23960.
    fn workaround_3(&self) -> Workaround;

    /// The SoC version and revision, if there is one (ARM DEN 0028, 7.4).
    fn soc_id(&self) -> Option<(u32, u32)> {
        None
    }

    /// Whether there is a source of entropy.
    fn has_entropy(&self) -> bool {
        false
    }

    /// 96 random bits, `None` while the source has none to give.
    fn entropy(&mut self) -> Option<[u32; 3]> {
        None
    }
}

/// Where a CPU starts: in SVC mode, MMU and caches off, interrupts and aborts masked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The first instruction.
    pub address: u32,
    /// In Thumb state.
    pub thumb: bool,
    /// What r0 holds.
    pub context: u32,
}

/// What a call comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Returns r0.
    Return(u32),
    /// Returns r0 to r3.
    Return4([u32; 4]),
    /// Invalidates the branch predictor and returns.
    InvalidatePredictor,
    /// The VM is powered off.
    SystemOff,
    /// The VM is reset.
    SystemReset,
    /// The caller stops; then [`Power::stopped`] is due.
    CpuOff,
    /// The caller waits as in WFI, then returns SUCCESS (0) in r0; [`Power::resumed`] is due then.
    Suspend,
    /// CPU `index` starts, where [`Power::started`] is due; the caller returns SUCCESS (0) in r0.
    StartCpu {
        /// Which CPU.
        index: usize,
        /// Where it starts.
        entry: Entry,
    },
}

/// What PSCI_VERSION answers: 1.1 (ARM DEN 0022, 5.3).
pub const VERSION: u32 = 0x0001_0001;

/// Answers the call of `function` (r0) with `args` (r1 to r3) by CPU `caller`.
///
/// Functions of SMC64 are unknown to a caller in AArch32 state.
#[inline]
pub fn call<P: Platform>(
    function: u32,
    args: [u32; 3],
    caller: usize,
    power: &mut Power,
    platform: &mut P,
) -> Answer {
    let value = match function {
        PSCI_VERSION => VERSION,
        SMCCC_VERSION => 0x0001_0002,
        PSCI_CPU_SUSPEND_32 => return cpu_suspend(args, caller, power, platform),
        PSCI_CPU_OFF => return Answer::CpuOff,
        PSCI_CPU_ON_32 => return cpu_on(args, power, platform),
        PSCI_AFFINITY_INFO_32 => affinity_info(args, power),
        // There is no trusted OS to migrate.
        PSCI_MIGRATE_INFO_TYPE => 2,
        PSCI_SYSTEM_OFF => return Answer::SystemOff,
        PSCI_SYSTEM_RESET => return Answer::SystemReset,
        PSCI_FEATURES => features(args[0]),
        SMCCC_ARCH_FEATURES => arch_features(args[0], platform),
        SMCCC_ARCH_SOC_ID => soc_id(args[0], platform),
        SMCCC_ARCH_WORKAROUND_1 => return mitigate(platform.workaround_1()),
        SMCCC_ARCH_WORKAROUND_3 => return mitigate(platform.workaround_3()),
        trng::VERSION..=trng::RND32 if platform.has_entropy() => {
            return random(function, args[0], platform);
        }
        _ => NOT_SUPPORTED,
    };
    Answer::Return(value)
}

/// CPU_ON (ARM DEN 0022, 5.6).
fn cpu_on(args: [u32; 3], power: &mut Power, platform: &impl Platform) -> Answer {
    let [target, address, context] = args;
    let Some(index) = power.index(target) else {
        return Answer::Return(INVALID_PARAMETERS);
    };
    let refused = match power.cpu(index) {
        CpuPower::On | CpuPower::Suspended => error::ALREADY_ON,
        CpuPower::OnPending => error::ON_PENDING,
        CpuPower::Off => {
            let Some(entry) = entry(address, context, platform) else {
                return Answer::Return(error::INVALID_ADDRESS as u32);
            };
            power.set(index, CpuPower::OnPending);
            return Answer::StartCpu { index, entry };
        }
    };
    Answer::Return(refused as u32)
}

/// An entry point address: bit 0 says Thumb, otherwise it is that of a whole word.
fn entry(address: u32, context: u32, platform: &impl Platform) -> Option<Entry> {
    let thumb = address & 1 != 0;
    let address = address & !1;
    let aligned = thumb || address & 2 == 0;
    (aligned && platform.is_memory(address)).then_some(Entry {
        address,
        thumb,
        context,
    })
}

/// CPU_SUSPEND (ARM DEN 0022, 5.4), power_state in the original format.
fn cpu_suspend(
    args: [u32; 3],
    caller: usize,
    power: &mut Power,
    platform: &impl Platform,
) -> Answer {
    const RESERVED: u32 = 0xfcfe_0000;
    const POWER_DOWN: u32 = 1 << 16;
    let [state, address, context] = args;
    if state & RESERVED != 0 {
        return Answer::Return(INVALID_PARAMETERS);
    }
    if state & POWER_DOWN != 0 && entry(address, context, platform).is_none() {
        return Answer::Return(error::INVALID_ADDRESS as u32);
    }
    power.set(caller, CpuPower::Suspended);
    Answer::Suspend
}

/// AFFINITY_INFO (ARM DEN 0022, 5.7): of a CPU, or of all that share its affinity above `level`.
fn affinity_info(args: [u32; 3], power: &Power) -> u32 {
    const ON: u32 = 0;
    const OFF: u32 = 1;
    const ON_PENDING: u32 = 2;
    let [target, level, _] = args;
    if level > 3 || target >> 24 != 0 {
        return INVALID_PARAMETERS;
    }
    let shift = 8 * level;
    let mut info = INVALID_PARAMETERS;
    for (affinity, cpu) in (0u32..).zip(&power.cpus[..power.count]) {
        if affinity >> shift != target >> shift {
            continue;
        }
        match cpu {
            CpuPower::On | CpuPower::Suspended => return ON,
            CpuPower::OnPending => info = ON_PENDING,
            CpuPower::Off if info != ON_PENDING => info = OFF,
            CpuPower::Off => {}
        }
    }
    info
}

/// PSCI_FEATURES (ARM DEN 0022, 5.15). Of CPU_SUSPEND it says: original format, no OS-initiated
/// mode.
const fn features(function: u32) -> u32 {
    match function {
        PSCI_VERSION..=PSCI_AFFINITY_INFO_32
        | PSCI_MIGRATE_INFO_TYPE
        | PSCI_SYSTEM_OFF
        | PSCI_SYSTEM_RESET
        | PSCI_FEATURES
        | SMCCC_VERSION => SUCCESS,
        _ => NOT_SUPPORTED,
    }
}

/// SMCCC_ARCH_FEATURES (ARM DEN 0028, 7.3).
fn arch_features(function: u32, platform: &impl Platform) -> u32 {
    let workaround = |workaround| match workaround {
        Workaround::NotSupported => NOT_SUPPORTED,
        Workaround::Required => 0,
        Workaround::NotRequired => 1,
    };
    match function {
        SMCCC_VERSION | SMCCC_ARCH_FEATURES => SUCCESS,
        SMCCC_ARCH_SOC_ID if platform.soc_id().is_some() => SUCCESS,
        SMCCC_ARCH_WORKAROUND_1 => workaround(platform.workaround_1()),
        SMCCC_ARCH_WORKAROUND_3 => workaround(platform.workaround_3()),
        _ => NOT_SUPPORTED,
    }
}

/// SMCCC_ARCH_SOC_ID (ARM DEN 0028, 7.4).
fn soc_id(which: u32, platform: &impl Platform) -> u32 {
    match (which, platform.soc_id()) {
        (_, None) => NOT_SUPPORTED,
        (0, Some((version, _))) => version,
        (1, Some((_, revision))) => revision,
        _ => smccc_error::INVALID_PARAMETER as u32,
    }
}

fn mitigate(workaround: Workaround) -> Answer {
    match workaround {
        Workaround::NotSupported => Answer::Return(NOT_SUPPORTED),
        Workaround::Required => Answer::InvalidatePredictor,
        Workaround::NotRequired => Answer::Return(SUCCESS),
    }
}

/// The TRNG interface (ARM DEN 0098, 2), where there is a source.
fn random(function: u32, arg: u32, platform: &mut impl Platform) -> Answer {
    let value = match function {
        trng::VERSION => 0x0001_0000,
        trng::FEATURES => match arg {
            trng::VERSION..=trng::RND32 => SUCCESS,
            _ => NOT_SUPPORTED,
        },
        trng::GET_UUID => return Answer::Return4(trng::UUID),
        _ if arg == 0 || arg > 96 => INVALID_PARAMETERS,
        _ => match platform.entropy() {
            Some(words) => return Answer::Return4(entropy(words, arg)),
            None => trng::NO_ENTROPY,
        },
    };
    Answer::Return(value)
}

/// r0 to r3 of TRNG_RND32: success, then the lowest `bits` (1 to 96), the lowest word last.
fn entropy(words: [u32; 3], bits: u32) -> [u32; 4] {
    let word = |n: u32| {
        let left = bits.saturating_sub(32 * n).min(32);
        words[n as usize] & 1u32.checked_shl(left).map_or(u32::MAX, |end| end - 1)
    };
    [SUCCESS, word(2), word(1), word(0)]
}
