// How long from an event to the first instruction of its handler, counted by CNTVCT, and two CPUs that interrupt each other.
//
// CNTVCT advances once for 16 instructions. The handler waits k = 0 to 15 instructions before it reads the count: the sum of
// the 16 readings is the exact number, as floor(x/16) + floor((x+1)/16) + ... + floor((x+15)/16) = x. The start is read at the
// moment when the count changes.
//
// These routines own every register while they wait; a handler comes back to the address in r7 with IRQs masked.

    .syntax unified
    .arch armv7-a
    .arch_extension virt

    .section .text.latency, "ax"
    .arm
    .global bench_vectors
    .balign 32
bench_vectors:
    b       .
    b       vectors_arm + 4
    b       vectors_arm + 8
    b       vectors_arm + 12
    movs    pc, r12                 // data abort: not by lr, which not every hypervisor gets right
    b       .
    b       bench_irq
    b       .

// r8 = 4 * (16 - k), r9 = GICC: returns the count in r4 and r5, IAR in r6.
bench_irq:
    add     pc, pc, r8
    nop
    .rept   16
    nop
    .endr
    mrrc    p15, 1, r4, r5, c14
    ldr     r6, [r9, #0x0c]
    str     r6, [r9, #0x10]
    mrs     lr, spsr
    orr     lr, lr, #0x80
    msr     spsr_c, lr
    mov     lr, r7
    movs    pc, lr

// latency(r0 = &mut Event): stores `value` to `address` the moment the count changes, and waits for an interrupt in a loop (no
// other CPU runs) or in WFI at most `limit` times. Event: address, value, GICC, 4 * (16 - k), WFI or not, limit, 4 * lead, start, end, IAR. The loop
// that watches the count has three instructions: leads of 0, 1 and 2 find the change 0, 1 and 2 late, in some order.
    .global latency
    .balign 4
latency:
    push    {r4-r11, lr}
    ldm     r0, {r1, r2, r9}
    ldr     r8, [r0, #12]
    ldr     r3, [r0, #16]
    ldr     r11, [r0, #20]
    mov     r6, #-1
    adr     r7, 3f
    ldr     r10, [r0, #24]
    cpsie   i
    isb
    add     pc, pc, r10
    nop
    .rept   2
    nop
    .endr
    mrrc    p15, 1, r4, r5, c14
    mov     r10, r4
1:  mrrc    p15, 1, r4, r5, c14
    cmp     r4, r10
    beq     1b
    mov     r10, r4
latency_store:
    str     r2, [r1]
    teq     r3, #0
    bne     4f
2:  subs    r11, r11, #1
    bne     2b
    b       3f
4:  wfi
    subs    r11, r11, #1
    bne     4b
3:  cpsid   i
    str     r10, [r0, #28]
    str     r4, [r0, #32]
    str     r6, [r0, #36]
    pop     {r4-r11, pc}

// ping_pong(r0 = &Rally): sends software interrupts by `value` to SGIR `address` and waits for one in return, n times.
// Rally: address, value, GICC, n, WFI or not, first to send or not.
    .global ping_pong
    .balign 4
ping_pong:
    push    {r4-r11, lr}
    ldm     r0, {r1, r2, r9, r11}
    ldr     r3, [r0, #16]
    ldr     r10, [r0, #20]
    mov     r8, #64
    adr     r7, 3f
    teq     r10, #0
    beq     2f
1:
ping_pong_send:
    str     r2, [r1]
2:  cpsie   i
    teq     r3, #0
    bne     5f
4:  yield
    b       4b
5:  wfi
    b       5b
3:  subs    r11, r11, #1
    beq     6f
    teq     r10, #0
    bne     1b
    str     r2, [r1]
    b       2b
6:  teq     r10, #0                 // the one that answers owes the last answer
    streq   r2, [r1]
    pop     {r4-r11, pc}

// Where a CPU starts whose way there is measured: r0 = address for the count; then CPU_OFF.
    .global started_cpu
    .balign 4
started_cpu:
    mrrc    p15, 1, r1, r2, c14
    str     r1, [r0]
    mov     r1, #1
    dmb
    str     r1, [r0, #4]
    dsb
    mov     r0, #0x84000000
    orr     r0, r0, #2
    hvc     #0
7:  wfe
    b       7b
