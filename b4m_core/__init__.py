"""B4M, "break for make": content and style in one low-rank adapter. The method; it knows torch and diffusers, never the
host.

Read reference.py first, which is the method written out, then training.py and engine.py.
"""

from .adapter import Adapter
from .compose import merge
from .errors import B4MError
from .files import load_adapter, lora_state_dict, read_facts, save_adapter, split_state_dict
from .metadata import Concept, Facts
from .objective import NoiseSchedule
from .plan import Plan
from .projection import PartlyLearnableProjection
from .riemannian import RiemannianAdamW
from .run_store import RunStore
from .settings import TrainingSettings
from .training import Progress, take, train

__all__ = [
    "Adapter",
    "B4MError",
    "Concept",
    "Facts",
    "NoiseSchedule",
    "PartlyLearnableProjection",
    "Plan",
    "Progress",
    "RiemannianAdamW",
    "RunStore",
    "TrainingSettings",
    "load_adapter",
    "lora_state_dict",
    "merge",
    "read_facts",
    "save_adapter",
    "split_state_dict",
    "take",
    "train",
]
