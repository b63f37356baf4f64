from .detections import Detections as Detections
from .detections import Points as Points
