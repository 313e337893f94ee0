#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# Becomes systemd, as PID 1 of namespaces that unshare has just made. It sees this machine's file system, and can write to none of it:
# /etc is a copy in memory, /run, /tmp and the like are empty. Nor does it know of any unit of this machine: an ordinary service would have
# systemd-tmpfiles clear /tmp, and more.
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/etc
cp -a /etc/. /run/etc 2>/dev/null || true   # what vanishes meanwhile, or cannot be read, is not needed
mount --bind /run/etc /etc
rm -rf /etc/systemd
mkdir -p /etc/systemd/system
for directory in /tmp /var/tmp /var/log /var/lib/systemd; do
    [ ! -d $directory ] || mount -t tmpfs -o mode=1777 tmpfs $directory
done
for directory in system system-generators system-preset; do
    [ ! -d /usr/lib/systemd/$directory ] || mount -t tmpfs -o mode=755 tmpfs /usr/lib/systemd/$directory
done
for target in default sysinit basic shutdown; do
    printf '[Unit]\nDescription=nothing\nDefaultDependencies=no\n' >/usr/lib/systemd/system/$target.target
done
mount -o remount,bind,ro /
if touch /tests-systemd 2>/dev/null; then
    rm -f /tests-systemd
    echo "this machine's file system can be written to" >&2
    exit 1
fi
exec env -i container=sxm-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/lib/systemd/systemd --system --log-target=console --log-level=notice --show-status=0
