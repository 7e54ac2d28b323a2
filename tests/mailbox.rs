//! No wake-up is lost, in every order that the memory model allows: who asks, who waits in WFI, and a vCPU that moves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use armillary::mailbox::{Mailbox, Word};
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// Tries `run` in every order of at most so many preemptions, which is where such bugs are.
fn orders(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(run);
}

/// loom's word, which tries every value that a load may see.
struct Tried(AtomicU32);

impl Word for Tried {
    fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }
    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.0.swap(value, order)
    }
    fn set(&self, bits: u32, order: Ordering) -> u32 {
        self.0.fetch_or(bits, order)
    }
    fn clear(&self, bits: u32, order: Ordering) -> u32 {
        self.0.fetch_and(!bits, order)
    }
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// Two CPUs, and the vCPU that each was handed.
struct Machine {
    mailbox: Mailbox<Tried>,
    kicked: [(Mutex<bool>, Condvar); 2],
    inbox: [Mutex<bool>; 2],
    /// What the guest's interrupt controller holds, which the asker has changed before.
    pending: AtomicBool,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            mailbox: Mailbox::new(0),
            kicked: Default::default(),
            inbox: Default::default(),
            pending: AtomicBool::new(false),
        })
    }

    /// A software-generated interrupt: a pending bit that stays.
    fn kick(&self, cpu: usize) {
        let (kicked, wfi) = &self.kicked[cpu];
        *kicked.lock().unwrap() = true;
        wfi.notify_one();
    }

    /// WFI, and the acknowledge that follows. Where nothing ends it, the test has found a deadlock.
    fn wait(&self, cpu: usize) {
        let (kicked, wfi) = &self.kicked[cpu];
        let mut kicked = kicked.lock().unwrap();
        while !*kicked {
            kicked = wfi.wait(kicked).unwrap();
        }
        *kicked = false;
    }

    fn ask(&self, bits: u32) {
        self.pending.store(true, Ordering::Relaxed);
        let home = self.mailbox.ask(bits);
        self.kick(home);
    }

    /// A CPU that has the vCPU, which is in WFI, takes requests and waits for the next kick until it has got them.
    fn serve(&self, cpu: usize) {
        while self.mailbox.take() == 0 {
            self.wait(cpu);
        }
        assert!(self.pending.load(Ordering::Relaxed), "woken too soon");
    }
}

#[test]
fn a_cpu_that_goes_to_wait_is_woken() {
    orders(|| {
        let machine = Machine::new();
        let other = machine.clone();
        let asker = thread::spawn(move || other.ask(1));
        machine.serve(0);
        asker.join().unwrap();
    });
}

#[test]
fn requests_of_two_are_both_taken() {
    orders(|| {
        let machine = Machine::new();
        let askers = [1, 2].map(|bit| {
            let other = machine.clone();
            thread::spawn(move || other.ask(bit))
        });
        let mut taken = 0;
        while taken != 3 {
            taken |= machine.mailbox.take();
            if taken != 3 {
                machine.wait(0);
            }
        }
        askers.into_iter().for_each(|asker| asker.join().unwrap());
    });
}

#[test]
fn one_request_is_taken_once_and_leaves_the_others() {
    orders(|| {
        let machine = Machine::new();
        let other = machine.clone();
        let asker = thread::spawn(move || other.ask(1));
        let taken = machine.mailbox.take_some(2);
        assert!(!taken);
        while !machine.mailbox.take_some(1) {
            machine.wait(0);
        }
        assert!(!machine.mailbox.is_asked(1));
        asker.join().unwrap();
    });
}

#[test]
fn a_vcpu_that_moves_is_woken_where_it_arrives() {
    orders(|| {
        let machine = Machine::new();
        let other = machine.clone();
        let asker = thread::spawn(move || other.ask(1));
        let there = machine.clone();
        let home = thread::spawn(move || {
            while !core::mem::take(&mut *there.inbox[1].lock().unwrap()) {
                there.wait(1);
            }
            there.serve(1);
        });
        // Handed over without a look at what may have been asked meanwhile.
        machine.mailbox.leave_for(1);
        *machine.inbox[1].lock().unwrap() = true;
        machine.kick(1);
        asker.join().unwrap();
        home.join().unwrap();
    });
}
