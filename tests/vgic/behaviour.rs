//! Behaviours one by one, and linked interrupts, which the naive model doesn't know.

use super::gich::{ACTIVE, EOI_MODE, Gich, HW, OPEN, PENDING, SPURIOUS};
use super::machine::Machine;
use armillary::vgic::{Kick, Vgic};

const ISENABLER: u32 = 0x100;
const ISPENDR: u32 = 0x200;
const ICPENDR: u32 = 0x280;
const ISACTIVER: u32 = 0x300;
const ICACTIVER: u32 = 0x380;
const IPRIORITYR: u32 = 0x400;
const ITARGETSR: u32 = 0x800;
const ICFGR: u32 = 0xc00;
const SGIR: u32 = 0xf00;

const TIMER: u32 = 27;

/// With the virtual timer's interrupt linked and enabled everywhere.
fn with_timer(vcpus: usize, lrs: usize) -> Machine {
    let mut machine = Machine::started(vcpus, 64, lrs);
    machine.vgic.link(TIMER, 27);
    for vcpu in 0..vcpus {
        machine.write(vcpu, ISENABLER, 4, 1 << TIMER);
    }
    machine
}

/// Enables shared interrupts 32 to 63, edge-triggered, for vCPU 0.
fn enable_edges(machine: &mut Machine) {
    machine.write(0, ISENABLER + 4, 4, u32::MAX);
    machine.write(0, ICFGR + 8, 4, u32::MAX);
    machine.write(0, ICFGR + 12, 4, u32::MAX);
    for id in (32..64).step_by(4) {
        machine.write(0, ITARGETSR + id, 4, 0x0101_0101);
    }
}

fn pulse(machine: &mut Machine, intid: u32) {
    let kick = machine.vgic.pulse(0, intid);
    machine.check(kick);
}

fn valid(gich: &Gich) -> Vec<u32> {
    let valid = |lr: &u32| lr & (PENDING | ACTIVE) != 0;
    gich.lr.iter().copied().filter(valid).collect()
}

#[test]
fn the_type_register_counts_cpus_and_lines() {
    for (vcpus, spis, typer) in [(1, 0, 0), (2, 1, 0x21), (8, 256, 0xe8), (8, 988, 0xff)] {
        let mut machine = Machine::started(vcpus, spis, 4);
        assert_eq!(machine.read(0, 4, 4), typer);
    }
    assert_eq!(Machine::started(1, 5000, 4).read(0, 4, 4), 31);
}

#[test]
fn no_access_and_no_event_out_of_range_does_anything_worse_than_nothing() {
    let mut machine = Machine::started(2, 988, 4);
    let mut seed = 1u32;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for round in 0..200_000 {
        let vcpu = (random() & 1) as usize;
        let (offset, width) = (random() >> (random() & 31), 1 << (random() % 4));
        let kick = match random() % 4 {
            0 => {
                let _ = machine.vgic.stale(vcpu, offset);
                let lrs = &mut machine.cpus[vcpu];
                let _ = machine.vgic.read(vcpu, offset, width, lrs);
                Kick(0)
            }
            1 => {
                let lrs = &mut machine.cpus[vcpu];
                machine.vgic.write(vcpu, offset, width, random(), lrs)
            }
            2 => machine.vgic.set_level(vcpu, offset, random() & 1 != 0),
            _ => machine.vgic.pulse(vcpu, offset),
        };
        assert_eq!(kick.0 & !3, 0);
        if round % 16 == 0 {
            for vcpu in 0..2 {
                let _ = machine.vgic.flush(vcpu, &mut machine.cpus[vcpu]);
                let iar = machine.cpus[vcpu].acknowledge();
                if iar != SPURIOUS {
                    machine.cpus[vcpu].end(iar);
                }
            }
        }
    }
    machine.vgic.link(5000, 1);
    machine.vgic.link(u32::MAX, 1);
}

#[test]
fn what_is_not_live_is_nothing_of_list_registers() {
    let mut machine = Machine::started(2, 64, 4);
    enable_edges(&mut machine);
    pulse(&mut machine, 32);
    let _ = machine.vgic.flush(0, &mut machine.cpus[0]);
    assert_eq!(machine.vgic.stale(1, ISPENDR + 4), 1);
    for offset in 0..0x1000 {
        let (live, sends) = (Vgic::is_live(offset), Vgic::sends(offset, 4));
        assert!(live || !sends, "{offset:#x}");
        for vcpu in 0..2 {
            assert!(live || machine.vgic.stale(vcpu, offset) == 0, "{offset:#x}");
        }
    }
}

#[test]
fn an_sgi_to_self_costs_one_list_register_write_and_no_flush() {
    let mut machine = Machine::started(1, 64, 4);
    for round in 0..5 {
        let writes = machine.cpus[0].writes;
        machine.write(0, SGIR, 4, 2 << 24 | 3);
        assert_eq!(machine.vgic.needs_flush(0), round == 0);
        assert_eq!(machine.acknowledge(0), 3);
        machine.end(0, 3);
        assert_eq!(machine.cpus[0].writes, writes + 1);
        assert!(!machine.cpus[0].maintenance());
    }
}

#[test]
fn an_sgi_to_self_waits_while_the_distributor_is_off() {
    let mut machine = Machine::started(1, 64, 4);
    machine.write(0, SGIR, 4, 2 << 24 | 3);
    assert_eq!(machine.acknowledge(0), 3);
    machine.write(0, 0, 4, 0);
    machine.rest();
    machine.end(0, 3);
    machine.write(0, SGIR, 4, 2 << 24 | 3);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.write(0, 0, 4, 3);
    assert_eq!(machine.acknowledge(0), 3);
}

#[test]
fn an_sgi_from_two_cpus_arrives_twice() {
    let mut machine = Machine::started(3, 32, 4);
    machine.write(1, SGIR, 4, 1 << 16 | 5);
    machine.write(2, SGIR, 4, 1 << 16 | 5);
    assert_eq!(machine.read(0, 0xf14, 4), 0x0600);
    assert_eq!(machine.acknowledge(0), 1 << 10 | 5);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    assert_eq!(machine.read(0, 0xf14, 4), 0x0400);
    machine.end(0, 1 << 10 | 5);
    assert_eq!(machine.acknowledge(0), 2 << 10 | 5);
    machine.end(0, 2 << 10 | 5);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    assert_eq!(machine.read(0, ISACTIVER, 4), 0);
}

#[test]
fn a_line_that_stays_high_interrupts_again() {
    let mut machine = Machine::started(1, 64, 4);
    machine.write(0, ISENABLER + 4, 4, 2);
    machine.line(0, 33, true);
    for _ in 0..3 {
        assert_eq!(machine.acknowledge(0), 33);
        machine.end(0, 33);
        assert!(machine.cpus[0].maintenance());
    }
    assert_eq!(machine.acknowledge(0), 33);
    assert_eq!(machine.read(0, ISPENDR + 4, 4), 2);
    machine.end(0, 33);
    assert_eq!(machine.acknowledge(0), 33);
    machine.end(0, 33);
    machine.line(0, 33, false);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    assert_eq!(machine.read(0, ISPENDR + 4, 4), 0);
}

#[test]
fn a_handler_that_quiets_its_device_ends_without_maintenance() {
    let mut machine = Machine::started(1, 64, 4);
    machine.write(0, ISENABLER + 4, 4, 2);
    for _ in 0..3 {
        machine.line(0, 33, true);
        assert_eq!(machine.acknowledge(0), 33);
        machine.line(0, 33, false);
        machine.rest();
        machine.end(0, 33);
        assert!(!machine.cpus[0].maintenance());
    }
}

#[test]
fn an_edge_while_active_interrupts_again_without_maintenance() {
    let mut machine = Machine::started(1, 64, 4);
    enable_edges(&mut machine);
    pulse(&mut machine, 40);
    assert_eq!(machine.acknowledge(0), 40);
    pulse(&mut machine, 40);
    pulse(&mut machine, 40);
    machine.rest();
    machine.end(0, 40);
    assert!(!machine.cpus[0].maintenance());
    assert_eq!(machine.acknowledge(0), 40);
    machine.end(0, 40);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
}

#[test]
fn more_interrupts_than_list_registers_come_in_the_order_of_priority() {
    for lrs in 1..5 {
        let mut machine = Machine::started(1, 64, lrs);
        enable_edges(&mut machine);
        for id in 32..64 {
            // 32 priorities in an order that is none.
            machine.write(0, IPRIORITYR + id, 1, (id * 11 % 32) << 3);
            pulse(&mut machine, id);
        }
        machine.cpus[0].vmcr |= 31 << 27;
        let mut last = 0;
        for _ in 32..63 {
            let id = machine.acknowledge(0);
            let priority = id * 11 % 32;
            assert!(priority >= last && id != SPURIOUS);
            last = priority;
            machine.end(0, id);
        }
        // Priority 0xf8 is masked by the mask 0xf8.
        assert_eq!(machine.acknowledge(0), SPURIOUS);
    }
}

#[test]
fn nesting_deeper_than_the_list_registers_loses_no_active_interrupt() {
    for lrs in 1..5 {
        let mut machine = Machine::started(1, 64, lrs);
        enable_edges(&mut machine);
        let depth = 20;
        for n in 0..depth {
            machine.write(0, IPRIORITYR + 32 + n, 1, (30 - n) << 3);
            pulse(&mut machine, 32 + n);
            assert_eq!(machine.acknowledge(0), 32 + n);
        }
        assert_eq!(machine.read(0, ISACTIVER + 4, 4), (1 << depth) - 1);
        for n in (0..depth).rev() {
            machine.end(0, 32 + n);
            machine.rest();
            assert_eq!(machine.read(0, ISACTIVER + 4, 4), (1 << n) - 1);
        }
    }
}

#[test]
fn ends_that_are_counted_follow_the_priorities_at_acknowledge_time() {
    let mut machine = Machine::started(1, 64, 2);
    machine.write(0, ISENABLER + 4, 4, u32::MAX);
    let take = |machine: &mut Machine, id: u32, priority: u32| {
        machine.write(0, IPRIORITYR + id, 1, priority);
        machine.line(0, id, true);
        assert_eq!(machine.acknowledge(0), id);
    };
    let quiet = |machine: &mut Machine, id: u32| {
        machine.line(0, id, false);
        machine.rest();
    };
    // 33 is seen active with a low priority once, and has a higher one the next time.
    for (id, priority) in [(33, 0xe8), (32, 0x80)] {
        take(&mut machine, id, priority);
        machine.put(0);
        machine.load(0, 0);
        quiet(&mut machine, id);
        if id == 33 {
            machine.end(0, id);
        }
    }
    for (id, priority) in [(33, 0x40), (34, 0x10), (35, 0x08)] {
        take(&mut machine, id, priority);
        quiet(&mut machine, id);
    }
    for id in [35, 34, 33] {
        machine.end(0, id);
    }
    assert_eq!(machine.read(0, ISACTIVER + 4, 4), 1);
}

#[test]
fn dropped_interrupts_can_be_deactivated_in_any_order() {
    for lrs in 1..5 {
        let mut machine = Machine::started(1, 64, lrs);
        machine.cpus[0].vmcr = OPEN | EOI_MODE;
        enable_edges(&mut machine);
        for id in 32..64 {
            pulse(&mut machine, id);
        }
        for _ in 32..64 {
            let id = machine.acknowledge(0);
            machine.end(0, id);
        }
        let mut active = u32::MAX;
        for n in 0..32 {
            machine.rest();
            let id = n * 13 % 32;
            machine.deactivate(0, 32 + id);
            active &= !(1 << id);
            assert_eq!(machine.read(0, ISACTIVER + 4, 4), active, "{lrs} {id}");
        }
    }
}

#[test]
fn an_active_interrupt_follows_its_vcpu_to_another_cpu() {
    let mut machine = Machine::started(2, 64, 4);
    enable_edges(&mut machine);
    pulse(&mut machine, 50);
    assert_eq!(machine.acknowledge(0), 50);
    machine.put(0);
    machine.put(1);
    machine.load(0, 1);
    assert_eq!(machine.read(0, ISACTIVER + 4, 4), 1 << 18);
    machine.end(0, 50);
    assert_eq!(machine.read(0, ISACTIVER + 4, 4), 0);
}

#[test]
fn a_shared_interrupt_goes_to_its_new_target() {
    let mut machine = Machine::started(2, 64, 4);
    enable_edges(&mut machine);
    pulse(&mut machine, 40);
    assert_eq!(machine.acknowledge(0), 40);
    machine.end(0, 40);
    machine.write(0, ITARGETSR + 40, 1, 2);
    pulse(&mut machine, 40);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    assert_eq!(machine.acknowledge(1), 40);
}

#[test]
fn a_shared_interrupt_leaves_a_vcpu_that_is_put() {
    let mut machine = Machine::started(2, 64, 4);
    machine.write(0, ISENABLER + 4, 4, 1);
    machine.write(0, ITARGETSR + 32, 1, 3);
    machine.line(0, 32, true);
    machine.rest();
    assert_eq!(valid(&machine.cpus[0]).len(), 1);
    machine.put(0);
    assert!(machine.vgic.needs_flush(1));
    assert_eq!(machine.acknowledge(1), 32);
    assert!(!machine.vgic.pending_for(0));
}

#[test]
fn of_several_targets_one_that_is_loaded_is_kicked_and_otherwise_all() {
    let mut machine = Machine::started(4, 64, 4);
    machine.write(0, ISENABLER + 4, 4, 1);
    machine.write(0, ITARGETSR + 32, 1, 0b1110);
    assert_eq!(machine.vgic.set_level(0, 32, true), Kick(0b0010));
    assert_eq!(machine.vgic.set_level(0, 32, false), Kick(0));
    machine.put(1);
    assert_eq!(machine.vgic.set_level(0, 32, true), Kick(0b0100));
    assert_eq!(machine.vgic.set_level(0, 32, false), Kick(0));
    machine.put(2);
    machine.put(3);
    assert_eq!(machine.vgic.set_level(0, 32, true), Kick(0b1110));
    assert!(machine.vgic.pending_for(3) && !machine.vgic.pending_for(0));
}

#[test]
fn what_a_waiting_vcpu_masks_does_not_wake_it() {
    let mut machine = Machine::started(1, 64, 4);
    machine.write(0, ISENABLER + 4, 4, 1);
    machine.write(0, ITARGETSR + 32, 1, 1);
    machine.write(0, IPRIORITYR + 32, 1, 0x80);
    machine.cpus[0].vmcr = OPEN & 0x07ff_ffff | 0x10 << 27;
    machine.line(0, 32, true);
    machine.put(0);
    assert!(!machine.vgic.pending_for(0));
    machine.load(0, 0);
    machine.cpus[0].vmcr = OPEN;
    let (pending, kick) = machine.vgic.pending_loaded(0, &mut machine.cpus[0]);
    assert_eq!((pending, kick), (true, Kick(0)));
    machine.put(0);
    assert!(machine.vgic.pending_for(0));
    machine.vgic.reset_interface(0);
    assert!(!machine.vgic.pending_for(0));
}

#[test]
fn a_read_sees_what_another_cpu_has_acknowledged() {
    let mut machine = Machine::started(2, 64, 4);
    enable_edges(&mut machine);
    pulse(&mut machine, 32);
    assert_eq!(machine.acknowledge(0), 32);
    assert_eq!(machine.vgic.stale(1, ISACTIVER + 4), 1);
    assert_eq!(machine.vgic.stale(1, ISENABLER + 4), 0);
    assert_eq!(machine.vgic.stale(0, ISACTIVER + 4), 0);
    assert_eq!(machine.read(1, ISACTIVER + 4, 4), 1);
    assert_eq!(machine.read(1, ISPENDR + 4, 4), 0);
}

#[test]
fn disabling_an_interrupt_withdraws_it_from_another_cpu() {
    let mut machine = Machine::started(2, 64, 4);
    enable_edges(&mut machine);
    pulse(&mut machine, 32);
    machine.rest();
    assert_eq!(valid(&machine.cpus[0]).len(), 1);
    machine.write(1, 0x184, 4, 1);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    assert_eq!(machine.read(1, ISPENDR + 4, 4), 1);
    machine.write(1, ISENABLER + 4, 4, 1);
    assert_eq!(machine.acknowledge(0), 32);
}

#[test]
fn a_devices_interrupt_is_listed_at_once_until_another_vcpu_is_to_have_it() {
    const DEVICE: u32 = 40;
    let mut machine = Machine::started(2, 64, 4);
    machine.vgic.link(DEVICE, 77);
    machine.write(0, 0x828, 1, 1);
    machine.write(0, 0x104, 4, 1 << (DEVICE - 32));
    for round in 0..4 {
        assert!(machine.raise(0, DEVICE));
        assert!(!machine.vgic.needs_flush(0));
        assert_eq!(machine.acknowledge(0), DEVICE);
        machine.end(0, DEVICE);
        assert_eq!(machine.cpus[0].deactivated.pop(), Some(77));
        if round == 2 {
            machine.sync(0);
        }
    }
    // It comes to the CPU of the one that has had it, and the guest wants it elsewhere now.
    machine.write(0, 0x828, 1, 2);
    assert!(!machine.raise(0, DEVICE));
    machine.line(0, DEVICE, true);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    assert_eq!(machine.acknowledge(1), DEVICE);
    machine.end(1, DEVICE);
    assert_eq!(machine.cpus[1].deactivated.pop(), Some(77));
}

/// Neither before it is enabled nor while it is active, nor where no list register is free.
#[test]
fn a_devices_interrupt_that_cannot_be_listed_at_once_waits_for_the_flush() {
    const DEVICE: u32 = 40;
    let mut machine = Machine::started(1, 64, 1);
    machine.vgic.link(DEVICE, 77);
    assert!(machine.raise(0, DEVICE));
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.write(0, 0x104, 4, 1 << (DEVICE - 32));
    assert_eq!(machine.acknowledge(0), DEVICE);
    machine.end(0, DEVICE);
    // The only list register is taken.
    machine.write(0, 0xf00, 4, 2 << 24 | 3);
    machine.rest();
    assert!(machine.raise(0, DEVICE));
    machine.rest();
    assert_eq!(machine.acknowledge(0), 3);
    machine.end(0, 3);
    machine.rest();
    assert_eq!(machine.acknowledge(0), DEVICE);
    machine.end(0, DEVICE);
    assert_eq!(machine.cpus[0].deactivated, [77, 77]);
}

#[test]
fn an_edge_after_a_clear_that_is_still_under_way_is_kept() {
    let mut machine = Machine::started(2, 64, 4);
    enable_edges(&mut machine);
    pulse(&mut machine, 32);
    machine.rest();
    machine.write(1, ICPENDR + 4, 4, 1);
    pulse(&mut machine, 32);
    assert_eq!(machine.acknowledge(0), 32);
    machine.end(0, 32);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
}

#[test]
fn the_timer_interrupt_is_deactivated_by_the_hardware() {
    let mut machine = with_timer(1, 4);
    for round in 0..4 {
        assert!(machine.raise(0, TIMER));
        assert!(!machine.vgic.needs_flush(0));
        assert_eq!(machine.acknowledge(0), TIMER);
        assert_eq!(
            valid(&machine.cpus[0])[0] & (HW | 0x3ff << 10),
            HW | 27 << 10
        );
        machine.end(0, TIMER);
        assert_eq!(machine.cpus[0].deactivated.pop(), Some(27));
        assert!(!machine.cpus[0].maintenance());
        if round == 2 {
            machine.sync(0);
        }
    }
    assert_eq!(machine.vgic.next_release(0), None);
}

#[test]
fn a_timer_that_is_stopped_takes_its_interrupt_back() {
    let mut machine = with_timer(1, 4);
    for loaded in [true, false] {
        machine.line(0, TIMER, true);
        if loaded {
            machine.rest();
        }
        machine.line(0, TIMER, false);
        assert_eq!(machine.acknowledge(0), SPURIOUS);
        assert_eq!(machine.vgic.next_release(0), Some(27));
        assert_eq!(machine.vgic.next_release(0), None);
        assert_eq!(machine.vgic.held(0), 0);
    }
}

#[test]
fn the_timer_interrupt_is_held_while_its_vcpu_is_put() {
    let mut machine = with_timer(2, 4);
    machine.put(1);
    machine.line(0, TIMER, true);
    machine.put(0);
    assert_eq!(machine.vgic.held(0), 1 << TIMER);
    machine.load(0, 1);
    assert_eq!(machine.acknowledge(0), TIMER);
    machine.put(0);
    assert_eq!(machine.vgic.held(0), 1 << TIMER);
    machine.load(0, 0);
    machine.end(0, TIMER);
    assert_eq!(machine.cpus[0].deactivated, [27]);
    machine.put(0);
    assert_eq!((machine.vgic.held(0), machine.vgic.held(1)), (0, 0));
    assert_eq!(machine.vgic.next_release(0), None);
}

#[test]
fn a_timer_interrupt_that_a_register_ends_is_released() {
    let mut machine = with_timer(1, 4);
    machine.line(0, TIMER, true);
    assert_eq!(machine.acknowledge(0), TIMER);
    machine.write(0, ICACTIVER, 4, 1 << TIMER);
    machine.rest();
    assert_eq!(machine.vgic.next_release(0), Some(27));
    assert!(valid(&machine.cpus[0]).is_empty());
}

#[test]
fn a_timer_interrupt_made_pending_while_active_comes_again() {
    let mut machine = with_timer(1, 4);
    machine.line(0, TIMER, true);
    assert_eq!(machine.acknowledge(0), TIMER);
    machine.write(0, ISPENDR, 4, 1 << TIMER);
    machine.rest();
    machine.end(0, TIMER);
    assert_eq!(machine.acknowledge(0), TIMER);
    machine.end(0, TIMER);
    machine.rest();
    let by_hardware = machine.cpus[0].deactivated.len();
    let by_owner = usize::from(machine.vgic.next_release(0).is_some());
    assert_eq!(by_hardware + by_owner, 1);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
}

#[test]
fn the_last_of_two_registers_decides_whether_a_remote_interrupt_is_active() {
    for (first, last, active) in [(ICACTIVER, ISACTIVER, 1), (ISACTIVER, ICACTIVER, 0)] {
        let mut machine = Machine::started(2, 64, 4);
        enable_edges(&mut machine);
        pulse(&mut machine, 32);
        assert_eq!(machine.acknowledge(0), 32);
        machine.write(1, first + 4, 4, 1);
        machine.write(1, last + 4, 4, 1);
        assert_eq!(machine.read(1, ISACTIVER + 4, 4), active);
    }
}

#[test]
fn clearing_a_linked_edge_releases_its_physical_interrupt() {
    for listed in [false, true] {
        let mut machine = Machine::started(2, 64, 4);
        machine.vgic.link(40, 77);
        enable_edges(&mut machine);
        machine.line(0, 40, true);
        if listed {
            machine.rest();
        }
        machine.write(1, ICPENDR + 4, 4, 1 << 8);
        assert_eq!(machine.acknowledge(0), SPURIOUS);
        assert_eq!(machine.vgic.next_release(0), Some(77));
        assert_eq!(machine.vgic.next_release(0), None);
        machine.line(0, 40, true);
        assert_eq!(machine.acknowledge(0), 40);
    }
}

#[test]
fn a_reset_forgets_all_but_lines_and_links() {
    let mut machine = with_timer(1, 4);
    machine.vgic.link(40, 77);
    enable_edges(&mut machine);
    machine.line(0, 33, true);
    machine.line(0, 40, true);
    machine.write(0, SGIR, 4, 2 << 24 | 3);
    machine.put(0);
    machine.vgic.reset();
    assert_eq!(machine.vgic.next_release(0), Some(77));
    assert_eq!(machine.vgic.next_release(0), None);
    machine.load(0, 0);
    let mut fresh = Vgic::new(1, 64);
    let mut gich = Gich::new(4);
    let _ = fresh.load(0, &mut gich);
    let _ = fresh.set_level(0, 33, true);
    for offset in (0..0x1000).step_by(4) {
        let expected = fresh.read(0, offset, 4, &mut gich);
        assert_eq!(machine.read(0, offset, 4), expected, "{offset:#x}");
    }
    machine.line(0, 40, true);
    machine.line(0, 40, false);
    machine.rest();
    assert_eq!(machine.vgic.next_release(0), Some(77));
}

/// Physical interrupts behind linked ones: a line each, active from the owner's acknowledge to the
/// deactivation by the hardware or the owner.
struct Physical {
    machine: Machine,
    line: Vec<bool>,
    active: Vec<bool>,
    seed: u32,
}

/// Linked shared interrupts 32 to 39 are the physical ones 100 to 107.
const FIRST: u32 = 100;

impl Physical {
    fn new(seed: u32, lrs: usize) -> Self {
        let mut machine = with_timer(2, lrs);
        for n in 0..8 {
            machine.vgic.link(32 + n, (FIRST + n) as u16);
        }
        enable_edges(&mut machine);
        machine.write(0, ICFGR + 8, 4, 0xaa);
        for n in 4..8 {
            machine.write(0, ITARGETSR + 32 + n, 1, 2);
        }
        Self {
            machine,
            line: vec![false; 10],
            active: vec![false; 10],
            seed: seed.wrapping_mul(0x9e37_79b9) | 1,
        }
    }

    fn random(&mut self) -> u32 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 17;
        self.seed ^= self.seed << 5;
        self.seed >> 3
    }

    /// Lines 0 to 7 are shared, 8 and 9 the timers of the vCPUs.
    fn virtual_of(n: usize) -> (usize, u32) {
        if n < 8 {
            (0, 32 + n as u32)
        } else {
            (n - 8, TIMER)
        }
    }

    /// The physical interrupts that are asserted and not active are taken.
    fn fire(&mut self) {
        for n in 0..10 {
            let (vcpu, intid) = Self::virtual_of(n);
            let there = n < 8 || self.machine.on[vcpu].is_some();
            if self.line[n] && !self.active[n] && there {
                self.active[n] = true;
                let cpu = if n < 8 {
                    self.random() as usize & 1
                } else {
                    vcpu
                };
                if self.random() & 1 == 0 || !self.machine.raise(cpu, intid) {
                    self.machine.line(vcpu, intid, true);
                }
            }
        }
    }

    fn index(physical: u32, vcpu: usize) -> usize {
        if physical == 27 {
            8 + vcpu
        } else {
            (physical - FIRST) as usize
        }
    }

    /// What the hardware and the model let go of is no longer active, each once.
    fn collect(&mut self) {
        for vcpu in 0..2 {
            let Some(cpu) = self.machine.on[vcpu] else {
                continue;
            };
            self.collect_on(vcpu, cpu);
        }
    }

    fn collect_on(&mut self, vcpu: usize, cpu: usize) {
        let mut gone = std::mem::take(&mut self.machine.cpus[cpu].deactivated);
        while let Some(physical) = self.machine.vgic.next_release(vcpu) {
            gone.push(u32::from(physical));
        }
        for physical in gone {
            let n = Self::index(physical, vcpu);
            assert!(std::mem::take(&mut self.active[n]), "{physical} twice");
        }
    }

    fn put(&mut self, vcpu: usize) {
        self.machine.put(vcpu);
        self.collect_on(vcpu, vcpu);
        let held = self.machine.vgic.held(vcpu) >> TIMER & 1 != 0;
        assert_eq!(held, self.active[8 + vcpu]);
    }

    fn event(&mut self) {
        let vcpu = (self.random() & 1) as usize;
        let n = self.random() as usize % 10;
        let (owner, intid) = Self::virtual_of(n);
        let (word, bit) = (intid / 32 * 4, 1 << (intid % 32));
        match self.random() % 12 {
            0..3 => self.line[n] = !self.line[n],
            3 if !self.line[n] && self.active[n] => {
                self.machine.line(owner, intid, false);
                // A vCPU that is put has no physical timer interrupt.
                if n >= 8 && self.machine.on[owner].is_none() {
                    self.active[n] = self.machine.vgic.held(owner) != 0;
                }
            }
            4 if self.machine.on[vcpu].is_some() => self.put(vcpu),
            4 => self.machine.load(vcpu, vcpu),
            5 if self.machine.on[owner].is_some() => {
                let registers = [0x100, 0x180, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER];
                let register = registers[self.random() as usize % 6];
                self.machine.write(owner, register + word, 4, bit);
            }
            6..10 if self.machine.on[vcpu].is_some() => self.handle(vcpu),
            _ => {}
        }
        if self.random() & 1 == 0 {
            self.fire();
        }
        if self.random() & 1 == 0 {
            self.machine.rest();
            self.collect();
        }
    }

    fn handle(&mut self, vcpu: usize) {
        let iar = self.machine.acknowledge(vcpu);
        if iar != SPURIOUS {
            if self.random() & 1 == 0 {
                let n = if iar == TIMER {
                    8 + vcpu
                } else {
                    (iar - 32) as usize
                };
                self.line[n] = false;
            }
            if self.random() & 3 == 0 {
                self.fire();
            }
            self.machine.end(vcpu, iar);
        }
        self.machine.rest();
        self.collect();
    }

    /// Whatever went before, an asserted line is delivered, and again as long as it is asserted.
    fn drain(&mut self) {
        for vcpu in 0..2 {
            if self.machine.on[vcpu].is_none() {
                self.machine.load(vcpu, vcpu);
            }
            self.machine.write(vcpu, 0x100, 4, 1 << TIMER);
            self.machine.write(vcpu, ICACTIVER, 4, u32::MAX);
        }
        self.machine.write(0, 0x104, 4, 0xff);
        self.machine.write(0, ICACTIVER + 4, 4, u32::MAX);
        self.machine.rest();
        self.collect();
        for up in [true, true, false] {
            self.line.fill(up);
            self.fire();
            let mut seen = [0; 10];
            for _ in 0..30 {
                for vcpu in 0..2 {
                    let iar = self.machine.acknowledge(vcpu);
                    if iar != SPURIOUS {
                        let n = if iar == TIMER {
                            8 + vcpu
                        } else {
                            (iar - 32) as usize
                        };
                        seen[n] += 1;
                        self.line[n] = self.line[n] && seen[n] < 2;
                        self.machine.end(vcpu, iar);
                        self.machine.rest();
                        self.collect();
                        self.fire();
                    }
                }
            }
            assert!(!up || seen.iter().all(|&n| n >= 2), "{seen:?}");
        }
        assert_eq!(self.active, [false; 10]);
        for vcpu in 0..2 {
            assert_eq!(self.machine.acknowledge(vcpu), SPURIOUS);
            self.put(vcpu);
            assert_eq!(self.machine.vgic.held(vcpu), 0);
        }
    }
}

#[test]
fn linked_interrupts_are_neither_lost_nor_deactivated_twice() {
    for lrs in [4, 2, 1] {
        for seed in 1..=300 {
            let result = std::panic::catch_unwind(|| {
                let mut physical = Physical::new(seed, lrs);
                for _ in 0..400 {
                    physical.event();
                }
                physical.drain();
            });
            if let Err(panic) = result {
                eprintln!("seed {seed}, {lrs} list registers");
                std::panic::resume_unwind(panic);
            }
        }
    }
}
