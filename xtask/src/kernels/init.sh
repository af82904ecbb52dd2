#!/usr/bin/busybox sh
# The first process of a kernel under test: runs the tests and switches off.
export PATH=/usr/bin:/usr/local/bin
/usr/bin/busybox --install -s /usr/local/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
# The others need the first; some kernels have them compressed.
for name in inet tcp udp; do
    module=/modules/${name}_diag.ko
    [ -e $module ] || xzcat $module.xz >$module
    insmod $module
done
echo "on-kernel: release $(uname -r)"
# Nothing that cannot be tested is passed over.
SRV_BIN=/usr/bin/srv SRV_REQUIRE_BPF=1 srv-tests $(cat /arguments)
echo "on-kernel: exit code $?"
poweroff -f
