@ What a packed image begins with: unpacks the image behind itself and enters it.
@
@ The flash of a small board has 128 KiB for the file, and the image is larger; so `cargo xtask image` packs it
@ (scripts/xtask/src/pack.rs has the format, and why it is that) and puts this in front. This belongs to the ELF
@ file, for its symbols and a disassembly, but not to what that file loads: a debugger needs no unpacking.
@
@ In:  the zImage protocol: r2 = physical address of the device tree or 0; MMU and data cache off; ARM state; Hyp or
@      any other privileged mode. Loaded at any address that is a multiple of 4: the image comes to lie on the first
@      4 KiB boundary behind the file, or behind the device tree if that is in the way.
@ Out: the image's first instruction, r0-r2 as they were. A damaged file stops here, having written nothing
@      outside the image's memory.
@
@ With the MMU off all memory is Strongly-ordered: every access is aligned (ARM DDI 0406C, A3.2.1), so the format
@ counts in halfwords, as Thumb code does, and keeps them apart from the bytes. A raw halfword takes 4 instructions in
@ a run, one of the dictionary 10, a match some 15 and 4 for each halfword: 3 for each byte in all, since from reset
@ to the first guest there are a million.
@
@ r3, r4, lr: scratch   r5 = end of the output   r6 = output   r7, r8 = flags and their end
@ r9 = raw halfwords   r10 = codes   r11 = dictionary   r12 = flags left, a 1, zeroes

@ The codes: so many halfwords of the dictionary, then near matches, then far ones.
.equ UNPACK_DICTIONARY, 200
.equ UNPACK_NEAR, 40

.arch armv7-a
.syntax unified
.arm

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

2:  adr     r11, unpack_packed
    ldr     r5, [r11], #4           @ bytes of the output
    ldr     r8, [r11], #4           @ of the flags
    ldr     r10, [r11], #4          @ of the raw halfwords
    add     r7, r11, #(2 * UNPACK_DICTIONARY)
    add     r8, r8, r7
    mov     r9, r8
    add     r10, r10, r9
    mov     r6, r4
    add     r5, r5, r4
    bl      unpack_forget
    mov     r12, #0x80000000
    b       unpack_next

unpack_match:
    cmp     lr, #UNPACK_NEAR
    bhs     unpack_far
    lsr     r4, lr, #3
    and     r3, lr, #7
    ldrb    lr, [r10], #1
    orr     r3, lr, r3, lsl #8
    @ r4 = length - 2, r3 = distance - 1.
unpack_copy:
    sub     lr, r6, r3, lsl #1
    ldrh    r3, [lr, #-2]!
    strh    r3, [r6], #2
3:  ldrh    r3, [lr, #2]!
    strh    r3, [r6], #2
    subs    r4, r4, #1
    bpl     3b

    @ A flag for each item, the highest bit first: 0 for a raw halfword, 1 for a code. The last 1 stands for the end
    @ of the word.
unpack_next:
    lsls    r12, r12, #1
    bcs     unpack_coded
unpack_raw:
    ldrh    r3, [r9], #2
    strh    r3, [r6], #2
    lsls    r12, r12, #1
    bcc     unpack_raw
unpack_coded:
    beq     unpack_refill
    ldrb    r3, [r10], #1
    subs    lr, r3, #UNPACK_DICTIONARY
    bhs     unpack_match
    add     r3, r3, r3
    ldrh    r3, [r11, r3]
    strh    r3, [r6], #2
    lsls    r12, r12, #1
    bcc     unpack_raw
    b       unpack_coded

    @ The end is looked at here only: 31 items of 272 halfwords stay inside .bss.
unpack_refill:
    cmp     r7, r8
    beq     unpack_done
    ldr     r12, [r7], #4
    cmp     r6, r5
    blo     unpack_next
unpack_stop:
    wfi
    b       unpack_stop

unpack_far:
    sub     r4, lr, #UNPACK_NEAR
    cmp     r4, #(255 - UNPACK_DICTIONARY - UNPACK_NEAR)
    ldrbeq  r3, [r10], #1
    addeq   r4, r4, r3
    ldrb    r3, [r10], #1
    ldrb    lr, [r10], #1
    orr     r3, r3, lr, lsl #8
    b       unpack_copy

unpack_done:
    cmp     r6, r5
    bne     unpack_stop
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

@ Invalidates the output's lines to the point of coherency: those left by the loader must not cover what is written
@ here uncached, before and after. r4 = start, r5 = end; r3, r6 lost, r6 = r4 afterwards.
unpack_forget:
    mrc     p15, 0, r3, c0, c0, 1   @ CTR.DminLine: log2 of the words in the smallest line
    ubfx    r3, r3, #16, #4
    mov     r6, #4
    lsl     r3, r6, r3
    mov     r6, r4
    dsb
4:  mcr     p15, 0, r6, c7, c6, 1   @ DCIMVAC
    add     r6, r6, r3
    cmp     r6, r5
    blo     4b
    mov     r6, r4
    dsb
    bx      lr
.balign 4
unpack_packed:
