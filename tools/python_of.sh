#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# `python_of.sh 3.6` prints the path of a Python 3.6 that runs; prints nothing and fails where there is none.
[ -n "${1:-}" ] || { echo "usage: python_of.sh VERSION, such as 3.6" >&2; exit 2; }
for candidate in "$(command -v "python$1" 2>/dev/null)" "${HOME:-/root}"/.pyenv/versions/"$1".*/bin/"python$1" /opt/"python$1"/bin/"python$1"; do
    [ -x "$candidate" ] && "$candidate" -c 'import ssl, ctypes' 2>/dev/null && { echo "$candidate"; exit 0; }
done
exit 1
