from .factory import pipeline as pipeline
from .files import TASKS as TASKS
from .files import Job as Job
from .files import Summary as Summary
from .files import run_job as run_job
from .ray import Generator as Generator
from .ray import make_predict_fn as make_predict_fn
