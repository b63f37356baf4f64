from .loaded import Loaded as Loaded
from .prefix_cache import PrefixCache as PrefixCache
from .runtime import Answer as Answer
from .runtime import KvCache as KvCache
from .runtime import Runtime as Runtime
from .runtime import check_kv_cache as check_kv_cache
from .scoring import Scores as Scores
