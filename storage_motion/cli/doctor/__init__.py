# SPDX-License-Identifier: LGPL-2.1-only
"""`sxm doctor`: `looking` gathers what is to be known of one pool or two, and changes nothing;
`table` has the checks that judge it, each a small function."""
