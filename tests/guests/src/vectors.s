// Exception vectors in ARM and in Thumb state, and the way back out of an expected exception.
//
// Every handler runs on the SVC stack and leaves `exception::Frame` there:
//     r0-r12, lr_svc, CPSR at entry, SPSR, lr of the exception's mode as the CPU set it, SPSR.
// It calls exception(r0 = kind | 16 in Thumb state, r1 = frame) and returns to what the frame's last two words then say.
// The stack pointers of the other modes are never used, so that a test may own them.

    .syntax unified
    .arch armv7-a
    .arch_extension virt
    .arch_extension sec

// kind: number of the vector; tag: 16 in Thumb state
.macro handler state, tag, kind
vector_\state\()_\kind:
    srsdb   sp!, #0x13              // with SCTLR.EE set this stores big-endian: Rust puts that right
    mrs     lr, cpsr                // the mode's own lr is free now, and SRS the way to carry it over
    setend  le
    srsdb   sp!, #0x13
    cps     #0x13
    push    {r0-r12, lr}
    clrex
    mov     r0, #(\kind + \tag)
    mov     r1, sp
    mov     r3, sp
    and     r3, r3, #4              // the procedure call standard wants the stack 8-byte aligned
    sub     sp, sp, r3
    push    {r3, lr}
    bl      exception
    pop     {r3, lr}
    add     sp, sp, r3
    pop     {r0-r12, lr}
    add     sp, sp, #8
    rfeia   sp!
.endm

    .section .text.vectors, "ax"
    .arm
    .global vectors_arm
    .balign 32
vectors_arm:
    b       .
    b       vector_arm_1
    b       vector_arm_2
    b       vector_arm_3
    b       vector_arm_4
    b       .
    b       vector_arm_6
    b       vector_arm_7
    handler arm, 0, 1
    handler arm, 0, 2
    handler arm, 0, 3
    handler arm, 0, 4
    handler arm, 0, 6
    handler arm, 0, 7

    .thumb
    .global vectors_thumb
    .balign 32
vectors_thumb:
    b.w     .
    b.w     vector_thumb_1
    b.w     vector_thumb_2
    b.w     vector_thumb_3
    b.w     vector_thumb_4
    b.w     .
    b.w     vector_thumb_6
    b.w     vector_thumb_7
    handler thumb, 16, 1
    handler thumb, 16, 2
    handler thumb, 16, 3
    handler thumb, 16, 4
    handler thumb, 16, 6
    handler thumb, 16, 7

// try_call(r0 = &mut Jump, r1 = function, r2 = its four arguments, r3 = User-mode stack or 0 to stay in this mode)
// returns 0 when the function came back (its r0 and r1 are in Jump), 1 when `exception` sent us to `recover`.
    .arm
    .global try_call
    .balign 4
try_call:
    stmia   r0, {r4-r11}
    str     sp, [r0, #32]
    str     lr, [r0, #36]
    mrs     r12, cpsr
    str     r12, [r0, #40]
    cmp     r3, #0
    bne     1f
    mov     r4, r0
    mov     r12, r1
    ldm     r2, {r0-r3}
    blx     r12
    str     r0, [r4, #44]
    str     r1, [r4, #48]
    mov     r1, #0
    mov     r0, r4
    b       recover

1:  cps     #0x1f
    mov     sp, r3
    adr     lr, user_return
    cps     #0x13
    and     r12, r12, #0x1c0        // the caller's interrupt masks
    orr     r12, r12, #0x10
    tst     r1, #1
    orrne   r12, r12, #0x20
    bic     r1, r1, #1
    push    {r1, r12}
    ldm     r2, {r0-r3}
    rfeia   sp!

    .global user_return
user_return:
    svc     #0

// r0 = &Jump, r1 = what try_call returns
    .global recover
recover:
    ldmia   r0, {r4-r11}
    ldr     sp, [r0, #32]
    ldr     lr, [r0, #36]
    mov     r0, r1
    bx      lr
