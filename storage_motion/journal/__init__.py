# SPDX-License-Identifier: LGPL-2.1-only
"""What a host keeps of a migration on its own disk, which no crash of a xapi takes back."""
