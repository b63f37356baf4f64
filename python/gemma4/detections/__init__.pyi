from .detections import Detection as Detection
from .detections import Detections as Detections
from .detections import Point as Point
from .detections import Points as Points
