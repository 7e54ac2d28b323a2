//! A device model: emulates devices for other VMs, one for each ring that its device tree describes.
//!
//! A region whose node is called `uart@…` is a PL011 whose line ends here: what it sends is printed and comes back.
//! Any other is 4 KiB of memory, whose last word is the level of its interrupt.
//! Command line, for tests: `spin` looks for requests instead of sleeping; after `after=N` requests (default 0) it is
//! `silent`, `refuses`, tells `lies`, goes `off`, does a `reset` or a `crash`.
#![no_std]
#![no_main]

mod uart;

use bare::machine::{self, Ring as Described, has, machine};
use bare::ring::{Request, Ring};
use bare::{cpu, exception, gic, println, psci};
use core::sync::atomic::{AtomicU32, Ordering};
use uart::Uart;

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    exception::on_irq(gic::dismiss);
    gic::init();
    let mut served = machine().rings.map(|ring| ring.and_then(Served::new));
    for served in served.iter().flatten() {
        // The interrupt is of an edge.
        let (irq, shift) = (served.irq, served.irq % 16 * 2);
        let config = gic::gicd::ICFGR + irq / 16 * 4;
        gic::write(config, gic::read(config) | 2 << shift);
        gic::enable(irq);
    }
    let spin = has("spin");
    println!("model: {} devices", served.iter().flatten().count());
    loop {
        let mut idle = true;
        for served in served.iter_mut().flatten() {
            idle &= !served.serve();
        }
        if idle {
            if spin {
                cpu::relax();
            } else {
                // Masked, a pending interrupt ends WFI all the same.
                cpu::wfi();
                gic::dismiss_one();
            }
        }
    }
}

/// What is at a ring's other end.
enum Device {
    Uart(Uart),
    Memory,
}

struct Served {
    ring: Ring,
    irq: u32,
    device: Device,
    line: bool,
    requests: u32,
    /// After how many it does what tests ask for.
    after: u32,
}

impl Served {
    fn new(described: Described) -> Option<Self> {
        let device = if described.uart {
            Device::Uart(Uart::default())
        } else {
            Device::Memory
        };
        Some(Self {
            ring: Ring::open(described)?,
            irq: described.irq,
            device,
            line: false,
            requests: 0,
            after: if machine::words().any(|word| !word.starts_with("after=") && word != "spin") {
                machine::number("after", 0)
            } else {
                u32::MAX
            },
        })
    }

    /// Serves a request; whether there was one.
    fn serve(&mut self) -> bool {
        let Some(request) = self.ring.take() else {
            return false;
        };
        self.requests = self.requests.wrapping_add(1);
        if self.requests > self.after && self.misbehaves(request) {
            return true;
        }
        let (value, line) = match &mut self.device {
            Device::Uart(uart) => uart.access(request.offset, request.store),
            Device::Memory => memory(request),
        };
        if line != self.line {
            self.line = line;
            self.ring.set_line(line);
        }
        if let Some(tag) = request.tag
            && !self.ring.answer(tag, value)
        {
            println!("model: nobody waited for the answer");
        }
        true
    }

    /// Does what tests ask for instead of an answer; whether that was anything.
    fn misbehaves(&mut self, request: Request) -> bool {
        let tag = request.tag.unwrap_or(0);
        if has("lies") {
            for n in 0..64 {
                self.ring.answer(tag.wrapping_add(8 * n + 1), !0);
                self.ring.answer(n, !0);
            }
            self.ring.lie(self.requests.wrapping_mul(0x1000_0001));
        } else if has("refuses") {
            self.ring.refuse(tag);
        } else if has("off") {
            psci::system_off();
        } else if has("reset") {
            psci::system_reset();
        } else if has("crash") {
            panic!("as asked");
        } else if !has("silent") {
            return false;
        }
        true
    }
}

/// The memory, which is one for all regions.
static MEMORY: [AtomicU32; 1024] = [const { AtomicU32::new(0) }; 1024];

/// An access to it; its last word is the interrupt's level.
fn memory(request: Request) -> (u32, bool) {
    let shift = request.offset % 4 * 8;
    let mask = (u32::MAX >> (32 - 8 * request.width.clamp(1, 4))) << shift;
    let mut value = 0;
    if let Some(word) = MEMORY.get(request.offset as usize / 4) {
        let old = word.load(Ordering::Relaxed);
        match request.store {
            None => value = (old & mask) >> shift,
            Some(stored) => word.store(old & !mask | stored << shift & mask, Ordering::Relaxed),
        }
    }
    (value, MEMORY[1023].load(Ordering::Relaxed) & 1 != 0)
}
