#!/bin/sh
# Builds the noarch RPM into build/rpm/RPMS/noarch/ and prints its path.
set -eu
sources=$(cd "$(dirname "$0")/.." && pwd)
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$sources/storage_motion/__init__.py")
top=${1:-$sources/build/rpm}
mkdir -p "$top"
log=$top/build.log
# rpm leaves a scriptlet out that it cannot read, with a warning
if ! rpmbuild -bb --target noarch \
    --define "_topdir $top" --define "sources $sources" --define "product_version $version" \
    "$sources/rpm/storage-xenmotion.spec" >"$log" 2>&1 || grep -q 'invalid syntax' "$log"; then
    cat "$log" >&2
    exit 1
fi
ls "$top"/RPMS/noarch/storage-xenmotion-"$version"-*.noarch.rpm
