#!/bin/sh
# Become a machine of its own, and its systemd: to be run as process 1 of new namespaces (tests/e2e/machine.py).
# It has this machine's files; what it changes in them is kept in memory. Nothing of what this machine runs is in it.
# Usage: machine.sh NAME DIRECTORY [SHOWN…]
set -eu
name=$1 base=$2
shift 2
root=$base/root

mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$base"
mkdir "$base/changes" "$base/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$base/changes,workdir=$base/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for shown in "$@"; do
	mkdir -p "$root$shown"
	mount --bind "$shown" "$root$shown"
done

mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
mkdir "$root/dev/net" "$root/dev/pts" "$root/dev/shm"
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty "$root/dev"
cp -a /dev/net/tun "$root/dev/net"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

# systemd takes the group it is in for the root of all. Where there are both versions, it goes by these two directories.
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
for tree in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
	if [ -e "$tree/cgroup.procs" ]; then
		mkdir "$tree/$name"
		echo 0 >"$tree/$name/cgroup.procs"
	fi
done

# What would reach beyond its namespaces, or is this machine's own: the kernel's settings and devices, domains, journal.
rm -rf "$root/etc/libvirt/qemu" "$root/var/log/journal" "$root/etc/libvirt-autoscaler" "$root/var/lib/libvirt-autoscaler"
mkdir -p "$root/run/systemd/system"
for unit in systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service \
	systemd-sysctl.service systemd-modules-load.service systemd-random-seed.service systemd-tmpfiles-setup-dev.service \
	systemd-remount-fs.service proc-sys-fs-binfmt_misc.automount; do
	ln -s /dev/null "$root/run/systemd/system/$unit"
done

ip link set lo up
cd "$root"
mkdir .outside
pivot_root . .outside
umount -l .outside
rmdir .outside
container=other exec /lib/systemd/systemd --unit=basic.target </dev/null >/dev/null 2>&1
