@ From the loader to Rust: position independent until the MMU is on.
@
@ In:  r2 = physical address of the device tree or 0 (zImage protocol); MMU and data cache off.
@ Out: boot(device tree, image, entry mode, candidate count) on the boot CPU's stack, in Hyp mode, at
@      the linked address, MMU and caches on.
@
@ r4 = Hyp mode? (Z flag kept as 0/1)   r8 = _start, physical   r9 = device tree   r10 = entry CPSR
@ r11 = physical minus linked address
@
@ Entered in any mode but Hyp, the same tables serve PL1 (LPAE, TTBCR.EAE), so that Rust can say so.
@ ARM DDI 0406C: B3.6 (long-descriptor format), B4.1.67 ff. (HTCR, HTTBR, HMAIR0, HSCTLR).

.arch armv7-a
.arch_extension virt
.arch_extension sec
.syntax unified
.arm

.section .boot, "ax"
.balign 4096
.global _start
.type _start, %function
_start:
    .rept 8
    nop
    .endr
    b       primary
    .word   0x016f2818              @ zImage magic
    .word   0                       @ runs at any address
    .word   __file_size
    .word   0x04030201              @ little-endian

primary:
    cpsid   aif
    mov     r9, r2
    adr     r8, _start
    mrs     r10, cpsr
    ldr     r0, =_start
    sub     r11, r8, r0

    bl      caches_off

    @ A loader may have put the device tree right behind the file, where the image has its
    @ zeroes: it moves behind them.
    ldr     r5, =__image_end
    add     r5, r5, r11
    cmp     r9, r8
    cmphs   r5, r9
    bls     2f
    ldr     r0, [r9, #4]            @ size, big-endian
    rev     r0, r0
    add     r0, r0, #15
    bic     r0, r0, #15
    cmp     r0, #0x200000           @ as large as a tree may be
    bhi     2f
    add     r4, r5, r0
    add     r6, r9, r0
    mov     r9, r5
1:  ldmdb   r6!, {{r0-r3}}
    stmdb   r4!, {{r0-r3}}
    cmp     r4, r5
    bhi     1b
    ldr     r1, [r9, #4]
    rev     r1, r1
    mov     r0, r9
    add     r1, r0, r1
    bl      forget

    @ The tables: lines left by the loader must not cover what is written here uncached, before
    @ and after.
2:  bl      forget_tables
    ldr     r0, =__tables_start
    add     r0, r0, r11
    ldr     r1, =__tables_end
    add     r1, r1, r11
    mov     r2, #0
    mov     r3, #0
    mov     r4, #0
    mov     r5, #0
1:  stmia   r0!, {{r2-r5}}
    cmp     r0, r1
    blo     1b

    @ Level 3: the image's pages, each section with its own rights.
    ldr     r6, ={image_table}
    add     r6, r6, r11
    ldr     r2, ={TEXT_LOW}
    mov     r3, #0
    ldr     r0, =__image_start
    ldr     r1, =__rodata_start
    bl      map_pages
    ldr     r3, ={XN_HIGH}
    ldr     r1, =__data_start
    bl      map_pages
    ldr     r2, ={DATA_LOW}
    ldr     r1, =__guard_start
    bl      map_pages
    ldr     r0, =__stack_start
    ldr     r1, =__stack_end
    bl      map_pages
    ldr     r0, =__fault_stack_start
    ldr     r1, =__fault_stack_end
    bl      map_pages

    @ Level 2 and level 1.
    mov     r3, #0
    ldr     r0, ={level2}
    add     r0, r0, r11
    orr     r2, r6, #3
    ldr     r1, =__image_start
    lsr     r1, r1, #21
    add     r1, r0, r1, lsl #3
    strd    r2, r3, [r1]
    ldr     r7, ={level1}
    add     r7, r7, r11
    orr     r2, r0, #3
    strd    r2, r3, [r7]

    @ This code's own 2 MiB, mapped to itself until every CPU has come through here. Where it
    @ shares its GiB with the image's address, the entry goes into the same level-2 table.
    lsrs    r1, r8, #30
    beq     2f
    ldr     r0, ={identity}
    add     r0, r0, r11
    orr     r2, r0, #3
    add     r1, r7, r1, lsl #3
    strd    r2, r3, [r1]
2:  ubfx    r1, r8, #21, #9
    add     r1, r0, r1, lsl #3
    ldrd    r4, r5, [r1]
    cmp     r4, #0                  @ loaded where the image is linked: not an identity but the
3:  bne     3b                      @ image's own entry; no such board is known
    lsr     r2, r8, #21
    lsl     r2, r2, #21
    ldr     r4, ={TEXT_BLOCK_LOW}
    orr     r2, r2, r4
    strd    r2, r3, [r1]
    bl      forget_tables

    bl      mmu_on
    ldr     pc, =4f
4:  ldr     sp, =__stack_end
    ldr     r0, =__tables_end
    ldr     r1, =__bss_end
    mov     r2, #0
    mov     r3, #0
    mov     r4, #0
    mov     r5, #0
5:  cmp     r0, r1
    stmialo r0!, {{r2-r5}}
    blo     5b
    mov     r0, r9
    mov     r1, r8
    and     r2, r10, #0x1f
    mov     fp, #0
    bl      {boot}

@ A CPU brought up later: r0 = physical address of its boot words {{stack top, argument}}, Hyp mode.
.global secondary_start
.type secondary_start, %function
secondary_start:
    cpsid   aif
    mov     r9, r0
    mrs     r10, cpsr
    adr     r8, _start
    ldr     r0, =_start
    sub     r11, r8, r0
    bl      caches_off
    ldr     r7, ={level1}
    add     r7, r7, r11
    ldm     r9, {{r4, r9}}
    bl      mmu_on
    ldr     pc, =6f
6:  mov     sp, r4
    mov     r0, r9
    mov     fp, #0
    bl      {secondary}

@ Fills the level-3 table r6 for linked addresses r0 up to r1 with descriptors r2 (low), r3 (high).
@ r0 = r1 afterwards; r4, r5, r12 lost.
map_pages:
    add     r12, r0, r11
    orr     r4, r12, r2
    mov     r5, r3
    ubfx    r12, r0, #12, #9
    add     r12, r6, r12, lsl #3
    strd    r4, r5, [r12]
    add     r0, r0, #4096
    cmp     r0, r1
    blo     map_pages
    bx      lr

@ Invalidates the tables' lines to the point of coherency, or those from r0 up to r1. r0-r3 lost.
forget_tables:
    ldr     r0, =__tables_start
    add     r0, r0, r11
    ldr     r1, =__tables_end
    add     r1, r1, r11
forget:
    mrc     p15, 0, r2, c0, c0, 1   @ CTR.DminLine: log2 of the words in the smallest line
    ubfx    r2, r2, #16, #4
    mov     r3, #4
    lsl     r3, r3, r2
    dsb
7:  mcr     p15, 0, r0, c7, c6, 1   @ DCIMVAC
    add     r0, r0, r3
    cmp     r0, r1
    blo     7b
    dsb
    bx      lr

@ MMU and caches off, instruction side and TLB forgotten. Z set where this is Hyp mode. r0, r1 lost.
caches_off:
    and     r1, r10, #0x1f
    cmp     r1, #0x1a
    mrceq   p15, 4, r0, c1, c0, 0   @ HSCTLR
    mrcne   p15, 0, r0, c1, c0, 0   @ SCTLR
    bic     r0, r0, #0x1000
    bic     r0, r0, #7              @ nor alignment checked: not all accesses are aligned
    mcreq   p15, 4, r0, c1, c0, 0
    mcrne   p15, 0, r0, c1, c0, 0
    isb
    mov     r0, #0
    mcr     p15, 0, r0, c7, c5, 0   @ ICIALLU
    mcreq   p15, 4, r0, c8, c7, 0   @ TLBIALLH
    mcrne   p15, 0, r0, c8, c7, 0   @ TLBIALL
    dsb
    isb
    bx      lr

@ MMU and caches on with the level-1 table r7. r0-r2 lost.
mmu_on:
    and     r1, r10, #0x1f
    cmp     r1, #0x1a
    ldr     r0, ={MAIR}
    mcreq   p15, 4, r0, c10, c2, 0  @ HMAIR0
    mcrne   p15, 0, r0, c10, c2, 0  @ MAIR0
    ldr     r0, ={TCR}
    mcreq   p15, 4, r0, c2, c0, 2   @ HTCR
    mcrne   p15, 0, r0, c2, c0, 2   @ TTBCR
    mov     r2, #0
    mcrreq  p15, 4, r7, r2, c2      @ HTTBR
    mcrrne  p15, 0, r7, r2, c2      @ TTBR0
    isb
    ldreq   r0, ={HSCTLR}
    mrcne   p15, 0, r0, c1, c0, 0
    orrne   r0, r0, #0x1000
    orrne   r0, r0, #5
    dsb
    mcreq   p15, 4, r0, c1, c0, 0
    mcrne   p15, 0, r0, c1, c0, 0
    isb
    bx      lr
.ltorg
