//! A board of the machine for tests: RAM, CPUs, and VMs whose guests are scripts.

use armillary::addr::{Ipa, Pa};
use armillary::fdt::{Module, Range, VmConfig};
use armillary::machine::Exit;
use armillary::machine::test::{self, End, Event, Guest};
use armillary::mem;
use armillary::run::{self, Cpu, adopt};
use armillary::vcpu::Vcpu;
use armillary::vm::Vm;
use std::sync::{Arc, Mutex, Once};

pub(crate) const MIB: u64 = 1 << 20;
/// Where the board's RAM begins.
pub(crate) const RAM: Pa = Pa(0x8000_0000);
/// Counter ticks per second, and in a slice.
pub(crate) const FREQUENCY: u32 = 62_500_000;
pub(crate) const SLICE: u64 = 62_500;
/// Where the boot loader has put the kernel.
const KERNEL: Range = Range {
    start: Pa(0x7000_0000),
    size: 0x1800,
};
/// Where a raw kernel goes.
pub(crate) const ENTRY: Ipa = Ipa(0x4001_0000);

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("[{}] {}", record.level(), record.args());
        LOG.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

/// Lines that have been logged since this was asked before.
pub(crate) fn log_lines() -> Vec<String> {
    std::mem::take(&mut LOG.lock().unwrap())
}

/// The kernel that the boot loader has put there: no byte twice in a row.
pub(crate) fn kernel() -> Vec<u8> {
    (0..KERNEL.size).map(|n| n as u8 | 1).collect()
}

/// The description of a VM with that kernel.
pub(crate) fn config(name: &str, memory: u64) -> VmConfig {
    VmConfig {
        name: name.into(),
        node: format!("/chosen/{name}"),
        memory: Some(memory),
        cpus: 1,
        kernel: Some(Module {
            node: format!("/chosen/{name}/kernel"),
            range: KERNEL,
            shared: true,
        }),
        ..VmConfig::default()
    }
}

/// RAM, and a kernel for everybody.
pub(crate) fn power_on(ram: u64) {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        log::set_logger(&Lines).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    test::store(KERNEL.start, &kernel());
    // SAFETY: the range is in no RAM that is given out.
    unsafe { mem::reserve_module(KERNEL) };
    mem::add_ram(RAM, ram);
}

/// CPUs and the VMs on them.
pub(crate) struct Board {
    cpus: Vec<Cpu>,
    pub(crate) vms: Vec<Arc<Vm>>,
}

impl Board {
    /// One CPU that runs one VM of one vCPU, up to its first instruction.
    pub(crate) fn one() -> Self {
        power_on(64 * MIB);
        let mut board = Self::of(1);
        board.add(config("guest", 4 * MIB), &[0]);
        board.settle();
        board
    }

    /// One CPU that runs two VMs, "a" and "b", of one vCPU each.
    pub(crate) fn two() -> Self {
        power_on(64 * MIB);
        let mut board = Self::of(1);
        board.add(config("a", 4 * MIB), &[0]);
        board.add(config("b", 4 * MIB), &[0]);
        board.settle();
        board
    }

    /// `cpus` CPUs with nothing to run.
    pub(crate) fn of(cpus: usize) -> Self {
        Self {
            cpus: (0..cpus).map(|index| Cpu::new(index, FREQUENCY)).collect(),
            vms: Vec::new(),
        }
    }

    /// Builds and starts a VM with its vCPUs on the CPUs of `homes`.
    pub(crate) fn add(&mut self, config: VmConfig, homes: &[usize]) -> Arc<Vm> {
        let vm = Vm::build(config, homes).unwrap();
        for index in 0..homes.len() {
            adopt(Box::new(Vcpu::new(vm.clone(), index)));
        }
        vm.start();
        self.vms.push(vm.clone());
        vm
    }

    /// One turn of CPU `cpu`, to the end of the script at most; how it ended.
    pub(crate) fn step(&mut self, cpu: usize) -> End {
        test::on_cpu(cpu);
        let end = test::run(|| self.cpus[cpu].step());
        test::on_cpu(0);
        end
    }

    /// Lets every CPU take the kicks that building and starting brought, and forgets what came of it.
    pub(crate) fn settle(&mut self) {
        for cpu in 0..self.cpus.len() {
            for _ in 0..3 {
                self.step(cpu);
            }
        }
        test::found();
        test::events();
        test::console();
        log_lines();
    }

    /// CPU 0 runs until a guest has done `step` and is entered again: the guest as it is then.
    pub(crate) fn run(&mut self, step: impl FnOnce(&mut Guest) -> Exit + 'static) -> Guest {
        self.run_if(step)
            .expect("the guest should be entered again")
    }

    /// The same; `None` where none is entered again.
    pub(crate) fn run_if(
        &mut self,
        step: impl FnOnce(&mut Guest) -> Exit + 'static,
    ) -> Option<Guest> {
        test::found();
        test::push(step);
        for _ in 0..4 {
            self.step(0);
            if test::steps_left() == 0 {
                break;
            }
        }
        assert_eq!(test::steps_left(), 0, "no guest ran");
        test::found()
    }

    /// The guest that CPU `cpu` enters next; `None` where it has none.
    pub(crate) fn next(&mut self, cpu: usize) -> Option<Guest> {
        test::found();
        self.step(cpu);
        test::found()
    }

    /// The next that CPU 0 enters, in at most a few turns.
    pub(crate) fn soon(&mut self) -> Option<Guest> {
        (0..4).find_map(|_| self.next(0))
    }
}

/// HSR of exception class `ec`, for an instruction of 4 bytes.
pub(crate) const fn hsr(ec: u32, iss: u32) -> u32 {
    ec << 26 | 1 << 25 | iss
}

/// HSR of an instruction of 2 bytes.
pub(crate) const fn hsr16(ec: u32, iss: u32) -> u32 {
    ec << 26 | iss
}

/// HVC #0 with `function` in r0.
pub(crate) fn hvc(guest: &mut Guest, function: u32) -> Exit {
    guest.regs.r[0] = function;
    guest.trap(hsr(0x12, 0))
}

/// ISS of a data abort: translation fault at level 3, `1 << sas` bytes, register `rt`.
pub(crate) const fn access(sas: u32, rt: u32) -> u32 {
    1 << 24 | sas << 22 | rt << 16 | 0b00_0111
}
pub(crate) const WRITE: u32 = 1 << 6;
pub(crate) const SIGNED: u32 = 1 << 21;

/// A data abort at virtual address `va`, which stage 1 made `ipa`.
pub(crate) fn data_abort(guest: &mut Guest, va: u32, ipa: u32, iss: u32) -> Exit {
    guest.fault.hdfar = va;
    guest.fault.hpfar = ipa >> 12 << 4;
    guest.trap(hsr(0x24, iss))
}

/// A prefetch abort likewise.
pub(crate) fn prefetch_abort(guest: &mut Guest, va: u32, ipa: u32, iss: u32) -> Exit {
    guest.fault.hifar = va;
    guest.fault.hpfar = ipa >> 12 << 4;
    guest.trap(hsr(0x20, iss))
}

/// ISS of MCR; MRC with `| 1`.
pub(crate) const fn mcr(crn: u32, opc1: u32, crm: u32, opc2: u32, rt: u32) -> u32 {
    opc2 << 17 | opc1 << 14 | crn << 10 | rt << 5 | crm << 1
}

/// How many events are of a kind.
pub(crate) fn count(events: &[Event], of: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| of(event)).count()
}

/// What stands at `ipa` of the VM's memory.
pub(crate) fn memory(vm: &Vm, ipa: Ipa, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    vm.lock().memory.ram.read(ipa, &mut bytes).unwrap();
    bytes
}

/// Builds and starts VMs as the image does; how many there are then.
pub(crate) fn build(configs: Vec<VmConfig>, cpus: usize) -> (Board, usize) {
    let built = run::build(configs, cpus);
    (Board::of(cpus), built)
}
