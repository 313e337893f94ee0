# SPDX-License-Identifier: LGPL-2.1-only
"""How xe prints: values, records, --minimal (cli_printer.ml, records.ml)."""

LOWER_CASE = ("power_state", "status")


def text(value, source=""):
    """A value of XenAPI as xe shows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        shown = "%.12g" % value
        return shown if set(shown) & set(".en") else shown + "."
    if isinstance(value, dict):
        return "; ".join("%s: %s" % pair for pair in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(str(item) for item in value)
    return str(value).lower() if source in LOWER_CASE else str(value)


def label(field):
    """A field's name with its access, e.g. `uuid ( RO)`."""
    return "%s (%s)" % (field.name, field.access.rjust(3))


def record(pairs):
    """One record of (label, value) pairs."""
    width = 4 + max(len(name) for name, _ in pairs)
    lines = [
        "%s: %s" % (name.ljust(width) if number == 0 else name.rjust(width), value)
        for number, (name, value) in enumerate(pairs)
    ]
    return "\n".join(lines) + "\n\n"


def minimal(values):
    """--minimal: values separated by commas, commas in them escaped."""
    return ",".join(value.replace("\\", "\\\\").replace(",", "\\,") for value in values)
