#!/bin/busybox sh
# What a Linux works at for `cargo xtask bench`: the kernel's log says to the microsecond when each work began and ended.
#
# work each [NAME...]: those, or all, one after the other.
# work beside SECOND: all of it, each time from a second of the machine's clock on, beside another VM; then, in that second,
# what the log's time is by the machine's clock.
clock=/sys/class/rtc/rtc0/since_epoch
echo on > /proc/sys/kernel/printk_devkmsg
cd /tmp

# So that each work is as much each time. Random numbers are ready: they become so at any time, by the device tree or the
# interrupts that there were, and until then each new page of small objects takes thousands of instructions more. Programs lie
# where they lay before. And processes take turns as they wait, by SCHED_FIFO: in the default scheduler's turns, which are by how
# long each has run, to the nanosecond, hackbench switches 2,000 times or 7,000, about 3,000 instructions each.
{
	head -c 16 /dev/random
	echo 0 > /proc/sys/kernel/randomize_va_space
	echo -1 > /proc/sys/kernel/sched_rt_runtime_us
	chrt --pid --fifo 1 $$
} > /dev/null

# Reads and writes of one byte.
syscalls() { dd if=/dev/zero of=/dev/null bs=1 count=$1; }

# A byte goes round between two processes.
switches() {
	mkfifo there back
	dd if=there of=back bs=1 count=$1 &
	{ printf x; dd bs=1 count=$1; } > there < back
	wait
	rm there back
}

# Programs started, one after the other.
forks() {
	n=0
	while [ $n -lt $1 ]; do
		/bin/busybox true
		n=$((n + 1))
	done
}

pipe() { dd if=/dev/zero bs=64k count=$1 | dd of=/dev/null bs=64k; }

# Eight senders, eight receivers, each to each.
hackbench() { /bin/hackbench -g 1 -f 8 -l $1; }

# In the default scheduler's turns.
hackbench_other() { chrt --other 0 /bin/hackbench -g 1 -f 8 -l $1; }

mark() { echo "work $*" > /dev/kmsg; }

# Gives back what of small objects' memory is in no use: what has been freed in which order, at random, else makes a hundredth more.
settle() {
	for cache in /sys/kernel/slab/*/shrink; do echo 1 > $cache; done
}

# Once so that all that it needs is in memory, then five times, since the timer's interrupts come at other places each time.
work() {
	$1 $2
	for again in 1 2 3 4 5; do
		settle
		mark $1 begins
		$1 $2
		mark $1 ends
	done
}

all() {
	syscalls 50000; switches 5000; forks 100; pipe 1000; settle; hackbench 1000
}

until_second() {
	while read now < $clock; [ $now -lt $1 ]; do usleep 10000; done
}

{
	case $1 in
	each)
		shift
		for name in ${*:-syscalls switches forks pipe hackbench hackbench_other}; do
			case $name in
			syscalls) work syscalls 50000 ;;
			switches) work switches 5000 ;;
			forks) work forks 100 ;;
			pipe) work pipe 1000 ;;
			hackbench*) work $name 1000 ;;
			esac
		done
		;;
	beside)
		all
		for second in 10 12 14; do
			until_second $second
			mark vm$2 begins
			all
			mark vm$2 ends
		done
		until_second $2
		usleep 950000
		while read next < $clock; [ $next = $now ]; do :; done
		mark vm$2 edge $next
		;;
	esac
} > /dev/null 2>&1
echo work is done
dmesg | grep " work "
echo tree
od -An -v -tx1 /sys/firmware/fdt
