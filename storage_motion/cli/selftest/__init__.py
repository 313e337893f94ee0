# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm selftest`: moves a small VM each way that these hosts allow, and tells what held.

`steps` is the table of what is done; `subject` the VM that is moved, `ways` the order of its moves,
`cleaning` what takes away all that was made, `report` what can be sent in. docs/selftest.md.
"""
