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
@ a run, one of the dictionary 11, one of its stems 18, a match some 20 and 4 for each halfword: 4 for each byte in
@ all, since from reset to the first guest there are little more than a million.
@
@ r3, r4, lr: scratch   r5 = 1, or 16 + the next low four bits   r6 = output   r7 = flags
@ r8 = distance of the last match - 1   r9 = raw halfwords   r10 = codes   r11 = dictionary
@ r12 = flags left, a 1, zeroes   sp = end of the output

@ The codes: so many whole halfwords of the dictionary, halfwords in all, near matches, matches at the last distance;
@ then far matches.
.equ UNPACK_WORDS, 110
.equ UNPACK_DICTIONARY, 208
.equ UNPACK_NEAR, 32
.equ UNPACK_AGAIN, 8

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
    ldr     r9, [r11], #4           @ of the flags
    ldr     r10, [r11], #4          @ of the raw halfwords
    add     r7, r11, #(2 * UNPACK_DICTIONARY)
    add     r9, r9, r7
    add     r10, r10, r9
    add     r5, r5, r4
    bl      unpack_forget
    mov     sp, r5
    mov     r5, #1
    mov     r12, #0x80000000
    b       unpack_next

unpack_special:
    subs    lr, r3, #UNPACK_DICTIONARY
    bhs     unpack_match
    add     r3, r3, r3
    ldrh    r3, [r11, r3]
    cmp     r5, #1
    ldrbeq  r5, [r10], #1
    orreq   r5, r5, #0x100
    and     lr, r5, #0xf
    lsr     r5, r5, #4
    orr     r3, r3, lr
    strh    r3, [r6], #2
    lsls    r12, r12, #1
    bcc     unpack_raw
    b       unpack_coded

unpack_match:
    cmp     lr, #UNPACK_NEAR
    bhs     unpack_far
    lsr     r4, lr, #3
    and     r8, lr, #7
    ldrb    lr, [r10], #1
    orr     r8, lr, r8, lsl #8
    @ r4 = length - 2.
unpack_copy:
    sub     lr, r6, r8, lsl #1
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
    cmp     r3, #UNPACK_WORDS
    bhs     unpack_special
    add     r3, r3, r3
    ldrh    r3, [r11, r3]
    strh    r3, [r6], #2
    lsls    r12, r12, #1
    bcc     unpack_raw
    b       unpack_coded

    @ The end is looked at here only: 31 items of 264 halfwords stay inside .bss.
unpack_refill:
    ldr     r12, [r7], #4
    cmp     r6, sp
    blo     unpack_next
    beq     unpack_done
unpack_stop:
    wfi
    b       unpack_stop

unpack_far:
    subs    r4, lr, #(UNPACK_NEAR + UNPACK_AGAIN)
    blo     unpack_again
    cmp     r4, #(255 - UNPACK_DICTIONARY - UNPACK_NEAR - UNPACK_AGAIN)
    ldrbeq  r3, [r10], #1
    addeq   r4, r4, r3
    ldrb    r3, [r10], #1
    ldrb    r8, [r10], #1
    orr     r8, r3, r8, lsl #8
    b       unpack_copy

unpack_again:
    add     r4, r4, #UNPACK_AGAIN
    sub     lr, r6, r8, lsl #1
    sub     lr, lr, #4
    b       3b

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
