"""Context: attention over a time dim that is divided over ranks, as functions of local tensors and a group.

:func:`modelwright.parallel.context.attention.attention` is the door; nothing here knows a model.
"""
