"""What computes behind a model: a loaded checkpoint, and what is kept between prompts."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
