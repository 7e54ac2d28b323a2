@ The vectors, and the way into a guest and back.
@
@ While a guest runs, sp_hyp points just behind r0-r12 and lr_usr of its saved registers, so that one
@ store saves them; behind those lie ELR_hyp, SPSR_hyp and the hypervisor's own stack pointer.
@ Whatever else the guest has stays live in the hardware.
@
@ enter(r0 = saved registers) -> r0 = which vector it came back by. Interrupts stay masked in Hyp: only a guest can
@ be interrupted. ARM DDI 0406C: B1.8 (exceptions to Hyp), B1.9 (vectors).

.arch armv7-a
.arch_extension virt
.arch_extension sec
.syntax unified
.arm

.section .vectors, "ax"
.balign 32
.global vectors
vectors:
    b       .                       @ reset: never taken to Hyp
    b       fault_undefined
    b       fault_call
    b       fault_prefetch
    b       abort
    b       trap
    b       interrupt
    b       fast_interrupt

.macro save kind
    stmdb   sp!, {{r0-r12, lr}}
    mrs     r2, elr_hyp
    mrs     r3, spsr
    strd    r2, r3, [sp, #{PC}]
    ldr     sp, [sp, #{HOST_SP}]
    mov     r0, #\kind
    pop     {{r4-r11, pc}}
.endm

.global enter
.type enter, %function
enter:
    push    {{r4-r11, lr}}
    str     sp, [r0, #{HOST_SP}]
    ldrd    r2, r3, [r0, #{PC}]
    msr     elr_hyp, r2
    msr     spsr_cxsf, r3
    add     sp, r0, #{PC}
    clrex                           @ Hyp's own exclusives must not satisfy the guest's
    ldmdb   sp, {{r0-r12, lr}}
    eret
    dsb                             @ no straight-line speculation
    isb

trap:
    save    {TRAP}
interrupt:
    save    {IRQ}
fast_interrupt:
    save    {FIQ}

@ The data abort vector serves Hyp's own aborts and asynchronous ones that a guest caused. The stack
@ may be what faulted, so HTPIDR is the scratch; the caller of enter sets it again.
abort:
    mcr     p15, 4, r0, c13, c0, 2
    mrs     r0, spsr
    and     r0, r0, #{MODE_MASK}
    cmp     r0, #{HYP}
    mrc     p15, 4, r0, c13, c0, 2
    beq     fault_data
    save    {ASYNC}

@ Exceptions taken in Hyp itself end in a dump, on a stack of their own.
.macro fault kind
    mcr     p15, 4, r0, c13, c0, 2
    ldr     r0, =__fault_stack_end - {DUMP_SIZE}
    stmib   r0, {{r1-r12}}
    mov     r1, #\kind
    b       fault_common
.endm
fault_undefined:
    fault   0
fault_call:
    fault   1
fault_prefetch:
    fault   2
fault_data:
    fault   3

fault_common:
    mrc     p15, 4, r2, c13, c0, 2
    str     r2, [r0]
    mrs     r2, elr_hyp
    mrs     r3, spsr
    add     r4, r0, #{DUMP_SP}
    stm     r4, {{sp, lr}}
    strd    r2, r3, [r4, #8]
    mov     sp, r0
    bl      {fault}
    b       .
.ltorg
