"""Boxes on the model's grid and in pixels, the answers that hold them, and how right they are.

Gemma writes a box as ``box_2d = [y1, x1, y2, x2]`` on a grid from 0 to 1000 laid over the whole picture, y first,
whatever the picture's shape. Pixels are ``xyxy = [x1, y1, x2, y2]`` of the original picture, x first.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
