"""The calls that every class has, made from the table of fields: get_X, set_X, add_to_X, get_record and the others."""
from lab.xapi import tables
from lab.xapi.calls import add
from lab.xapi.expressions import compile_expression
from lab.xapi.schema import CLASSES


def register():
    """Add them all to the calls."""
    for class_name, fields in CLASSES.items():
        _whole_objects(class_name)
        for field in fields.values():
            _reader(class_name, field)
            if field.access == "RW" or field.name in tables.SETTERS.get(class_name, ()):
                _writer(class_name, field)
            if field.access == "RW" and field.type.kind in ("map", "set"):
                _item_writers(class_name, field)


def _type_text(of_type):
    if not of_type.arguments:
        return of_type.kind
    if of_type.kind in ("ref", "enum"):
        return "%s(%s)" % (of_type.kind, "|".join(of_type.arguments))
    return "%s(%s)" % (of_type.kind, ",".join(_type_text(argument) for argument in of_type.arguments))


def _reader(class_name, field):
    def get(context, self):
        return context.database.get(class_name, self, field.name)
    add("%s.get_%s" % (class_name, field.name), "self:ref(%s)" % class_name, get, is_async=False)


def _writer(class_name, field):
    def assign(context, self, value):
        context.database.set(class_name, self, **{field.name: value})
    add("%s.set_%s" % (class_name, field.name),
        "self:ref(%s) value:%s" % (class_name, _type_text(field.type)), assign, is_async=False)


def _item_writers(class_name, field):
    own = "self:ref(%s)" % class_name

    def remove(context, self, key):
        context.database.remove_from(class_name, self, field.name, key)

    if field.type.kind == "map":
        def include(context, self, key, value):
            context.database.add_to(class_name, self, field.name, key, value)
        key, value = (_type_text(argument) for argument in field.type.arguments)
        add("%s.add_to_%s" % (class_name, field.name), "%s key:%s value:%s" % (own, key, value), include, is_async=False)
        add("%s.remove_from_%s" % (class_name, field.name), "%s key:%s" % (own, key), remove, is_async=False)
    else:
        def append(context, self, value):
            context.database.append(class_name, self, field.name, value)
        item = _type_text(field.type.arguments[0])
        add("%s.add_%s" % (class_name, field.name), "%s value:%s" % (own, item), append, is_async=False)
        add("%s.remove_%s" % (class_name, field.name), "%s value:%s" % (own, item), remove, is_async=False)


def _whole_objects(class_name):
    own = "self:ref(%s)" % class_name

    def get_all(context):
        return context.database.refs(class_name)

    def get_all_records(context):
        return context.database.records(class_name)

    def get_all_records_where(context, expression):
        matches = compile_expression(expression)
        return {ref: record for ref, record in context.database.records(class_name).items() if matches(record)}

    def get_all_where(context, expression):
        return list(get_all_records_where(context, expression))

    def get_record(context, self):
        return context.database.record(class_name, self)

    def get_by_uuid(context, uuid):
        return context.database.by_uuid(class_name, uuid)

    def get_by_name_label(context, label):
        return context.database.where(class_name, name_label=label)

    if class_name != "session":                         # xapi lists no sessions
        add("%s.get_all" % class_name, "", get_all, is_async=False)
        add("%s.get_all_records" % class_name, "", get_all_records, is_async=False)
        add("%s.get_all_records_where" % class_name, "expr:string", get_all_records_where, is_async=False)
        add("%s.get_all_where" % class_name, "expr:string", get_all_where, is_async=False)
    add("%s.get_record" % class_name, own, get_record, is_async=False)
    add("%s.get_by_uuid" % class_name, "uuid:string", get_by_uuid, is_async=False)
    if "name_label" in CLASSES[class_name]:
        add("%s.get_by_name_label" % class_name, "label:string", get_by_name_label, is_async=False)
