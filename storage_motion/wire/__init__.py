# SPDX-License-Identifier: LGPL-2.1-only
"""What both ends of the data path speak: NBD, TLS, the channel of a mover and a receiver, control
sockets."""
