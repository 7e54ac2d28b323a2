//! A device that another VM emulates: answers, its interrupt, and what comes when there is no answer.
//!
//! Command line: `dead` if the device model is told to misbehave after its first requests.
#![no_std]
#![no_main]

use bare::exception::{Fault, Kind, catch};
use bare::machine::{has, machine};
use bare::probe::EXTERNAL;
use bare::report::Outcome;
use bare::{check, check_eq, fail, gic, mmio, skip, tests, timer};

tests! {
    words_come_back_as_they_were_stored => words,
    parts_of_words_are_their_own => parts,
    the_interrupt_follows_its_line => interrupt,
    a_device_model_that_fails_ends_in_an_abort_in_time => failure,
}

/// Its last word is the level of its interrupt.
const LINE: u32 = 0xffc;

/// The device; the test is left out where it is not there or not sound.
macro_rules! device {
    (sound = $sound:expr) => {
        match machine().forwarded {
            Some(device) if has("dead") != $sound => device,
            _ => skip!("no such device"),
        }
    };
}

fn words() -> Outcome {
    let device = device!(sound = true);
    for n in 0..64 {
        mmio::write(device + 4 * n, n.wrapping_mul(0x9e37_79b9));
    }
    for n in 0..64 {
        check_eq!(
            mmio::read(device + 4 * n),
            n.wrapping_mul(0x9e37_79b9),
            "word {n}"
        );
    }
    Ok(())
}

fn parts() -> Outcome {
    let device = device!(sound = true) + 0x800;
    mmio::write(device, 0x8182_8384);
    check_eq!(mmio::read8(device + 3), 0x81, "the highest byte");
    check_eq!(mmio::read16(device + 2), 0x8182, "the higher half");
    mmio::write8(device + 1, 0x55);
    mmio::write16(device + 2, 0x6677);
    check_eq!(
        mmio::read(device),
        0x6677_5584,
        "the word after stores to its parts"
    );
    Ok(())
}

fn interrupt() -> Outcome {
    let device = device!(sound = true);
    let Some(irq) = machine().forwarded_irq else {
        skip!("it has no interrupt")
    };
    gic::init();
    gic::enable(irq);
    check_eq!(gic::next(), gic::SPURIOUS, "pending before");
    mmio::write(device + LINE, 1);
    check!(
        timer::wait(100_000, || gic::next() == irq),
        "the interrupt did not come"
    );
    let iar = gic::acknowledge();
    check_eq!(iar, irq, "acknowledged");
    mmio::write(device + LINE, 0);
    gic::end(iar);
    check!(
        timer::wait(100_000, || gic::next() == gic::SPURIOUS),
        "the interrupt stays"
    );
    Ok(())
}

fn failure() -> Outcome {
    let device = device!(sound = false);
    let mut aborts = 0;
    for n in 0..40 {
        let start = timer::now();
        let loaded = catch(|| mmio::read(device + 4 * (n % 8)));
        let passed = timer::now() - start;
        check!(
            passed < timer::ticks(400_000),
            "access {n} took {passed} ticks"
        );
        match loaded {
            Ok(_) => {}
            Err(Fault {
                kind: Kind::Data, ..
            }) => aborts += 1,
            Err(fault) => fail!("{:?}", fault.kind),
        }
        if let Err(fault) = catch(|| mmio::write(device, n)) {
            check_eq!(fault.status(), EXTERNAL.0, "the status of an abort");
            aborts += 1;
        }
    }
    check!(aborts > 0, "nothing aborted");
    Ok(())
}
