from .loaded import Loaded as Loaded
from .prefix_cache import Memory as Memory
from .runtime import Runtime as Runtime
from .scoring import Scores as Scores
