# The first process of a lab kernel: makes a root that may be written, and changes over to it.
#
# Started by /lab-init of the root file system, which many kernels share read-only. Above it comes an
# overlay in memory; the host's directories are mounted at the paths that they have on the host:
# lab.read and lab.write of the command line, separated by commas. Then start.sh goes on.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

told() { # the value of a word of the command line
    for word in $(cat /proc/cmdline); do
        case $word in "$1"=*) printf '%s\n' "${word#*=}" | tr , ' ' ;; esac
    done
}

mount -t sysfs sys /sys
modprobe overlay
mount -t tmpfs -o size=90% tmpfs /mnt
mkdir /mnt/changes /mnt/work /mnt/root
root=/mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/changes,workdir=/mnt/work $root
mount -t devtmpfs dev $root/dev
mkdir -p $root/dev/pts $root/dev/shm
mount -t devpts devpts $root/dev/pts
for directory in dev/shm run tmp; do mount -t tmpfs tmpfs $root/$directory; done
mkdir -p $root/run/lock $root/run/dbus
for directory in $(told lab.read); do
    mkdir -p "$root$directory"
    mount -t hostfs -o "ro,$directory" none "$root$directory"
done
for directory in $(told lab.write); do
    mkdir -p "$root$directory"
    mount -t hostfs -o "$directory" none "$root$directory"
done
rm -f $root/etc/mtab
ln -s /proc/self/mounts $root/etc/mtab
start=$(dirname "$(told lab.init)")/start.sh
job=$(told lab.job)
umount /media /sys /proc
exec switch_root $root /bin/sh "$start" "$job"
