@ What the compiler calls: copies, fills, comparisons, divisions (ARM IHI 0043D, "Run-time ABI for the Arm Architecture",
@ 4.2 and 4.3.4).
@
@ The compiler's own are ARM code for any ARMv7-A core: 3 KiB more, without the divide instructions, which every core
@ with the Virtualization Extensions has (ARM DDI 0406C, A4.4.8). These are short; words go in fours, bytes one by one,
@ without an unaligned access, since the MMU may be off.
@
@ r0-r3 and r12 are scratch (ARM IHI 0042, 5.1.1). A count of bytes stays 16 or 4 below what is left: its carry tells
@ when less is left.

.syntax unified
.arch armv7-a
.arch_extension idiv
.thumb

.macro function name:vararg
    .irp each, \name
    .global \each
    .type \each, %function
    .thumb_func
    \each:
    .endr
.endm

@ memcpy(r0: to, r1: from, r2: bytes) -> r0
.section .text.memcpy, "ax", %progbits
.balign 4
function memcpy, __aeabi_memcpy
    orr     r3, r0, r1
    lsls    r3, r3, #30
    mov     r12, r0
    bne     4f
    b       1f
function __aeabi_memcpy4, __aeabi_memcpy8
    mov     r12, r0
1:  subs    r2, #16
    blo     3f
    push    {r4, r5, r6, lr}
2:  ldm     r1!, {r3, r4, r5, r6}
    subs    r2, #16
    stm     r12!, {r3, r4, r5, r6}
    bhs     2b
    pop     {r4, r5, r6, lr}
3:  adds    r2, #12
    bcc     6f
5:  ldr     r3, [r1], #4
    subs    r2, #4
    str     r3, [r12], #4
    bhs     5b
6:  adds    r2, #4
4:  cbz     r2, 8f
7:  ldrb    r3, [r1], #1
    subs    r2, #1
    strb    r3, [r12], #1
    bne     7b
8:  bx      lr

@ memmove(r0: to, r1: from, r2: bytes) -> r0; backwards where a copy would overtake itself.
.section .text.memmove, "ax", %progbits
.balign 4
function memmove, __aeabi_memmove, __aeabi_memmove4, __aeabi_memmove8
    subs    r3, r0, r1
    cmp     r3, r2
    bhs     memcpy
    add     r1, r2
    adds    r3, r0, r2
    cbz     r2, 2f
1:  ldrb    r12, [r1, #-1]!
    subs    r2, #1
    strb    r12, [r3, #-1]!
    bne     1b
2:  bx      lr

@ memset(r0: to, r1: byte, r2: bytes) -> r0; the others: (r0: to, r1: bytes, r2: byte).
.section .text.memset, "ax", %progbits
.balign 4
function __aeabi_memclr, __aeabi_memclr4, __aeabi_memclr8
    movs    r2, #0
    b       1f
function memset
    mov     r3, r1
    mov     r1, r2
    mov     r2, r3
function __aeabi_memset, __aeabi_memset4, __aeabi_memset8
    uxtb    r2, r2
    orr     r2, r2, r2, lsl #8
    orr     r2, r2, r2, lsl #16
1:  mov     r12, r0
    b       3f
2:  subs    r1, #1
    blo     7f
    strb    r2, [r12], #1
3:  tst     r12, #3
    bne     2b
    subs    r1, #16
    blo     5f
    push    {r4, r5}
    mov     r3, r2
    mov     r4, r2
    mov     r5, r2
4:  subs    r1, #16
    stm     r12!, {r2, r3, r4, r5}
    bhs     4b
    pop     {r4, r5}
5:  adds    r1, #16
    cbz     r1, 7f
6:  subs    r1, #1
    strb    r2, [r12], #1
    bne     6b
7:  bx      lr

@ memcmp(r0, r1: what is compared, r2: bytes) -> r0: below, at or above zero
.section .text.memcmp, "ax", %progbits
.balign 4
function memcmp, bcmp
    mov     r3, r0
    movs    r0, #0
    cbz     r2, 2f
1:  ldrb    r0, [r3], #1
    ldrb    r12, [r1], #1
    subs    r0, r0, r12
    bne     2f
    subs    r2, #1
    bne     1b
2:  bx      lr

@ r0 / r1 -> r0, and the remainder in r1. Never by zero.
.section .text.divide, "ax", %progbits
.balign 4
function __udivsi3, __aeabi_uidiv, __aeabi_uidivmod
    mov     r2, r0
    udiv    r0, r0, r1
    mls     r1, r0, r1, r2
    bx      lr

@ r0,r1 / r2,r3 (low word first) -> r0,r1, and the remainder in r2,r3. Never by zero: Rust checks before. Bit by bit
@ where 32 do not hold it: nothing that a guest does often divides by so much.
.section .text.divide_long, "ax", %progbits
.balign 4
function __aeabi_uldivmod
    orrs    r12, r1, r3
    bne     1f
    mov     r12, r0
    udiv    r0, r0, r2
    mls     r2, r0, r2, r12
    bx      lr
1:  push    {r4, r5, r6, r7, lr}
    mov     r4, r2
    mov     r5, r3
    movs    r2, #0                  @ the remainder, which takes the dividend's bits as the quotient's come
    movs    r3, #0
    movs    r6, #64
    cbnz    r1, 2f
    mov     r1, r0                  @ 32 zeroes are done
    movs    r0, #0
    movs    r6, #32
2:  adds    r0, r0, r0
    adcs    r1, r1
    adcs    r2, r2
    adcs    r3, r3
    bcs     3f                      @ 65 bits of remainder: above any divisor
    subs    r7, r2, r4
    sbcs    r7, r3, r5
    blo     4f
3:  subs    r2, r2, r4
    sbcs    r3, r5
    adds    r0, #1
4:  subs    r6, #1
    bne     2b
    pop     {r4, r5, r6, r7, pc}
