// Runs code that is a row of slots of 8 bytes, each with one instruction that may abort, be undefined or be taken away; whatever
// comes of it, the next slot follows. An SVC ends it.
//
// storm_run(r0 = code, r1 = what the slots pop, r2 = CPSR for it, r3 = counters: spare word, data aborts, undefined instructions,
// prefetch aborts) from SVC mode with everything masked; returns 0, or the address that was to be executed and is no slot.

    .syntax unified
    .arch armv7-a
    .arch_extension virt
    .arch_extension sec

    .section .text.storm, "ax"
    .arm
    .global storm_run
    .balign 4
storm_run:
    push    {r4-r12, lr}            // r12 for a stack of whole double words
    ldr     r12, =storm_code
    bic     lr, r0, #0xff0
    bic     lr, lr, #0xf
    str     lr, [r12]
    msr     sp_usr, r1
    msr     sp_abt, r3
    msr     sp_und, r3
    msr     spsr_cxsf, r2
    mov     lr, r0
    movs    pc, lr

    .global storm_vectors
    .balign 32
storm_vectors:
    b       .
    b       undefined
    b       svc
    b       prefetch
    b       data
    b       .
    b       .
    b       .

undefined:
    sub     lr, lr, #2              // ARM: 4 behind the instruction, Thumb: 2
    str     r12, [sp]
    ldr     r12, [sp, #8]
    add     r12, r12, #1
    str     r12, [sp, #8]
    b       1f
data:
    sub     lr, lr, #8
    str     r12, [sp]
    ldr     r12, [sp, #4]
    add     r12, r12, #1
    str     r12, [sp, #4]
1:  ldr     r12, [sp]
    bic     lr, lr, #7
    add     lr, lr, #8
    movs    pc, lr

prefetch:                           // the map was changed: again, as it will come back
    sub     lr, lr, #4
    str     r12, [sp]
    ldr     r12, [sp, #12]
    add     r12, r12, #1
    str     r12, [sp, #12]
    ldr     r12, =storm_code
    ldr     r12, [r12]
    eor     r12, r12, lr
    lsrs    r12, r12, #12
    bne     2f
    yield
    ldr     r12, [sp]
    movs    pc, lr
2:  mov     r0, lr
    cps     #0x13
    pop     {r4-r12, pc}

svc:
    mov     r0, #0
    pop     {r4-r12, pc}
    .ltorg

    .section .bss.storm, "aw", %nobits
    .balign 4
storm_code:
    .space  4                       // the page of the code that runs
