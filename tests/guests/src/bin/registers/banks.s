// hold_banks(r0 = &mut Banks, r1 = hvc | 0): fills the core registers of every mode with `set`, waits, and stores what is
// there then to `got`. IRQs and FIQs are masked, and nothing may abort: no mode has a stack meanwhile.
//
// Banks: set[WORDS], got[WORDS], saved sp; order: r0-r12 sp lr of User mode, CPSR flags, then sp lr SPSR of SVC, ABT, UND, IRQ and
// FIQ, and r8-r12 of FIQ. TPIDRPRW and TPIDRURO are used to find the way back.
//
// r1 != 0: waits by HVC with that function number, in ARM state; else by `set.r0` rounds of a loop in Thumb state, which
// changes no flag and leaves r0 = 0.

    .syntax unified
    .arch armv7-a
    .arch_extension virt

    .equ    WORDS, 36

    .macro load_bank number, offset
    cps     #\number
    ldr     sp, [r0, #\offset]
    ldr     lr, [r0, #\offset + 4]
    ldr     r1, [r0, #\offset + 8]
    msr     spsr_cxsf, r1
    .endm

    .macro store_bank number, offset
    cps     #\number
    str     sp, [r0, #WORDS * 4 + \offset]
    str     lr, [r0, #WORDS * 4 + \offset + 4]
    mrs     r1, spsr
    str     r1, [r0, #WORDS * 4 + \offset + 8]
    .endm

    .arm
    .global hold_banks
hold_banks:
    push    {r4-r12, lr}
    str     sp, [r0, #2 * WORDS * 4]
    mcr     p15, 0, r0, c13, c0, 4
    mcr     p15, 0, r1, c13, c0, 3
    load_bank 0x17, 76
    load_bank 0x1b, 88
    load_bank 0x12, 100
    load_bank 0x11, 112
    add     r1, r0, #124
    ldm     r1, {r8-r12}
    load_bank 0x13, 64
    cps     #0x1f
    ldr     r1, [r0, #60]
    msr     cpsr_fs, r1             // flags, Q and GE
    ldr     sp, [r0, #52]
    ldr     lr, [r0, #56]
    mrc     p15, 0, r1, c13, c0, 3
    teq     r1, #0
    bne     1f
    ldr     r1, [r0, #60]
    msr     cpsr_fs, r1
    ldm     r0, {r0-r12}
    ldr     pc, =5f + 1             // takes no register
    .ltorg

1:  ldr     r2, [r0, #60]
    msr     cpsr_fs, r2
    mov     r12, r1
    add     r1, r0, #16
    ldm     r1, {r4-r11}
    ldr     r1, [r0, #4]
    ldr     r2, [r0, #8]
    ldr     r3, [r0, #12]
    mov     r0, r12
    mrc     p15, 0, r12, c13, c0, 4
    ldr     r12, [r12, #48]
    hvc     #0
    b       3f

    .thumb
5:  cbz     r0, 4f
    sub.w   r0, r0, #1
    yield
    b       5b
    .balign 4
4:  bx      pc
    nop

    .arm
3:  mcr     p15, 0, r0, c13, c0, 3
    mrc     p15, 0, r0, c13, c0, 4
    add     r0, r0, #WORDS * 4
    str     r1, [r0, #4]
    str     r2, [r0, #8]
    str     r3, [r0, #12]
    mrs     r1, cpsr
    str     r1, [r0, #60]
    add     r1, r0, #16
    stm     r1, {r4-r12}
    str     sp, [r0, #52]
    str     lr, [r0, #56]
    mrc     p15, 0, r1, c13, c0, 3
    str     r1, [r0]
    sub     r0, r0, #WORDS * 4
    store_bank 0x17, 76
    store_bank 0x1b, 88
    store_bank 0x12, 100
    store_bank 0x11, 112
    add     r1, r0, #WORDS * 4 + 124
    stm     r1, {r8-r12}
    store_bank 0x13, 64
    ldr     sp, [r0, #2 * WORDS * 4]
    pop     {r4-r12, lr}
    bx      lr
