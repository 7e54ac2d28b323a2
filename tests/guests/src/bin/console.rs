//! The UART is a PL011 (ARM DDI 0183G), and nothing that is sent or received is lost.
//!
//! Command line: `receive=N` prints `READY`, takes N bytes by interrupts (or `polled`) and prints `RECEIVED n crc32`;
//! `send=N` sends N numbered lines of 64 bytes. Either ends with the machine off, without the tests.
#![no_std]
#![no_main]

use bare::console::{DR, FR, RXFE, TXFF, get, put};
use bare::gic::{self, gicd};
use bare::machine::{has, machine, number};
use bare::report::{Outcome, Test, run};
use bare::{check, check_eq, cpu, mmio, print, println, psci, skip, timer};

const TESTS: &[Test] = &[
    ("uart_identifies_itself_as_a_pl011", identity),
    ("transmitter_is_empty_at_rest", at_rest),
    ("receiver_is_empty_without_input", no_input),
    (
        "line_and_interrupt_registers_hold_what_is_written",
        registers,
    ),
    ("masked_status_is_raw_status_and_mask", masked_status),
    (
        "transmit_interrupt_follows_output_and_is_cleared",
        transmit_interrupt,
    ),
    ("interrupts_reach_the_cpu_only_while_unmasked", reaches_cpu),
    ("reading_an_empty_receiver_does_no_harm", empty_read),
    ("writes_to_flags_and_identity_are_ignored", read_only),
];

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    match (number("receive", 0), number("send", 0)) {
        (0, 0) => run(TESTS),
        (0, lines) => send(lines),
        (bytes, _) => receive(bytes),
    }
    psci::system_off();
}

const IBRD: u32 = 0x24;
const FBRD: u32 = 0x28;
const LCR_H: u32 = 0x2c;
const CR: u32 = 0x30;
const IFLS: u32 = 0x34;
const IMSC: u32 = 0x38;
const RIS: u32 = 0x3c;
const MIS: u32 = 0x40;
const ICR: u32 = 0x44;

const TX: u32 = 1 << 5;
const RX: u32 = 1 << 4;
const TIMEOUT: u32 = 1 << 6;

fn read(offset: u32) -> u32 {
    mmio::read(machine().uart + offset)
}

fn write(offset: u32, value: u32) {
    mmio::write(machine().uart + offset, value);
}

/// Waits until all is sent.
fn drain() -> bool {
    timer::wait(1_000_000, || {
        read(FR) & (TXFF | 1 << 3) == 0 && read(FR) & 1 << 7 != 0
    })
}

fn identity() -> Outcome {
    for (n, expected) in [0x11, 0x10, 0x04, 0x00].into_iter().enumerate() {
        let mask = if n == 2 { 0x0f } else { 0xff }; // the upper half is the revision
        check_eq!(
            read(0xfe0 + 4 * n as u32) & mask,
            expected,
            "UARTPeriphID{n}"
        );
    }
    for (n, expected) in [0x0d, 0xf0, 0x05, 0xb1].into_iter().enumerate() {
        check_eq!(
            read(0xff0 + 4 * n as u32) & 0xff,
            expected,
            "UARTPCellID{n}"
        );
    }
    Ok(())
}

fn at_rest() -> Outcome {
    check!(drain(), "FR {:#x}", read(FR));
    Ok(())
}

fn no_input() -> Outcome {
    check!(read(FR) & RXFE != 0, "FR {:#x}", read(FR));
    check_eq!(read(RIS) & RX, 0, "receive interrupt in RIS");
    Ok(())
}

fn registers() -> Outcome {
    for (name, offset, mask) in [
        ("IBRD", IBRD, 0xffff),
        ("FBRD", FBRD, 0x3f),
        ("IFLS", IFLS, 0x3f),
        ("IMSC", IMSC, 0x7f0),
    ] {
        let old = read(offset);
        for value in [0xa5a5 & mask, 0x5a5a & mask] {
            write(offset, value);
            check_eq!(read(offset) & mask, value, "{name}");
        }
        write(offset, old);
    }
    let old = read(LCR_H);
    write(LCR_H, 0x70);
    check_eq!(read(LCR_H) & 0xff, 0x70, "LCR_H: eight bits with FIFOs");
    write(LCR_H, old);
    check_eq!(read(CR) & !0xffff, 0, "CR has sixteen bits");
    Ok(())
}

fn masked_status() -> Outcome {
    for mask in [0, TX, RX | TIMEOUT, 0x7f0] {
        write(IMSC, mask);
        check_eq!(read(MIS), read(RIS) & mask, "MIS with IMSC {mask:#x}");
    }
    write(IMSC, 0);
    Ok(())
}

fn transmit_interrupt() -> Outcome {
    check!(drain(), "the transmitter does not come to rest");
    write(ICR, 0x7ff);
    check_eq!(read(RIS) & TX, 0, "RIS after ICR");
    put(b'\n');
    check!(
        timer::wait(1_000_000, || read(RIS) & TX != 0),
        "RIS after output is {:#x}",
        read(RIS)
    );
    write(ICR, RX);
    check!(read(RIS) & TX != 0, "ICR of another bit cleared it");
    write(ICR, TX);
    check_eq!(read(RIS) & TX, 0, "RIS after ICR");
    Ok(())
}

fn reaches_cpu() -> Outcome {
    let Some(n) = machine().uart_irq else {
        skip!("the UART has no interrupt")
    };
    gic::init();
    gic::enable(n);
    write(ICR, 0x7ff);
    put(b'\n');
    check!(
        timer::wait(1_000_000, || read(RIS) & TX != 0),
        "no raw interrupt"
    );
    check!(!gic::bit(gicd::ISPENDR, n), "pending although masked");
    write(IMSC, TX);
    check!(
        timer::wait(1_000_000, || gic::next() == n),
        "not pending although unmasked"
    );
    write(IMSC, 0);
    check!(
        timer::wait(1_000_000, || gic::next() != n),
        "still pending after it was masked"
    );
    write(ICR, 0x7ff);
    gic::disable(n);
    Ok(())
}

fn empty_read() -> Outcome {
    for _ in 0..20 {
        let _ = read(DR);
    }
    check!(read(FR) & RXFE != 0, "FR {:#x}", read(FR));
    Ok(())
}

fn read_only() -> Outcome {
    let before = read(0xfe0);
    write(0xfe0, 0xff);
    write(FR, 0);
    check_eq!(read(0xfe0), before, "UARTPeriphID0");
    check!(drain() && read(FR) & RXFE != 0, "FR {:#x}", read(FR));
    Ok(())
}

fn send(lines: u32) {
    for line in 0..lines {
        println!("{line:08} the quick brown fox jumps over the lazy dog 0123456789");
    }
    println!("SENT {lines}");
}

/// CRC-32 as zlib has it, by the bit.
fn crc32(crc: u32, byte: u8) -> u32 {
    (0..8).fold(crc ^ u32::from(byte), |crc, _| {
        if crc & 1 != 0 {
            crc >> 1 ^ 0xedb8_8320
        } else {
            crc >> 1
        }
    })
}

/// Takes `bytes` bytes and names their number and CRC-32; gives up when none comes for ten seconds.
fn receive(bytes: u32) {
    let by_interrupt = machine().uart_irq.filter(|_| !has("polled"));
    gic::init();
    if let Some(n) = by_interrupt {
        write(LCR_H, 0x70);
        write(IMSC, RX | TIMEOUT);
        gic::enable(n);
    }
    println!("READY");
    let (mut count, mut crc) = (0, !0);
    while count < bytes {
        match get() {
            Some(byte) => {
                crc = crc32(crc, byte);
                count += 1;
            }
            None if !wait_for_input(by_interrupt) => break,
            None => {}
        }
    }
    write(IMSC, 0);
    print!("\n");
    println!("RECEIVED {count} {:08x}", !crc);
}

/// Waits until something is received; false after ten seconds. An interrupt that comes without anything received is ended.
fn wait_for_input(by_interrupt: Option<u32>) -> bool {
    let limit = timer::now() + timer::ticks(10_000_000);
    let Some(n) = by_interrupt else {
        return timer::wait(10_000_000, || read(FR) & RXFE == 0);
    };
    timer::Timer::Virtual.set_deadline(limit);
    timer::Timer::Virtual.set_control(timer::ENABLE);
    gic::enable(timer::Timer::Virtual.interrupt());
    while gic::next() != n && timer::now() < limit {
        cpu::wfi();
    }
    timer::Timer::Virtual.set_control(0);
    if gic::next() == n {
        write(ICR, RX | TIMEOUT);
        gic::end(gic::acknowledge());
        return true;
    }
    false
}
