"""The same work as others do it: the published loop's pattern, diffusers with PEFT, a Riemannian step with an inverse for every layer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from b4m_core.layers import ATTENTION
from b4m_core.models.family import adapted_layers
from b4m_core.models.sdxl import SDXL, attention_projections


def prediction(unet: Any, given: Mapping[str, Tensor]) -> Tensor:
    """The network's answer, in float32."""
    added = {"text_embeds": given["pooled"], "time_ids": given["size_ids"]}
    output = unet(given["noisy"], given["timesteps"], encoder_hidden_states=given["context"], added_cond_kwargs=added)
    return output.sample.float()  # type: ignore[no-any-return]


class PublishedLayer(nn.Module):
    """A projection of the published code: an ordinary pair whose gradients are masked by hooks."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear, device = linear, linear.weight.device
        self.down = nn.Linear(linear.in_features, rank, bias=False, device=device)
        self.up = nn.Linear(rank, linear.out_features, bias=False, device=device)
        nn.init.zeros_(self.up.weight)
        rows, columns = (torch.ones(size, device=device) for size in (linear.out_features, linear.in_features))
        rows[: len(rows) // 2] = columns[: len(columns) // 2] = 0
        self.up.weight.register_hook(lambda gradient: gradient * rows[:, None])
        self.down.weight.register_hook(lambda gradient: gradient * columns[None])

    def forward(self, x: Tensor) -> Tensor:
        """The layer's answer, the update computed in float32."""
        return self.linear(x) + self.up(self.down(x.float())).to(x.dtype)  # type: ignore[no-any-return]


class Published:
    """The published loop: autocast, one pass through the network for every picture, two backward passes, two optimisers."""

    def __init__(self, unet: Any, rank: int, dtype: torch.dtype) -> None:
        self.unet, self.dtype, self.put = unet, dtype, []
        for name, linear in list(attention_projections(unet)):
            parent, _, attribute = name.rpartition(".")
            layer = PublishedLayer(linear, rank)
            unet.get_submodule(parent).register_module(attribute, layer)
            self.put.append((unet.get_submodule(parent), attribute, linear, layer))
        self.halves = [[layer.down.weight for *_, layer in self.put], [layer.up.weight for *_, layer in self.put]]
        self.optimisers = [torch.optim.AdamW(half, lr=rate) for half, rate in zip(self.halves, (1e-4, 1e-5), strict=True)]

    def whole(self, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
        """One step; the first row is the own one."""
        rows = [{name: value[row : row + 1] for name, value in inputs.items()} for row in range(len(inputs["noisy"]))]
        device = inputs["noisy"].device.type

        def step() -> float:
            with torch.autocast(device, self.dtype):
                losses = [mse_loss(prediction(self.unet, row), row["target"]) for row in rows]
            for loss, half in zip((losses[0], torch.stack(losses[1:]).mean()), self.halves, strict=True):
                loss.backward()
                torch.nn.utils.clip_grad_norm_(half, 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad()
            return losses[0].item()

        return step

    def close(self) -> None:
        """Leave the network as it was."""
        for parent, attribute, linear, _ in self.put:
            parent.register_module(attribute, linear)


class Peft:
    """diffusers with PEFT: an ordinary LoRA, or a LoCon of the same ``layers`` as ours, all rows in one batch, autocast."""

    def __init__(self, unet: Any, rank: int, dtype: torch.dtype, layers: str = ATTENTION) -> None:
        from peft import LoraConfig

        self.unet, self.dtype = unet, dtype
        targets = [path for path, _ in adapted_layers(SDXL, unet, layers)]
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian")
        unet.add_adapter(config, adapter_name=f"{type(self).__name__}_{layers}")  # the network remembers the names that it had
        self.parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4)

    def whole(self, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
        """One step."""
        device = inputs["noisy"].device.type

        def step() -> float:
            with torch.autocast(device, self.dtype):
                loss = mse_loss(prediction(self.unet, inputs), inputs["target"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            return loss.item()

        return step

    def close(self) -> None:
        """Leave the network as it was."""
        for name, module in list(self.unet.named_modules()):
            if hasattr(module, "base_layer"):
                parent, _, attribute = name.rpartition(".")
                self.unet.get_submodule(parent).register_module(attribute, module.base_layer)
        self.unet.requires_grad_(False)


class TunedPeft(Peft):
    """The same as a good engineer tunes it, for a card: diffusers' repeated blocks compiled, fused AdamW, and the whole step, the clipped
    gradients and the optimiser included, recorded as one CUDA graph. The sums are those of :class:`Peft`.
    """

    def __init__(self, unet: Any, rank: int, dtype: torch.dtype) -> None:
        super().__init__(unet, rank, dtype)
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True, capturable=True)
        unet.compile_repeated_blocks(dynamic=False)

    def whole(self, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
        """One step, as a replay."""
        losses: list[Tensor] = []

        def step() -> None:
            with torch.autocast("cuda", self.dtype, cache_enabled=False):  # casts that outlive a recording would not be replayed
                loss = mse_loss(prediction(self.unet, inputs), inputs["target"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=False)  # a replay adds into the gradients that were recorded
            losses[:] = [loss.detach()]

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # compiles, and lets the libraries choose
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()

        def replayed() -> float:
            graph.replay()
            return losses[0].item()

        return replayed

    def close(self) -> None:
        """Leave the network as it was."""
        for module in self.unet.modules():
            module._compiled_call_impl = None  # torch's own place for what compiling a module in place has made
        super().close()


def inverse_for_every_layer(shapes: Mapping[str, tuple[int, int]], rank: int, device: torch.device) -> Callable[[], None]:
    """A preconditioned step of the published kind: two inverses for every layer, one layer after the other."""
    pairs = [(torch.randn(m, rank, device=device), torch.randn(rank, n, device=device)) for m, n in shapes.values()]
    damping = 1e-6 * torch.eye(rank, device=device)

    def step() -> None:
        for up, down in pairs:
            up @ torch.linalg.inv(down @ down.T + damping)
            torch.linalg.inv(up.T @ up + damping) @ down

    return step
