//! Armillary: a Type-1 hypervisor for ARMv7-A cores with the Virtualization Extensions.
//!
//! This page is the architecture. How to run it, and what a guest finds, is in `README.md`.
//!
//! # Decisions
//!
//! 1. **One image for every board.** The early assembly runs wherever it was loaded, with a zImage
//!    header in front; then the rest runs at one virtual address. The UART, interrupt controller,
//!    timer, RAM, CPUs and VMs come from the device tree ([`fdt`]).
//! 2. **A guest sees QEMU's `virt` machine** ([`bus`]), and its device tree describes what is there,
//!    so that what was built for that machine runs unmodified.
//! 3. **VMs are described in the device tree**, in bindings that boot loaders write already
//!    ([`fdt::vms()`]). A description that is wrong refuses its own VM, by node and property; the others
//!    start.
//! 4. **Exits are cheap.** A trap saves r0–r12, lr, the return address and CPSR. Banked registers,
//!    CP15, VFP, the virtual timer and the list registers stay in the hardware until another vCPU
//!    is loaded; VFP until another one uses it.
//! 5. **A guest's doing is a value.** Whatever a guest does ends as one [`exit::Next`]: resume, an
//!    exception of its own (which is a resume, too), wait, yield, off, stop. It never ends in a panic
//!    of the hypervisor.
//! 6. **Guest memory is not mapped in Hyp.** It is reached by a window that is open while bytes are
//!    copied ([`mem`]).
//! 7. **`unsafe` is in one layer**, the second below.
//!
//! # Layers
//!
//! The modules stand below in the order of their dependencies: each uses only those above it.
//! Models are plain values with `&mut self`: they know no hardware and take no locks. The machine is
//! everything that is `unsafe`. The hypervisor proper is safe again, and reaches the hardware by
//! the names of [`machine`] alone. A check of the build holds both rules, order and `unsafe`.
//!
//! A device of a guest does not call back: it returns what its interrupt line did
//! ([`line::Line`]), and the caller tells the interrupt controller.
//!
//! # From reset to the first guest
//!
//! `arch/boot.s` finds out where it was loaded, builds the tables that map the
//! image where it was linked, and turns the MMU on. `main.rs` then goes on in this order: the heap of
//! the image itself ([`mem`]); the device tree, checked whole before anything reads it
//! ([`fdt::check()`]); the console, so that whatever is wrong next can be said; the board
//! ([`fdt::Board`]) and the VMs ([`fdt::vms()`]); all RAM that is nobody else's, as free frames; the
//! interrupt controller and timers; the other CPUs, by the firmware's PSCI. [`run::build`] makes
//! each VM, spreads its vCPUs over the CPUs, and starts the first. Then every CPU is in
//! [`run::Cpu::run`] for good.
//!
//! A VM is built by [`loader`]: RAM from the free frames, stage 2, the image's parts at the
//! places its format wants ([`image`]), the initrd and a device tree. A reset does the
//! second half again.
//!
//! # Who owns what
//!
//! | | owned by | reached by others |
//! |---|---|---|
//! | [`vcpu::Vcpu`] | its CPU's [`run::Cpu`], which alone touches it | as [`vm::Link`]: a word of request bits, and a kick |
//! | [`vm::Vm`] | its vCPUs, shared | by [`vm::Vm::lock`] |
//! | frames of guest RAM | the VM's [`mem::Ram`] | not at all |
//! | what is in the hardware | the vCPU that is loaded on this CPU | the owner of a [`vm::request`] puts or folds it |
//!
//! Interrupts are masked in Hyp, so a CPU is never interrupted in the hypervisor itself: a kick that
//! comes between the last look at the requests and the entry brings the guest right out again, and
//! one before WFI ends that. A vCPU that may run elsewhere is handed to a CPU that has less to do
//! ([`balance`]): the box itself goes, with nothing of it left in the hardware, and what was asked of it
//! meanwhile is found where it arrives ([`mailbox`]).
//!
//! # Who runs
//!
//! Of the vCPUs that a CPU has ready it runs those of the highest priority, in turns ([`run::Cpu`]); a
//! VM with a reservation ([`sched`]) no longer than that allows. A vCPU that has its CPU to itself is
//! not interrupted, and waits in WFI without a trap.
//! One that gives way to a higher priority has the rest of its turn later. Shares are even on any number of
//! CPUs ([`balance`]).
//!
//! What a switch can leave out it does: the list registers of a vCPU for which there is nothing
//! ([`vgic::Loaded::quiet`]), VTTBR within a VM, VFP until it is used.
//!
//! # Locks
//!
//! Each VM has one, for all that its vCPUs share ([`vm::State`]). Whoever holds it may take the
//! console's and that of the free frames, in this order, and no other VM's: where a VM makes an access
//! for another one ([`forward`]), each one's lock is taken by itself, and what goes from one to the
//! other is left in a [`vm::Link`] with a kick. The lock of that is taken with nothing else held. The list of VMs and
//! the pool of VMIDs are locked with nothing else held. Loading a VMID that is still valid takes no
//! lock ([`vmid`]). Nothing is printed to a UART for longer than a few bytes under a lock
//! ([`tty`]).
//!
//! # Three lives
//!
//! **A load from a device.** Stage 2 has no page there, so the guest traps: the vectors of
//! `arch/switch.s` save its registers and return from `enter` to [`exit::run`]. A syndrome that
//! tells all goes to a short path in `exit/mmio`, anything else to the long one, which fetches the
//! instruction ([`walk`]) and decodes it ([`decode`]) if it has to. With the VM's lock taken,
//! [`stage2`] is asked what is at the address. An entry that is invalid to the hardware holds the device's
//! slot in its other bits, so one walk finds RAM, a device or nothing, whatever the number of devices. The
//! Where a page is not one device's, the slot leads to its [`region`]. The
//! [`vcpu::Vcpu`] asks the device, a change of its line goes to [`vgic`], the register is set, the
//! program counter moves on, and `enter` returns to the guest. Where nothing is, the guest gets the
//! external abort of a real bus ([`inject`]).
//!
//! **A load from another VM's device.** The region says which VM: the request goes into that one's [`ring`],
//! with an interrupt, and the vCPU is stalled: its CPU runs others, or waits. The other VM answers by a
//! hypercall; that is left in the vCPU's link, its CPU is kicked, and goes on with the access where it
//! stopped, before the guest runs. So it does when the time is over, with an abort.
//!
//! **An interrupt.** It takes the CPU out of the guest: [`exit::run`] ends with
//! [`exit::Next::Interrupt`], and [`irq::take`] acknowledges it and drops its priority. The virtual
//! timer's becomes pending in [`vgic`], and in a list register that names the physical
//! interrupt, which therefore stays active until the guest deactivates it. A kick has [`run`]
//! read the requests, the Hyp timer ends a slice or a wait, the console's is read by [`monitor`]. The guest
//! acknowledges and ends interrupts at the hardware's GICV, without an exit.
//!
//! **A hypercall.** `exit/hvc` finds the function number in r0. The null call returns at once;
//! the others are Armillary's own or go, with the VM's lock taken, to [`psci`], which answers with a
//! value: registers to return, a CPU to start, wait, off or reset.
//!
//! # Stopping
//!
//! PSCI, a crash or the operator asks with [`vm::Vm::stop`]. Each vCPU is asked to leave; in the
//! turns of the last one its CPU scrubs the RAM, with looks for interrupts in between, so that nobody waits for it
//! who goes before that VM. Then the VM begins again if it was a reset. A VM that is
//! off can be started again, or destroyed: then its vCPUs are dropped, and with the last one all that
//! it had. When no VM
//! is up the machine is powered off. A fault of the hypervisor's own is the one thing that is not a
//! value: it prints its registers and a backtrace, and stops the machine.
//!
//! # How it is tested
//!
//! On the host, models are tested by their public interface, much of it with random input against an
//! independent model or decoder. For the third layer `arch/fake.rs` stands in for [`machine`], with
//! a script in place of each guest, so `run`, `exit`, `irq` and `vm` run under plain `cargo test`.
//! In QEMU, guests of `tests/guests` check from inside what a machine has to be; most of them pass on
//! the bare machine too, which is what validates the checks. Linux and U-Boot from Debian run besides.
//! Counted instructions are held against `boards/qemu-virt/budget.toml`.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

// 1. Models: no `unsafe`, nothing of the machine.
pub mod addr;
pub mod table;
pub mod note;
pub mod regs;
pub mod syndrome;
pub mod decode;
pub mod stage2;
pub mod bus;
pub mod region;
pub mod ring;
pub mod walk;
pub mod vmid;
pub mod line;
pub mod vgic;
pub mod vtimer;
pub mod pl011;
pub mod pl031;
pub mod flash;
pub mod tty;
pub mod shell;
pub mod psci;
pub mod mailbox;
pub mod sched;
pub mod fdt;
pub mod lent;
pub mod image;

// 2. The machine: all `unsafe`, all assembly, all device registers.
#[cfg(target_os = "none")]
pub mod arch;
#[cfg(target_os = "none")]
pub mod driver;
#[cfg(target_os = "none")]
pub mod console;
#[cfg_attr(not(target_os = "none"), path = "arch/fake.rs")]
pub mod machine;
pub mod mem;
pub mod kept;
#[cfg(target_os = "none")]
pub mod platform;

// 3. The hypervisor: no `unsafe` again.
pub mod assign;
pub mod loader;
pub mod vm;
pub mod forward;
pub mod vcpu;
pub mod inject;
pub mod exit;
pub mod describe;
pub mod irq;
pub mod monitor;
pub mod balance;
pub mod run;
