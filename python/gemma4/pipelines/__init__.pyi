from .factory import pipeline as pipeline
from .ray import Generator as Generator
from .ray import make_predict_fn as make_predict_fn
