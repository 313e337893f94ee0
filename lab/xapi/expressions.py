# SPDX-License-Identifier: LGPL-2.1-only
"""The language of get_all_records_where: `field "type" = "x" and not (field "shared" = "true")`."""

import lark

from lab.xapi.failures import Failure

_GRAMMAR = r"""
    ?start: chain
        | negation
        | chain "or" negation -> either
        | chain "and" negation -> both
    ?chain: comparison
        | chain "or" comparison -> either
        | chain "and" comparison -> both
    ?negation: "not" start -> opposite
    ?comparison: operand "=" operand -> same
        | "true" -> always
        | "false" -> never
        | "(" start ")"
    ?operand: QUOTED -> literal
        | "field" QUOTED -> field

    QUOTED: /"[^"]*"/
    %ignore /[ \t\n]+/
"""
"""As in xapi's db_filter_lex.mll and db_filter_parse.mly: of words only these, which need no space
behind them (sm has `andfield`); no escapes. `and` and `or` bind alike, from the left, and what
follows a `not` is all of it."""


def compile_expression(text):
    """A predicate over a record (field -> value). Raises INTERNAL_ERROR where the text is not of
    the language."""
    try:
        return _PARSER.parse(text)
    except lark.UnexpectedInput:
        raise Failure("INTERNAL_ERROR", "Db_filter: cannot parse the expression %r" % text)


@lark.v_args(inline=True)
class _Predicates(lark.Transformer):
    """Makes of each rule of the grammar a function of a record."""

    def either(self, left, right):
        return lambda record: left(record) or right(record)

    def both(self, left, right):
        return lambda record: left(record) and right(record)

    def opposite(self, inner):
        return lambda record: not inner(record)

    def always(self):
        return lambda record: True

    def never(self):
        return lambda record: False

    def same(self, left, right):
        return lambda record: left(record) == right(record)

    def literal(self, quoted):
        text = quoted[1:-1]
        return lambda record: text

    def field(self, quoted):
        name = quoted[1:-1].replace("__", "_")  # the database's own spelling: name__label
        return lambda record: _field(record, name)


def _field(record, name):
    """A field's value as it compares: its text, truth as true and false."""
    if name not in record:
        raise Failure("INTERNAL_ERROR", "Db_exn.DBCache_NotFound: missing field %s" % name)
    value = record[name]
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_PARSER = lark.Lark(_GRAMMAR, parser="lalr", lexer="basic", transformer=_Predicates())
