"""A model in other people's machinery: files by the thousand, Ray, and transformers' pipelines."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
