"""The family's questions about pictures and sounds, and what their answers say."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
