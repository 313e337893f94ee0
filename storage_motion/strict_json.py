# SPDX-License-Identifier: LGPL-2.1-only
"""JSON that somebody else wrote: another pool, the peer of a connection, a file of which it is not
known who touched it last."""

import json
import math
from typing import Any, NoReturn

MAX_DIGITS = 20  # of an integer; 64 bits have no more. Python 3.6 takes time quadratic in them


def loads(text: str) -> Any:
    """The value of `text` (str). Raises ValueError for what is no JSON, nests too deeply, or has
    numbers that nobody means."""
    try:
        return json.loads(text, parse_int=_integer, parse_float=_real, parse_constant=_constant)
    except RecursionError:
        raise ValueError("nested too deeply")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("an integer of %d digits" % len(text))
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number beyond all bounds")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError("%s is no JSON" % name)
