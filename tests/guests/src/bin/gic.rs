//! The interrupt controller behaves as the GICv2 specification says (ARM IHI 0048B), what Linux never does included.
#![no_std]
#![no_main]

use bare::exception::{Frame, on_irq};
use bare::gic::{self, SPURIOUS, gicc, gicd};
use bare::machine::machine;
use bare::report::Outcome;
use bare::{armillary, check, check_eq, console, cpu, fail, mmio, skip, smp, tests, timer};
use core::sync::atomic::{AtomicU32, Ordering};

tests! {
    distributor_describes_itself => describes,
    priorities_are_read_and_written_by_byte_and_word => priorities_by_width,
    enable_bits_are_set_and_cleared_one_by_one => enable_bits,
    configuration_of_shared_interrupts_is_level_or_edge => configuration,
    group_bits_are_read_and_written => groups,
    own_interrupts_are_targeted_at_their_own_cpu => own_targets,
    unused_registers_read_zero_and_ignore_writes => unused,
    nothing_pending_is_spurious => spurious,
    shared_interrupt_is_delivered_and_ended => delivered,
    pending_interrupt_waits_until_it_is_enabled => waits_for_enable,
    pending_interrupt_waits_until_the_distributor_is_on => waits_for_distributor,
    pending_interrupt_waits_until_the_cpu_interface_is_on => waits_for_interface,
    pending_state_is_cleared_by_software => pending_cleared,
    active_interrupt_is_not_delivered_again_until_its_end => not_twice,
    active_state_is_set_and_cleared_by_software => active_by_software,
    interrupt_pended_while_active_comes_again_after_its_end => active_and_pending,
    edge_interrupts_of_one_moment_are_one => edges_merge,
    level_interrupt_comes_again_while_its_cause_stays => level_stays,
    level_interrupt_goes_away_with_its_cause => level_goes,
    higher_priority_is_delivered_first => priority_order,
    equal_priorities_are_delivered_once_each => equal_priorities,
    priority_mask_holds_back_what_is_not_above_it => priority_mask,
    higher_priority_preempts_and_the_running_priority_follows => preemption,
    lower_priority_waits_until_the_end_of_the_active => no_preemption,
    priority_changed_while_pending_counts => priority_changed,
    highest_pending_is_shown_without_being_acknowledged => highest_pending,
    more_pending_than_list_registers_all_arrive_in_order => many_pending,
    more_active_than_list_registers_all_end => many_active,
    pending_beyond_the_list_registers_can_be_withdrawn => withdrawn,
    split_end_drops_priority_first_and_deactivates_later => split_end,
    split_deactivation_works_in_any_order => split_order,
    software_interrupt_to_self_by_each_filter => sgi_to_self,
    software_interrupts_pend_once_for_each_source => sgi_pending_registers,
    software_interrupt_to_nobody_goes_nowhere => sgi_to_nobody,
    interrupt_is_taken_as_an_exception => as_exception,
    masked_interrupt_ends_a_wait => ends_wait,
    own_interrupts_are_banked_for_each_cpu => banked,
    shared_interrupt_goes_to_the_cpu_it_is_targeted_at => targeted,
    shared_interrupt_for_two_cpus_is_taken_once => taken_once,
    retargeted_pending_interrupt_moves => retargeted,
    software_interrupts_go_to_the_listed_cpus_and_to_all_others => sgi_to_others,
    software_interrupts_from_several_cpus_are_kept_apart => sgi_sources,
    two_cpus_answer_each_other_a_thousand_times => ping_pong,
}

/// Shared interrupts that `virt` gives to no device.
const SPARE: u32 = 160;

/// Time enough for an interrupt from another CPU.
const SOON_US: u32 = 2_000_000;

/// Everything idle, on, and at one priority; interrupts are polled for.
fn fresh() -> Outcome {
    cpu::mask_irq();
    gic::init();
    if gic::lines() < SPARE + 32 {
        skip!("only {} interrupts", gic::lines());
    }
    Ok(())
}

fn pend(n: u32) {
    gic::set_bit(gicd::ISPENDR, n);
}

fn is_pending(n: u32) -> bool {
    gic::bit(gicd::ISPENDR, n)
}

fn is_active(n: u32) -> bool {
    gic::bit(gicd::ISACTIVER, n)
}

/// Acknowledges, which must give `n`; anything else is ended, so that the next test starts afresh.
fn take(n: u32) -> Outcome {
    let iar = gic::acknowledge();
    if iar != n {
        gic::end(iar);
        fail!("IAR: {iar} instead of {n}");
    }
    Ok(())
}

/// Acknowledges and ends `n`.
fn take_and_end(n: u32) -> Outcome {
    take(n)?;
    gic::end(n);
    Ok(())
}

/// Nothing is to be acknowledged.
fn quiet() -> Outcome {
    take(SPURIOUS)
}

fn describes() -> Outcome {
    let typer = gic::read(gicd::TYPER);
    check_eq!(typer >> 5 & 7, smp::count() as u32 - 1, "TYPER.CPUNumber");
    check!(gic::lines() >= 64, "{} interrupts", gic::lines());
    check_eq!(gic::read(0xfe8) >> 4 & 0xf, 2, "architecture in ICPIDR2");
    check_eq!(
        gic::read_cpu(0xfc) >> 16 & 0xf,
        2,
        "architecture in GICC_IIDR"
    );
    gic::write(gicd::TYPER, !0);
    check_eq!(gic::read(gicd::TYPER), typer, "TYPER after a write");
    Ok(())
}

fn priorities_by_width() -> Outcome {
    fresh()?;
    let address = machine().gicd + gicd::IPRIORITYR + SPARE;
    mmio::write(address, 0x8060_4020);
    for (n, expected) in [0x20, 0x40, 0x60, 0x80].into_iter().enumerate() {
        check_eq!(
            mmio::read8(address + n as u32),
            expected,
            "byte {n} of a word"
        );
    }
    mmio::write8(address + 1, 0xe0);
    check_eq!(
        mmio::read(address),
        0x8060_e020,
        "the word after a byte was written"
    );
    gic::write(gicd::IPRIORITYR, 0xa080_6040);
    check_eq!(
        gic::read(gicd::IPRIORITYR),
        0xa080_6040,
        "priorities of software interrupts"
    );
    Ok(())
}

fn enable_bits() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    gic::enable(SPARE + 5);
    check_eq!(gic::read(gicd::ISENABLER + SPARE / 8), 0x21, "ISENABLER");
    check_eq!(gic::read(gicd::ICENABLER + SPARE / 8), 0x21, "ICENABLER");
    gic::write(gicd::ISENABLER + SPARE / 8, 0);
    check_eq!(
        gic::read(gicd::ISENABLER + SPARE / 8),
        0x21,
        "ISENABLER after zero was written"
    );
    gic::disable(SPARE);
    check_eq!(
        gic::read(gicd::ISENABLER + SPARE / 8),
        0x20,
        "ISENABLER after one was disabled"
    );
    gic::disable(SPARE + 5);
    Ok(())
}

fn configuration() -> Outcome {
    fresh()?;
    let register = gicd::ICFGR + SPARE / 4;
    gic::write(register, 0xaaaa_aaaa);
    check_eq!(gic::read(register) & 0xaaaa_aaaa, 0xaaaa_aaaa, "all edge");
    gic::write(register, 0x0000_0020);
    check_eq!(gic::read(register) & 0xaaaa_aaaa, 0x20, "one edge");
    gic::write(register, 0);
    check_eq!(
        gic::read(gicd::ICFGR) & 0xaaaa_aaaa,
        0xaaaa_aaaa,
        "software interrupts are edge"
    );
    Ok(())
}

fn groups() -> Outcome {
    fresh()?;
    let register = gicd::IGROUPR + SPARE / 8;
    gic::write(register, 0x8000_0001);
    let found = gic::read(register);
    gic::write(register, 0);
    check!(found == 0x8000_0001 || found == 0, "{found:#x}");
    check_eq!(gic::read(register), 0, "IGROUPR after zero was written");
    Ok(())
}

fn own_targets() -> Outcome {
    for n in 0..32 {
        let found = mmio::read8(machine().gicd + gicd::ITARGETSR + n);
        let expected = if smp::count() == 1 {
            0
        } else {
            1 << cpu::index()
        };
        // With one CPU the registers read as zero; a one is harmless there.
        check!(
            found == expected || smp::count() == 1 && found == 1,
            "{found:#x} for interrupt {n}"
        );
    }
    Ok(())
}

fn unused() -> Outcome {
    for offset in [0x00c, 0x040, 0xf04, 0xf40, 0xf80] {
        gic::write(offset, !0);
        check_eq!(gic::read(offset), 0, "the register at {offset:#x}");
    }
    Ok(())
}

fn spurious() -> Outcome {
    fresh()?;
    quiet()?;
    gic::end(SPURIOUS);
    check_eq!(gic::next(), SPURIOUS, "HPPIR");
    check!(
        gic::read_cpu(gicc::RPR) >= 0xf8,
        "running priority {:#x}",
        gic::read_cpu(gicc::RPR)
    );
    Ok(())
}

fn delivered() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    for _ in 0..100 {
        pend(SPARE);
        take(SPARE)?;
        check!(
            is_active(SPARE) && !is_pending(SPARE),
            "not active alone after IAR"
        );
        gic::end(SPARE);
        check!(
            !is_active(SPARE) && !is_pending(SPARE),
            "not idle after EOIR"
        );
    }
    quiet()
}

fn waits_for_enable() -> Outcome {
    fresh()?;
    pend(SPARE);
    check!(is_pending(SPARE), "not pending");
    quiet()?;
    gic::enable(SPARE);
    check_eq!(gic::next(), SPARE, "HPPIR");
    gic::disable(SPARE);
    quiet()?;
    check!(is_pending(SPARE), "not pending any more");
    gic::enable(SPARE);
    take_and_end(SPARE)
}

fn waits_for_distributor() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    gic::write(gicd::CTLR, 0);
    pend(SPARE);
    quiet()?;
    gic::write(gicd::CTLR, 1);
    take_and_end(SPARE)
}

fn waits_for_interface() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    gic::write_cpu(gicc::CTLR, 0);
    pend(SPARE);
    quiet()?;
    gic::write_cpu(gicc::CTLR, 1);
    take_and_end(SPARE)
}

fn pending_cleared() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    pend(SPARE);
    gic::set_bit(gicd::ICPENDR, SPARE);
    check!(!is_pending(SPARE), "still pending");
    quiet()
}

fn not_twice() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    pend(SPARE);
    take(SPARE)?;
    quiet()?;
    gic::end(SPARE);
    quiet()
}

fn active_by_software() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    gic::set_bit(gicd::ISACTIVER, SPARE);
    check!(is_active(SPARE), "not active");
    check!(
        gic::bit(gicd::ICACTIVER, SPARE),
        "ICACTIVER does not show it"
    );
    pend(SPARE);
    quiet()?;
    gic::set_bit(gicd::ICACTIVER, SPARE);
    check!(!is_active(SPARE), "still active");
    take_and_end(SPARE)
}

fn active_and_pending() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    pend(SPARE);
    take(SPARE)?;
    pend(SPARE);
    check!(
        is_active(SPARE) && is_pending(SPARE),
        "not active and pending"
    );
    quiet()?;
    gic::end(SPARE);
    take_and_end(SPARE)?;
    quiet()
}

fn edges_merge() -> Outcome {
    fresh()?;
    gic::write(gicd::ICFGR + SPARE / 4, 0x2);
    gic::enable(SPARE);
    pend(SPARE);
    pend(SPARE);
    take_and_end(SPARE)?;
    quiet()
}

/// The UART's transmit interrupt: a level that stays until ICR clears it.
struct Cause(u32);

impl Cause {
    const IMSC: u32 = 0x38;
    const ICR: u32 = 0x44;
    const TX: u32 = 1 << 5;

    fn raise() -> Result<Self, bare::report::Reason> {
        let Some(n) = machine().uart_irq else {
            skip!("the UART has no interrupt")
        };
        fresh()?;
        let uart = machine().uart;
        mmio::write(uart + Self::ICR, 0x7ff);
        mmio::write(uart + Self::IMSC, Self::TX);
        gic::enable(n);
        console::put(b'\n');
        check!(
            timer::wait(SOON_US, || is_pending(n)),
            "the UART's interrupt is not pending"
        );
        Ok(Self(n))
    }

    fn clear(&self) {
        mmio::write(machine().uart + Self::ICR, Self::TX);
    }
}

impl Drop for Cause {
    fn drop(&mut self) {
        mmio::write(machine().uart + Self::IMSC, 0);
        mmio::write(machine().uart + Self::ICR, 0x7ff);
        gic::disable(self.0);
    }
}

fn level_stays() -> Outcome {
    let cause = Cause::raise()?;
    for _ in 0..5 {
        take(cause.0)?;
        check!(
            is_active(cause.0) && is_pending(cause.0),
            "a level that stays is active and pending"
        );
        gic::end(cause.0);
    }
    take(cause.0)?;
    cause.clear();
    check!(!is_pending(cause.0), "pending without a cause");
    gic::end(cause.0);
    quiet()
}

fn level_goes() -> Outcome {
    let cause = Cause::raise()?;
    check_eq!(gic::next(), cause.0, "HPPIR");
    gic::set_bit(gicd::ICPENDR, cause.0);
    check!(is_pending(cause.0), "ICPENDR took away a level");
    cause.clear();
    check!(!is_pending(cause.0), "pending without a cause");
    quiet()
}

fn priority_order() -> Outcome {
    fresh()?;
    for (n, priority) in [(0, 0xa0), (1, 0x40), (2, 0x80), (3, 0x20)] {
        gic::set_priority(SPARE + n, priority);
        gic::enable(SPARE + n);
        pend(SPARE + n);
    }
    [3, 1, 2, 0]
        .into_iter()
        .try_for_each(|n| take_and_end(SPARE + n))?;
    quiet()
}

/// In which order is for the implementation to choose.
fn equal_priorities() -> Outcome {
    fresh()?;
    for n in [2, 0, 3, 1] {
        gic::enable(SPARE + n);
        pend(SPARE + n);
    }
    let mut seen = 0u32;
    for _ in 0..4 {
        let iar = gic::acknowledge();
        gic::end(iar);
        seen |= 1u32.checked_shl(iar.wrapping_sub(SPARE)).unwrap_or(0);
    }
    check_eq!(seen, 0xf, "which were delivered");
    quiet()
}

fn priority_mask() -> Outcome {
    fresh()?;
    gic::set_priority(SPARE, 0x80);
    gic::enable(SPARE);
    pend(SPARE);
    for mask in [0x00, 0x40, 0x80] {
        gic::write_cpu(gicc::PMR, mask);
        check_eq!(gic::read_cpu(gicc::PMR), mask, "PMR");
        quiet()?;
    }
    gic::write_cpu(gicc::PMR, 0x88);
    take_and_end(SPARE)
}

fn preemption() -> Outcome {
    fresh()?;
    for (n, priority) in [(0, 0xc0), (1, 0x80), (2, 0x40)] {
        gic::set_priority(SPARE + n, priority);
        gic::enable(SPARE + n);
    }
    for (n, priority) in [(0, 0xc0), (1, 0x80), (2, 0x40)] {
        pend(SPARE + n);
        take(SPARE + n)?;
        check_eq!(gic::read_cpu(gicc::RPR), priority, "RPR");
    }
    for (n, left) in [(2, 0x80), (1, 0xc0)] {
        gic::end(SPARE + n);
        check_eq!(gic::read_cpu(gicc::RPR), left, "RPR after an end");
    }
    gic::end(SPARE);
    check!(gic::read_cpu(gicc::RPR) >= 0xf8, "RPR at the end");
    Ok(())
}

fn no_preemption() -> Outcome {
    fresh()?;
    for (n, priority) in [(0, 0x40), (1, 0x40), (2, 0xc0)] {
        gic::set_priority(SPARE + n, priority);
        gic::enable(SPARE + n);
    }
    pend(SPARE);
    take(SPARE)?;
    pend(SPARE + 1);
    pend(SPARE + 2);
    quiet()?;
    gic::end(SPARE);
    take_and_end(SPARE + 1)?;
    take_and_end(SPARE + 2)
}

fn priority_changed() -> Outcome {
    fresh()?;
    for n in 0..2 {
        gic::set_priority(SPARE + n, 0x80);
        gic::enable(SPARE + n);
        pend(SPARE + n);
    }
    gic::set_priority(SPARE + 1, 0x40);
    take_and_end(SPARE + 1)?;
    take_and_end(SPARE)
}

fn highest_pending() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    pend(SPARE);
    check_eq!(gic::next(), SPARE, "HPPIR");
    check_eq!(gic::next(), SPARE, "HPPIR read again");
    check!(
        is_pending(SPARE) && !is_active(SPARE),
        "HPPIR changed the state"
    );
    take_and_end(SPARE)
}

/// A GIC has at most 64 list registers, QEMU's has four: this many fit in no one's.
const MANY: u32 = 24;

fn pend_many() -> Outcome {
    fresh()?;
    for n in 0..MANY {
        // A later number has a higher priority.
        gic::set_priority(SPARE + n, (0xf0 - n * 8) as u8);
        gic::enable(SPARE + n);
    }
    for n in [0, 1]
        .into_iter()
        .flat_map(|start| (start..MANY).step_by(2))
    {
        pend(SPARE + n);
    }
    Ok(())
}

fn many_pending() -> Outcome {
    pend_many()?;
    (0..MANY).rev().try_for_each(|n| take_and_end(SPARE + n))?;
    quiet()
}

fn many_active() -> Outcome {
    fresh()?;
    for n in 0..MANY {
        gic::set_priority(SPARE + n, (0xf0 - n * 8) as u8);
        gic::enable(SPARE + n);
        pend(SPARE + n);
        take(SPARE + n)?;
    }
    for n in 0..MANY {
        check!(is_active(SPARE + n), "{n} is not active");
        pend(SPARE + n);
    }
    quiet()?;
    for n in (0..MANY).rev() {
        gic::end(SPARE + n);
        // It is pending, and the highest: it comes again before the lower ones end.
        take_and_end(SPARE + n)?;
        check!(!is_active(SPARE + n), "{n} is still active");
    }
    quiet()
}

fn withdrawn() -> Outcome {
    pend_many()?;
    for n in (0..MANY).filter(|n| n % 3 == 0) {
        gic::set_bit(gicd::ICPENDR, SPARE + n);
    }
    for n in (0..MANY).filter(|n| n % 3 == 1) {
        gic::disable(SPARE + n);
    }
    (0..MANY)
        .rev()
        .filter(|n| n % 3 == 2)
        .try_for_each(|n| take_and_end(SPARE + n))?;
    quiet()?;
    for n in (0..MANY).filter(|n| n % 3 == 1) {
        gic::enable(SPARE + n);
    }
    (0..MANY)
        .rev()
        .filter(|n| n % 3 == 1)
        .try_for_each(|n| take_and_end(SPARE + n))?;
    quiet()
}

/// GICC_CTLR.EOImode, of group 0 and of the only group there is without the Security Extensions.
const SPLIT: u32 = 1 << 9;

fn split_end() -> Outcome {
    fresh()?;
    gic::write_cpu(gicc::CTLR, 1 | SPLIT);
    check!(
        gic::read_cpu(gicc::CTLR) & SPLIT != 0,
        "EOImode does not stay"
    );
    gic::enable(SPARE);
    gic::enable(SPARE + 1);
    pend(SPARE);
    take(SPARE)?;
    gic::end(SPARE);
    check!(
        gic::read_cpu(gicc::RPR) >= 0xf8,
        "EOIR did not drop the priority"
    );
    check!(is_active(SPARE), "EOIR deactivated");
    pend(SPARE);
    quiet()?;
    pend(SPARE + 1);
    take_and_end(SPARE + 1)?;
    gic::write_cpu(gicc::DIR, SPARE + 1);
    gic::write_cpu(gicc::DIR, SPARE);
    check!(
        !is_active(SPARE) && !is_active(SPARE + 1),
        "DIR did not deactivate"
    );
    take_and_end(SPARE)?;
    gic::write_cpu(gicc::DIR, SPARE);
    gic::write_cpu(gicc::CTLR, 1);
    quiet()
}

fn split_order() -> Outcome {
    fresh()?;
    gic::write_cpu(gicc::CTLR, 1 | SPLIT);
    for n in 0..MANY {
        gic::enable(SPARE + n);
        pend(SPARE + n);
        take_and_end(SPARE + n)?;
    }
    for n in (0..MANY).map(|n| n * 7 % MANY) {
        check!(is_active(SPARE + n), "{n} is not active");
        gic::write_cpu(gicc::DIR, SPARE + n);
        check!(!is_active(SPARE + n), "{n} is still active");
    }
    gic::write_cpu(gicc::CTLR, 1);
    quiet()
}

fn sgi_to_self() -> Outcome {
    fresh()?;
    let me = cpu::index() as u32;
    for n in 0..16 {
        gic::write(gicd::SGIR, 1 << (16 + me) | n);
        take_and_end(me << 10 | n)?;
        gic::write(gicd::SGIR, 2 << 24 | n);
        take_and_end(me << 10 | n)?;
    }
    gic::write(gicd::SGIR, 1 << 24);
    quiet()
}

fn sgi_pending_registers() -> Outcome {
    fresh()?;
    // By byte: QEMU 7.2 falls over the zero bytes of a word.
    mmio::write8(machine().gicd + gicd::SPENDSGIR + 1, 1);
    check_eq!(gic::read(gicd::SPENDSGIR), 1 << 8, "SPENDSGIR");
    check_eq!(gic::read(gicd::CPENDSGIR), 1 << 8, "CPENDSGIR");
    check!(is_pending(1), "ISPENDR does not show it");
    take_and_end(1)?;
    mmio::write8(machine().gicd + gicd::SPENDSGIR + 3, 1);
    mmio::write8(machine().gicd + gicd::CPENDSGIR + 3, 1);
    check_eq!(gic::read(gicd::SPENDSGIR), 0, "SPENDSGIR after CPENDSGIR");
    gic::set_bit(gicd::ISPENDR, 2);
    check!(!is_pending(2), "ISPENDR pended a software interrupt");
    quiet()
}

fn sgi_to_nobody() -> Outcome {
    fresh()?;
    gic::write(gicd::SGIR, 3);
    gic::write(gicd::SGIR, 0x80 << 16 | 3);
    quiet()
}

static TAKEN: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];
static LAST: [AtomicU32; 8] = [const { AtomicU32::new(SPURIOUS) }; 8];

/// Counts what each CPU takes.
fn count(_: &mut Frame) {
    let iar = gic::acknowledge();
    if iar & 0x3ff != SPURIOUS {
        gic::end(iar);
        LAST[cpu::index()].store(iar, Ordering::Release);
        TAKEN[cpu::index()].fetch_add(1, Ordering::AcqRel);
    }
}

fn taken(cpu: usize) -> u32 {
    TAKEN[cpu].load(Ordering::Acquire)
}

fn as_exception() -> Outcome {
    fresh()?;
    on_irq(count);
    gic::enable(SPARE);
    let before = taken(0);
    cpu::unmask_irq();
    for _ in 0..100 {
        pend(SPARE);
        gic::send(5, 1);
    }
    cpu::mask_irq();
    check_eq!(taken(0) - before, 200, "interrupts taken");
    quiet()
}

fn ends_wait() -> Outcome {
    fresh()?;
    gic::enable(SPARE);
    for _ in 0..10 {
        pend(SPARE);
        cpu::wfi();
        take_and_end(SPARE)?;
    }
    Ok(())
}

/// Runs `work` on the second CPU while `test` runs on this one.
fn with_second(work: fn(), test: impl FnOnce() -> Outcome) -> Outcome {
    if smp::count() < 2 {
        skip!("one CPU");
    }
    fresh()?;
    STOP.store(0, Ordering::Release);
    READY.store(0, Ordering::Release);
    WORK.store(work as usize as u32, Ordering::Release);
    check_eq!(smp::start(1, second), 0, "CPU_ON");
    let ready = timer::wait(SOON_US, || READY.load(Ordering::Acquire) == 1);
    let outcome = if ready { test() } else { Ok(()) };
    STOP.store(1, Ordering::Release);
    gic::send(15, 2);
    check!(ready, "the second CPU did not start");
    check!(smp::wait_off(1), "the second CPU did not end");
    outcome
}

static STOP: AtomicU32 = AtomicU32::new(0);
static READY: AtomicU32 = AtomicU32::new(0);
static WORK: AtomicU32 = AtomicU32::new(0);

fn second() {
    gic::init_cpu();
    on_irq(count);
    // SAFETY: only `with_second` stores here.
    let work: fn() = unsafe { core::mem::transmute(WORK.load(Ordering::Acquire) as usize) };
    READY.store(1, Ordering::Release);
    work();
}

/// Takes interrupts until it is told to stop, waiting in WFI.
fn take_all() {
    while STOP.load(Ordering::Acquire) == 0 {
        cpu::wfi();
        cpu::unmask_irq();
        cpu::isb();
        cpu::mask_irq();
    }
}

/// Takes nothing.
fn take_none() {
    while STOP.load(Ordering::Acquire) == 0 {
        cpu::relax();
    }
}

/// Waits until the second CPU took one more than `before`.
fn second_took(before: u32) -> bool {
    timer::wait(SOON_US, || taken(1) > before)
}

fn banked() -> Outcome {
    static FOUND: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
    with_second(
        || {
            gic::write(gicd::IPRIORITYR + 16, 0x4040_4040);
            gic::set_bit(gicd::ISENABLER, 20);
            FOUND[0].store(gic::read(gicd::IPRIORITYR + 16), Ordering::Release);
            FOUND[1].store(gic::read(gicd::ISENABLER), Ordering::Release);
            FOUND[2].store(1, Ordering::Release);
            take_none();
        },
        || {
            check!(
                timer::wait(SOON_US, || FOUND[2].load(Ordering::Acquire) == 1),
                "the second CPU is silent"
            );
            check_eq!(
                FOUND[0].load(Ordering::Acquire),
                0x4040_4040,
                "priorities on the second CPU"
            );
            check!(
                FOUND[1].load(Ordering::Acquire) & 1 << 20 != 0,
                "the second CPU's bit is not set"
            );
            check_eq!(
                gic::read(gicd::IPRIORITYR + 16),
                0xa0a0_a0a0,
                "priorities on the first CPU"
            );
            check!(!gic::bit(gicd::ISENABLER, 20), "the first CPU's bit is set");
            Ok(())
        },
    )
}

fn targeted() -> Outcome {
    with_second(take_all, || {
        gic::enable(SPARE);
        for round in 0..100 {
            let before = taken(1);
            gic::set_targets(SPARE, 2);
            pend(SPARE);
            check!(
                second_took(before),
                "the second CPU took nothing in round {round}"
            );
            check_eq!(LAST[1].load(Ordering::Acquire), SPARE, "what it took");
            quiet()?;
            gic::set_targets(SPARE, 1);
            pend(SPARE);
            // The end on the second CPU may take its time to be seen here.
            check!(
                timer::wait(SOON_US, || gic::next() == SPARE),
                "the first CPU took nothing in round {round}"
            );
            take_and_end(SPARE)?;
        }
        Ok(())
    })
}

/// QEMU 7.2's own GIC keeps the pending state of a shared interrupt for each target, set when it was pended.
fn not_qemu() -> Outcome {
    if !armillary::present() {
        skip!("QEMU's GIC does otherwise");
    }
    Ok(())
}

fn taken_once() -> Outcome {
    not_qemu()?;
    with_second(take_all, || {
        gic::enable(SPARE);
        gic::set_targets(SPARE, 3);
        on_irq(count);
        for round in 0..100 {
            let before = taken(0) + taken(1);
            pend(SPARE);
            cpu::unmask_irq();
            let came = timer::wait(SOON_US, || taken(0) + taken(1) > before);
            cpu::mask_irq();
            check!(came, "nobody took it in round {round}");
            timer::delay(10);
            check_eq!(
                taken(0) + taken(1),
                before + 1,
                "times taken in round {round}"
            );
        }
        Ok(())
    })
}

fn retargeted() -> Outcome {
    not_qemu()?;
    with_second(take_none, || {
        gic::enable(SPARE);
        gic::set_targets(SPARE, 2);
        pend(SPARE);
        quiet()?;
        gic::set_targets(SPARE, 1);
        check!(
            timer::wait(SOON_US, || gic::next() == SPARE),
            "it did not come here"
        );
        take_and_end(SPARE)?;
        quiet()
    })
}

fn sgi_to_others() -> Outcome {
    with_second(take_all, || {
        for n in 0..15 {
            let before = taken(1);
            gic::send(n, 2);
            check!(
                second_took(before),
                "software interrupt {n} by list did not come"
            );
            check_eq!(LAST[1].load(Ordering::Acquire), n, "IAR on the second CPU");
            let before = taken(1);
            gic::write(gicd::SGIR, 1 << 24 | n);
            check!(
                second_took(before),
                "software interrupt {n} to all others did not come"
            );
            quiet()?;
            let before = taken(1);
            gic::send(n, 3);
            take_and_end(n)?;
            check!(
                second_took(before),
                "software interrupt {n} to both did not come"
            );
        }
        Ok(())
    })
}

fn sgi_sources() -> Outcome {
    with_second(
        || {
            gic::send(4, 1);
            take_none();
        },
        || {
            gic::send(4, 1);
            check!(
                timer::wait(SOON_US, || gic::read(gicd::SPENDSGIR + 4) & 0xff == 3),
                "not pending from both"
            );
            let mut seen = 0;
            for _ in 0..2 {
                let iar = gic::acknowledge();
                check_eq!(iar & 0x3ff, 4, "IAR");
                seen |= 1 << (iar >> 10 & 7);
                gic::end(iar);
            }
            check_eq!(seen, 3, "sources");
            quiet()
        },
    )
}

/// Answers each software interrupt of the first CPU by one of its own.
fn answer() {
    while STOP.load(Ordering::Acquire) == 0 {
        cpu::wfi();
        let iar = gic::acknowledge();
        if iar & 0x3ff != SPURIOUS {
            gic::end(iar);
            gic::send(1, 1);
        }
    }
}

fn ping_pong() -> Outcome {
    with_second(answer, || {
        for round in 0..1000 {
            gic::send(0, 2);
            if !timer::wait(SOON_US, || gic::next() != SPURIOUS) {
                fail!("no answer in round {round}");
            }
            take_and_end(1 << 10 | 1)?;
        }
        Ok(())
    })
}
