# SPDX-License-Identifier: LGPL-2.1-only
"""docs/walkthrough.md has a place for each command that `make walkthrough` runs, and no other."""

from tools import walkthrough as tool


def test_each_output_has_a_command_that_makes_it_anew():
    with open(tool.PAGE) as source:
        text = source.read()
    places = [match.group(2) for match in tool.PLACE.finditer(text)]
    assert sorted(places) == sorted(list(tool.COMMANDS) + list(tool.FURTHER))
    bare = tool.PLACE.sub("", text)
    assert not [line for line in bare.splitlines() if line.startswith("    ")], "no other output"
    made = {name: "    %s\n" % name for name in places}
    assert tool.filled(tool.filled(text, made), made) == tool.filled(text, made) != text
    for match in tool.PLACE.finditer(text):
        command = tool.COMMANDS.get(match.group(2))
        assert command is None or match.group(3).startswith("    %s\n" % command)
