#!/bin/busybox sh
# What a Linux works at for `cargo xtask bench`: the kernel's log says to the microsecond when each work began and ended.
#
# work each [NAME...]: those, or all, one after the other, each done a little before, so that what it needs is in memory.
# work beside SECOND: all of it from the tenth second of the machine's clock on, beside another VM; then, in that second,
# what the log's time is by the machine's clock.
clock=/sys/class/rtc/rtc0/since_epoch
echo on > /proc/sys/kernel/printk_devkmsg
cd /tmp

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

mark() { echo "work $*" > /dev/kmsg; }

# Five times, since Linux's scheduler takes other turns each time.
work() {
	$1 $2
	for again in 1 2 3 4 5; do
		mark $1 begins
		$1 $3
		mark $1 ends
	done
}

until_second() {
	while read now < $clock; [ $now -lt $1 ]; do usleep 10000; done
}

{
	case $1 in
	each)
		shift
		for name in ${*:-syscalls switches forks pipe hackbench}; do
			case $name in
			syscalls) work syscalls 1000 50000 ;;
			switches) work switches 100 5000 ;;
			forks) work forks 5 100 ;;
			pipe) work pipe 10 1000 ;;
			hackbench) work hackbench 5 200 ;;
			esac
		done
		;;
	beside)
		until_second 10
		mark vm$2 begins
		syscalls 100000; switches 10000; forks 300; pipe 2000; hackbench 400
		mark vm$2 ends
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
