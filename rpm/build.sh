#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# Builds the noarch RPM into build/rpm/RPMS/noarch/ and prints its path.
set -eu
sources=$(cd "$(dirname "$0")/.." && pwd)
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$sources/storage_motion/__init__.py")
top=${1:-$sources/build/rpm}

# Two builds that differ are told apart, by rpm and by the hosts that ask one another for their version: when the newest change was
# made (a later build is an upgrade), and a digest of what is packaged (with changes that nobody has committed).
packaged="storage_motion plugins drivers xapi-hooks rpm LICENSE"
changed=$(git -C "$sources" log -1 --format=%ct -- $packaged 2>/dev/null) || changed=
if [ -z "$changed" ]; then  # an archive: no history
    changed=$(cd "$sources" && find $packaged -type f -name '[!.]*' ! -name '*.pyc' -printf '%T@\n' | sort -n | tail -n 1)
fi
stamp=$(date -u -d "@${changed%.*}" +%Y%m%d%H%M%S)
digest=$(cd "$sources" && find $packaged ! -path '*__pycache__*' -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c -10)
mkdir -p "$top"
log=$top/build.log
# rpm leaves a scriptlet out that it cannot read, with a warning
if ! rpmbuild -bb --target noarch \
    --define "_topdir $top" --define "sources $sources" --define "product_version $version" \
    --define "product_build $stamp.$digest" \
    "$sources/rpm/storage-xenmotion.spec" >"$log" 2>&1 || grep -q 'invalid syntax' "$log"; then
    cat "$log" >&2
    exit 1
fi
ls "$top"/RPMS/noarch/storage-xenmotion-"$version"-*.noarch.rpm
