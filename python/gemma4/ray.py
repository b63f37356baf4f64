"""`gemma4.ray`: a model in Ray Data, Spark and Hugging Face's datasets; see `pipelines/ray.py`, whose door this is."""

from .pipelines import Generator, make_predict_fn

__all__ = ["Generator", "make_predict_fn"]
