// What a VM runs that is created: it prints CNTPCT as of its first instruction, and turns itself off.

    .section .rodata.created, "a"
    .arm
    .arch_extension virt
    .global created_program, created_program_end
    .balign 4
created_program:
    mrrc    p15, 0, r6, r7, c14
    mov     r4, #0x09000000
    adr     r5, 4f
1:  ldrb    r0, [r5], #1
    teq     r0, #0
    strne   r0, [r4]
    bne     1b
    mov     r8, #8
2:  mov     r0, r6, lsr #28
    cmp     r0, #10
    addlo   r0, r0, #'0'
    addhs   r0, r0, #'a' - 10
    str     r0, [r4]
    lsl     r6, r6, #4
    subs    r8, r8, #1
    bne     2b
    mov     r0, #'\n'
    str     r0, [r4]
    movw    r0, #8
    movt    r0, #0x8400
    hvc     #0
3:  b       3b
4:  .asciz  "began "
    .balign 4
created_program_end:
