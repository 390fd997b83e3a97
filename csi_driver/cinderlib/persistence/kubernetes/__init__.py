"""The ``kubernetes`` record store: one custom resource per record.

``resources`` says which resource a record type is and what its fields mean to people,
``schemas`` makes the custom resource definitions from that, ``objects`` turns records
into objects and back, ``cache`` keeps the objects that a watch feeds, ``store`` is the
store.  Nothing of it is imported unless that store is chosen.
"""
