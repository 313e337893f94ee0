#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# Prints the path of a Python 3.6 that runs, the one of XCP-ng 8.3's dom0; prints nothing and fails where there is none.
for candidate in "$(command -v python3.6 2>/dev/null)" "${HOME:-/root}"/.pyenv/versions/3.6.*/bin/python3.6 /opt/python3.6/bin/python3.6; do
    [ -x "$candidate" ] && "$candidate" -c 'import ssl, ctypes' 2>/dev/null && { echo "$candidate"; exit 0; }
done
exit 1
