//! The PL011 as drivers use it.

use armillary::line::Line;
use armillary::pl011::{FIFO_DEPTH, Full, Pl011, reg};

const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
const RT: u32 = 1 << 6;
const FEN: u32 = 1 << 4;

fn get(uart: &mut Pl011, offset: u32) -> u32 {
    uart.read(offset, 4).0
}

fn set(uart: &mut Pl011, offset: u32, value: u32) {
    assert_eq!(uart.write(offset, 4, value).tx, None);
}

/// FIFOs on, both receive interrupts unmasked, as Linux leaves it.
fn started() -> Pl011 {
    let mut uart = Pl011::new();
    set(&mut uart, reg::IBRD, 13);
    set(&mut uart, reg::FBRD, 1);
    set(&mut uart, reg::LCR_H, 0x70);
    set(&mut uart, reg::CR, 0x301);
    set(&mut uart, reg::IMSC, RX | RT);
    uart
}

#[test]
fn reset_values_are_those_of_the_manual() {
    let mut uart = Pl011::new();
    assert_eq!(get(&mut uart, reg::FR), 0x90);
    assert_eq!(get(&mut uart, reg::CR), 0x300);
    assert_eq!(get(&mut uart, reg::IFLS), 0x12);
    for zero in [
        reg::RSR_ECR,
        reg::ILPR,
        reg::IBRD,
        reg::FBRD,
        reg::LCR_H,
        reg::IMSC,
        reg::RIS,
        reg::MIS,
        reg::DMACR,
    ] {
        assert_eq!(get(&mut uart, zero), 0, "{zero:#x}");
    }
}

#[test]
fn identification_names_a_uart_with_sixteen_characters() {
    let mut uart = Pl011::new();
    let id = |uart: &mut Pl011, at: u32| {
        (0..4u32).fold(0, |id, n| id | (get(uart, at + 4 * n) & 0xff) << (8 * n))
    };
    assert_eq!(id(&mut uart, 0xfe0), 0x0014_1011);
    assert_eq!(id(&mut uart, 0xff0), 0xb105_f00d);
}

#[test]
fn every_register_keeps_only_the_bits_that_it_has() {
    let mut uart = Pl011::new();
    for (offset, bits) in [
        (reg::ILPR, 0xff),
        (reg::IBRD, 0xffff),
        (reg::FBRD, 0x3f),
        (reg::LCR_H, 0xff),
        (reg::CR, 0xff87),
        (reg::IFLS, 0x3f),
        (reg::IMSC, 0x7ff),
        (reg::DMACR, 7),
        (reg::FR, 0x197),
        (0x80, 0),
        (0xfe0, 0x11),
    ] {
        set(&mut uart, offset, u32::MAX);
        assert_eq!(get(&mut uart, offset), bits, "{offset:#x}");
    }
}

#[test]
fn narrow_accesses_see_their_part() {
    let mut uart = Pl011::new();
    assert_eq!(uart.write(reg::CR, 2, 0x1_0381).tx, None);
    assert_eq!(uart.read(reg::CR, 1), (0x81, Line::Same));
    assert_eq!(uart.read(reg::CR + 1, 1), (0x03, Line::Same));
    assert_eq!(uart.read(reg::CR, 2), (0x0381, Line::Same));
    assert_eq!(uart.write(reg::DR, 1, 0xabc).tx, Some(0xbc));
}

#[test]
fn characters_leave_before_anything_is_enabled() {
    let mut uart = Pl011::new();
    let effect = uart.write(reg::DR, 4, u32::from(b'x'));
    assert_eq!((effect.tx, effect.line), (Some(b'x'), Line::Same));
    assert_eq!(get(&mut uart, reg::FR), 0x90);
}

#[test]
fn each_character_sent_raises_the_transmit_interrupt_again() {
    let mut uart = started();
    set(&mut uart, reg::IMSC, RX | RT | TX);
    for _ in 0..3 {
        assert_eq!(uart.write(reg::DR, 4, 65).line, Line::Raised);
        assert_eq!(uart.write(reg::DR, 4, 66).line, Line::Same);
        assert_eq!(get(&mut uart, reg::MIS), TX);
        assert_eq!(uart.write(reg::ICR, 4, TX).line, Line::Lowered);
        assert!(!uart.line());
    }
}

#[test]
fn masking_and_unmasking_moves_the_line() {
    let mut uart = started();
    assert_eq!(uart.write(reg::DR, 4, 65).line, Line::Same);
    assert_eq!(uart.write(reg::IMSC, 4, TX).line, Line::Raised);
    assert_eq!(uart.write(reg::IMSC, 4, RX).line, Line::Lowered);
    assert_eq!(
        (get(&mut uart, reg::RIS), get(&mut uart, reg::MIS)),
        (TX, 0)
    );
}

#[test]
fn the_receive_interrupt_follows_each_trigger_level() {
    for (ifls, level) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14)] {
        let mut uart = started();
        set(&mut uart, reg::IFLS, ifls << 3);
        for n in 1..=FIFO_DEPTH {
            let expected = if n == level { Line::Raised } else { Line::Same };
            assert_eq!(uart.receive(n as u8), Ok(expected), "{ifls} {n}");
        }
        assert_eq!(get(&mut uart, reg::FR), 0xd0 & !0x10);
        for n in 1..=FIFO_DEPTH {
            let lowered = FIFO_DEPTH - n == level - 1;
            let expected = if lowered { Line::Lowered } else { Line::Same };
            assert_eq!(uart.read(reg::DR, 4), (n as u32, expected));
        }
        assert_eq!(get(&mut uart, reg::FR), 0x90);
    }
}

#[test]
fn the_time_out_tells_of_characters_below_the_trigger() {
    let mut uart = started();
    assert_eq!(uart.time_out_ns(), None);
    assert_eq!(uart.receive(b'a'), Ok(Line::Same));
    assert_eq!(uart.receive(b'b'), Ok(Line::Same));
    // 32 bits at 115,200 baud, to a per mille.
    let ns = uart.time_out_ns().expect("characters wait");
    assert!((277_000..278_500).contains(&ns), "{ns}");
    assert_eq!(uart.time_out(), Line::Raised);
    assert_eq!(uart.time_out_ns(), None);
    assert_eq!(get(&mut uart, reg::MIS), RT);
    assert_eq!(uart.read(reg::DR, 4), (u32::from(b'a'), Line::Same));
    assert_eq!(uart.read(reg::DR, 4), (u32::from(b'b'), Line::Lowered));
    assert_eq!(uart.time_out(), Line::Same);
    assert_eq!(get(&mut uart, reg::RIS), 0);
}

#[test]
fn the_slowest_baud_rate_has_a_time_out_too() {
    let mut uart = started();
    set(&mut uart, reg::IBRD, 0xffff);
    set(&mut uart, reg::FBRD, 0x3f);
    assert_eq!(uart.receive(0), Ok(Line::Same));
    assert!(uart.time_out_ns().is_some_and(|ns| ns > 1_390_000_000));
}

#[test]
fn one_character_is_enough_for_a_guest_that_masks_the_time_out() {
    let mut uart = started();
    set(&mut uart, reg::IMSC, RX);
    assert_eq!(uart.receive(b'a'), Ok(Line::Raised));
    assert_eq!(uart.receive(b'b'), Ok(Line::Same));
    assert_eq!(uart.read(reg::DR, 4), (u32::from(b'a'), Line::Same));
    assert_eq!(uart.read(reg::DR, 4), (u32::from(b'b'), Line::Lowered));
}

#[test]
fn without_fifos_there_is_one_character() {
    let mut uart = started();
    set(&mut uart, reg::LCR_H, 0x60);
    assert_eq!(uart.receive(b'a'), Ok(Line::Raised));
    assert!(!uart.room());
    assert_eq!(uart.receive(b'b'), Err(Full));
    assert_eq!(get(&mut uart, reg::FR), 0xc0);
    assert_eq!(uart.read(reg::DR, 4), (u32::from(b'a'), Line::Lowered));
    assert!(uart.room());
}

#[test]
fn turning_the_fifos_on_or_off_empties_them() {
    for lcr in [0x60, 0x70] {
        let mut uart = started();
        set(&mut uart, reg::LCR_H, lcr ^ FEN);
        assert!(uart.receive(1).is_ok());
        assert_eq!(
            uart.time_out(),
            if lcr & FEN == 0 {
                Line::Raised
            } else {
                Line::Same
            }
        );
        set(&mut uart, reg::LCR_H, lcr);
        assert_eq!(get(&mut uart, reg::FR), 0x90);
        assert!(!uart.line());
    }
}

#[test]
fn a_paste_of_64_kib_arrives_whole() {
    let mut uart = started();
    let mut paste = (0..0x1_0000u32).map(|n| (n * 7 + n / 256) as u8).peekable();
    let mut got = Vec::new();
    while got.len() < 0x1_0000 {
        while uart.room()
            && let Some(byte) = paste.next()
        {
            let _ = uart.receive(byte).expect("there was room");
        }
        // The guest drains on its interrupt alone.
        if !uart.line() {
            assert_eq!(uart.time_out(), Line::Raised, "after {}", got.len());
        }
        while get(&mut uart, reg::FR) & 0x10 == 0 {
            got.push(get(&mut uart, reg::DR) as u8);
        }
    }
    assert!(
        got.iter()
            .copied()
            .eq((0..0x1_0000u32).map(|n| (n * 7 + n / 256) as u8))
    );
}

#[test]
fn input_waits_while_the_receiver_alone_is_off() {
    let mut uart = started();
    set(&mut uart, reg::CR, 0x101);
    assert_eq!(uart.receive(b'a'), Err(Full));
    set(&mut uart, reg::CR, 0x301);
    assert_eq!(uart.receive(b'a'), Ok(Line::Same));
}

#[test]
fn loopback_returns_what_is_sent_and_tells_what_it_lost() {
    let mut uart = started();
    set(&mut uart, reg::CR, 0x381);
    assert!(!uart.room());
    for byte in 0..FIFO_DEPTH as u32 {
        assert_eq!(uart.write(reg::DR, 4, byte).tx, Some(byte as u8));
    }
    assert_eq!(get(&mut uart, reg::RIS) & 1 << 10, 0);
    let _ = uart.write(reg::DR, 4, 0x77);
    assert_eq!(get(&mut uart, reg::RIS) & 1 << 10, 1 << 10);
    assert_eq!(get(&mut uart, reg::RSR_ECR), 8);
    set(&mut uart, reg::RSR_ECR, 0);
    assert_eq!(get(&mut uart, reg::DR), 0);
    let _ = uart.write(reg::DR, 4, 0x78);
    for byte in 1..FIFO_DEPTH as u32 {
        assert_eq!(get(&mut uart, reg::DR), byte);
    }
    assert_eq!(get(&mut uart, reg::DR), 0x878);
    assert_eq!(get(&mut uart, reg::RSR_ECR), 8);
}

#[test]
fn loopback_returns_modem_outputs_and_breaks() {
    let mut uart = started();
    set(&mut uart, reg::CR, 0xff81);
    assert_eq!(get(&mut uart, reg::FR) & 0x10f, 0x107);
    assert_eq!(get(&mut uart, reg::RIS) & 0xf, 0xf);
    set(&mut uart, reg::LCR_H, 0x71);
    assert_eq!(get(&mut uart, reg::DR), 0x400);
    assert_eq!(get(&mut uart, reg::RIS) & 1 << 9, 1 << 9);
}

#[test]
fn a_break_carries_its_bit_into_data_and_status() {
    let mut uart = started();
    set(&mut uart, reg::IMSC, RX | RT | 1 << 9);
    assert_eq!(uart.receive_break(), Ok(Line::Raised));
    assert_eq!(get(&mut uart, reg::DR), 0x400);
    assert_eq!(get(&mut uart, reg::RSR_ECR), 4);
    assert_eq!(uart.write(reg::ICR, 4, 1 << 9).line, Line::Lowered);
}

#[test]
fn the_line_always_equals_the_masked_status() {
    let mut uart = Pl011::new();
    let mut level = false;
    let mut seed = 1u32;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for _ in 0..200_000 {
        let offset = if random() & 3 == 0 {
            random()
        } else {
            random() % 0x50
        };
        let width = 1 << (random() % 3);
        let line = match random() % 5 {
            0 | 1 => uart.write(offset, width, random()).line,
            2 => uart.read(offset, width).1,
            3 => uart.receive(random() as u8).unwrap_or(Line::Same),
            _ => uart.time_out(),
        };
        match line {
            Line::Same => {}
            Line::Raised => assert!(!std::mem::replace(&mut level, true)),
            Line::Lowered => assert!(std::mem::replace(&mut level, false)),
        }
        assert_eq!(level, uart.line());
        assert_eq!(level, get(&mut uart, reg::MIS) != 0);
    }
}
