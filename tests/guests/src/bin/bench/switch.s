// Giving the CPU away, by Armillary's call and by Xen's; a trace is cut at the call and behind it.
//
// turns_armillary, turns_xen(r0 = n, r1 = where the ticks of each turn go, or 0 for nowhere, r2 = whether VFP is used after each).

    .syntax unified
    .arch armv7-a
    .arch_extension virt
    .fpu neon
    .arm

// One turn has 12 instructions besides the call.
    .macro turns system, immediate, r0_low, r0_high, r12
    .section .text.turns_\system, "ax"
    .global turns_\system, give_\system
    .balign 4
turns_\system:
    push    {r4-r11, lr}
    mov     r8, r0
    mov     r9, r1
    mov     r10, r2
    mrrc    p15, 1, r4, r5, c14
1:  movw    r0, #\r0_low
    movt    r0, #\r0_high
    mov     r12, #\r12
    mov     r1, #0
give_\system:
    hvc     #\immediate
    teq     r10, #0
    vmovne.f32 s0, s0
    mrrc    p15, 1, r6, r7, c14
    sub     r4, r6, r4
    teq     r9, #0
    strne   r4, [r9], #4
    mov     r4, r6
    subs    r8, r8, #1
    bne     1b
    pop     {r4-r11, pc}
    .endm

    turns   armillary, 0, 2, 0x8600, 0
    turns   xen, 0xea1, 0, 0, 29
