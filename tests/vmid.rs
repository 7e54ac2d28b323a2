//! VMIDs against a model of the TLBs, in one thread and in several.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use armillary::vmid::{Pool, Vmid, Vmids};
use proptest::prelude::*;

const CPUS: usize = 4;

fn vm(number: u32) -> Vmid {
    Vmid::new(NonZeroU32::new(number).expect("not zero"))
}

/// CPUs with what VTTBR and the TLB hold: for each VMID the VM that the entries came from.
struct Machine {
    vmids: Vmids<CPUS>,
    pool: Pool,
    vms: Vec<Vmid>,
    loaded: [Option<(u8, usize)>; CPUS],
    tlb: [[Option<usize>; 256]; CPUS],
    flushes: u32,
}

impl Machine {
    fn new(vms: u32) -> Self {
        Self {
            vmids: Vmids::new(),
            pool: Pool::new(),
            vms: (1..=vms).map(vm).collect(),
            loaded: [None; CPUS],
            tlb: [[None; 256]; CPUS],
            flushes: 0,
        }
    }

    fn load(&mut self, cpu: usize, vm: usize) {
        let fast = self.vmids.load(cpu, &self.vms[vm]);
        let vmid = fast.unwrap_or_else(|| {
            self.vmids.renew(&mut self.pool, cpu, &self.vms[vm], || {
                self.flushes += 1;
                // What is still in VTTBR comes back at once: others run on, this one speculates.
                for (tlb, loaded) in self.tlb.iter_mut().zip(self.loaded) {
                    *tlb = [None; 256];
                    if let Some((vmid, vm)) = loaded {
                        tlb[usize::from(vmid)] = Some(vm);
                    }
                }
            })
        });
        assert_ne!(vmid, 0);
        let entry = &mut self.tlb[cpu][usize::from(vmid)];
        assert!(entry.is_none_or(|of| of == vm), "another VM's entries");
        *entry = Some(vm);
        self.loaded[cpu] = Some((vmid, vm));
        for (other_vmid, other) in self.loaded.into_iter().flatten() {
            assert_eq!(other_vmid == vmid, other == vm, "one VMID, one VM");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_vm_meets_anothers_entries(
        vms in 1..600u32,
        loads in prop::collection::vec((0..CPUS, any::<prop::sample::Index>()), 1..6000),
    ) {
        let mut machine = Machine::new(vms);
        for (cpu, vm) in loads {
            machine.load(cpu, vm.index(vms as usize));
        }
        prop_assert_eq!(machine.flushes, machine.pool.rollovers());
        prop_assert!(vms > 255 || machine.flushes == 0, "all have one for good");
    }
}

#[test]
fn what_runs_through_a_new_generation_keeps_its_vmid() {
    let mut machine = Machine::new(3000);
    for (cpu, vm) in [(0, 7), (1, 8), (2, 9)] {
        machine.load(cpu, vm);
    }
    let before = machine.loaded;
    for vm in 10..3000 {
        machine.load(3, vm);
    }
    assert!(machine.flushes > 5);
    for (cpu, vm) in [(0, 7), (1, 8), (2, 9)] {
        assert_eq!(
            machine.vmids.load(cpu, &machine.vms[vm]),
            before[cpu].map(|l| l.0)
        );
    }
}

#[test]
fn each_generation_gives_out_all_but_what_is_kept() {
    let mut machine = Machine::new(255 + 254 + 1);
    for vm in 0..255 {
        machine.load(0, vm);
    }
    assert_eq!(machine.flushes, 0);
    // The last one is loaded, and the one before it was never replaced in VTTBR by another CPU's.
    let mut vm = 255;
    while machine.flushes < 2 && vm < 510 {
        machine.load(0, vm);
        vm += 1;
    }
    assert_eq!(machine.flushes, 2);
    assert!(vm - 255 > 250, "only {} in a generation", vm - 255);
}

#[test]
fn a_vm_with_the_number_of_a_dead_one_gets_another_vmid() {
    let (vmids, mut pool) = (Vmids::<1>::new(), Pool::new());
    let dead = vmids.renew(&mut pool, 0, &vm(5), || panic!("no need to flush"));
    let heir = vm(5);
    assert_eq!(vmids.load(0, &heir), None);
    let vmid = vmids.renew(&mut pool, 0, &heir, || panic!("no need to flush"));
    assert_ne!(vmid, dead);
    assert_eq!(vmids.load(0, &heir), Some(vmid));
}

#[test]
fn two_vcpus_of_a_vm_that_both_need_a_vmid_get_the_same() {
    let (vmids, mut pool, vm) = (Vmids::<2>::new(), Pool::new(), vm(5));
    assert_eq!((vmids.load(0, &vm), vmids.load(1, &vm)), (None, None));
    let first = vmids.renew(&mut pool, 0, &vm, || panic!("no need to flush"));
    let second = vmids.renew(&mut pool, 1, &vm, || panic!("no need to flush"));
    assert_eq!(first, second);
}

#[test]
fn what_vttbr_still_holds_is_kept_while_another_vm_is_loaded() {
    let (vmids, mut pool) = (Vmids::<3>::new(), Pool::new());
    let vms: Vec<_> = (1..=600).map(vm).collect();
    let (old, next) = (&vms[0], &vms[1]);
    let held = vmids.renew(&mut pool, 0, old, || panic!("no need to flush"));
    // CPU 0 asks in vain, CPU 1 renews, CPU 0 gets that, and has not yet written VTTBR.
    assert_eq!(vmids.load(0, next), None);
    let vmid = vmids.renew(&mut pool, 1, next, || panic!("no need to flush"));
    assert_eq!(vmids.renew(&mut pool, 0, next, || ()), vmid);
    for vm in &vms[2..] {
        let _ = vmids.renew(&mut pool, 1, vm, || ());
    }
    assert!(pool.rollovers() > 0);
    assert_eq!(vmids.load(2, old), Some(held));
}

#[test]
fn at_the_flush_only_what_is_loaded_still_has_its_vmid() {
    let (vmids, mut pool) = (Vmids::<3>::new(), Pool::new());
    let vms: Vec<_> = (1..=256).map(vm).collect();
    let running = vmids.renew(&mut pool, 1, &vms[0], || panic!("no need to flush"));
    for vm in &vms[1..255] {
        let _ = vmids.renew(&mut pool, 0, vm, || panic!("no need to flush"));
    }
    let mut flushed = false;
    let new = vmids.renew(&mut pool, 0, &vms[255], || {
        flushed = true;
        assert_eq!(vmids.load(1, &vms[0]), Some(running));
        assert_eq!(vmids.load(2, &vms[100]), None);
        assert_eq!(vmids.load(2, &vms[255]), None);
    });
    assert!(flushed);
    assert_eq!(vmids.load(0, &vms[255]), Some(new));
}

/// What a VMID is used for, as (VM << 32 | CPUs).
struct Use([AtomicU64; 256]);

impl Use {
    fn begin(&self, vmid: u8, vm: u64) {
        let change = |now: u64| match (now >> 32, now as u32) {
            (_, 0) => Some(vm << 32 | 1),
            (of, _) if of == vm => Some(now + 1),
            _ => None,
        };
        self.0[usize::from(vmid)]
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, change)
            .expect("two VMs under one VMID");
    }

    fn end(&self, vmid: u8) {
        self.0[usize::from(vmid)].fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn no_vm_meets_anothers_entries_with_cpus_at_once() {
    const VMS: u32 = 300;
    const LOADS: u32 = 200_000;
    let vmids = Vmids::<CPUS>::new();
    let pool = Mutex::new(Pool::new());
    let vms: Vec<_> = (1..=VMS).map(vm).collect();
    let tlb = [const { [const { AtomicU32::new(0) }; 256] }; CPUS];
    let in_use = Use([const { AtomicU64::new(0) }; 256]);
    let flush = || {
        for entry in tlb.iter().flatten() {
            entry.store(0, Ordering::SeqCst);
        }
    };
    let cpu = |cpu: usize| {
        let mut random = 0x9e37_79b9u32.wrapping_mul(cpu as u32 + 1);
        for _ in 0..LOADS {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let number = random % VMS;
            let vm = &vms[number as usize];
            let vmid = vmids.load(cpu, vm).unwrap_or_else(|| {
                let mut pool = pool.lock().expect("no thread has panicked");
                vmids.renew(&mut pool, cpu, vm, flush)
            });
            in_use.begin(vmid, u64::from(number));
            let entry = &tlb[cpu][usize::from(vmid)];
            let before = entry.swap(number + 1, Ordering::SeqCst);
            assert!(before == 0 || before == number + 1, "another VM's entries");
            in_use.end(vmid);
        }
    };
    std::thread::scope(|scope| {
        for n in 0..CPUS {
            scope.spawn(move || cpu(n));
        }
    });
    assert!(pool.lock().expect("no thread has panicked").rollovers() > 100);
}
