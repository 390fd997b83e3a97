# The first process of a lab kernel after the change of root: brings up what a machine has, runs the
# one job, writes its exit status beside it and switches off.
#
#   start.sh JOB    a shell script; its status goes to JOB.status
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
job=$1

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
modprobe -a dm-mod configfs loop
mount -t configfs configfs /sys/kernel/config
/lib/systemd/systemd-udevd --daemon
udevadm trigger
udevadm settle -t 20
dbus-daemon --system --fork

sh "$job" 2>&1
echo $? >"$job.status"
sync
echo o >/proc/sysrq-trigger
sleep 10
