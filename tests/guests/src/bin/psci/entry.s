// entry_arm, entry_thumb: where the second CPU starts. r0 = context = address of `State`, which takes what the registers
// are: r0-r12, sp, lr, CPSR, SCTLR, VBAR, TTBCR, CPACR, then 1 for ARM or 2 for Thumb state. Then CPU_OFF.

    .syntax unified
    .arch armv7-a
    .arch_extension virt

    .macro entry state
    mov     r12, r12
    stm     r0, {r0-r12}
    str     sp, [r0, #52]
    str     lr, [r0, #56]
    mrs     r1, cpsr
    str     r1, [r0, #60]
    mrc     p15, 0, r1, c1, c0, 0
    str     r1, [r0, #64]
    mrc     p15, 0, r1, c12, c0, 0
    str     r1, [r0, #68]
    mrc     p15, 0, r1, c2, c0, 2
    str     r1, [r0, #72]
    mrc     p15, 0, r1, c1, c0, 2
    str     r1, [r0, #76]
    mov     r1, #\state
    dmb
    str     r1, [r0, #80]
    dsb
    mov     r0, #0x84000000
    orr     r0, r0, #2
    hvc     #0
9:  wfe
    b       9b
    .endm

    .arm
    .global entry_arm
    .balign 4
entry_arm:
    entry   1

    .thumb
    .global entry_thumb
    .balign 4
entry_thumb:
    entry   2
