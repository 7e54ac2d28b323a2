@ What a packed image begins with: unpacks the image behind itself and enters it.
@
@ The flash of a small board has 128 KiB for the file, and the image is larger; so `cargo xtask image` packs it
@ (scripts/xtask/src/pack.rs has the format, and why it is that) and puts this in front. This belongs to the ELF
@ file, for its symbols and a disassembly, but not to what that file loads: a debugger needs no unpacking.
@
@ In:  the zImage protocol: r2 = physical address of the device tree or 0; MMU and data cache off; ARM state; Hyp or
@      any other privileged mode. Loaded at any address that is a multiple of 4: the image comes to lie on the first
@      4 KiB boundary behind the file, or behind the device tree if that is in the way.
@ Out: the image's first instruction, r0-r2 as they were. A damaged file stops here if its end is not where it should
@      be; nothing else of it is checked.
@
@ With the MMU off all memory is Strongly-ordered: every access is aligned (ARM DDI 0406C, A3.2.1), so the format
@ counts in halfwords, as Thumb code does, and keeps them apart from the bytes. A raw halfword takes 6 instructions, one
@ with a code 9, a match 15 to 20 and 2 for each halfword, each halfword of code bits 3 or 4 more: 4.6 for each byte in
@ all, three quarters of the way from reset to the first guest.
@
@ r3, r4, lr: scratch   r5 = bits used of the buffer's upper half, in its highest four   r6 = output
@ r7 = targets of calls   r8 = distance of the last match   r9 = halfwords   r10 = bytes
@ r11 = the codes' table less the half of it whose first bit is 0   r12 = buffer of code bits   sp = end of the output
@
@ The tables lie behind the output, where the image has its zeroes and stacks. An entry of the codes' has the symbol in
@ its upper half, in bit 15 whether that is no halfword, and the code's length below. One of the targets' is the target's
@ address less 4.

@ The longest code, and the bytes of the tables: the codes', with 4 for each value of such a code's bits behind the first;
@ a word that the last of these may take, and more, for the sake of a round number; then the targets'.
.equ UNPACK_LONGEST, 13
.equ UNPACK_CODES, 4 << (UNPACK_LONGEST - 1)
.equ UNPACK_TARGETS, UNPACK_CODES + 0x400
.equ UNPACK_TABLES, UNPACK_TARGETS + 0x2000
@ The greatest length of a match that is told by its symbol.
.equ UNPACK_SHORT, 12

.arch armv7-a
.syntax unified
.arm

@ A halfword by its code, or what that stands for. The flags then tell of the buffer's highest bit.
.macro unpack_code
    lsr     r3, r12, #(32 - UNPACK_LONGEST)
    ldr     r3, [r11, r3, lsl #2]
    adds    r5, r5, r3, lsl #28
    bcs     unpack_refill
    asrs    r4, r3, #16
    strhcc  r4, [r6], #2
    bcs     unpack_special
    lsls    r12, r12, r3
.endm

@ r3 = a number of seven bits a byte; r11, lr lost.
.macro unpack_number
    ldrb    r3, [r10], #1
    tst     r3, #0x80
    blne    unpack_more
.endm

.section .unpack, "ax"
.balign 4
unpack:
    .rept 8
    nop
    .endr
    b       1f
    .word   0x016f2818              @ zImage magic
    .word   0                       @ runs at any address
    .word   0                       @ the file's size: the tool writes it
    .word   0x04030201              @ little-endian
unpack_memory_size:
    .word   __memory_size
unpack_tree_magic:
    .word   0xedfe0dd0              @ 0xd00dfeed, big-endian

    @ r4 = where the image comes to lie.
1:  cpsid   aif
    adr     r3, unpack
    ldr     r4, [r3, #0x2c]
    add     r4, r4, r3
    bl      unpack_to_page
    cmp     r2, #0
    beq     2f
    tst     r2, #3
    bne     2f
    ldr     r3, [r2]
    ldr     r5, unpack_tree_magic
    cmp     r3, r5
    bne     2f
    ldr     r3, [r2, #4]            @ size, big-endian
    rev     r3, r3
    add     r3, r3, r2
    ldr     r5, unpack_memory_size
    add     r5, r5, r4
    cmp     r2, r5
    bhs     2f
    cmp     r3, r4
    bls     2f
    mov     r4, r3
    bl      unpack_to_page

2:  adr     r9, unpack_packed
    ldr     r5, [r9], #4            @ bytes of the output
    ldr     r10, [r9], #4           @ of the halfwords
    add     r10, r10, r9
    add     r5, r5, r4
    mov     sp, r5
    add     r5, r5, #UNPACK_TABLES
    bl      unpack_forget

    @ The targets.
    bl      unpack_table
    add     r8, r12, #UNPACK_TARGETS
    sub     r4, r6, #4
    unpack_number
    mov     r7, r3
3:  subs    r7, r7, #1
    bmi     unpack_block
    unpack_number
    add     r4, r4, r3, lsl #1
    str     r4, [r8], #4
    b       3b

    @ The codes: for each length first those of symbols that are no halfwords. r5 = bytes of the entries of each.
unpack_block:
    bl      unpack_table
    mov     r5, #(4 << (UNPACK_LONGEST - 2))
    mov     r8, #2
4:  eor     r8, r8, #0x8000
    unpack_number
    mov     r4, #0
    movs    r7, r3
    beq     7f
5:  unpack_number
    add     r4, r4, r3
    orr     r3, r8, r4, lsl #16
    mov     r11, r3
    add     lr, r12, r5
6:  stm     r12!, {{r3, r11}}
    cmp     r12, lr
    blo     6b
    mov     r12, lr                 @ one too many where there is one
    subs    r7, r7, #1
    bne     5b
7:  tst     r8, #0x8000
    bne     4b
    add     r8, r8, #1
    lsr     r5, r5, #1
    cmp     r5, #4
    bhs     4b

    bl      unpack_table
    sub     r11, r12, #UNPACK_CODES
    add     r7, r12, #UNPACK_TARGETS
    ldrh    r12, [r9], #2
    ldrh    r3, [r9], #2
    orrs    r12, r3, r12, lsl #16
    bmi     unpack_coded
    b       unpack_raw

    @ r12 = the codes' table; the targets' is behind it.
unpack_table:
    add     r12, sp, #3
    bic     r12, r12, #3
    bx      lr

    @ The rest of a number of more bytes.
unpack_more:
    bic     r3, r3, #0x80
8:  ldrb    r11, [r10], #1
    tst     r11, #0x80
    bic     r11, r11, #0x80
    orr     r3, r11, r3, lsl #7
    bne     8b
    bx      lr

    @ The code used up half of the buffer: r5 has what it took of the other half.
unpack_refill:
    asrs    r4, r3, #16
    bcs     unpack_special_refill
    strh    r4, [r6], #2
    ldrh    lr, [r9], #2
    lsr     r4, r5, #28
    lsl     r12, r12, r3
    orrs    r12, r12, lr, lsl r4
    bmi     unpack_coded
    b       unpack_raw

    @ r4 = symbol, signed.
unpack_special_refill:
    lsl     r12, r12, r3
    ldrh    lr, [r9], #2
    lsr     r3, r5, #28
    bmi     unpack_other_refill
    orrs    r12, r12, lr, lsl r3
    b       unpack_near
unpack_special:
    bmi     unpack_other
    lsls    r12, r12, r3
unpack_near:
    ldrb    r8, [r10], #1
    bfi     r8, r4, #8, #8
    lsr     r4, r4, #8
    @ r4 = halfwords less than the most. From here on the flags tell of the buffer's highest bit.
unpack_copy:
    sub     lr, r6, r8, lsl #1
unpack_copy_from:
    add     pc, pc, r4, lsl #3
    nop
    .rept UNPACK_SHORT
    ldrh    r3, [lr], #2
    strh    r3, [r6], #2
    .endr
unpack_next:
    bmi     unpack_coded

    @ The buffer's highest bit says what comes.
unpack_raw:
    ldrh    r3, [r9], #2
    strh    r3, [r6], #2
    adds    r5, r5, #0x10000000
    bcs     unpack_raw_refill
    lsls    r12, r12, #1
    bpl     unpack_raw
    @ Twice, so that most ways on are straight.
unpack_coded:
    unpack_code
    bpl     unpack_raw
    unpack_code
    bmi     unpack_coded
    b       unpack_raw

unpack_raw_refill:
    ldrh    r3, [r9], #2
    orrs    r12, r3, r12, lsl #1
    bmi     unpack_coded
    b       unpack_raw

unpack_other_refill:
    orrs    r12, r12, lr, lsl r3
    b       1f
unpack_other:
    lsls    r12, r12, r3
1:  and     lr, r4, #7
    add     pc, pc, lr, lsl #2
    nop
    b       unpack_far
    b       unpack_again
    b       unpack_long
    b       unpack_call
    b       unpack_address
    @ The end of a block.
    cmp     r6, sp
    blo     unpack_block
    beq     unpack_done
unpack_stop:
    wfi
    b       unpack_stop

unpack_far:
    ldrh    r8, [r9], #2
    lsr     r4, r4, #3
    bfi     r8, r4, #16, #1
    ubfx    r4, r4, #1, #4
    b       unpack_copy

unpack_again:
    ubfx    r4, r4, #3, #4
    b       unpack_copy

unpack_long:
    ldrh    r8, [r9], #2
    lsr     r4, r4, #3
    bfi     r8, r4, #16, #1
    sub     lr, r6, r8, lsl #1
    ldrb    r4, [r10], #1
1:  ldrh    r3, [lr], #2
    strh    r3, [r6], #2
    subs    r4, r4, #1
    bpl     1b
    mov     r4, #0
    cmp     r12, #0
    b       unpack_copy_from

unpack_call:
    ldrb    lr, [r10], #1
    ubfx    r4, r4, #3, #12
    orr     r4, lr, r4, lsl #8
    ldr     r4, [r7, r4, lsl #2]
    sub     r4, r4, r6
    ubfx    r3, r4, #12, #11
    orr     r3, r3, #0xf000
    strh    r3, [r6], #2
    ubfx    r3, r4, #1, #11
    orr     r3, r3, #0xf800
    strh    r3, [r6], #2
    b       unpack_next

unpack_address:
    ldrh    lr, [r9], #2
    ubfx    r4, r4, #3, #12
    ubfx    r3, lr, #11, #5
    bfi     r3, r3, #11, #1
    lsr     r3, r3, #1
    orr     r3, r3, #0xf200
    orr     r3, r3, #0x0040
    strh    r3, [r6], #2            @ MOVW: imm4, i
    ubfx    r3, lr, #8, #3
    lsl     r3, r3, #12
    bfi     r3, lr, #0, #8
    and     lr, r4, #0x0f00
    orr     r3, r3, lr
    strh    r3, [r6], #2            @ imm3, Rd, imm8
    movw    r3, #0xf2c0
    strh    r3, [r6], #2            @ MOVT
    strh    r4, [r6], #2
    b       unpack_next

unpack_done:
    mov     r5, sp
    ldr     r4, unpack_packed
    sub     r4, r5, r4
    bl      unpack_forget
    mov     r3, #0
    mcr     p15, 0, r3, c7, c5, 0   @ ICIALLU
    mcr     p15, 0, r3, c7, c5, 6   @ BPIALL
    dsb
    isb
    bx      r4

@ r4 up to a multiple of 4 KiB.
unpack_to_page:
    add     r4, r4, #0xff0
    add     r4, r4, #0x00f
    bic     r4, r4, #0xff0
    bic     r4, r4, #0x00f
    bx      lr

@ Invalidates lines to the point of coherency: those left by the loader must not cover what is written here uncached,
@ before and after. r4 = start, r5 = end; r3, r6 lost, r6 = r4 afterwards.
unpack_forget:
    mrc     p15, 0, r3, c0, c0, 1   @ CTR.DminLine: log2 of the words in the smallest line
    ubfx    r3, r3, #16, #4
    mov     r6, #4
    lsl     r3, r6, r3
    mov     r6, r4
    dsb
1:  .rept 4                         @ beyond the end are zeroes
    mcr     p15, 0, r6, c7, c6, 1   @ DCIMVAC
    add     r6, r6, r3
    .endr
    cmp     r6, r5
    blo     1b
    mov     r6, r4
    dsb
    bx      lr
.balign 4
unpack_packed:
