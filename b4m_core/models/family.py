"""What B4M must know about a family of networks to train them: the door for a second one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..bounds import Largest
from ..buckets import Crop
from ..errors import B4MError
from ..layers import ATTENTION, CONVOLUTIONS, AdaptedLayer
from ..projection import PartlyLearnableProjection
from ..stacks import Stack


class Schedule(Protocol):
    """How latents are noised, and what the network is asked for: its base model's own."""

    @property
    def prediction(self) -> str:
        """The name of the target, for the header of a file."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps (count,), drawn for training."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noised latents (R, C, h, w) at ``timesteps`` (R,)."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should answer for them, (R, C, h, w)."""

    def describe(self) -> list[Any]:
        """Plain values that are equal for equal schedules, for the name of a run."""


class FusedStepKind(Protocol):
    """A class of micro-steps (micro_step.py) that have a network of the family written out."""

    def __call__(
        self,
        network: nn.Module,
        layers: Mapping[str, PartlyLearnableProjection],
        stacks: Sequence[Stack],
        /,
        *,
        micro_steps: int,
        graph: bool,
        first: int,
    ) -> Any:
        """The step for ``layers``, by module path, stacked by :meth:`stacks`."""

    @staticmethod
    def stacks(layers: Mapping[str, PartlyLearnableProjection], device: torch.device) -> list[Stack]:
        """The layers on ``device``, in the order that the step needs."""


class Family(Protocol):
    """One family.

    A *conditioning* is a dictionary of tensors that only the family itself looks into: by name, for one picture without
    and for a batch with a first dimension (R, ...). Tensors of one name whose first sizes differ between pictures (texts of
    several lengths) are repeated to one length in a batch, which cross-attention cannot tell from the original; a family
    for which that is not so gives equal sizes.
    """

    @property
    def name(self) -> str:
        """One word, as the header of a file has it."""

    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def largest(self) -> Largest:
        """The largest network of this kind; what a file declares beyond that is refused before it is made."""

    def is_adapted(self, path: str) -> bool:
        """Whether the Linear at the module path ``path`` gets a low-rank update."""

    def kernel(self, path: str) -> int:
        """The side of the kernel of the convolution at the module path ``path``, where it gets an update if a training
        asks for convolutions too; 0 for any other layer.
        """

    def lora_key(self, path: str) -> str:
        """The layer's name in an ordinary LoRA file. Raises :class:`~b4m_core.B4MError` for a path of another
        network.
        """

    def module_path(self, key: str) -> str:
        """The inverse of :meth:`lora_key`, with the same error."""

    def header(self, kind: str, shapes: Mapping[str, tuple[int, int]]) -> dict[str, str]:
        """What other tools want to read in the header of a file of this ``kind`` (lora, or one of ours) for layers of
        these ``shapes``, (m, n) by module path.
        """

    def encode_prompt(self, base: Any, prompt: str) -> dict[str, Tensor]:
        """The text's share of the conditioning, float32 on the CPU, by the encoders of ``base``."""

    def size_conditioning(self, crop: Crop) -> dict[str, Tensor]:
        """The picture's share: where it was cut from what. Empty for most families."""

    def predict(self, network: nn.Module, given: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The network's answer (R, C, h, w), float32 or finer.

        ``given``: ``noisy`` (R, C, h, w), ``timesteps`` (R,) and the conditioning.
        """

    def fused_step(self, network: nn.Module) -> FusedStepKind | None:
        """The step that has ``network`` written out, if there is one."""


def adapted_layers(family: Family, network: nn.Module, layers: str = ATTENTION) -> Iterator[tuple[str, AdaptedLayer]]:
    """(module path, layer) of every layer of ``network`` that gets an update, ``layers`` being one of layers.py's.

    Raises :class:`B4MError` for a convolution of another kernel than the family's.
    """
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear) and family.is_adapted(path):
            yield path, module
        elif isinstance(module, nn.Conv2d) and layers == CONVOLUTIONS and (kernel := family.kernel(path)):
            if module.kernel_size != (kernel, kernel) or module.groups != 1 or module.dilation != (1, 1):
                raise B4MError(f"Layer {path} is no convolution as {family.title} has it: choose another model, or layers = {ATTENTION}.")
            yield path, module


def layers_of(family: Family, paths: Iterable[str]) -> str:
    """Which of layers.py's the layers at these module paths are."""
    return CONVOLUTIONS if any(map(family.kernel, paths)) else ATTENTION
