#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Writes the manual page of `sxm` (section 1, roff) to standard output, from what its commands say
of themselves. `make man` puts it into build/man."""

import os
import sys

import typer

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import storage_motion
from storage_motion.cli import exit_codes, main

AS_IT_IS = "\b"  # the first line of a paragraph that is not to be filled


def escaped(text):
    """Text, with nothing in it that roff takes for its own."""
    return "\n".join(
        "\\&" + line if line.startswith((".", "'")) else line
        for line in text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    )


def paragraphs(text):
    """roff of a help text: paragraphs, and those that are as they are."""
    found = []
    for part in (text or "").strip().split("\n\n"):
        first, _, rest = part.partition("\n")
        if first.strip() == AS_IT_IS:
            lines = [line.strip() for line in rest.splitlines()]
            found += [".PP", ".nf", ".RS"] + [escaped(line) for line in lines] + [".RE", ".fi"]
        else:
            found += [".PP", escaped(" ".join(part.split()))]
    return found


def options(command, context):
    """roff of what a command takes."""
    found = []
    for one in command.get_params(context):
        record = one.get_help_record(context)
        if record:
            found += [".TP", ".B " + escaped(record[0].partition(" <")[0]), escaped(record[1])]
    return found


def page():
    """The whole of it."""
    root = typer.main.get_command(main.application)
    context = root.make_context(main.NAME, [], resilient_parsing=True)
    lines = [
        '.TH SXM 1 "" "Storage XenMotion %s" "User Commands"' % storage_motion.__version__,
        ".SH NAME",
        "sxm \\- moves running VMs' disks between storage repositories, hosts and pools",
        ".SH SYNOPSIS",
        ".B sxm",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
    ]
    lines += paragraphs(root.help) + [".SH OPTIONS"] + options(root, context)
    lines.append(".SH COMMANDS")
    for name, command in root.commands.items():
        inner = command.make_context(name, [], parent=context, resilient_parsing=True)
        lines += [".SS " + name] + paragraphs(command.help) + options(command, inner)
    lines.append(".SH EXIT STATUS")
    for status, meaning in exit_codes.MEANINGS.items():
        lines += [".TP", ".B %d" % status, escaped(meaning)]
    lines += [
        ".SH ENVIRONMENT",
        ".TP",
        ".B SXM_SERVER, SXM_PASSWORD, SXM_REMOTE_PASSWORD",
        "The pool, its password, and the destination pool's.",
        ".SH FILES",
        ".TP",
        ".B $XDG_CONFIG_HOME/sxm/pools.toml, else ~/.config/sxm/pools.toml",
        "The pools that are known by a name.",
        ".TP",
        ".B trusted\\-certificates",
        "Beside it: the certificates that the pools had at their first use.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
