-- %postun: of an upgrade as well.
reload()
