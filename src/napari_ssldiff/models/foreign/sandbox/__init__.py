"""What runs in the child process: the standard library only, nothing of the product.

A pickle is a program for a stack machine. Python's own machine calls what the program names; the
one in :mod:`.machine` has no way to call or import anything. It builds records (:mod:`.records`),
:mod:`.state_dict` picks the tensors among them, and :mod:`.container` copies their bytes out of
the archive (:mod:`.archive`) into a safetensors file.
"""
