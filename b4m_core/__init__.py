"""B4M, "break for make": content and style in one low-rank adapter. The method; it knows torch and diffusers, never the
host.

Read reference.py first, which is the method written out, then training.py and engine.py.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "b4m_core needs PyTorch, which it leaves to you to choose: pip install torch, or what pytorch.org says for your card.",
        name=error.name,
    ) from error

from .adapter import Adapter
from .apart import apart
from .auxiliary import own_auxiliary, sample_auxiliary
from .base_model import BaseModel
from .compose import Share, merge, with_detail
from .embedded import embedded_model
from .errors import B4MError
from .files import load_adapter, lora_state_dict, read_facts, save_adapter, save_in_layout, split_state_dict
from .loading import load_model
from .metadata import Concept, Facts
from .objective import NoiseSchedule
from .painting import as_image, paint, strength_table
from .pictures import Picture, PictureSet, from_arrays, load_folder
from .plan import Plan
from .projection import PartlyLearnableProjection
from .resize import resized
from .riemannian import RiemannianAdamW
from .run_store import RunStore
from .runs import Run
from .settings import TrainingSettings
from .training import Progress, take, train
from .version import VERSION as __version__

__all__ = [
    "Adapter",
    "B4MError",
    "BaseModel",
    "Concept",
    "Facts",
    "NoiseSchedule",
    "PartlyLearnableProjection",
    "Picture",
    "PictureSet",
    "Plan",
    "Progress",
    "RiemannianAdamW",
    "Run",
    "RunStore",
    "Share",
    "TrainingSettings",
    "__version__",
    "apart",
    "as_image",
    "embedded_model",
    "from_arrays",
    "load_adapter",
    "load_folder",
    "load_model",
    "lora_state_dict",
    "merge",
    "own_auxiliary",
    "paint",
    "read_facts",
    "resized",
    "sample_auxiliary",
    "save_adapter",
    "save_in_layout",
    "split_state_dict",
    "strength_table",
    "take",
    "train",
    "with_detail",
]
