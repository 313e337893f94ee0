# SPDX-License-Identifier: LGPL-2.1-only
"""The options of a command line, read as the real tap-ctl reads them: by getopt(3) and atoi(3)."""

import sys


class Usage(Exception):
    """Wrong options: the usage goes to stderr, the exit code is EINVAL."""


class Help(Exception):
    """-h was given: the usage goes to stdout, the exit code is 0."""


def read(text, arguments):
    """Read `arguments` as getopt(3) does with the letters in `text` (a colon follows one that takes
    a value)."""
    given = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            break
        if not argument.startswith("-") or argument == "-":
            continue
        letters = argument[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            position = text.find(letter)
            if letter == ":" or position < 0:
                sys.stderr.write("list: invalid option -- '%s'\n" % letter)
                raise Usage()
            if letter == "h":
                raise Help()
            if text[position + 1 : position + 2] != ":":
                given[letter] = True
                continue
            if not letters and not waiting:
                sys.stderr.write("list: option requires an argument -- '%s'\n" % letter)
                raise Usage()
            given[letter] = letters or waiting.pop(0)
            letters = ""
    return given


def number(text):
    """As atoi(3)."""
    digits = ""
    for character in text.strip():
        if not (character.isdigit() or character in "+-" and not digits):
            break
        digits += character
    return int(digits) if digits.strip("+-") else 0
