//! The image: what happens from reset to the first guest.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("armillary is a bare-metal image: build it by `cargo xtask image`");
    std::process::exit(2);
}

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod image {
    use alloc::vec::Vec;
    use armillary::arch::{self, boot, boot::Handover};
    use armillary::fdt::{self, Board, Range, Tree};
    use armillary::regs::mode;
    use armillary::run::{self, Cpu};
    use armillary::{assign, console, error, info, mem, platform, vm};
    use core::panic::PanicInfo;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use spin::Once;

    static BOARD: Once<Board> = Once::new();
    static ONLINE: AtomicUsize = AtomicUsize::new(1);

    /// From `boot.s`, on the boot CPU.
    #[unsafe(no_mangle)]
    extern "Rust" fn start(handover: &Handover) -> ! {
        console::init();
        mem::init();
        arch::at_death(die);
        let Some((bytes, place)) = platform::tree(handover) else {
            stop("no device tree: give its address in r2, or put it at the start of RAM")
        };
        let mut copy = Vec::new();
        let checked = fdt::check(bytes, &mut copy).unwrap_or_else(|why| stop(why));
        let tree = Tree::of(&checked);
        platform::attach_console(&tree);
        info!("Armillary {}", env!("CARGO_PKG_VERSION"));
        if handover.mode != mode::HYP {
            stop(format_args!(
                "entered in {} mode: Armillary needs Hyp mode",
                mode::name(handover.mode)
            ));
        }
        let board = BOARD.call_once(|| Board::read(&tree).unwrap_or_else(|why| stop(why)));
        console::set_level(&board.words);
        let image = Range {
            start: handover.image,
            size: handover.image_size,
        };
        let (configs, errors) = fdt::vms(
            &tree,
            &board.memory,
            &[("the hypervisor", image), ("the device tree", place)],
        );
        for why in &errors {
            error!("{why}");
        }
        assign::offer(&board.spares);
        platform::add_ram(board, &[image, place], &configs);
        if platform::init(board).is_none() {
            stop("no room to map the interrupt controller");
        }
        let cpus = platform::start_cpus(board, || ONLINE.load(Ordering::Acquire));
        arch::mmu::forget_identity(handover.image);
        info!("{cpus} CPUs");
        if run::build(configs, cpus) == 0 {
            error!("no VM to run");
            armillary::machine::power_off();
        }
        arch::mmu::unmap_tree();
        mem::count_own(handover.image_size);
        let (own, (heap, _)) = (mem::own_bytes(), mem::heap());
        info!("own RAM: {own} bytes, of them {heap} heap");
        Cpu::new(0, platform::frequency(board)).run()
    }

    /// From `boot.s`, on every other CPU.
    #[unsafe(no_mangle)]
    extern "C" fn start_secondary(cpu: usize) -> ! {
        let Some(board) = BOARD.get() else {
            boot::stop()
        };
        platform::init_cpu(board, cpu);
        ONLINE.fetch_add(1, Ordering::Release);
        Cpu::new(cpu, platform::frequency(board)).run()
    }

    /// Says why the board can't be used, and stops.
    fn stop(why: impl core::fmt::Display) -> ! {
        error!("{why}");
        boot::stop()
    }

    #[panic_handler]
    fn panic(info: &PanicInfo<'_>) -> ! {
        // SAFETY: the machine stops after this.
        unsafe { console::seize() };
        error!("panic: {info}");
        arch::trace();
        arch::die()
    }

    /// The end of a panic: what ran, then a stop, or a reset where the board's words ask for one.
    fn die() -> ! {
        vm::last_words(arch::context::number());
        let mut words = BOARD
            .get()
            .into_iter()
            .flat_map(|board| board.words.split(' '));
        if words.any(|word| word == "panic=reset") {
            arch::smc::reset();
        }
        boot::stop()
    }
}
