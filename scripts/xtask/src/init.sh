#!/bin/busybox sh
# The first process of `--vm linux`: a shell on the console, after what the kernel's command line has in run="…".
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
ls -d /sys/bus/platform/devices/*virtio_mmio* >/dev/null 2>&1 &&
	for module in virtio_mmio virtio_blk; do insmod /lib/$module.ko; done
echo "init: up, $(uname -sr), $(nproc) CPUs"
[ -z "$run" ] || sh -c "$run"
while :; do
	setsid cttyhack sh
done
