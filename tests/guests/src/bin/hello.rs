//! Says hello, shows the machine that it sees, then answers what is typed at the console.
//!
//! Command line: `once` turns the machine off after the greeting.
#![no_std]
#![no_main]

use bare::machine::{has, machine};
use bare::text::Text;
use bare::{armillary, console, cpu, mrc, print, println, psci, timer};

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    println!("Hello from a bare-metal guest.");
    info();
    if has("once") {
        psci::system_off();
    }
    println!("Type help for what I know.");
    loop {
        print!("> ");
        answer(line().as_str().trim());
    }
}

fn info() {
    let machine = machine();
    let (midr, mpidr) = (mrc!(15, 0, 0, 0, 0), mrc!(15, 0, 0, 0, 5));
    println!("machine   {}", machine.model);
    println!(
        "core      {} r{}p{} (MIDR {midr:#010x})",
        cpu::core_name(midr),
        midr >> 20 & 15,
        midr & 15
    );
    println!(
        "CPU       {} of {} (MPIDR {mpidr:#010x})",
        cpu::index(),
        machine.cpu_count
    );
    println!(
        "memory    {} MiB at {:#010x}",
        machine.memory.size >> 20,
        machine.memory.base
    );
    println!(
        "timer     {}.{} MHz",
        timer::frequency() / 1_000_000,
        timer::frequency() / 100_000 % 10
    );
    println!("bootargs  {}", machine.bootargs);
    if armillary::present() {
        let (major, minor) = armillary::revision();
        println!("under     Armillary, interface {major}.{minor}");
    } else {
        println!("under     no hypervisor that I know");
    }
}

fn answer(words: &str) {
    match words {
        "" => {}
        "help" => println!("help, info, time, off; anything else I say back"),
        "info" => info(),
        "time" => {
            let ms = timer::now() / u64::from((timer::frequency() / 1000).max(1));
            println!(
                "{}.{:03} s since the counter was zero",
                ms / 1000,
                ms % 1000
            );
        }
        "off" => {
            println!("Good-bye.");
            psci::system_off();
        }
        other => println!("You said: {other}"),
    }
}

/// Reads a line, with backspace, echoing it.
fn line() -> Text<120> {
    let mut line: Text<120> = Text::new();
    loop {
        match console::get() {
            Some(b'\r' | b'\n') => {
                println!();
                return line;
            }
            Some(8 | 127) => {
                if line.pop() {
                    print!("\x08 \x08");
                }
            }
            Some(byte @ 0x20..0x7f) => {
                let mut character = [0];
                let character = char::from(byte).encode_utf8(&mut character);
                line.push(character);
                print!("{character}");
            }
            Some(_) => {}
            None => cpu::relax(),
        }
    }
}
