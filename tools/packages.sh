#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# Installs the Debian packages that the lab and the tests need and this machine lacks: names them first.
# `packages.sh bench`, `storage`, `npm`, `report`: those that only `make bench`, `make test-storage`, one test of `make test-e2e` and the browser of
# `make test-lab` and of `make walkthrough` need; without that one the report's page is looked at by its markup alone.
set -eu

missing=
need() {  # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || case " $missing " in *" $2 "*) ;; *) missing="$missing $2" ;; esac
}
case "${1:-}" in
"")
    needed="qemu-img qemu-storage-daemon openssl rpmbuild nbdkit systemd-run tmux"
    need python3 python3
    need qemu-img qemu-utils
    need qemu-storage-daemon qemu-system-common
    need openssl openssl
    need rpmbuild rpm
    need rpm rpm
    need nbdkit nbdkit
    need systemd-run systemd
    need nsenter util-linux
    need tmux tmux
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
    ;;
bench)
    needed="nbdcopy fio stunnel qemu-img qemu-storage-daemon nbdkit openssl tc"
    need nbdcopy libnbd-bin
    need fio fio
    need stunnel stunnel4
    need qemu-img qemu-utils
    need qemu-storage-daemon qemu-system-common
    need nbdkit nbdkit
    need openssl openssl
    need tc iproute2
    ;;
storage)
    needed="qemu-system-x86_64 mmdebstrap mkfs.ext4 cpio setpriv"
    need qemu-system-x86_64 qemu-system-x86
    need mmdebstrap mmdebstrap
    need mkfs.ext4 e2fsprogs
    need cpio cpio
    need setpriv util-linux
    ;;
report)
    needed="chromium pdftoppm"
    need chromium chromium
    need pdftoppm poppler-utils
    ;;
npm)
    needed="node npm"
    need node nodejs
    need npm npm
    ;;
*)
    echo "packages.sh: no group of packages is called $1" >&2
    exit 2
    ;;
esac

[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "These Debian packages are missing, and there is no apt-get here to install them:$missing" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then as_root=
elif command -v sudo >/dev/null 2>&1; then as_root=sudo
else
    echo "These Debian packages are missing, and installing them needs root or sudo:$missing" >&2
    exit 1
fi
echo "Installing these Debian packages, which are missing:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { $as_root apt-get -qq update &&
       $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "apt-get could not install:$missing" >&2
    exit 1
fi
for command in $needed; do
    command -v $command >/dev/null 2>&1 || { echo "$command is still missing after installing$missing" >&2; exit 1; }
done
