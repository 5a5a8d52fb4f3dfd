from virnucpro.api import PredictionResult as PredictionResult
from virnucpro.api import Session as Session
from virnucpro.api import embed as embed
from virnucpro.api import predict as predict

__version__: str
