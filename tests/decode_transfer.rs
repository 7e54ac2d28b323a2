//! What a decoded load or store does to registers and memory, step by step, against values worked
//! out by hand from the pseudocode of ARM DDI 0406C, and properties over random instructions.

use armillary::decode::Instruction::{self, A32, T16, T32};
use armillary::decode::{Access, Form, Reason, Single, Transfer, Vectors, decode};
use armillary::regs::{Banked, Banks, Gprs, Regs, mode, psr};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Registers that stay in the hardware.
#[derive(Clone, PartialEq, Debug)]
struct Live {
    banked: [u32; 21],
    words: [u32; 64],
}

impl Banks for Live {
    fn read(&self, register: Banked) -> u32 {
        self.banked[register as usize]
    }
    fn write(&mut self, register: Banked, value: u32) {
        self.banked[register as usize] = value;
    }
}

impl Vectors for Live {
    fn word(&self, n: u32) -> u32 {
        self.words[n as usize]
    }
    fn set_word(&mut self, n: u32, value: u32) {
        self.words[n as usize] = value;
    }
}

#[derive(Clone, Debug)]
struct Machine {
    regs: Regs,
    live: Live,
    memory: BTreeMap<u32, u8>,
    log: Vec<Access>,
}

impl Machine {
    /// Register n of the user's is 0x100 n, a banked one 0xb000 and its number, a word of the
    /// extension registers 0xd0d0_0000 and its number; ARM state, the given mode, pc at 0x8000.
    fn new(mode: u32) -> Self {
        let mut regs = Regs {
            cpsr: mode,
            pc: 0x8000,
            lr_usr: 0xe00,
            ..Regs::default()
        };
        for (n, register) in regs.r.iter_mut().enumerate() {
            *register = 0x100 * n as u32;
        }
        let live = Live {
            banked: std::array::from_fn(|n| 0xb000 + n as u32),
            words: std::array::from_fn(|n| 0xd0d0_0000 + n as u32),
        };
        Self {
            regs,
            live,
            memory: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn thumb(mut self) -> Self {
        self.regs.cpsr |= psr::T;
        self
    }

    fn big_endian(mut self) -> Self {
        self.regs.cpsr |= psr::E;
        self
    }

    fn with(mut self, n: usize, value: u32) -> Self {
        self.regs.r[n] = value;
        self
    }

    fn words(mut self, address: u32, words: &[u32]) -> Self {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        for (at, byte) in (address..).zip(bytes) {
            self.memory.insert(at, byte);
        }
        self
    }

    /// Runs one instruction; stops before access number `abort`, as an abort does.
    fn run_until(&mut self, instruction: Instruction, abort: usize) -> Result<bool, Reason> {
        let mut gprs = Gprs {
            regs: &mut self.regs,
            banks: &mut self.live,
        };
        let mut transfer = Transfer::new(instruction, &gprs);
        let mut done = 0;
        while let Some(access) = transfer.next(&gprs) {
            if done == abort {
                return Ok(false);
            }
            done += 1;
            self.log.push(access);
            let mut loaded = 0;
            for i in (0..u32::from(access.size)).rev() {
                let byte = self.memory.entry(access.address.wrapping_add(i));
                match access.value {
                    Some(value) => *byte.or_default() = (value >> (8 * i)) as u8,
                    None => loaded = loaded << 8 | u32::from(*byte.or_insert(0xee)),
                }
            }
            transfer.complete(loaded, &mut gprs);
        }
        transfer
            .finish(&mut gprs)
            .map_err(|refusal| refusal.reason)?;
        Ok(true)
    }

    fn run(&mut self, instruction: Instruction) -> Result<(), Reason> {
        self.run_until(instruction, usize::MAX).map(|_| ())
    }

    /// Address and size of each access.
    fn accesses(&self) -> Vec<(u32, u8)> {
        self.log.iter().map(|a| (a.address, a.size)).collect()
    }

    /// What was stored, in order.
    fn stored(&self) -> Vec<u32> {
        self.log.iter().filter_map(|a| a.value).collect()
    }
}

fn user() -> Machine {
    Machine::new(mode::USR)
}

fn svc() -> Machine {
    Machine::new(mode::SVC)
}

#[test]
fn a_post_indexed_store_stores_at_the_base_and_then_moves_it() {
    let mut m = user().with(1, 0x4000);
    m.run(A32(0xe401_3008)).unwrap(); // str r3, [r1], #-8
    assert_eq!(m.accesses(), [(0x4000, 4)]);
    assert_eq!(m.stored(), [0x300]);
    assert_eq!((m.regs.r[1], m.regs.pc), (0x3ff8, 0x8004));
}

#[test]
fn a_pre_indexed_load_extends_the_sign_and_keeps_the_address() {
    let mut m = user().with(1, 0x4000).words(0x4200, &[0x1234_8001]);
    m.run(A32(0xe1b1_30f2)).unwrap(); // ldrsh r3, [r1, r2]!
    assert_eq!(m.accesses(), [(0x4200, 2)]);
    assert_eq!((m.regs.r[3], m.regs.r[1]), (0xffff_8001, 0x4200));
}

#[test]
fn an_index_is_shifted_and_subtracted() {
    let mut m = user().with(1, 0x4000).with(2, 0x10);
    m.run(A32(0xe711_3102)).unwrap(); // ldr r3, [r1, -r2, lsl #2]
    assert_eq!(m.accesses(), [(0x3fc0, 4)]);
    assert_eq!(m.regs.r[1], 0x4000);
}

#[test]
fn the_shifts_by_their_longest_distance_are_the_manuals() {
    for (word, offset) in [
        (0xe791_3022, 0),           // lsr #32
        (0xe791_3042, 0xffff_ffff), // asr #32
        (0xe791_3fe2, 0x0000_0003), // ror #31
        (0xe791_3f82, 0x8000_0000), // lsl #31
        (0xe791_3062, 0xc000_0000), // rrx, carry set
    ] {
        let mut m = user().with(1, 0x4000).with(2, 0x8000_0001);
        m.regs.cpsr |= 1 << 29;
        m.run(A32(word)).unwrap();
        assert_eq!(m.log[0].address, 0x4000u32.wrapping_add(offset), "{word:x}");
    }
}

#[test]
fn an_address_wraps_round() {
    let mut m = user().with(1, 0xffff_fffc);
    m.run(A32(0xe5b1_3008)).unwrap(); // ldr r3, [r1, #8]!
    assert_eq!((m.log[0].address, m.regs.r[1]), (4, 4));
}

#[test]
fn a_literal_is_relative_to_the_aligned_pc() {
    let mut m = user();
    m.run(A32(0xe59f_3008)).unwrap(); // ldr r3, [pc, #8]
    let mut t = user().thumb();
    t.regs.pc = 0x8002;
    t.run(T16(0x4801)).unwrap(); // ldr r0, [pc, #4]
    t.run(T32(0xe9df_0502)).unwrap(); // ldrd r0, r5, [pc, #8]
    assert_eq!(m.accesses(), [(0x8010, 4)]);
    assert_eq!(t.accesses(), [(0x8008, 4), (0x8010, 4), (0x8014, 4)]);
    assert_eq!(t.regs.pc, 0x8008);
}

#[test]
fn a_stored_pc_is_eight_bytes_ahead() {
    let mut m = user();
    m.run(A32(0xe581_f000)).unwrap(); // str pc, [r1]
    assert_eq!(m.stored(), [0x8008]);
}

#[test]
fn a_load_into_pc_changes_the_instruction_set() {
    let ldr_pc = A32(0xe591_f000); // ldr pc, [r1]
    let mut m = user().words(0x100, &[0x9001]);
    m.run(ldr_pc).unwrap();
    assert_eq!((m.regs.pc, m.regs.thumb()), (0x9000, true));
    let mut m = user().thumb().words(0x100, &[0x9000]);
    m.run(T32(0xf851_fb04)).unwrap(); // ldr pc, [r1], #4
    assert_eq!(
        (m.regs.pc, m.regs.thumb(), m.regs.r[1]),
        (0x9000, false, 0x104)
    );
    let mut m = user().words(0x100, &[0x9002]);
    let before = m.regs;
    assert_eq!(m.run(ldr_pc), Err(Reason::Target));
    assert_eq!(m.regs, before);
    assert_eq!(user().with(1, 0x102).run(ldr_pc), Err(Reason::Target));
}

#[test]
fn a_failed_condition_only_skips() {
    let mut m = user();
    m.run(A32(0x0401_3008)).unwrap(); // streq r3, [r1], #-8
    assert!(m.log.is_empty());
    assert_eq!((m.regs.r[1], m.regs.pc), (0x100, 0x8004));
}

#[test]
fn an_it_block_decides_and_advances() {
    // IT state: "ne", two to go: the second is "eq". Z is clear.
    let it = |state: u32| (state & 0xfc) << 8 | (state & 3) << 25;
    let mut m = user().thumb();
    m.regs.cpsr |= it(0x1c);
    m.run(T16(0x6008)).unwrap(); // strne r0, [r1]
    assert_eq!((m.log.len(), m.regs.it_state()), (1, 0x18));
    m.regs.cpsr &= !psr::IT;
    m.regs.cpsr |= it(0x08);
    m.run(T16(0x6008)).unwrap(); // streq r0, [r1]
    assert_eq!((m.log.len(), m.regs.it_state()), (1, 0));
    assert_eq!(m.regs.pc, 0x8004);
}

#[test]
fn a_jump_may_only_end_an_it_block() {
    let mut m = user().thumb();
    m.regs.cpsr |= 0x1c << 8;
    let pop = T16(0xbd01); // pop {r0, pc}
    assert_eq!(m.run(pop), Err(Reason::ItBlock));
    let mut m = user().thumb();
    m.live.banked[Banked::SpUsr as usize] = 0x4000;
    m.regs.cpsr |= 0x18 << 8;
    m = m.words(0x4000, &[1, 0x9001]);
    m.run(pop).unwrap();
    assert_eq!((m.regs.pc, m.regs.it_state()), (0x9000, 0));
    assert_eq!(m.live.banked[Banked::SpUsr as usize], 0x4008);
}

#[test]
fn a_dual_load_may_overwrite_its_base_at_the_end() {
    let mut m = user().with(2, 0x4000).words(0x4000, &[1, 2]);
    let ldrd = A32(0xe1c2_20d0); // ldrd r2, r3, [r2]
    let mut aborted = m.clone();
    assert_eq!(aborted.run_until(ldrd, 1), Ok(false));
    assert_eq!(aborted.regs, m.regs);
    m.run(ldrd).unwrap();
    assert_eq!(m.accesses(), [(0x4000, 4), (0x4004, 4)]);
    assert_eq!((m.regs.r[2], m.regs.r[3]), (1, 2));
}

#[test]
fn a_dual_store_writes_back_after_both_words() {
    let mut m = user();
    let strd = A32(0xe1e1_20f8); // strd r2, r3, [r1, #8]!
    let mut aborted = m.clone();
    assert_eq!(aborted.run_until(strd, 1), Ok(false));
    assert_eq!(aborted.regs, m.regs);
    m.run(strd).unwrap();
    assert_eq!(m.accesses(), [(0x108, 4), (0x10c, 4)]);
    assert_eq!((m.stored(), m.regs.r[1]), (vec![0x200, 0x300], 0x108));
}

#[test]
fn blocks_lie_to_their_base_as_their_names_say() {
    for (word, first, end) in [
        (0xe8a1_0030, 0x4000, 0x4008), // stmia r1!, {r4, r5}
        (0xe9a1_0030, 0x4004, 0x4008), // stmib
        (0xe821_0030, 0x3ffc, 0x3ff8), // stmda
        (0xe921_0030, 0x3ff8, 0x3ff8), // stmdb
    ] {
        let mut m = user().with(1, 0x4000);
        m.run(A32(word)).unwrap();
        assert_eq!(m.accesses(), [(first, 4), (first + 4, 4)]);
        assert_eq!((m.stored(), m.regs.r[1]), (vec![0x400, 0x500], end));
    }
}

#[test]
fn a_multiple_load_fills_ascending_registers_of_the_mode_and_jumps() {
    let mut m = svc().with(1, 0x4000).words(0x4004, &[1, 2, 3, 0x9000]);
    m.run(A32(0xe9b1_e001)).unwrap(); // ldmib r1!, {r0, sp, lr, pc}
    assert_eq!((m.regs.r[0], m.regs.r[1], m.regs.pc), (1, 0x4010, 0x9000));
    assert_eq!(m.live.read(Banked::SpSvc), 2);
    assert_eq!(m.live.read(Banked::LrSvc), 3);
    assert_eq!(m.regs.lr_usr, 0xe00);
}

#[test]
fn an_aborted_multiple_load_leaves_base_and_pc() {
    let m = user().with(1, 0x4000).words(0x4000, &[1, 2, 3]);
    let ldm = A32(0xe891_0007); // ldm r1, {r0, r1, r2}
    let mut aborted = m.clone();
    assert_eq!(aborted.run_until(ldm, 2), Ok(false));
    assert_eq!(aborted.regs.r[..3], [1, 0x4000, 0x200]);
    assert_eq!(aborted.regs.pc, 0x8000);
    aborted.run(ldm).unwrap();
    assert_eq!(aborted.regs.r[..3], [1, 2, 3]);
}

#[test]
fn user_registers_are_transferred_from_another_mode() {
    let mut m = Machine::new(mode::FIQ).with(1, 0x4000);
    m.run(A32(0xe8c1_6100)).unwrap(); // stm r1, {r8, sp, lr}^
    assert_eq!(m.stored(), [0x800, 0xb000 + Banked::SpUsr as u32, 0xe00]);
    m = m.words(0x4000, &[1, 2, 3]);
    m.run(A32(0xe8d1_6100)).unwrap(); // ldm r1, {r8, sp, lr}^
    assert_eq!((m.regs.r[8], m.regs.lr_usr), (1, 3));
    assert_eq!(m.live.read(Banked::SpUsr), 2);
    assert_eq!(m.live.read(Banked::R8Fiq), 0xb000 + Banked::R8Fiq as u32);
    for mode in [mode::USR, mode::SYS] {
        assert_eq!(Machine::new(mode).run(A32(0xe8c1_6100)), Err(Reason::Mode));
    }
}

#[test]
fn a_return_by_a_multiple_load_restores_cpsr() {
    let mut m = svc().words(0x4000, &[7, 0x9003]);
    m.live.write(Banked::SpSvc, 0x4000);
    m.live.write(Banked::SpsrSvc, 0x6000_0030);
    m.run(A32(0xe8fd_8001)).unwrap(); // ldm sp!, {r0, pc}^
    assert_eq!((m.regs.r[0], m.regs.pc), (7, 0x9002));
    assert_eq!(m.regs.cpsr, 0x6000_0030);
    assert_eq!(m.live.read(Banked::SpSvc), 0x4008);
}

#[test]
fn a_return_to_a_mode_or_state_that_is_not_the_guests_is_refused() {
    let monitor = mode::MON;
    let hyp = mode::HYP;
    let jazelle = mode::USR | psr::J;
    let block_in_arm = mode::USR | 1 << 10;
    for spsr in [monitor, hyp, jazelle, block_in_arm, 0] {
        let mut m = svc().words(0x100, &[0x9000, spsr]);
        let before = (m.regs, m.live.clone());
        assert_eq!(m.run(A32(0xf8b1_0a00)), Err(Reason::Return)); // rfeia r1!
        assert_eq!((m.regs, m.live), before);
    }
}

#[test]
fn rfe_loads_pc_and_then_cpsr() {
    let mut m = svc().words(0x100, &[0x9002, 0x8000_0010]);
    m.run(A32(0xf8b1_0a00)).unwrap(); // rfeia r1!
    assert_eq!(m.accesses(), [(0x100, 4), (0x104, 4)]);
    assert_eq!(
        (m.regs.pc, m.regs.cpsr, m.regs.r[1]),
        (0x9000, 0x8000_0010, 0x108)
    );
    assert_eq!(user().run(A32(0xf8b1_0a00)), Err(Reason::Mode));
}

#[test]
fn srs_stores_on_the_stack_of_the_mode_named() {
    let mut m = Machine::new(mode::IRQ);
    m.live.write(Banked::SpUsr, 0x4000);
    m.run(A32(0xf96d_051f)).unwrap(); // srsdb sp!, #31
    assert_eq!(m.accesses(), [(0x3ff8, 4), (0x3ffc, 4)]);
    assert_eq!(
        m.stored(),
        [
            0xb000 + Banked::LrIrq as u32,
            0xb000 + Banked::SpsrIrq as u32
        ]
    );
    assert_eq!(m.live.read(Banked::SpUsr), 0x3ff8);
    assert_eq!(
        Machine::new(mode::SYS).run(A32(0xf96d_051f)),
        Err(Reason::Mode)
    );
}

#[test]
fn only_the_unprivileged_forms_have_the_users_rights() {
    let mut m = svc();
    m.run(A32(0xe4a1_3004)).unwrap(); // strt r3, [r1], #4
    m.run(A32(0xe481_3004)).unwrap(); // str r3, [r1], #4
    assert!(m.log[0].unprivileged && !m.log[1].unprivileged);
    assert_eq!(m.regs.r[1], 0x108);
}

#[test]
fn a_swap_loads_then_stores_and_an_abort_between_changes_no_register() {
    let mut m = user().words(0x100, &[0x55]);
    let swp = A32(0xe101_3093); // swp r3, r3, [r1]
    let mut aborted = m.clone();
    assert_eq!(aborted.run_until(swp, 1), Ok(false));
    assert_eq!(aborted.regs, m.regs);
    m.run(swp).unwrap();
    assert_eq!(m.accesses(), [(0x100, 4), (0x100, 4)]);
    assert_eq!((m.stored(), m.regs.r[3]), (vec![0x300], 0x55));
}

#[test]
fn exclusives_are_marked_and_a_store_reports_its_status() {
    let mut m = user().with(2, 0x4000).words(0x4000, &[1, 2]);
    m.run(A32(0xe1b2_2f9f)).unwrap(); // ldrexd r2, r3, [r2]
    assert_eq!((m.regs.r[2], m.regs.r[3]), (1, 2));
    m.run(A32(0xe1a1_4f92)).unwrap(); // strexd r4, r2, r3, [r1]
    assert_eq!((m.stored(), m.regs.r[4]), (vec![1, 2], 0));
    assert!(m.log.iter().all(|access| access.exclusive));
}

#[test]
fn a_lost_store_exclusive_stores_nothing_and_says_so() {
    let mut m = user();
    let instruction = A32(0xe1a1_4f92); // strexd r4, r2, r3, [r1]
    let mut gprs = Gprs {
        regs: &mut m.regs,
        banks: &mut m.live,
    };
    let mut transfer = Transfer::new(instruction, &gprs);
    transfer.lose();
    assert_eq!(transfer.next(&gprs), None);
    transfer.finish(&mut gprs).unwrap();
    assert_eq!((m.regs.r[4], m.regs.pc), (1, 0x8004));
}

#[test]
fn alignment_is_checked_where_the_instruction_demands_it() {
    for (instruction, alignment) in [
        (A32(0xe891_0007), 4),  // ldm r1, {r0, r1, r2}
        (A32(0xe1c1_20d0), 4),  // ldrd r2, r3, [r1]
        (A32(0xe191_2f9f), 4),  // ldrex r2, [r1]
        (A32(0xe1f1_2f9f), 2),  // ldrexh r2, [r1]
        (A32(0xe1b1_2f9f), 8),  // ldrexd r2, r3, [r1]
        (A32(0xe101_3093), 4),  // swp r3, r3, [r1]
        (A32(0xedd1_1b00), 4),  // vldr d17, [r1]
        (A32(0xf421_023f), 32), // vld1.8 {d0-d3}, [r1:256]
        (A32(0xf421_020f), 1),  // vld1.8 {d0-d3}, [r1]
        (A32(0xe591_3000), 1),  // ldr r3, [r1]
        (A32(0xf891_0a00), 4),  // rfeia r1
    ] {
        for low in 0..32 {
            let mut m = svc().with(1, 0x4000 + low).words(0x4000, &[mode::SVC; 32]);
            let refused = m.run(instruction) == Err(Reason::Unaligned);
            assert_eq!(refused, low % alignment != 0, "{instruction:x?} {low}");
        }
    }
}

#[test]
fn a_table_branch_goes_forward_by_twice_the_entry() {
    let mut m = user().thumb().with(2, 3).words(0x8008, &[0x0011_0000]);
    m.regs.pc = 0x8000;
    m.run(T32(0xe8df_f012)).unwrap(); // tbh [pc, r2, lsl #1]
    assert_eq!(m.accesses(), [(0x800a, 2)]);
    assert_eq!(m.regs.pc, 0x8004 + 0x22);
}

#[test]
fn a_hint_does_nothing() {
    let mut m = user();
    m.run(A32(0xf5d1_f004)).unwrap(); // pld [r1, #4]
    assert!(m.log.is_empty());
    assert_eq!(m.regs.pc, 0x8004);
}

#[test]
fn big_endian_data_reverses_each_access() {
    let mut m = user()
        .big_endian()
        .words(0x100, &[0x0102_0304, 0x0506_0708]);
    m.run(A32(0xe1c1_20d0)).unwrap(); // ldrd r2, r3, [r1]
    assert_eq!((m.regs.r[2], m.regs.r[3]), (0x0403_0201, 0x0807_0605));
    m.run(A32(0xe1d1_40f0)).unwrap(); // ldrsh r4, [r1]
    assert_eq!(m.regs.r[4], 0x0403);
    m.log.clear();
    m.run(A32(0xe1c1_20b0)).unwrap(); // strh r2, [r1]
    assert_eq!(m.stored(), [0x0102]);
}

#[test]
fn thumbee_state_is_refused() {
    let mut m = user().thumb();
    m.regs.cpsr |= psr::J;
    assert_eq!(m.run(T16(0x6008)), Err(Reason::State));
}

#[test]
fn vector_registers_are_moved_word_by_word() {
    let mut m = user().words(0x108, &[1, 2]);
    m.run(A32(0xedd1_1b02)).unwrap(); // vldr d17, [r1, #8]
    assert_eq!(m.live.words[34..36], [1, 2]);
    m.log.clear();
    m.run(A32(0xed61_1a03)).unwrap(); // vstmdb r1!, {s3-s5}
    assert_eq!(m.accesses(), [(0xf4, 4), (0xf8, 4), (0xfc, 4)]);
    assert_eq!(m.stored(), [0xd0d0_0003, 0xd0d0_0004, 0xd0d0_0005]);
    assert_eq!(m.regs.r[1], 0xf4);
    m.run(A32(0xecb1_0b03)).unwrap(); // fldmiax r1!, {d0}
    assert_eq!(m.regs.r[1], 0xf4 + 12);
}

#[test]
fn big_endian_doublewords_have_their_high_word_first() {
    let mut m = user().big_endian();
    m.live.words[34] = 0x0403_0201;
    m.live.words[35] = 0x0807_0605;
    m.run(A32(0xedc1_1b00)).unwrap(); // vstr d17, [r1]
    m.live.words[6] = 0x0403_0201;
    m.live.words[7] = 0x0807_0605;
    m.run(A32(0xf401_37cf)).unwrap(); // vst1.64 {d3}, [r1]
    assert_eq!(
        m.stored(),
        [0x0506_0708, 0x0102_0304, 0x0506_0708, 0x0102_0304]
    );
}

#[test]
fn structures_are_interleaved() {
    let mut m = user();
    for i in 0..24 {
        m.memory.insert(0x100 + i, i as u8);
    }
    m.run(A32(0xf421_050d)).unwrap(); // vld3.8 {d0, d2, d4}, [r1]!
    assert_eq!(
        m.accesses(),
        (0..24).map(|i| (0x100 + i, 1)).collect::<Vec<_>>()
    );
    assert_eq!(m.live.words[0..2], [0x0906_0300, 0x1512_0f0c]);
    assert_eq!(m.live.words[4..6], [0x0a07_0401, 0x1613_100d]);
    assert_eq!(m.live.words[8..10], [0x0b08_0502, 0x1714_110e]);
    assert_eq!(m.live.words[2], 0xd0d0_0002);
    assert_eq!(m.regs.r[1], 0x118);
}

#[test]
fn pairs_of_registers_are_interleaved_one_pair_after_the_other() {
    let mut m = user();
    m.run(A32(0xf401_0342)).unwrap(); // vst2.16 {d0-d3}, [r1], r2
    let halves: Vec<u32> = (0..2)
        .flat_map(|r| {
            (0..4).flat_map(move |e| {
                // d0 with d2, then d1 with d3; word 2d and 2d + 1.
                [r, r + 2].map(|d| [2 * d + e / 2, 0xd0d0][(e % 2) as usize])
            })
        })
        .collect();
    assert_eq!(m.stored(), halves);
    assert_eq!((m.accesses().len(), m.regs.r[1]), (16, 0x300));
}

#[test]
fn one_lane_leaves_the_others_alone() {
    let mut m = user().words(0x100, &[0x2222_1111, 0x4444_3333]);
    m.run(A32(0xf4a1_079d)).unwrap(); // vld4.16 {d0[2], d1[2], d2[2], d3[2]}, [r1:64]!
    assert_eq!(m.accesses().len(), 4);
    for (d, value) in [0x1111, 0x2222, 0x3333, 0x4444].into_iter().enumerate() {
        assert_eq!(m.live.words[2 * d], 0xd0d0_0000 + 2 * d as u32);
        assert_eq!(m.live.words[2 * d + 1], 0xd0d0_0000 | value);
    }
    assert_eq!(m.regs.r[1], 0x108);
}

#[test]
fn all_lanes_get_the_one_element_loaded() {
    let mut m = user().words(0x100, &[0xab]);
    m.run(A32(0xf4a1_0c2d)).unwrap(); // vld1.8 {d0[], d1[]}, [r1]!
    assert_eq!(m.accesses(), [(0x100, 1)]);
    assert_eq!(
        m.live.words[..5],
        [
            0xabab_abab,
            0xabab_abab,
            0xabab_abab,
            0xabab_abab,
            0xd0d0_0004
        ]
    );
    assert_eq!(m.regs.r[1], 0x101);
}

#[test]
fn what_is_no_load_or_store_is_not_memory() {
    for instruction in [
        A32(0xe1a0_0000), // mov r0, r0
        A32(0xe000_0090), // mul r0, r0, r0
        A32(0xf57f_f05f), // dmb sy
        A32(0xef00_0000), // svc #0
        T16(0xbf00),      // nop
        T32(0xf3bf_8f5f), // dmb sy
        A32(0xee11_0f10), // mrc p15, 0, r0, c1, c0, 0
    ] {
        assert_eq!(decode(instruction).unwrap_err().reason, Reason::NotMemory);
        assert_eq!(decode(instruction).unwrap_err().instruction, instruction);
    }
}

/// A word of the spaces that hold loads and stores, in A32 or T32.
fn any_instruction() -> impl Strategy<Value = Instruction> {
    prop_oneof![
        any::<u32>().prop_map(|w| A32(w & 0x0fff_ffff | 0xe000_0000)),
        any::<u32>().prop_map(|w| A32(w & 0x0fff_ffff | 0xf000_0000)),
        any::<u32>().prop_map(|w| A32(w & 0x01ff_ff6f | 0xe000_0090)),
        any::<u32>().prop_map(|w| A32(w & 0x00ff_ffff | 0xf400_0000)),
        any::<u32>().prop_map(|w| A32(w & 0x01ff_feff | 0xec00_0a00 | w & 0x100)),
        any::<u32>().prop_map(|w| T32(w & 0x01ff_ffff | 0xe800_0000)),
        any::<u32>().prop_map(|w| T32(w & 0x01ff_ffff | 0xf800_0000)),
        any::<u16>().prop_map(T16),
    ]
}

prop_compose! {
    fn any_machine()(
        r in any::<[u32; 13]>(),
        aligned in any::<bool>(),
        lr_usr: u32,
        pc: u32,
        flags: u32,
        mode in prop::sample::select(vec![
            mode::USR, mode::FIQ, mode::IRQ, mode::SVC, mode::ABT, mode::UND, mode::SYS,
        ]),
        banked in any::<[u32; 21]>(),
    ) -> Machine {
        let align = |value: u32| if aligned { value & !31 } else { value };
        let mut m = Machine::new(mode);
        m.regs.r = r.map(align);
        m.regs.lr_usr = lr_usr;
        m.regs.pc = pc & !1;
        m.regs.cpsr |= flags & 0xf600_fe00;
        m.live.banked = banked.map(align);
        m
    }
}

/// The base of an instruction, and the register that STREX or SWP writes at the end.
fn kept(form: Form) -> Vec<u32> {
    match form {
        Form::Single(single) => vec![single.at().n()],
        Form::Dual { at, .. } => vec![at.n()],
        Form::Exclusive { n, d, .. } => vec![n.into(), d.into()],
        Form::Swap { n, t, .. } => vec![n.into(), t.into()],
        Form::Multiple { n, .. } | Form::Return { n, .. } | Form::Vector { n, .. } => {
            vec![n.into()]
        }
        Form::Structure(structure) => vec![structure.n.into()],
        Form::TableBranch { n, m, .. } => vec![n.into(), m.into()],
        Form::Hint | Form::Save { .. } => vec![],
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_that_a_guest_executes_panics_and_an_abort_keeps_base_pc_and_state(
        instruction in any_instruction(),
        machine in any_machine(),
        abort in 0usize..40,
    ) {
        let mut m = machine.clone();
        m.regs.cpsr |= if matches!(instruction, A32(_)) { 0 } else { psr::T };
        let before = m.clone();
        let result = m.run_until(instruction, abort);
        prop_assert!(m.log.len() <= 32);
        let Ok(op) = decode(instruction) else {
            return Ok(());
        };
        if result == Ok(true) {
            return Ok(());
        }
        prop_assert_eq!((m.regs.pc, m.regs.cpsr), (before.regs.pc, before.regs.cpsr));
        for n in kept(op.form) {
            let mut now = m.clone();
            let mut then = before.clone();
            let now = Gprs { regs: &mut now.regs, banks: &mut now.live };
            let then = Gprs { regs: &mut then.regs, banks: &mut then.live };
            prop_assert_eq!(now.get(n), then.get(n));
        }
    }

    #[test]
    fn an_aborted_load_or_store_that_starts_again_ends_as_if_it_had_not_been_aborted(
        instruction in any_instruction(),
        machine in any_machine(),
        abort in 0usize..16,
    ) {
        let mut once = machine.clone();
        once.regs.cpsr |= if matches!(instruction, A32(_)) { 0 } else { psr::T };
        let mut twice = once.clone();
        let Ok(false) = twice.run_until(instruction, abort) else {
            return Ok(());
        };
        prop_assert_eq!(once.run(instruction), twice.run(instruction));
        prop_assert_eq!(once.regs, twice.regs);
        prop_assert_eq!(once.live, twice.live);
        prop_assert_eq!(once.memory, twice.memory);
    }

    #[test]
    fn a_single_load_or_store_does_what_its_transfer_does(
        instruction in any_instruction(),
        machine in any_machine(),
        loaded: u32,
    ) {
        let mut long = machine.clone();
        long.regs.cpsr |= if matches!(instruction, A32(_)) { 0 } else { psr::T };
        let it = if matches!(instruction, A32(_)) { psr::IT } else { 0 };
        long.regs.cpsr &= !it;
        let mut short = long.clone();
        let mut gprs = Gprs { regs: &mut short.regs, banks: &mut short.live };
        let single = Single::of(instruction, gprs.regs);
        if let A32(word) = instruction {
            prop_assert_eq!(Single::of_word(word, gprs.regs), single);
        }
        let mut other = Gprs { regs: &mut long.regs, banks: &mut long.live };
        let mut transfer = Transfer::new(instruction, &other);
        let access = transfer.next(&other);
        let Some(single) = single else {
            // What else there is of the kind is of pc.
            let form = transfer.op().form;
            prop_assert!(access.is_none() || !matches!(form, Form::Single(s) if s.t() != 15));
            return Ok(());
        };
        let (address, moved) = single.resolve(&gprs);
        let value = (!single.load()).then(|| single.stored(&gprs));
        prop_assert_eq!(access, Some(Access {
            address,
            size: single.size(),
            value,
            unprivileged: single.unprivileged(),
            exclusive: false,
        }));
        let loaded = loaded & (u32::MAX >> (32 - 8 * single.size()));
        transfer.complete(loaded, &mut other);
        prop_assert!(transfer.finish(&mut other).is_ok());
        let loaded = single.load().then_some(loaded);
        single.finish(instruction.length(), moved, loaded, &mut gprs);
        prop_assert_eq!(short.regs, long.regs);
        prop_assert_eq!(short.live, long.live);
    }

    #[test]
    fn accesses_ascend_without_a_gap(instruction in any_instruction(), machine in any_machine()) {
        let mut m = machine.clone();
        m.regs.cpsr |= if matches!(instruction, A32(_)) { 0 } else { psr::T };
        if m.run(instruction).is_err() || matches!(decode(instruction).map(|op| op.form), Ok(Form::Swap { .. })) {
            return Ok(());
        }
        for pair in m.log.windows(2) {
            let end = pair[0].address.wrapping_add(u32::from(pair[0].size));
            prop_assert_eq!(end, pair[1].address);
        }
    }
}
