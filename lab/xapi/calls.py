"""The calls that this xapi knows: name -> function and parameters. Modules add theirs by the decorator `call`."""
from collections import namedtuple

from lab.xapi.failures import Failure
from lab.xapi.schema import coerce, signature

Call = namedtuple("Call", "name parameters function needs_session is_async")

REGISTRY = {}


def call(name, parameters="", needs_session=True, is_async=True):
    """Register `function(context, *parameters)` as the XenAPI call `name`; parameters as in `schema.signature`."""
    def register(function):
        add(name, parameters, function, needs_session, is_async)
        return function
    return register


def add(name, parameters, function, needs_session=True, is_async=True):
    if name in REGISTRY:
        raise ValueError("two calls named %s" % name)
    REGISTRY[name] = Call(name, signature(parameters), function, needs_session, is_async)


def find(name):
    """The Call of that name. Raises MESSAGE_METHOD_UNKNOWN."""
    try:
        return REGISTRY[name]
    except KeyError:
        raise Failure("MESSAGE_METHOD_UNKNOWN", name) from None


def arguments(to_call, given):
    """The arguments of `to_call`, each of its type, from what the client sent (without the session).

    Raises MESSAGE_PARAMETER_COUNT_MISMATCH [name, expected, received], FIELD_TYPE_ERROR [parameter].
    """
    parameters = to_call.parameters
    least = sum(1 for parameter in parameters if not parameter.optional)
    if not least <= len(given) <= len(parameters):
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", to_call.name, len(parameters), len(given))
    values = [coerce(value, parameter.type, parameter.name) for value, parameter in zip(given, parameters)]
    return values + [parameter.default for parameter in parameters[len(given):]]
