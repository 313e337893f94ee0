# SPDX-License-Identifier: LGPL-2.1-only
"""What a migration is going to do, and whether it can: everything that is wrong is named at
once."""
