# SPDX-License-Identifier: LGPL-2.1-only
"""The calls that this xapi knows: name -> function and parameters. Modules add theirs by the
decorator `call`."""

from collections import namedtuple

from lab.xapi import model, tables
from lab.xapi.failures import Failure
from lab.xapi.schema import Parameter, coerce, signature

Call = namedtuple("Call", "name parameters function needs_session is_async")

REGISTRY = {}


def call(name, parameters="", needs_session=True, is_async=True):
    """Register `function(context, *parameters)` as the XenAPI call `name`; parameters as in
    `schema.signature`."""

    def register(function):
        add(name, signature(parameters), function, needs_session, is_async)
        return function

    return register


def hidden(name, is_async=True):
    """The same for a message that the data model's file has not: its parameters are in
    `tables.HIDDEN`."""
    return call(name, tables.HIDDEN[name], is_async=is_async)


def add(name, parameters, function, needs_session=True, is_async=True):
    """Register a call with these Parameters."""
    if name in REGISTRY:
        raise ValueError("two calls named %s" % name)
    REGISTRY[name] = Call(name, parameters, function, needs_session, is_async)


def modelled(name):
    """The Parameters of xapi's message of that name, without their defaults, which the model's file
    has not; None where there is none."""
    if name in tables.HIDDEN:
        return signature(tables.HIDDEN[name])
    class_name, _, method = name.partition(".")
    if (
        method in tables.HIDDEN_OF_ALL
        and class_name != "message"
        and model.message("%s.get_all" % class_name)
    ):
        return signature(tables.HIDDEN_OF_ALL[method])
    if model.message(name) is None:
        return None
    return [
        Parameter(parameter, of_type, not required, None)
        for parameter, of_type, required in model.parameters(name)
    ]


def refuse_the_rest():
    """What xapi answers and this one does not is refused as such, once its parameters and session
    have been looked at."""
    for name in model.names():
        if name not in REGISTRY:
            add(name, modelled(name), _not_implemented(name), model.needs_session(name))


def _not_implemented(name):
    def refuse(context, *_):
        raise Failure("NOT_IMPLEMENTED", name)

    return refuse


def find(name):
    """The Call of that name, which may also be written `CLASS_METHOD`; None where there is none."""
    if name in REGISTRY:
        return REGISTRY[name]
    for class_name in model.MODEL:  # gen_server.ml, alternative_wire_name
        if name.startswith(class_name + "_"):
            return REGISTRY.get("%s.%s" % (class_name, name[len(class_name) + 1 :]))
    return None


def arguments(to_call, given):
    """The arguments of `to_call`, each of its type, from what the client sent (without the
    session).

    What is sent beyond the last parameter that may be left out is ignored, as by xapi
    (gen_server.ml). Raises MESSAGE_PARAMETER_COUNT_MISMATCH [name, expected, received], and as
    `schema.coerce` says.
    """
    parameters = to_call.parameters
    least = sum(1 for parameter in parameters if not parameter.optional)
    if given is None:  # not even a session
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", to_call.name, least, -1)
    if len(given) < least or (len(given) > least and least == len(parameters)):
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", to_call.name, least, len(given))
    values = [
        coerce(value, parameter.type, parameter.name) for value, parameter in zip(given, parameters)
    ]
    return values + [parameter.default for parameter in parameters[len(given) :]]
