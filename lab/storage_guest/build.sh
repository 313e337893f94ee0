#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# build.sh DIRECTORY REQUIREMENT...: makes the storage guest in DIRECTORY: vmlinuz, initrd.img, root.ext4.
#
# Debian's packages from the sources that this machine itself uses; the given requirements for Python from PyPI.
# No mounts, no loop devices: the root file system is packed from a directory. Needs root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1
shift
root=$out/root
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
sources=/etc/apt/sources.list.d/debian.sources
[ -e "$sources" ] || sources=/etc/apt/sources.list
packages=$(grep -v '^#' "$here/packages.txt" | paste -sd,)

# The kernel is only downloaded: installing it would want an initramfs of Debian's, which takes longer than all the rest.
# linux-image-cloud-amd64 lacks Fibre Channel and 9p.
cat >"$out/fetch-kernel" <<'X'
#!/bin/sh
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$1/.."
kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -1)
apt-get -qq download "$kernel"
echo "${kernel#linux-image-}" >kernel-version
X
chmod +x "$out/fetch-kernel"
mmdebstrap --quiet --variant=minbase --mode=root --format=directory --skip=cleanup/reproducible --include="$packages" \
    --aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --customize-hook="$out/fetch-kernel" "$suite" "$root" "$sources"

version=$(cat "$out/kernel-version")
# --keep-directory-symlink: else the package's /lib would take the place of the link
dpkg-deb --fsys-tarfile "$out"/linux-image-*.deb | tar -x --keep-directory-symlink -C "$root" --exclude './usr/share/*' \
    --exclude '*/drivers/gpu/*' --exclude '*/sound/*' --exclude '*/drivers/net/wireless/*' --exclude '*/drivers/media/*' \
    --exclude '*/drivers/net/ethernet/*' --exclude '*/drivers/infiniband/*' --exclude '*/drivers/usb/*' \
    --exclude '*/drivers/iio/*' --exclude '*/drivers/hid/*' --exclude '*/drivers/staging/*'
rm "$out"/linux-image-*.deb "$out/fetch-kernel"
chroot "$root" depmod "$version"
cp "$root/boot/vmlinuz-$version" "$out/vmlinuz"

# Wheels for the guest's own Python, whichever this machine has
python=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-compile \
    --target "$root/usr/lib/python3/dist-packages" --python-version "$python" --only-binary=:all: "$@"
# once, here, and not under emulation at every start
chroot "$root" python3 -m compileall -q -x 'lib2to3/tests|bad_' "/usr/lib/python$python" /usr/lib/python3/dist-packages

mkdir -p "$root/mnt/share" "$root/mnt/repository" "$root/repository" "$root/etc/target"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin

initrd=$out/initrd
mkdir -p "$initrd/bin" "$initrd/proc" "$initrd/sys" "$initrd/dev" "$initrd/mnt" "$initrd/modules"
cp "$root/bin/busybox" "$initrd/bin/"
install -m 755 "$here/initrd-init" "$initrd/init"
number=100
for module in virtio_pci virtio_blk ext4 9pnet_virtio 9p; do
    chroot "$root" modprobe -S "$version" --show-depends "$module"
done | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' | while read -r file; do
    number=$((number + 1))
    cp "$root$file" "$initrd/modules/$number-$(basename "$file")"
done
(cd "$initrd" && find . | cpio --quiet -o -H newc) | gzip -1 >"$out/initrd.img"

truncate -s 2G "$out/root.ext4"
mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0 -d "$root" "$out/root.ext4"
rm -rf "$initrd" "$root"
