"""Google's Gemma 4 family on CPUs: text and pictures in, text and boxes in pixels out.

>>> import gemma4
>>> model = gemma4.Model.from_pretrained("demo")
"""

# Nothing is imported before it is used: a command line or a pytest plugin must not pay for a model. The names are those
# of the stub beside this file, here and in every sub-package.
from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
