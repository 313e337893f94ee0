# SPDX-License-Identifier: LGPL-2.1-only
"""The calls that every class has, made from the data model: get_X, set_X, add_to_X, get_record and
the others.

Each is made only where xapi has it.
"""

from lab.xapi import tables
from lab.xapi.calls import REGISTRY, add, modelled
from lab.xapi.schema import CLASSES
from lab.xapi.sessions import assert_internal_access


def register():
    """Add them all to the calls, but for those that a module has made itself."""
    for class_name, fields in CLASSES.items():
        _whole_objects(class_name)
        for field in fields.values():
            _message("%s.get_%s" % (class_name, field.name), _reader(class_name, field))
            if field.access == "RW" or field.name in tables.SETTERS.get(class_name, ()):
                for method, function in _writers(class_name, field):
                    _message("%s.%s_%s" % (class_name, method, field.name), function)


def _message(name, function):
    parameters = modelled(name)
    if parameters is not None and name not in REGISTRY:
        add(name, parameters, function, is_async=False)


def _reader(class_name, field):
    def get(context, self):
        return context.database.get(class_name, self, field.name)

    return get


def _writers(class_name, field):
    """[(start of the message's name, function)]"""

    def assign(context, self, value):
        context.database.set(class_name, self, **{field.name: value})

    def include(context, self, key, value):
        context.database.add_to(class_name, self, field.name, key, value)

    def append(context, self, value):
        context.database.append(class_name, self, field.name, value)

    def remove(context, self, key):
        context.database.remove_from(class_name, self, field.name, key)

    fields, sr_field = tables.INTERNAL_SETTERS.get(class_name, ((), None))
    if field.name in fields:
        return [("set", _for_drivers(class_name, sr_field, assign))]
    return [
        ("set", assign),
        ("add_to", include),
        ("remove_from", remove),
        ("add", append),
        ("remove", remove),
    ]


def _for_drivers(class_name, sr_field, function):
    def checked(context, self, value):
        assert_internal_access(
            context, context.database.get(class_name, self, sr_field) if sr_field else self
        )
        function(context, self, value)

    return checked


def _whole_objects(class_name):
    def get_all(context):
        return context.database.refs(class_name)

    def get_all_records(context):
        return context.database.records(class_name)

    def get_all_records_where(context, expression):
        # loads a parser: 80 ms, and many times that on an emulated processor
        from lab.xapi.expressions import compile_expression

        matches = compile_expression(expression)
        return {
            ref: record
            for ref, record in context.database.records(class_name).items()
            if matches(record)
        }

    def get_all_where(context, expression):
        return list(get_all_records_where(context, expression))

    def get_record(context, self):
        return context.database.record(class_name, self)

    def get_by_uuid(context, uuid):
        return context.database.by_uuid(class_name, uuid)

    def get_by_name_label(context, label):
        return context.database.where(class_name, name_label=label)

    for function in (
        get_all,
        get_all_where,
        get_all_records,
        get_all_records_where,
        get_record,
        get_by_uuid,
        get_by_name_label,
    ):
        _message("%s.%s" % (class_name, function.__name__), function)
