// How a CPU gets from its first instruction to Rust: the first one in `_start`, every other one in `_secondary`.
//
// _start:      SVC mode, MMU off, r2 = device tree or 0. Any load address: the image moves itself to where it is linked.
// _secondary:  what PSCI CPU_ON gave: SVC mode, MMU off, r0 = context.

    .syntax unified
    .arch armv7-a
    .arch_extension virt
    .arch_extension sec

    .section .text.start, "ax"
    .arm
    .global _start
_start:
    b       1f
    .rept   8
    nop
    .endr
    .word   0x016f2818              // zImage: magic, start, end, byte order
    .word   __image_start
    .word   __image_end
    .word   0x04030201

    // What the registers held at the first instruction; the order is `machine::Reset`.
    .global reset_state
    .balign 4
reset_state:
    .fill   27, 4, 0

1:  adr     sp, reset_state         // the stack pointer is the one register without a value of interest yet
    stmia   sp!, {r0-r12}
    str     lr, [sp], #4
    mrs     r0, cpsr
    str     r0, [sp], #4
    mrc     p15, 0, r0, c1, c0, 0   // SCTLR
    mrc     p15, 0, r1, c1, c0, 2   // CPACR
    mrc     p15, 0, r3, c2, c0, 2   // TTBCR
    mrc     p15, 0, r4, c12, c0, 0  // VBAR
    mrc     p15, 0, r5, c13, c0, 1  // CONTEXTIDR
    mrc     p15, 0, r6, c13, c0, 2  // TPIDRURW
    mrc     p15, 0, r7, c13, c0, 3  // TPIDRURO
    mrc     p15, 0, r8, c13, c0, 4  // TPIDRPRW
    mrc     p15, 0, r9, c14, c1, 0  // CNTKCTL
    mrc     p15, 0, r10, c14, c2, 1 // CNTP_CTL
    mrc     p15, 0, r11, c14, c3, 1 // CNTV_CTL
    stmia   sp!, {r0, r1, r3-r11}
    mrrc    p15, 0, r0, r1, c14     // CNTPCT
    str     r0, [sp]
    cpsid   aif

    adr     r4, _start
    ldr     r5, =__image_start
    ldr     r6, =__image_end
    cmp     r4, r5
    beq     3f
2:  ldr     r3, [r4], #4
    str     r3, [r5], #4
    cmp     r5, r6
    blo     2b
    dsb
    mcr     p15, 0, r3, c7, c5, 0   // ICIALLU
    dsb
    isb
    ldr     pc, =3f

3:  ldr     r4, =__bss_start
    ldr     r5, =__bss_end
    mov     r6, #0
4:  cmp     r4, r5
    strlo   r6, [r4], #4
    blo     4b
    mov     r0, r2
    ldr     r4, =main_entry
    b       5f

    .global _secondary
_secondary:
    cpsid   aif
    ldr     r4, =secondary_entry

5:  mrc     p15, 0, r1, c0, c0, 5   // MPIDR: affinity level 0 picks the stack
    and     r1, r1, #7
    add     r1, r1, #1
    ldr     r2, =__stack_size
    ldr     r3, =__stacks
    mla     sp, r1, r2, r3
    ldr     r1, =vectors_arm
    mcr     p15, 0, r1, c12, c0, 0  // VBAR
    mrc     p15, 0, r1, c1, c0, 0
    bic     r1, r1, #1 << 13        // SCTLR.V off: VBAR counts
    bic     r1, r1, #1 << 30        // SCTLR.TE off: handlers in ARM state
    mcr     p15, 0, r1, c1, c0, 0
    isb
    bx      r4
    .ltorg
