//! Exceptions, so that a test can expect one: `catch` runs a function and returns the fault that ended it.

use crate::console::print_now;
use crate::cpu::{self, CPSR_E, CPSR_T, MAX_CPUS, mode};
use crate::{mrc, psci};
use core::cell::UnsafeCell;
use core::mem::{ManuallyDrop, offset_of};
use core::sync::atomic::{AtomicUsize, Ordering};

/// Which vector was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Undefined instruction.
    Undefined,
    /// SVC.
    Svc,
    /// Prefetch abort.
    Prefetch,
    /// Data abort.
    Data,
    /// IRQ.
    Irq,
    /// FIQ.
    Fiq,
}

/// Where an exception found the CPU; what the handler returns to.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Frame {
    /// r0 to r12.
    pub r: [u32; 13],
    /// lr of SVC mode (of no use after an SVC taken from SVC mode).
    pub lr_svc: u32,
    /// CPSR as the handler's first instruction found it.
    pub cpsr: u32,
    spare: u32,
    /// lr of the exception's mode on entry; the return address on exit.
    pub pc: u32,
    /// SPSR.
    pub spsr: u32,
}

/// An exception that was caught.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which vector.
    pub kind: Kind,
    /// lr of the exception's mode, as the CPU (or the hypervisor) set it.
    pub lr: u32,
    /// SPSR of the exception's mode.
    pub spsr: u32,
    /// CPSR as the first instruction of the handler found it.
    pub cpsr: u32,
    /// DFSR for a data abort, IFSR for a prefetch abort, else 0.
    pub fsr: u32,
    /// DFAR for a data abort, IFAR for a prefetch abort, else 0.
    pub far: u32,
    /// r0 to r12 at the exception.
    pub r: [u32; 13],
}

impl Fault {
    /// Mode in which the handler ran.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.cpsr & 0x1f
    }

    /// The fault status, five bits of the short or six of the long format, without the ExT, WnR and CM bits.
    #[must_use]
    pub fn status(&self) -> u32 {
        if self.fsr & 1 << 9 != 0 {
            self.fsr & 0x3f
        } else {
            self.fsr & 0xf | self.fsr >> 6 & 0x10
        }
    }

    /// DFSR.WnR: a store.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.fsr & 1 << 11 != 0
    }
}

/// Where `try_call` started and what its function returned; vectors.s knows the offsets.
#[repr(C)]
struct Jump {
    saved: [u32; 10],
    cpsr: u32,
    result: [u32; 2],
}

const _: () = assert!(offset_of!(Jump, cpsr) == 40 && offset_of!(Jump, result) == 44);

/// A call that may end by an exception, one for each CPU.
struct Attempt {
    jump: Jump,
    armed: bool,
    fault: Option<Fault>,
}

struct PerCpu(UnsafeCell<[Attempt; MAX_CPUS]>);
// SAFETY: each CPU touches the element of its own number only.
unsafe impl Sync for PerCpu {}
static ATTEMPTS: PerCpu = PerCpu(UnsafeCell::new(
    [const {
        Attempt {
            jump: Jump {
                saved: [0; 10],
                cpsr: 0,
                result: [0; 2],
            },
            armed: false,
            fault: None,
        }
    }; MAX_CPUS],
));
static IRQ: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn try_call(jump: *mut Jump, function: u32, arguments: &[u32; 4], user_stack: u32) -> u32;
    fn recover();
    fn user_return();
    static __user_stacks: u8;
    static __user_stack_size: u8;
    /// The vectors in ARM state.
    static vectors_arm: u8;
    /// The vectors in Thumb state.
    static vectors_thumb: u8;
}

/// Address of the vectors in ARM state (the ones in use) and in Thumb state.
#[must_use]
pub fn vectors() -> (u32, u32) {
    (
        &raw const vectors_arm as u32,
        &raw const vectors_thumb as u32,
    )
}

fn attempt() -> *mut Attempt {
    // SAFETY: in bounds, as `index` is below MAX_CPUS.
    unsafe { ATTEMPTS.0.get().cast::<Attempt>().add(cpu::index()) }
}

/// Calls the code at `function` (bit 0: Thumb) with four arguments, in this mode; returns its r0 and r1, or the exception
/// that ended it. Values on its stack are forgotten then. Calls do not nest.
///
/// # Errors
/// The exception, which is otherwise without effect: masks and mode are as before.
pub fn call(function: u32, arguments: [u32; 4]) -> Result<[u32; 2], Fault> {
    run(function, arguments, 0)
}

/// `call` in User mode.
///
/// # Errors
/// As `call`.
pub fn call_user(function: u32, arguments: [u32; 4]) -> Result<[u32; 2], Fault> {
    let size = &raw const __user_stack_size as u32;
    run(
        function,
        arguments,
        &raw const __user_stacks as u32 + (cpu::index() as u32 + 1) * size,
    )
}

fn run(function: u32, arguments: [u32; 4], user_stack: u32) -> Result<[u32; 2], Fault> {
    let attempt = attempt();
    // SAFETY: this CPU's own; no reference to it lives across the call, which may come back by `recover` with the
    // registers that the procedure call standard preserves.
    unsafe {
        (*attempt).armed = true;
        (*attempt).fault = None;
        try_call(&raw mut (*attempt).jump, function, &arguments, user_stack);
        (*attempt).armed = false;
        match (*attempt).fault.take() {
            Some(fault) => Err(fault),
            None => Ok((*attempt).jump.result),
        }
    }
}

/// Runs `f` and returns what it returned, or the exception that ended it.
///
/// # Errors
/// As `call`.
pub fn catch<R, F: FnOnce() -> R>(f: F) -> Result<R, Fault> {
    let mut slot = Slot {
        f: ManuallyDrop::new(f),
        result: None,
    };
    call(
        trampoline::<R, F> as *const () as u32,
        [&raw mut slot as u32, 0, 0, 0],
    )?;
    slot.result.ok_or(Fault {
        kind: Kind::Svc,
        lr: 0,
        spsr: 0,
        cpsr: 0,
        fsr: 0,
        far: 0,
        r: [0; 13],
    })
}

struct Slot<R, F> {
    f: ManuallyDrop<F>,
    result: Option<R>,
}

extern "C" fn trampoline<R, F: FnOnce() -> R>(slot: &mut Slot<R, F>) {
    // SAFETY: `catch` calls this once, and does not use or drop `f` after.
    let f = unsafe { ManuallyDrop::take(&mut slot.f) };
    slot.result = Some(f());
}

/// Who handles IRQs of every CPU; it acknowledges and ends the interrupt itself.
pub fn on_irq(handler: fn(&mut Frame)) {
    IRQ.store(handler as usize, Ordering::Release);
}

/// What the vectors call: `kind` is the vector's number, with 16 added by the vectors in Thumb state.
#[unsafe(no_mangle)]
extern "C" fn exception(kind: u32, frame: &mut Frame) {
    let thumb = if kind & 16 != 0 { CPSR_T } else { 0 };
    let kind = match kind & 15 {
        1 => Kind::Undefined,
        2 => Kind::Svc,
        3 => Kind::Prefetch,
        4 => Kind::Data,
        6 => Kind::Irq,
        _ => Kind::Fiq,
    };
    if frame.cpsr & CPSR_E != 0 {
        (frame.pc, frame.spsr) = (frame.pc.swap_bytes(), frame.spsr.swap_bytes());
    }
    frame.cpsr |= thumb; // MRS reads the T bit as zero
    if kind == Kind::Irq && IRQ.load(Ordering::Acquire) != 0 {
        // SAFETY: only `on_irq` stores here.
        let handler: fn(&mut Frame) = unsafe { core::mem::transmute(IRQ.load(Ordering::Acquire)) };
        frame.pc -= 4;
        return handler(frame);
    }
    let fault = describe(kind, frame);
    // SAFETY: this CPU's own, used by nobody while the exception is handled.
    let attempt = unsafe { &mut *attempt() };
    if !attempt.armed {
        fatal(&fault);
    }
    let jump = &mut attempt.jump;
    if kind == Kind::Svc && frame.pc == user_return as *const () as u32 + 4 {
        jump.result = [frame.r[0], frame.r[1]];
    } else {
        attempt.fault = Some(fault);
    }
    frame.r[0] = core::ptr::from_mut(jump) as u32;
    frame.r[1] = 1;
    frame.pc = recover as *const () as u32;
    frame.spsr = jump.cpsr;
}

fn describe(kind: Kind, frame: &Frame) -> Fault {
    let (fsr, far) = match kind {
        Kind::Data => (mrc!(15, 0, 5, 0, 0), mrc!(15, 0, 6, 0, 0)),
        Kind::Prefetch => (mrc!(15, 0, 5, 0, 1), mrc!(15, 0, 6, 0, 2)),
        _ => (0, 0),
    };
    Fault {
        kind,
        lr: frame.pc,
        spsr: frame.spsr,
        cpsr: frame.cpsr,
        fsr,
        far,
        r: frame.r,
    }
}

fn fatal(fault: &Fault) -> ! {
    let Fault {
        kind,
        lr,
        spsr,
        fsr,
        far,
        ..
    } = fault;
    print_now(format_args!(
        "FAIL exception {kind:?} on CPU {} from {} mode: lr {lr:#x} spsr {spsr:#x} fsr {fsr:#x} far {far:#x} r {:x?}\n",
        cpu::index(),
        name(*spsr),
        fault.r
    ));
    psci::system_off();
}

fn name(spsr: u32) -> &'static str {
    let thumb = spsr & CPSR_T != 0;
    match (spsr & 0x1f, thumb) {
        (mode::USR, false) => "User",
        (mode::USR, true) => "User (Thumb)",
        (mode::SVC, false) => "SVC",
        (mode::SVC, true) => "SVC (Thumb)",
        (_, false) => "another",
        (_, true) => "another (Thumb)",
    }
}
