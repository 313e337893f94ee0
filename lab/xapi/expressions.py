"""The language of get_all_records_where: `field "type" = "x" and not (field "shared" = "true")`."""
import re

from lab.xapi.failures import Failure

_TOKEN = re.compile(r"""\s*(?:(?P<quoted>"[^"]*")|(?P<word>true|false|field|and|or|not)|(?P<sign>[()=]))""")
"""As in xapi's db_filter_lex.mll: of words only these, which need no space behind them (sm has `andfield`); no escapes."""


def compile_expression(text):
    """A predicate over a record (field -> value). Raises INTERNAL_ERROR where the text is not of the language."""
    parser = _Parser(text)
    predicate = parser.disjunction()
    if parser.ahead is not None:
        parser.refuse()
    return predicate


def _compared(value):
    """How a field's value compares: as its text, truth as true and false."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


class _Parser:
    def __init__(self, text):
        self.text = text
        self.position = 0
        self.ahead = None
        self.advance()

    def refuse(self):
        raise Failure("INTERNAL_ERROR", "Db_filter: cannot parse the expression %r" % self.text)

    def advance(self):
        current = self.ahead
        if not self.text[self.position:].strip():
            self.ahead = None
            return current
        match = _TOKEN.match(self.text, self.position)
        if not match:
            self.refuse()
        self.position = match.end()
        self.ahead = (match.lastgroup, match.group(match.lastgroup))
        return current

    def take(self, value):
        if self.ahead is None or self.ahead[0] == "quoted" or self.ahead[1] != value:
            return False
        self.advance()
        return True

    def disjunction(self):
        left = self.conjunction()
        while self.take("or"):
            left = _either(left, self.conjunction())
        return left

    def conjunction(self):
        left = self.negation()
        while self.take("and"):
            left = _both(left, self.negation())
        return left

    def negation(self):
        if self.take("not"):
            inner = self.negation()
            return lambda record: not inner(record)
        return self.comparison()

    def comparison(self):
        if self.take("("):
            inner = self.disjunction()
            if not self.take(")"):
                self.refuse()
            return inner
        if self.take("true"):
            return lambda record: True
        if self.take("false"):
            return lambda record: False
        left = self.operand()
        if not self.take("="):
            self.refuse()
        right = self.operand()
        return lambda record: left(record) == right(record)

    def operand(self):
        is_field = self.take("field")
        if self.ahead is None or self.ahead[0] != "quoted":
            self.refuse()
        text = self.advance()[1][1:-1]
        if not is_field:
            return lambda record: text
        return lambda record: _field(record, text)


def _field(record, name):
    name = name.replace("__", "_")                      # the database's own spelling: name__label
    if name not in record:
        raise Failure("INTERNAL_ERROR", "Db_exn.DBCache_NotFound: missing field %s" % name)
    return _compared(record[name])


def _either(left, right):
    return lambda record: left(record) or right(record)


def _both(left, right):
    return lambda record: left(record) and right(record)
