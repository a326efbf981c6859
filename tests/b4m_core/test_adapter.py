"""An adapter on a network: attached where it belongs, detached without a trace."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor, nn

from b4m_core import Adapter, B4MError, Facts
from b4m_core.models.sdxl import attention_projections
from b4m_core.stacks import stack_layers


def output(unet: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sample, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, tiny.TEXT_WIDTH, generator=generator)
    added = {"text_embeds": torch.ones(2, tiny.POOLED), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    with torch.no_grad():
        return unet(sample, torch.tensor(400), encoder_hidden_states=context, added_cond_kwargs=added).sample


def adapter_for(unet: nn.Module, start: str = "zero_start") -> Adapter:
    return Adapter.for_unet(unet, Facts(role="content", rank=3, start=start))


def test_the_adapted_layers_are_all_attention_projections_and_no_others() -> None:
    unet = tiny.tiny_unet((1, 1, 2), levels=2)
    names = {name for name, _ in attention_projections(unet)}
    expected = {
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in ("to_q", "to_k", "to_v", "0") and "attn" in name
    }
    assert names == expected and len(names) == 136


@pytest.mark.parametrize("start", ["zero_start", "published"])
def test_an_attached_adapter_acts_as_its_delta_in_the_weights(start: str) -> None:
    attached, written = tiny.tiny_unet(), tiny.tiny_unet()
    adapter = tiny.filled(adapter_for(attached, start))
    adapter.attach(attached)
    for name, layer in adapter.layers.items():
        written.get_submodule(name).weight += layer.delta_weight().detach()
    torch.testing.assert_close(output(attached), output(written), rtol=1e-4, atol=1e-4)
    assert float((output(attached) - output(tiny.tiny_unet())).abs().max()) > 1e-3


def test_a_fresh_zero_start_leaves_every_output_as_it_was() -> None:
    unet = tiny.tiny_unet()
    before = output(unet)
    adapter_for(unet).attach(unet)
    assert torch.equal(output(unet), before)


def test_while_it_rests_the_network_answers_as_if_nothing_were_attached() -> None:
    unet = tiny.tiny_unet()
    adapter = tiny.filled(Adapter.for_unet(unet, Facts(role="merged", rank=2)))
    plain = output(unet)
    adapter.attach(unet)
    attached = output(unet)
    with pytest.raises(ZeroDivisionError), adapter.disabled():
        assert torch.equal(output(unet), plain)
        raise ZeroDivisionError
    assert torch.equal(output(unet), attached) and not torch.equal(attached, plain)
    adapter.detach()


def test_detaching_gives_the_network_back_object_for_object() -> None:
    unet = tiny.tiny_unet()
    before, modules = output(unet), list(unet.named_modules())
    adapter = tiny.filled(adapter_for(unet))
    adapter.attach(unet)
    assert [name for name, _ in unet.named_modules()] != [name for name, _ in modules]
    adapter.detach()
    assert list(unet.named_modules()) == modules and torch.equal(output(unet), before)
    adapter.detach()


@pytest.mark.parametrize("levels,depths", [(2, (1, 1, 1)), (1, (1, 1, 2))])
def test_an_adapter_of_another_topology_is_refused_and_nothing_is_touched(levels: int, depths: tuple[int, int, int]) -> None:
    other = tiny.tiny_unet(depths, levels=levels)
    modules = list(other.named_modules())
    with pytest.raises(
        B4MError, match=r"This adapter has 48 layers and the model has \d+ that could take one: it was trained on a model of another kind"
    ):
        adapter_for(tiny.tiny_unet()).attach(other)
    assert list(other.named_modules()) == modules


def test_an_adapter_of_another_width_is_refused_and_nothing_stays_attached() -> None:
    unet = tiny.tiny_unet()
    adapter = adapter_for(unet)
    name = list(adapter.layers)[7]
    parent, _, attribute = name.rpartition(".")
    wide = nn.Linear(99, 32)
    unet.get_submodule(parent).register_module(attribute, wide)
    modules = list(unet.named_modules())
    with pytest.raises(B4MError, match="another size than the model's"):
        adapter.attach(unet)
    assert list(unet.named_modules()) == modules


def test_a_network_without_attention_is_refused_in_a_sentence() -> None:
    with pytest.raises(B4MError, match="the network has no attention projections that B4M knows, so it is not an SDXL network"):
        adapter_for(nn.Linear(3, 3))


def test_a_network_whose_layers_have_no_lora_names_is_refused_at_once() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = tiny.tiny_unet()

    with pytest.raises(B4MError, match="has no name in an SDXL LoRA file"):
        adapter_for(Wrapped())


def test_a_clone_is_independent_and_on_the_cpu() -> None:
    adapter = tiny.small_adapter()
    copy = adapter.clone()
    copy.layers[tiny.LAYER].B.data.zero_()
    assert copy.digest() != adapter.digest() and copy.facts == adapter.facts


def test_the_digest_follows_learned_halves_basis_start_and_split() -> None:
    changed: list[dict[str, object]] = [{}, {"fill": 2}, {"seed": 1}, {"start": "published"}, {"split": "full"}, {"rank": 3}]
    digests = {tiny.small_adapter(**changes).digest() for changes in changed}  # type: ignore[arg-type]
    assert len(digests) == 6


def test_the_basis_fingerprint_is_the_same_for_content_and_style() -> None:
    content, style = tiny.small_adapter("content", fill=1), tiny.small_adapter("style", fill=2)
    assert content.facts.basis == style.facts.basis != tiny.small_adapter(seed=1).facts.basis


def test_stacked_layers_share_memory_with_the_layers_of_the_adapter() -> None:
    adapter = tiny.filled(adapter_for(tiny.tiny_unet()))
    before = adapter.digest()
    stacks = stack_layers(adapter.layers, "cpu")
    assert adapter.digest() == before and sum(len(stack.up) for stack in stacks) == 48 and len(stacks) == 2
    for stack in stacks:
        stack.up.data.fill_(0.25)
        stack.up.grad.fill_(4.0)  # type: ignore[union-attr]
    assert all((layer.B == 0.25).all() and (layer.B.grad == 4).all() for layer in adapter.layers.values())  # type: ignore[union-attr]


def test_gradients_of_the_layers_land_in_the_stacks() -> None:
    adapter = tiny.filled(tiny.small_adapter())
    stacks = stack_layers(adapter.layers, "cpu")
    adapter.layers[tiny.LAYER](torch.ones(2, 3, 8)).sum().backward()
    filled = [float(stack.up.grad.abs().sum()) for stack in stacks]  # type: ignore[union-attr]
    assert sorted(value > 0 for value in filled) == [False, True]
