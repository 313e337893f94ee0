# SPDX-License-Identifier: LGPL-2.1-only
"""What talks to xapi: sessions, tasks, metadata, xenops."""
