# SPDX-License-Identifier: LGPL-2.1-only
"""What the plugin offers: its functions, their arguments, and what they answer; and what xenopsd's
hooks ask."""
