"""How good a prompt is at finding objects: detection over a labelled set of pictures, compared, in pytest and without.

:func:`compare` runs it, :class:`Comparison` is what comes of it; ``plugin`` is the pytest plugin.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
