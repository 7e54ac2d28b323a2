//! Which vCPU runs when, and what moves with it.

use crate::board::{
    Board, ENTRY, MIB, SLICE, WRITE, access, config, count, data_abort, hsr, hvc, mcr, power_on,
};
use armillary::fdt::{Policy, VmConfig};
use armillary::loader::Start;
use armillary::machine::test::{self, Event, Guest};
use armillary::machine::{self, Exit};
use armillary::regs::Banked;
use armillary::vm::request;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const NULL: u32 = 0x8600_0001;
const YIELD: u32 = 0x8600_0002;
const OFF: u32 = 0x8400_0008;
const RESET: u32 = 0x8400_0009;
const HYP_TIMER: u32 = 26;
const VIRTUAL_TIMER: u32 = 27;
/// The interrupt distributor.
const GICD: u32 = 0x0800_0000;

fn null(guest: &mut Guest) -> Exit {
    hvc(guest, NULL)
}

/// HSR of WFI and WFE.
const WFI: u32 = hsr(0x01, 0);
const WFE: u32 = hsr(0x01, 1);
/// HSR of a VFP instruction.
const VFP: u32 = hsr(0x07, 10);

/// The VMs that `steps` ran in, each a step.
fn order<const N: usize>(board: &mut Board, steps: [fn(&mut Guest) -> Exit; N]) -> Vec<u64> {
    let order = Rc::new(RefCell::new(Vec::new()));
    for step in steps {
        let order = order.clone();
        board.run_if(move |guest| {
            order.borrow_mut().push(guest.vttbr);
            step(guest)
        });
    }
    order.take()
}

pub(crate) fn a_vcpu_alone_has_no_slice_and_waits_by_itself() {
    let mut board = Board::one();
    let guest = board.run(null);
    assert_eq!(guest.deadline, None);
    assert!(!guest.system.wfi_traps);
    board.add(config("other", 4 * MIB), &[0]);
    board.settle();
    let guest = board.run(null);
    assert_eq!(guest.deadline, Some(machine::now() + SLICE));
    assert!(guest.system.wfi_traps);
}

pub(crate) fn two_vcpus_alternate_at_the_ends_of_slices() {
    let mut board = Board::two();
    // Each does a hypercall, lets most of its slice pass, and then the rest.
    for _ in 0..6 {
        test::push(null);
        test::push(|guest| {
            test::advance(SLICE - 1);
            null(guest)
        });
        test::push(|guest| {
            test::advance(1);
            null(guest)
        });
    }
    test::events();
    let mut turns = Vec::new();
    while test::steps_left() > 0 {
        let left = test::steps_left();
        board.step(0);
        turns.push(left - test::steps_left());
    }
    assert_eq!(turns, [3; 6], "a slice each");
    let loads = test::events();
    let loads: Vec<u64> = loads
        .iter()
        .filter_map(|event| match event {
            Event::Load { vttbr, .. } => Some(*vttbr),
            _ => None,
        })
        .collect();
    assert_eq!(loads.len(), 6);
    assert!(
        loads
            .windows(3)
            .all(|three| three[0] == three[2] && three[0] != three[1])
    );
}

pub(crate) fn yield_and_wfe_let_the_other_run() {
    let mut board = Board::two();
    fn give(guest: &mut Guest) -> Exit {
        hvc(guest, YIELD)
    }
    fn event(guest: &mut Guest) -> Exit {
        guest.regs.r[0] = 0;
        guest.regs.pc = 0x4001_0800;
        guest.trap(WFE)
    }
    for (step, pc) in [
        (give as fn(&mut Guest) -> Exit, ENTRY.0 as u32),
        (event, 0x4001_0804),
    ] {
        let ran = order(&mut board, [step; 4]);
        assert_eq!((ran[0], ran[1]), (ran[2], ran[3]));
        assert_ne!(ran[0], ran[1]);
        for _ in 0..2 {
            let guest = board.soon().expect("a guest");
            assert_eq!((guest.regs.r[0], guest.regs.pc), (0, pc));
        }
    }
}

pub(crate) fn a_waiting_vcpu_runs_again_when_woken() {
    let mut board = Board::two();
    let asleep = order(&mut board, [|guest: &mut Guest| guest.trap(WFI)])[0];
    for _ in 0..4 {
        let next = board.next(0).expect("the guest that does not wait");
        assert_ne!(next.vttbr, asleep);
        assert!(next.system.wfi_traps, "the other may wake");
    }
    let sleeper = board.vms.iter().find(|vm| vm.vttbr(0) == asleep);
    test::events();
    sleeper.expect("its VM").links[0].request(request::WAKE);
    assert_eq!(test::events(), [Event::Kick(0)]);
    let seen = (0..4).filter_map(|_| board.next(0));
    assert!(seen.into_iter().any(|guest| guest.vttbr == asleep));
}

pub(crate) fn an_idle_cpu_waits_without_a_deadline() {
    let mut board = Board::one();
    assert!(board.run_if(|guest| guest.trap(WFI)).is_none());
    test::events();
    board.step(0);
    assert_eq!(test::events(), [Event::Deadline(None), Event::Wait]);
    // A kick alone wakes nobody.
    test::interrupt(0, machine::KICK);
    assert!(board.next(0).is_none());
    assert!(board.next(0).is_none());
    board.vms[0].links[0].request(request::WAKE);
    assert!(board.next(0).is_some());
}

pub(crate) fn every_interrupt_is_ended_and_deactivated() {
    let mut board = Board::one();
    let first = board.run(null);
    // The machine panics where one is taken before the other's priority has been dropped.
    for id in [machine::KICK, 25, HYP_TIMER, 40, 1019] {
        for _ in 0..2 {
            test::interrupt(0, id);
            test::push(null);
            test::events();
            while test::steps_left() > 0 {
                board.step(0);
            }
            assert_eq!(board.soon().map(|guest| guest.vttbr), Some(first.vttbr));
            assert_eq!(test::active(0), [0; 0]);
        }
    }
    // One that is gone by the time it is taken.
    let after = board.run(|_| Exit::Irq);
    assert_eq!(after.vttbr, first.vttbr);
}

pub(crate) fn the_virtual_timer_stays_active_until_its_guest_deactivates_it() {
    let mut board = Board::one();
    let mut store = |offset: u32, value: u32| {
        board.run(move |guest| {
            guest.regs.r[1] = value;
            data_abort(guest, GICD + offset, GICD + offset, access(2, 1) | WRITE)
        })
    };
    store(0x000, 1);
    store(0x100, 1 << VIRTUAL_TIMER);
    let guest = board.run(|guest| {
        guest.system.cntv_ctl = 1;
        null(guest)
    });
    assert_eq!(guest.lr, [0; 4]);
    test::interrupt(0, VIRTUAL_TIMER);
    let guest = board.run(null);
    // Hardware's, pending, of physical and virtual number 27.
    let pending = guest.lr.iter().filter(|&&lr| lr >> 28 != 0);
    let fields: Vec<[u32; 4]> = pending
        .map(|lr| [lr >> 31, lr >> 28 & 3, lr >> 10 & 0x3ff, lr & 0x3ff])
        .collect();
    assert_eq!(fields, [[1, 1, 27, 27]]);
    assert_eq!(test::active(0), [27]);
}

/// QEMU may forget the level of a timer's line; see [`armillary::vcpu::Vcpu::virtual_timer_fired`].
pub(crate) fn the_virtual_timers_line_is_looked_at_soon_whatever_else_is_due() {
    const SOON: u64 = SECOND / 512;
    let mut board = Board::two();
    let sleeper = board.run(null).vttbr;
    assert_ne!(board.next(0).expect("the other").vttbr, sleeper);
    let asleep = board.run_if(|guest| {
        guest.system.cntv_ctl = 1;
        guest.system.cntv_cval = 100 * SECOND;
        guest.trap(WFI)
    });
    assert!(asleep.is_none());
    let guest = board.next(0).expect("the other");
    assert!(guest.deadline.expect("the sleeper's") > 90 * SECOND);
    let soon = |guest: Guest| guest.deadline.is_some_and(|at| at <= machine::now() + SOON);
    test::interrupt(0, VIRTUAL_TIMER);
    assert!(soon(board.run(null)));
    // Though its physical timer is set, or it has another turn.
    let guest = board.run(|guest| {
        guest.regs.r[4] = 1;
        guest.trap(hsr(0x03, mcr(14, 0, 2, 1, 4)))
    });
    assert!(soon(guest));
    assert!(soon(board.next(0).expect("the same")));
    // And where all wait.
    let asleep = board.run_if(|guest| {
        guest.system.cntv_ctl = 1;
        guest.trap(WFI)
    });
    assert!(asleep.is_none());
    test::events();
    assert!(board.next(0).is_none());
    let mut deadlines = test::events().into_iter().filter_map(|event| match event {
        Event::Deadline(at) => at,
        _ => None,
    });
    assert!(deadlines.next_back().expect("something is due") <= machine::now() + SOON);
}

pub(crate) fn a_timers_interrupt_goes_with_its_vcpu_and_is_no_others() {
    let mut board = Board::two();
    for (offset, value) in [(0x000, 1), (0x100, 1 << VIRTUAL_TIMER)] {
        test::push(move |guest| {
            guest.regs.r[1] = value;
            data_abort(guest, GICD + offset, GICD + offset, access(2, 1) | WRITE)
        });
    }
    let owner = board.run(null).vttbr;
    // Both have had turns with nothing in a list register, and the other was last.
    let mut turns = (0..5).map(|_| board.next(0).expect("a guest").vttbr);
    assert_ne!(turns.next_back(), Some(owner));
    drop(turns);
    test::interrupt(0, VIRTUAL_TIMER);
    assert!(board.run_if(|guest| guest.trap(WFE)).is_none());
    let listed = |guest: &Guest| guest.lr.map(|lr| lr & 0x3ff);
    for _ in 0..2 {
        let other = board.next(0).expect("the other");
        assert_ne!(other.vttbr, owner);
        assert_eq!((listed(&other), test::active(0)), ([0; 4], vec![]));
        let next = board.next(0).expect("the owner");
        assert_eq!(next.vttbr, owner);
        assert!(listed(&next).contains(&VIRTUAL_TIMER));
        assert_eq!(test::active(0), [27]);
    }
}

pub(crate) fn vfp_moves_at_the_first_use_after_a_switch() {
    let mut board = Board::two();
    let moves = || -> Vec<bool> {
        let saved = test::events().into_iter().filter_map(|event| match event {
            Event::Vfp { saved } => Some(saved),
            _ => None,
        });
        saved.collect()
    };
    let a = board.run(|guest| guest.trap(VFP));
    assert_eq!(moves(), [false], "nobody's were in the hardware");
    assert_eq!(a.vfp, Some(0));
    let a_is_next = |board: &mut Board, wanted: bool| {
        for _ in 0..3 {
            let next = board.next(0).expect("a guest");
            if (next.vttbr == a.vttbr) == wanted {
                return next;
            }
        }
        panic!("a guest does not run");
    };
    // Steps belong to whoever runs next: the one after the last that was seen.
    a_is_next(&mut board, false);
    board.run(|guest| {
        guest.vfp = Some(0xaaaa);
        null(guest)
    });
    assert_eq!(a_is_next(&mut board, false).vfp, None, "the other's trap");
    assert_eq!(a_is_next(&mut board, true).vfp, Some(0xaaaa));
    assert_eq!(moves(), [false; 0], "the other did not use them");
    // The other does: what was there goes to its owner.
    let b = board.run(|guest| guest.trap(VFP));
    assert_ne!(b.vttbr, a.vttbr);
    assert_eq!((moves().as_slice(), b.vfp), (&[true][..], Some(0)));
    // Both have used them: from now on they come at once.
    assert_eq!(a_is_next(&mut board, true).vfp, Some(0xaaaa));
    board.run(|guest| {
        guest.vfp = Some(0xbbbb);
        null(guest)
    });
    assert_eq!(a_is_next(&mut board, true).vfp, Some(0xaaaa));
    assert_eq!(a_is_next(&mut board, false).vfp, Some(0xbbbb));
    assert!(moves().len() >= 4 && a_is_next(&mut board, true).vfp.is_some());
    // But not for ever, whoever does not use them any more.
    let last = (0..160).find_map(|_| {
        let next = board.next(0).expect("a guest");
        next.vfp.is_none().then_some(next.vttbr)
    });
    let kept = [(a.vttbr, 0xaaaa), (b.vttbr, 0xbbbb)];
    let next = board.run(|guest| guest.trap(VFP));
    assert!(last.is_some());
    assert!(kept.contains(&(next.vttbr, next.vfp.unwrap_or_default())));
}

pub(crate) fn a_vcpu_that_begins_anew_finds_no_vfp_registers_of_its_life_before() {
    let mut board = Board::one();
    board.run(|guest| guest.trap(VFP));
    board.run(|guest| {
        guest.vfp = Some(0xaaaa);
        null(guest)
    });
    assert!(board.run_if(|guest| hvc(guest, RESET)).is_none());
    assert_eq!(board.soon().expect("its next life").vfp, None);
    assert_eq!(board.run(|guest| guest.trap(VFP)).vfp, Some(0));
}

pub(crate) fn a_vcpu_without_vfp_moves_none() {
    let mut board = Board::two();
    for _ in 0..6 {
        assert_eq!(board.soon().expect("a guest").vfp, None);
    }
    assert_eq!(
        count(&test::events(), |event| matches!(event, Event::Vfp { .. })),
        0
    );
}

pub(crate) fn registers_come_back_after_another_vcpu_ran() {
    let mut board = Board::two();
    let mut seen = Vec::new();
    for value in [0x1111_1111, 0x2222_2222] {
        board.run_if(move |guest| {
            guest.regs.r = [value; 13];
            guest.regs.lr_usr = value;
            guest.system.vbar = value & !31;
            guest.system.ttbr1 = u64::from(value) << 8;
            guest.set_banked(Banked::SpsrIrq, value);
            guest.trap(WFE)
        });
    }
    for _ in 0..2 {
        let guest = board.soon().expect("a guest");
        let value = guest.regs.lr_usr;
        assert_eq!(guest.regs.r, [value; 13]);
        assert_eq!(guest.system.vbar, value & !31);
        assert_eq!(guest.system.ttbr1, u64::from(value) << 8);
        assert_eq!(guest.banked(Banked::SpsrIrq), value);
        seen.push(value);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0x1111_1111, 0x2222_2222]);
}

/// How often four turns load a vCPU, and forget the translations of its VM.
fn loads_and_flushes(board: &mut Board) -> (usize, usize) {
    test::events();
    for _ in 0..4 {
        test::push(|guest| hvc(guest, YIELD));
    }
    while test::steps_left() > 0 {
        board.step(0);
    }
    let events = test::events();
    let loads = count(&events, |event| matches!(event, Event::Load { .. }));
    (loads, count(&events, |event| *event == Event::FlushOwnVmid))
}

pub(crate) fn vms_that_take_turns_keep_their_translations() {
    assert_eq!(loads_and_flushes(&mut Board::two()), (4, 0));
}

pub(crate) fn vcpus_that_take_turns_find_no_translations_of_each_other() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let vm = board.add(config("guest", 4 * MIB), &[0, 0]);
    vm.start_vcpu(1, Start::default());
    board.settle();
    assert_eq!(loads_and_flushes(&mut board), (4, 4));
    // Nor where another VM ran in between: of three turns two are of another vCPU than the VM's last.
    board.add(config("other", 4 * MIB), &[0]);
    board.settle();
    let three = [0; 3].map(|_| loads_and_flushes(&mut board));
    assert_eq!(three.map(|(loads, _)| loads), [4; 3]);
    assert_eq!(three.map(|(_, flushes)| flushes).iter().sum::<usize>(), 8);
}

pub(crate) fn vcpus_of_one_vm_on_two_cpus_stop_together() {
    power_on(64 * MIB);
    let mut board = Board::of(2);
    let vm = board.add(config("guest", 4 * MIB), &[0, 1]);
    board.settle();
    assert!(board.next(1).is_none(), "the second is off");
    test::events();
    let start = Start {
        entry: 0x4002_0000,
        thumb: true,
        registers: [1, 2, 3],
    };
    vm.start_vcpu(1, start);
    assert_eq!(test::events(), [Event::Kick(1)]);
    board.step(1);
    let second = board.next(1).expect("the second vCPU");
    assert_eq!(
        (second.regs.pc, second.regs.r[..3].to_vec()),
        (0x4002_0000, vec![1, 2, 3])
    );
    assert!(second.regs.thumb());
    assert_eq!(second.index(), 1);
    assert_eq!(board.next(0).expect("the first vCPU").index(), 0);
    test::events();
    assert!(board.run_if(|guest| hvc(guest, RESET)).is_none());
    let kicks = count(&test::events(), |event| *event == Event::Kick(1));
    assert_eq!(kicks, 1);
    assert!(board.soon().is_none(), "waits for the second");
    assert_eq!(
        count(&test::events(), |event| matches!(event, Event::Zero { .. })),
        0
    );
    board.step(1);
    board.step(1);
    assert!(count(&test::events(), |event| matches!(event, Event::Zero { .. })) > 0);
    let first = board.soon().expect("the first vCPU, anew");
    assert_eq!(u64::from(first.regs.pc), ENTRY.0);
    assert!(board.next(1).is_none(), "the second is off again");
}

/// A VM of this policy, started and settled with the others.
fn with(name: &str, policy: impl FnOnce(&mut Policy)) -> VmConfig {
    let mut config = config(name, 4 * MIB);
    policy(&mut config.policy);
    config
}

/// The VMs that run in the next `count` turns of CPU 0, each of which yields.
fn turns(board: &mut Board, count: usize) -> Vec<u64> {
    let vttbrs = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..count {
        let vttbrs = vttbrs.clone();
        test::push(move |guest| {
            vttbrs.borrow_mut().push(guest.vttbr);
            hvc(guest, YIELD)
        });
    }
    for _ in 0..4 * count {
        board.step(0);
    }
    vttbrs.take()
}

pub(crate) fn the_highest_priority_that_is_ready_runs() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let low = board.add(with("low", |policy| policy.priority = 10), &[0]);
    let high = board.add(with("high", |policy| policy.priority = 200), &[0]);
    board.settle();
    assert_eq!(turns(&mut board, 3), [high.vttbr(0); 3]);
    // It sleeps, the other gets the CPU, and loses it at once when this one is woken.
    board.run_if(|guest| guest.trap(WFI));
    let guest = board.soon().expect("the other guest");
    assert_eq!(guest.vttbr, low.vttbr(0));
    high.wake(1);
    board.run_if(null);
    let guest = board.soon().expect("the first guest");
    assert_eq!(guest.vttbr, high.vttbr(0));
}

pub(crate) fn one_that_preempts_leaves_the_others_their_turns() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let high = board.add(with("high", |policy| policy.priority = 200), &[0]);
    let low = ["a", "b", "c"].map(|name| board.add(config(name, 4 * MIB), &[0]).vttbr(0));
    board.settle();
    // It runs for a moment whenever another one has had its slice, or almost.
    let mut ran = Vec::new();
    for _ in 0..9 {
        board.run_if(|guest| guest.trap(WFI));
        ran.push(board.soon().expect("another guest").vttbr);
        test::advance(62_500);
        high.wake(1);
        let guest = board.run_if(null).or_else(|| board.soon());
        assert_eq!(guest.expect("the first guest").vttbr, high.vttbr(0));
    }
    for own in low {
        let turns = ran.iter().filter(|&&vttbr| vttbr == own).count();
        assert!((2..=4).contains(&turns), "{turns} of 9");
    }
}

pub(crate) fn a_reservation_bounds_what_a_vm_takes() {
    const MS: u64 = 62_500;
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let bounded = board.add(
        with("bounded", |policy| {
            policy.priority = 200;
            policy.budget_us = Some(2000);
            policy.period_us = 10_000;
        }),
        &[0],
    );
    let other = board.add(config("other", 4 * MIB), &[0]);
    board.settle();
    // Whoever runs lets a quarter of a millisecond pass each time, for 100 ms.
    let used = Rc::new(RefCell::new([0; 2]));
    let own = bounded.vttbr(0);
    for _ in 0..400 {
        let used = used.clone();
        test::push(move |guest| {
            test::advance(MS / 4);
            used.borrow_mut()[usize::from(guest.vttbr == own)] += 1;
            null(guest)
        });
    }
    while test::steps_left() > 0 {
        board.step(0);
    }
    let [others, own] = used.take();
    assert_eq!(others + own, 400);
    assert!(
        (72..=84).contains(&own),
        "{own} quarters of a millisecond instead of 80"
    );
    assert!(other.is_up());
}

pub(crate) fn waiting_takes_nothing_from_a_reservation() {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let bounded = |policy: &mut Policy| policy.budget_us = Some(2000);
    board.add(with("bounded", bounded), &[0]);
    board.settle();
    // Alone on its CPU as it is, the time in WFI would count.
    let guest = board.run(null);
    assert!(guest.system.wfi_traps);
    let mut store = |offset: u32, value: u32| {
        board.run(move |guest| {
            guest.regs.r[1] = value;
            data_abort(guest, GICD + offset, GICD + offset, access(2, 1) | WRITE)
        });
    };
    store(0x000, 1);
    store(0x100, 1 << VIRTUAL_TIMER);
    // Nor does it count that its CPU waits with it, for its timer.
    board.run_if(|guest| {
        guest.system.cntv_ctl = 1;
        guest.trap(WFI)
    });
    assert!(board.next(0).is_none());
    test::advance(4 * SLICE);
    test::interrupt(0, VIRTUAL_TIMER);
    board.run(null);
    board.run_if(|guest| guest.trap(WFE));
    assert!(
        board.soon().is_some(),
        "it has all of its budget but a moment"
    );
}

pub(crate) fn what_comes_back_while_another_cpu_stops_the_vm_is_there() {
    const BUDGET: u64 = 125_000;
    const PERIOD: u64 = 625_000;
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let bounded = |policy: &mut Policy| policy.budget_us = Some(2000);
    let vm = board.add(with("bounded", bounded), &[0]);
    vm.charge(0, BUDGET);
    // One CPU finds nothing left just before it comes back, another one just after.
    assert_eq!(vm.grant(PERIOD - 1), Some(0));
    assert_eq!(vm.grant(PERIOD), Some(BUDGET));
    vm.charge(PERIOD, PERIOD + 100);
    assert!(!vm.runs());
    vm.replenish(PERIOD + 100);
    assert!(vm.runs());
}

pub(crate) fn a_vm_that_is_paused_runs_on_when_it_is_resumed() {
    let mut board = Board::two();
    let vms = board.vms.clone();
    vms[0].pause();
    assert!(vms[0].is_paused());
    assert_eq!(turns(&mut board, 3), [vms[1].vttbr(0); 3]);
    vms[0].resume();
    let both: BTreeSet<u64> = turns(&mut board, 4).into_iter().collect();
    assert_eq!(both.len(), 2);
    // One that runs is stopped at once.
    let running = board.soon().expect("a guest").vttbr;
    let vm = vms
        .iter()
        .find(|vm| vm.vttbr(0) == running)
        .expect("its VM");
    vm.pause();
    let next = board.soon().expect("the other guest");
    assert_ne!(next.vttbr, running);
}

pub(crate) fn a_cpu_with_nothing_to_do_takes_from_one_that_has_too_much() {
    power_on(64 * MIB);
    let configs = ["a", "b", "c"].map(|name| config(name, 4 * MIB));
    let (mut board, built) = crate::board::build(configs.into(), 2);
    assert_eq!(built, 3);
    let homes = |vms: &[std::sync::Arc<armillary::vm::Vm>]| {
        let mut counts = [0; 2];
        vms.iter().for_each(|vm| counts[vm.links[0].cpu()] += 1);
        counts
    };
    let vms = armillary::vm::all();
    for cpu in [0, 1, 0, 1] {
        board.step(cpu);
    }
    // What the CPU runs that has one goes off.
    let lone = homes(&vms).iter().position(|&count| count == 1);
    let lone = lone.expect("a CPU that has one of three");
    test::push(|guest| hvc(guest, OFF));
    for _ in 0..4 {
        board.step(lone);
    }
    assert_eq!(test::steps_left(), 0);
    for cpu in [lone, 1 - lone, 1 - lone, lone, lone] {
        board.step(cpu);
    }
    let up: Vec<_> = vms.iter().filter(|vm| vm.is_up()).cloned().collect();
    assert_eq!(homes(&up), [1, 1]);
    assert!(board.next(0).is_some() && board.next(1).is_some());
}

pub(crate) fn a_vcpu_stays_on_the_cpus_that_it_may_run_on() {
    power_on(64 * MIB);
    let configs = ["a", "b", "c"].map(|name| with(name, |policy| policy.cpus = 0b10));
    let (mut board, built) = crate::board::build(configs.into(), 2);
    assert_eq!(built, 3);
    for cpu in [0, 1, 0, 1, 0, 1] {
        board.step(cpu);
    }
    assert!(armillary::vm::all().iter().all(|vm| vm.links[0].cpu() == 1));
    assert!(board.next(0).is_none());
}

pub(crate) fn vcpus_that_move_take_their_vfp_registers_along() {
    power_on(64 * MIB);
    let configs = ["a", "b", "c"].map(|name| config(name, 4 * MIB));
    let (mut board, built) = crate::board::build(configs.into(), 2);
    assert_eq!(built, 3);
    let vms = armillary::vm::all();
    let homes = || vms.iter().map(|vm| vm.links[0].cpu()).collect::<Vec<_>>();
    let mut seen = BTreeSet::new();
    // What each has there.
    let kept = Rc::new(RefCell::new(BTreeMap::new()));
    for round in 0..60 {
        // Time enough to have shares even.
        test::advance(1_250_000);
        test::push(|guest| guest.trap(VFP));
        let kept = kept.clone();
        test::push(move |guest| {
            let mut kept = kept.borrow_mut();
            let own = kept.entry(guest.vttbr).or_insert(0);
            if let Some(found) = guest.vfp {
                assert_eq!(found, *own, "in round {round}");
                *own = round as u64 + 1;
                guest.vfp = Some(*own);
            }
            hvc(guest, if round % 3 == 0 { NULL } else { YIELD })
        });
        for _ in 0..4 {
            board.step(round % 2);
        }
        seen.insert(homes());
    }
    assert!(seen.len() > 1, "none moves: {seen:?}");
}

/// What `cpus` CPUs do from `since` on for `seconds`, each on its own: guests run without a pause, unless
/// `guest` has something else for them to do. How long each vCPU runs, ticks.
struct Rounds {
    clocks: Vec<u64>,
    ran: Rc<RefCell<BTreeMap<(u64, u32), u64>>>,
}

impl Rounds {
    fn new(cpus: usize) -> Self {
        Self {
            clocks: vec![machine::now(); cpus],
            ran: Rc::default(),
        }
    }

    /// Lets `ticks` pass; how long each vCPU has run in that time, by its VM's table and its number.
    fn run(&mut self, board: &mut Board, ticks: u64) -> BTreeMap<(u64, u32), u64> {
        self.ran.borrow_mut().clear();
        let ran = self.ran.clone();
        self.run_as(board, ticks, &move |guest| {
            let now = machine::now();
            let until = guest
                .deadline
                .map_or(now + SLICE / 64, |at| at.min(now + SLICE));
            test::set_now(until);
            let root = guest.vttbr << 16 >> 16;
            *ran.borrow_mut().entry((root, guest.index())).or_default() += until - now;
            null(guest)
        });
        self.ran.take()
    }

    /// Lets `ticks` pass, in which each guest does what `step` has it do once it is entered.
    fn run_as<F>(&mut self, board: &mut Board, ticks: u64, step: &F)
    where
        F: Fn(&mut Guest) -> Exit + Clone + 'static,
    {
        let end = self.clocks.iter().max().expect("a CPU") + ticks;
        loop {
            let first = (0..self.clocks.len()).min_by_key(|&cpu| self.clocks[cpu]);
            let cpu = first.expect("a CPU");
            let now = self.clocks[cpu];
            if now >= end {
                return;
            }
            test::set_now(now);
            if test::steps_left() == 0 {
                let step = step.clone();
                test::push(move |guest| step(guest));
            }
            board.step(cpu);
            // A CPU with nothing to run looks again soon.
            self.clocks[cpu] = machine::now().max(now + SLICE / 64);
            test::events();
        }
    }
}

const SECOND: u64 = 62_500_000;

/// VMs of so many vCPUs each with these masks, all started, on `cpus` CPUs.
fn load(cpus: usize, vcpus: u32, masks: &[u32]) -> Board {
    power_on(256 * MIB);
    let configs = masks.iter().enumerate().map(|(n, &mask)| VmConfig {
        cpus: vcpus,
        ..with(&format!("vm{n}"), |policy| policy.cpus = mask)
    });
    let (mut board, built) = crate::board::build(configs.collect(), cpus);
    assert_eq!(built, masks.len());
    for vm in armillary::vm::all() {
        (1..vcpus as usize).for_each(|index| vm.start_vcpu(index, Start::default()));
    }
    board.settle();
    board
}

/// That each VM runs for its part of a second, to 2 %; `parts` of all CPUs' time, ppm.
fn assert_shares(rounds: &mut Rounds, board: &mut Board, parts: &[u64]) {
    let ran = rounds.run(board, SECOND);
    let mut shares = BTreeMap::<u64, u64>::new();
    for ((vm, _), ticks) in &ran {
        *shares.entry(*vm).or_default() += ticks;
    }
    let all: u64 = shares.values().sum();
    let cpus = rounds.clocks.len() as u64;
    assert!(all > cpus * (SECOND - SECOND / 100), "{all} of {cpus} CPUs");
    let vms = armillary::vm::all();
    for (vm, part) in vms.iter().zip(parts) {
        let share = shares[&(vm.vttbr(0) << 16 >> 16)] * 1_000_000 / (cpus * SECOND);
        assert!(
            share.abs_diff(*part) * 50 <= *part,
            "{} has {share} ppm instead of {part}: {ran:?}",
            vm.name()
        );
    }
}

/// So many VMs that may run anywhere, on `cpus` CPUs.
fn assert_even(cpus: usize, vcpus: u32, vms: usize) {
    let mut board = load(cpus, vcpus, &vec![u32::MAX; vms]);
    let mut rounds = Rounds::new(cpus);
    rounds.run(&mut board, SECOND / 10);
    for _ in 0..3 {
        assert_shares(&mut rounds, &mut board, &vec![1_000_000 / vms as u64; vms]);
    }
}

/// A VM that has a job of 100 us in each millisecond, and is sure of 200, beside three that leave for the hypervisor
/// all the time, or one for each CPU: how long after its millisecond's start each job was done, ticks.
fn jobs_beside_floods(cpus: usize) -> Vec<u64> {
    const MS: u64 = SECOND / 1000;
    power_on(256 * MIB);
    let urgent = with("urgent", |policy| {
        policy.priority = 240;
        policy.budget_us = Some(200);
        policy.period_us = 1000;
    });
    let floods = (0..cpus.max(3)).map(|n| config(&format!("flood{n}"), 4 * MIB));
    let configs = [urgent].into_iter().chain(floods).collect();
    let (mut board, _) = crate::board::build(configs, cpus);
    board.settle();
    let root = |table: u64| table << 16 >> 16;
    let own = root(armillary::vm::all()[0].vttbr(0));
    let mut rounds = Rounds::new(cpus);
    // When its next job starts, what is left of it, and what became of those before.
    let job = Rc::new(RefCell::new((machine::now() + MS, MS / 10, Vec::new())));
    let exits = Rc::new(RefCell::new(0u32));
    let jobs = job.clone();
    rounds.run_as(&mut board, SECOND, &move |guest| {
        let now = machine::now();
        let deadline = guest.deadline.unwrap_or(u64::MAX).max(now);
        if root(guest.vttbr) != own {
            let mut exits = exits.borrow_mut();
            *exits += 1;
            test::set_now(deadline.min(now + MS / 100));
            return match *exits % 3 {
                0 => guest.trap(WFE),
                1 => data_abort(guest, GICD, GICD, access(2, 4)),
                _ => hvc(guest, NULL),
            };
        }
        let (start, left, done) = &mut *job.borrow_mut();
        if now >= *start {
            let until = deadline.min(now + *left);
            test::set_now(until);
            *left -= until - now;
            if *left != 0 {
                return hvc(guest, NULL);
            }
            done.push(until - *start);
            (*start, *left) = (*start + MS, MS / 10);
        }
        (guest.system.cntv_ctl, guest.system.cntv_cval) = (1, *start - guest.system.cntvoff);
        guest.trap(WFI)
    });
    jobs.take().2
}

/// That each job of a second's is done in a quarter of its millisecond.
fn assert_kept(cpus: usize) {
    let done = jobs_beside_floods(cpus);
    let worst = *done.iter().max().expect("a job");
    assert!(done.len() > 990, "{} jobs", done.len());
    assert!(worst < SECOND / 4000, "{worst} ticks");
}

pub(crate) fn a_period_of_a_millisecond_is_kept_beside_floods_on_one_cpu() {
    assert_kept(1);
}

pub(crate) fn a_period_of_a_millisecond_is_kept_beside_floods_on_two_cpus() {
    assert_kept(2);
}

pub(crate) fn a_period_of_a_millisecond_is_kept_beside_floods_on_four_cpus() {
    assert_kept(4);
}

pub(crate) fn three_vcpus_share_two_cpus_evenly() {
    assert_even(2, 1, 3);
}

pub(crate) fn five_vcpus_share_four_cpus_evenly() {
    assert_even(4, 1, 5);
}

pub(crate) fn seven_vcpus_share_four_cpus_evenly() {
    assert_even(4, 1, 7);
}

pub(crate) fn sixteen_vms_share_one_cpu_evenly() {
    assert_even(1, 1, 16);
}

pub(crate) fn sixteen_vms_share_two_cpus_evenly() {
    assert_even(2, 1, 16);
}

pub(crate) fn sixteen_vms_share_four_cpus_evenly() {
    assert_even(4, 1, 16);
}

pub(crate) fn four_vms_of_eight_vcpus_share_one_cpu_evenly() {
    assert_even(1, 8, 4);
}

pub(crate) fn four_vms_of_eight_vcpus_share_two_cpus_evenly() {
    assert_even(2, 8, 4);
}

pub(crate) fn four_vms_of_eight_vcpus_share_four_cpus_evenly() {
    assert_even(4, 8, 4);
}

pub(crate) fn a_newcomer_has_no_more_than_its_share() {
    let mut board = load(2, 1, &[u32::MAX; 2]);
    let mut rounds = Rounds::new(2);
    rounds.run(&mut board, 10 * SECOND);
    board.add(config("third", 4 * MIB), &[0]);
    rounds.run(&mut board, SECOND / 10);
    assert_shares(&mut rounds, &mut board, &[333_333; 3]);
}

pub(crate) fn vcpus_that_must_stay_share_with_those_that_move() {
    // One stays on each of two CPUs, and another shares with either half of the time.
    let mut board = load(2, 1, &[0b01, 0b10, 0b11]);
    let mut rounds = Rounds::new(2);
    rounds.run(&mut board, SECOND / 10);
    assert_shares(&mut rounds, &mut board, &[375_000, 375_000, 250_000]);
}

pub(crate) fn vcpus_that_must_stay_are_left_to_themselves() {
    // Three share one CPU, for no other may run them; the others have the other three.
    let mut board = load(4, 1, &[1, 1, 1, !0, !0, !0, !0]);
    let mut rounds = Rounds::new(4);
    rounds.run(&mut board, SECOND / 10);
    let (few, many) = (250_000 / 3, 750_000 / 4);
    assert_shares(
        &mut rounds,
        &mut board,
        &[few, few, few, many, many, many, many],
    );
}

/// A CPU with a VM of a high priority, which sleeps, and two of the usual one.
fn two_below_a_sleeper() -> (
    Board,
    std::sync::Arc<armillary::vm::Vm>,
    [std::sync::Arc<armillary::vm::Vm>; 2],
) {
    power_on(64 * MIB);
    let mut board = Board::of(1);
    let urgent = board.add(with("urgent", |policy| policy.priority = 200), &[0]);
    let others = ["a", "b"].map(|name| board.add(config(name, 4 * MIB), &[0]));
    board.settle();
    board.run_if(|guest| guest.trap(WFI));
    (board, urgent, others)
}

pub(crate) fn who_gives_way_after_its_slice_has_nothing_left_of_it() {
    let (mut board, urgent, others) = two_below_a_sleeper();
    // It wakes when a slice is over, and the Hyp timer has not been looked at.
    let ran = Rc::new(RefCell::new(BTreeMap::<u64, u64>::new()));
    let own = urgent.vttbr(0);
    for _ in 0..300 {
        let (vm, ran) = (urgent.clone(), ran.clone());
        test::push(move |guest| {
            if guest.vttbr == own {
                return guest.trap(WFI);
            }
            test::set_now(machine::now() + SLICE + 7);
            *ran.borrow_mut().entry(guest.vttbr).or_default() += 1;
            vm.wake(1);
            null(guest)
        });
    }
    while test::steps_left() > 0 {
        board.step(0);
    }
    let [a, b] = others.map(|vm| ran.borrow()[&vm.vttbr(0)]);
    assert!(a.abs_diff(b) <= 2, "{a} and {b}");
}

pub(crate) fn who_gives_way_in_the_midst_of_its_turn_has_the_rest_of_it() {
    let (mut board, urgent, others) = two_below_a_sleeper();
    // It wakes twice in three slices, always after the same part of somebody's.
    let ran = Rc::new(RefCell::new(BTreeMap::<u64, u64>::new()));
    let own = urgent.vttbr(0);
    for _ in 0..3000 {
        let (vm, ran) = (urgent.clone(), ran.clone());
        test::push(move |guest| {
            if guest.vttbr == own {
                return guest.trap(WFI);
            }
            let now = machine::now();
            let wake = now / (SLICE * 3 / 2) * (SLICE * 3 / 2) + SLICE * 3 / 2;
            let until = guest.deadline.map_or(wake, |at| at.min(wake));
            *ran.borrow_mut().entry(guest.vttbr).or_default() += until - now;
            test::set_now(until);
            if until == wake {
                vm.wake(1);
            }
            null(guest)
        });
    }
    while test::steps_left() > 0 {
        board.step(0);
    }
    let [a, b] = others.map(|vm| ran.borrow()[&vm.vttbr(0)]);
    assert!(a.abs_diff(b) <= 2 * SLICE, "{a} and {b}");
}

/// Two CPUs that run VMs of a high priority; a third of a middle one, which waits on the first CPU, may run on
/// either, and a fourth of a low one waits on the second.
fn four_priorities() -> (Board, [std::sync::Arc<armillary::vm::Vm>; 4]) {
    power_on(64 * MIB);
    armillary::balance::set_cpus(2);
    let mut board = Board::of(2);
    let mut add = |name: &str, priority: u8, mask: u32, home: usize| {
        let policy = |policy: &mut Policy| (policy.priority, policy.cpus) = (priority, mask);
        let vm = board.add(with(name, policy), &[home]);
        board.settle();
        vm
    };
    let first = add("first", 200, 0b01, 0);
    let second = add("second", 200, 0b10, 1);
    let middle = add("middle", 150, 0b11, 0);
    let low = add("low", 10, 0b10, 1);
    (board, [first, second, middle, low])
}

pub(crate) fn a_cpu_that_runs_less_than_before_takes_what_waits_elsewhere() {
    let (mut board, [_, second, middle, low]) = four_priorities();
    assert_eq!(
        board.next(1).map(|guest| guest.vttbr),
        Some(second.vttbr(0))
    );
    test::events();
    test::push(|guest| guest.trap(WFI));
    board.step(1);
    let next = board.next(1).expect("a guest");
    assert_eq!(next.vttbr, low.vttbr(0));
    assert_eq!(count(&test::events(), |event| *event == Event::Kick(0)), 1);
    board.step(0);
    assert!(test::events().contains(&Event::Kick(1)));
    let next = board.next(1).expect("a guest");
    assert_eq!(next.vttbr, middle.vttbr(0));
    // The one that gave way comes back at once.
    second.wake(1);
    let next = board.next(1).expect("a guest");
    assert_eq!(next.vttbr, second.vttbr(0));
}

pub(crate) fn who_wakes_on_a_cpu_that_is_busy_goes_to_one_that_runs_less() {
    let (mut board, [_, second, middle, low]) = four_priorities();
    middle.pause();
    board.settle();
    test::push(|guest| guest.trap(WFI));
    board.step(1);
    assert_eq!(board.next(1).map(|guest| guest.vttbr), Some(low.vttbr(0)));
    middle.resume();
    board.step(0);
    assert_eq!(
        board.next(1).map(|guest| guest.vttbr),
        Some(middle.vttbr(0))
    );
    assert_eq!(middle.links[0].cpu(), 1);
    second.wake(1);
    assert_eq!(
        board.next(1).map(|guest| guest.vttbr),
        Some(second.vttbr(0))
    );
}

pub(crate) fn what_comes_for_a_vcpu_that_is_not_live_is_listed_when_it_is() {
    let mut board = Board::two();
    for (offset, value) in [(0x000, 1), (0x104, 1 << 1)] {
        test::push(move |guest| {
            guest.regs.r[1] = value;
            data_abort(guest, GICD + offset, GICD + offset, access(2, 1) | WRITE)
        });
    }
    let own = board.soon().expect("a guest").vttbr;
    // With nothing to take back and nothing to list, switches leave the list registers alone.
    let seen: BTreeSet<u64> = turns(&mut board, 8).into_iter().collect();
    assert_eq!(seen.len(), 2);
    let vm = board.vms.iter().find(|vm| vm.vttbr(0) == own).expect("it");
    for level in [true, false] {
        vm.set_line(Some(33), level);
    }
    vm.set_line(Some(33), true);
    let mut listed = |id: u32| {
        let next = (0..4).find_map(|_| board.next(0).filter(|guest| guest.vttbr == own));
        let next = next.expect("its turn");
        next.lr
            .iter()
            .any(|lr| lr >> 28 & 1 != 0 && lr & 0x3ff == id)
    };
    assert!(listed(33));
    assert!(listed(33), "again, after it has been taken back");
}
