"""The three trainings on a tiny network: they learn, they repeat, and they leave no trace."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny_training import ROLES, answering, calls_of, no_watch, poisoned, result
from torch import Tensor

from b4m_core import Adapter, B4MError, NoiseSchedule, Plan, Progress, RunStore, load_adapter, merge, train
from b4m_core.attempts import asked_for
from b4m_core.models.sdxl import SDXL
from b4m_core.objective import linear_beta_schedule
from b4m_core.pictures import Picture, PictureSet


def fingerprint(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("role", ROLES)
def test_the_loss_falls_while_a_training_runs(role: str, tmp_path: Path) -> None:
    """Against the same batches before and after, since the loss of single steps depends on their timesteps."""
    base, made = tiny.TinyBase(), tiny.plan(role, steps=12, learning_rate=3e-2)
    losses: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.step_done:
            losses.append(progress.losses[-1][1])

    trained = train(made, base, RunStore(tmp_path), watch)
    before, after = (probe(base, adapter) for adapter in (tiny.merged_adapter() if role == "together" else None, trained))
    assert len(losses) == 12 and after < 0.98 * before


def probe(base: tiny.TinyBase, adapter: Adapter | None) -> float:
    """The mean loss of the own pictures over fixed noise, by a loop of its own."""
    if adapter is not None:
        adapter.attach(base.unet)
    generator, total = torch.Generator().manual_seed(3), 0.0
    with torch.no_grad():
        for picture, timestep in itertools.product(tiny.picture_set(1, 2, 3).pictures, (50, 250, 500, 750, 950)):
            latents = base.encode_pictures(torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1)[None] / 255)
            noise = torch.randn(latents.shape, generator=generator)
            alpha = base.schedule.alphas_cumprod[timestep].float()
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
            context, pooled = base.encode_text([picture.caption])
            added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
            predicted = base.unet(noisy, torch.tensor([timestep]), encoder_hidden_states=context, added_cond_kwargs=added).sample
            total += float((predicted - noise).square().mean())
    if adapter is not None:
        adapter.detach()
    return total


@pytest.mark.parametrize("role", ROLES)
def test_the_same_inputs_give_the_same_bytes_twice(role: str, tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    torch.manual_seed(12345)
    np.random.seed(12345)
    assert result(tmp_path, tiny.plan(role)) == uninterrupted[role]


def test_another_seed_gives_another_adapter(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    assert result(tmp_path, tiny.plan("content", seed=2)) != uninterrupted["content"]


def test_an_identical_run_is_loaded_and_not_trained_again(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    first = train(tiny.plan(), tiny.TinyBase(), RunStore(tmp_path))
    base = tiny.TinyBase()
    again = train(tiny.plan(), base, RunStore(tmp_path), no_watch)
    assert again.digest() == first.digest() and again.facts == first.facts
    assert base.encoded == [] and base.read == []


def test_retrain_starts_anew_and_comes_to_the_same_bytes(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    base, seen = tiny.TinyBase(), []
    train(tiny.plan(), base, RunStore(tmp_path))
    train(tiny.plan(), base, RunStore(tmp_path), lambda progress: seen.append(progress.step), retrain=True)
    assert len(seen) == calls_of(tiny.plan()) and seen[-1] == 4
    assert tiny.file_of(tmp_path, tiny.plan(), base).read_bytes() == uninterrupted["content"]


def test_retrain_after_a_cancel_forgets_the_state(tmp_path: Path) -> None:
    with pytest.raises(tiny.Cancelled):
        result(tmp_path, tiny.plan(), watch=tiny.cancel_at(14))
    steps: list[int] = []
    train(tiny.plan(), tiny.TinyBase(), RunStore(tmp_path), lambda progress: steps.append(progress.step), retrain=True)
    assert steps[7] == 0 and steps.count(4) == 1


@pytest.mark.parametrize("role", ROLES)
def test_the_returned_adapter_is_the_one_in_the_file(role: str, tmp_path: Path) -> None:
    base, made = tiny.TinyBase(), tiny.plan(role, file_dtype="float16")
    trained = train(made, base, RunStore(tmp_path))
    again = asked_for(load_adapter(tiny.file_of(tmp_path, made, base)), made.settings.as_dict())
    assert trained.digest() == again.digest() == trained.rounded().digest() and trained.facts == again.facts


def test_the_facts_tell_what_was_trained_on_what(tmp_path: Path) -> None:
    facts = train(tiny.plan(), tiny.TinyBase(), RunStore(tmp_path)).facts
    assert facts.role == "content" and facts.rank == 4 and facts.steps == 4 and facts.base == "n1-" + "f" * 64 and facts.base_name == "tiny"
    assert facts.content is not None and facts.content.trigger == "snq" and facts.content.prompts == ("a photo of a snq bear",)
    assert facts.style is None and facts.prediction == "epsilon" and facts.settings == tiny.settings().as_dict()
    assert [row[0] for row in facts.losses] == [1, 2, 3, 4] and all(0 < row[1] < 10 and 0 < row[2] < 10 for row in facts.losses)


def test_the_facts_of_a_training_together_name_both_concepts(tmp_path: Path) -> None:
    facts = train(tiny.plan("together"), tiny.TinyBase(), RunStore(tmp_path)).facts
    assert facts.content is not None and facts.style is not None
    assert (facts.role, facts.content.trigger, facts.style.trigger) == ("together", "snq", "w@z")
    assert facts.parents == ("content: snq bear", "style: w@z drawing")


@pytest.mark.parametrize("role,taught,other", [("content", "D", "B"), ("style", "B", "D")])
@pytest.mark.parametrize("start", ["zero_start", "published"])
def test_without_partners_the_other_half_stays_as_it_began(role: str, taught: str, other: str, start: str, tmp_path: Path) -> None:
    base = tiny.TinyBase()
    trained = train(tiny.plan(role, partners=0, start=start, weight_decay=0.5), base, RunStore(tmp_path / "a"))
    fresh = Adapter.for_unet(base.unet, trained.facts)
    for name, layer in trained.layers.items():
        assert torch.equal(getattr(layer, other), getattr(fresh.layers[name], other))
        assert not torch.equal(getattr(layer, taught), getattr(fresh.layers[name], taught))


@pytest.mark.parametrize("partners", [0, 1, 3])
def test_no_one_or_three_partner_sets_all_train(partners: int, tmp_path: Path) -> None:
    trained = train(tiny.plan("content", partners=partners, steps=2), tiny.TinyBase(), RunStore(tmp_path))
    moved = any(layer.B.detach().abs().sum() > 0 for layer in trained.layers.values())
    assert moved is (partners > 0) and trained.facts.losses[-1][2] == (0 if not partners else pytest.approx(1, abs=2))


def test_auxiliary_sets_hold_a_training_together_to_the_base_model_s_own_answer(tmp_path: Path) -> None:
    """Where both parts begin at nothing, the kept rows have nothing to say in the first step, and much in the second."""
    start = tiny.merged_adapter("free")
    for layer in start.layers.values():
        layer.A.data.zero_()
        layer.B.data.zero_()
    made = tiny.plan("together", auxiliary=3, adapter=start, split="free", correspondence="output_preservation", learning_rate=3e-2)
    facts = train(made, tiny.TinyBase(), RunStore(tmp_path)).facts
    assert facts.content is not None and facts.style is not None and (facts.content.trigger, facts.style.trigger) == ("snq", "w@z")
    kept = [loss for _, _, loss in facts.losses]
    assert kept[0] < 1e-9 and 1e-6 < kept[1] < 1 and all(own > 0.1 for _, own, _ in facts.losses)


def test_without_auxiliary_sets_nothing_is_kept_while_training_together(tmp_path: Path) -> None:
    preserves, plain = (
        train(tiny.plan("together", correspondence=each), tiny.TinyBase(), RunStore(tmp_path))
        for each in ("output_preservation", "multi_correspondence")
    )
    assert preserves.digest() == plain.digest() and preserves.facts.losses == plain.facts.losses


@pytest.mark.parametrize("outcome", ["finished", "cancelled", "not a number"])
@pytest.mark.parametrize("role", ROLES)
def test_the_network_is_untouched_after_a_training(role: str, outcome: str, tmp_path: Path) -> None:
    base = tiny.TinyBase()
    modules, weights, seed = dict(base.unet.named_modules()), fingerprint(base.unet), torch.get_rng_state()
    flags = {name: weight.requires_grad for name, weight in base.unet.named_parameters()}
    deterministic = torch.are_deterministic_algorithms_enabled()
    spoil = poisoned(base.unet, after=1) if outcome == "not a number" else contextlib.nullcontext()
    with spoil, contextlib.suppress(tiny.Cancelled, B4MError):
        train(tiny.plan(role, steps=2), base, RunStore(tmp_path), tiny.cancel_at(9 if outcome == "cancelled" else 10**6))
    after = dict(base.unet.named_modules())
    assert list(after) == list(modules) and all(after[name] is modules[name] for name in modules)
    assert fingerprint(base.unet) == weights and all(weight.grad is None for weight in base.unet.parameters())
    assert {name: weight.requires_grad for name, weight in base.unet.named_parameters()} == flags
    assert torch.equal(torch.get_rng_state(), seed) and torch.are_deterministic_algorithms_enabled() == deterministic


@pytest.mark.parametrize("role", ROLES)
def test_a_training_runs_inside_the_host_s_inference_mode(role: str, tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    base = tiny.TinyBase()
    with torch.inference_mode():
        trained = train(tiny.plan(role), base, RunStore(tmp_path))
        assert torch.is_inference_mode_enabled()
    assert tiny.file_of(tmp_path, tiny.plan(role), base).read_bytes() == uninterrupted[role]
    assert not next(iter(trained.layers.values())).B.is_inference()


def test_pictures_and_start_that_were_made_in_inference_mode_train_as_well(tmp_path: Path) -> None:
    base = tiny.TinyBase()
    with torch.inference_mode():
        start = Adapter.for_unet(base.unet, tiny.merged_adapter().facts)
        trained = train(tiny.plan("together", adapter=tiny.filled(start, seed=2)), base, RunStore(tmp_path))
    assert trained.facts.steps == 4


def test_a_mask_restricts_the_loss_to_what_is_inside(tmp_path: Path) -> None:
    """Outside the mask the pictures differ wildly; the trained numbers must not notice. Without the mask they do."""
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, :32] = 255
    left = tiny.picture(1).pixels
    digests = []
    for right in (tiny.picture(2).pixels, tiny.picture(3).pixels):
        for used in (mask, None):
            pixels = np.concatenate([left[:, :32], right[:, 32:]], axis=1)
            made = Plan(
                "content", PictureSet((Picture("a", pixels, "a bear", used),)), (), tiny.settings(steps=1, gradient_accumulation_steps=1)
            )
            digests.append(gradient_of_target(made, tmp_path))
    assert digests[0] == digests[2] and digests[1] != digests[3]


def gradient_of_target(made: Plan, store: Path) -> str:
    """sha256 of the loss's gradient at the network's output, the network's output itself being held fixed."""
    base, seen = tiny.TinyBase(), []

    def fix(output: Tensor) -> Tensor:
        output = output * 0 + 1
        output.register_hook(lambda gradient: seen.append((gradient + 0.0).numpy().tobytes()))
        return output

    base.schedule = NoiseSchedule(linear_beta_schedule(), "v_prediction")  # its target holds the picture
    with answering(base.unet, fix):
        train(made, base, RunStore(store))
    return hashlib.sha256(b"".join(seen)).hexdigest()


def test_flips_double_the_own_pictures_and_leave_partners_alone(tmp_path: Path) -> None:
    base = tiny.TinyBase()
    train(tiny.plan("style", flip=True, steps=1), base, RunStore(tmp_path))
    assert len(base.encoded) == 2 * 3 + 4


def test_flips_are_off_unless_they_are_asked_for(tmp_path: Path) -> None:
    base = tiny.TinyBase()
    train(tiny.plan("content", steps=1), base, RunStore(tmp_path))
    assert tiny.settings().flip is False and len(base.encoded) == 3 + 4


def test_training_together_goes_on_with_adapters_of_another_network_and_names_its_own(tmp_path: Path) -> None:
    other = tiny.merged_adapter().with_facts(base="n1-" + "0" * 64, base_name="another")
    facts = train(tiny.plan("together", adapter=other, steps=1), tiny.TinyBase(), RunStore(tmp_path)).facts
    assert facts.base == "n1-" + "f" * 64 and facts.base_name == "tiny"


def test_training_together_refuses_layers_of_another_size_and_leaves_the_network_whole(tmp_path: Path) -> None:
    base = tiny.TinyBase()
    modules = dict(base.unet.named_modules())
    with pytest.raises(B4MError, match="trained on a model of another kind"):
        train(tiny.plan("together", adapter=tiny.small_adapter("merged")), base, RunStore(tmp_path))
    assert dict(base.unet.named_modules()) == modules


def test_the_whole_way_from_pictures_to_a_merged_and_tuned_adapter(tmp_path: Path) -> None:
    base, store = tiny.TinyBase(), RunStore(tmp_path)
    content, style = (train(tiny.plan(role), base, store) for role in ("content", "style"))
    merged = merge(content, style)
    together = train(tiny.plan("together", adapter=merged), base, store)
    assert together.facts.basis == content.facts.basis and together.facts.role == "together"
    for name, layer in together.layers.items():
        assert not torch.equal(layer.B, style.layers[name].B) and not torch.equal(layer.D, content.layers[name].D)


def test_one_picture_is_enough_for_a_training(tmp_path: Path) -> None:
    trained = train(Plan("content", tiny.picture_set(1), (), tiny.settings(steps=2)), tiny.TinyBase(), RunStore(tmp_path))
    assert trained.facts.steps == 2


def test_three_hundred_pictures_of_mixed_shapes_train(tmp_path: Path) -> None:
    sizes = [(64, 64), (32, 120), (128, 40), (96, 64)]
    pictures = tuple(tiny.picture(k, height=sizes[k % 4][0], width=sizes[k % 4][1]) for k in range(300))
    base = tiny.TinyBase()
    train(Plan("content", PictureSet(pictures), (), tiny.settings(steps=1)), base, RunStore(tmp_path))
    assert len(base.encoded) == 300


@pytest.mark.parametrize("prediction,last", [("v_prediction", None), ("v_prediction", 0.0)])
def test_velocity_models_train_with_and_without_zero_terminal_noise(prediction: str, last: float | None, tmp_path: Path) -> None:
    alphas = linear_beta_schedule()
    if last is not None:
        alphas[-1] = last
    base = tiny.TinyBase(schedule=NoiseSchedule(alphas, prediction))
    assert train(tiny.plan(steps=2), base, RunStore(tmp_path)).facts.prediction == "v_prediction"


def test_the_step_of_a_velocity_model_differs_from_that_of_an_epsilon_model(tmp_path: Path) -> None:
    velocity = tiny.TinyBase(schedule=NoiseSchedule(linear_beta_schedule(), "v_prediction"))
    digests = [train(tiny.plan(steps=1), base, RunStore(tmp_path)).digest() for base in (tiny.TinyBase(), velocity)]
    assert digests[0] != digests[1]


def test_a_training_in_half_precision_gives_finite_single_precision_halves(tmp_path: Path) -> None:
    base = tiny.TinyBase(tiny.tiny_unet(dtype=torch.bfloat16))
    trained = train(tiny.plan(steps=2), base, RunStore(tmp_path))
    layer = trained.layers["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    assert layer.D.dtype == torch.float32 and torch.isfinite(layer.D).all() and layer.D.detach().abs().sum() > 0


def test_size_conditioning_reaches_a_half_precision_network_unrounded() -> None:
    """bfloat16 knows no 1023 and no 4031: SDXL's size ids must stay in single precision."""
    seen: list[Tensor] = []

    class Network(torch.nn.Module):
        def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, added_cond_kwargs: dict[str, Tensor]) -> object:
            seen.append(added_cond_kwargs["time_ids"])
            return type("Output", (), {"sample": sample})

    sizes = torch.tensor([[4031.0, 3023, 0, 171, 1024, 1024]])
    one = torch.zeros(1, 4, 2, 2)
    given = {"noisy": one, "timesteps": torch.tensor([3]), "context": torch.zeros(1, 5, 8), "pooled": torch.zeros(1, 4), "size_ids": sizes}
    output = SDXL.predict(Network(), given, torch.bfloat16)
    assert torch.equal(seen[0].float(), sizes) and output.dtype == torch.float32


def test_watchers_see_every_micro_step_and_every_step_in_order(tmp_path: Path) -> None:
    seen: list[tuple[int, bool, int]] = []
    watched = tiny.plan(gradient_accumulation_steps=2)
    train(watched, tiny.TinyBase(), RunStore(tmp_path), lambda p: seen.append((p.step, p.step_done, len(p.losses))))
    training = seen[7:]
    assert training == [row for step in range(4) for row in [(step, False, step), (step, False, step), (step + 1, True, step + 1)]]


def test_watchers_see_the_time_that_is_left_after_the_first_step(tmp_path: Path) -> None:
    left: list[float | None] = []
    train(tiny.plan(), tiny.TinyBase(), RunStore(tmp_path), lambda p: left.append(p.seconds_left) if p.step_done else None)
    assert left[0] is None or left[0] > 0
    assert left[-1] == 0 and all(value is not None and value > 0 for value in left[1:-1])


def test_a_watcher_that_looks_at_the_live_adapter_changes_nothing(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    def look(progress: Progress) -> None:
        torch.manual_seed(progress.step)
        if progress.adapter is not None:
            with torch.inference_mode():
                assert progress.adapter.rounded().digest()

    assert result(tmp_path, tiny.plan(), watch=look) == uninterrupted["content"]


def test_a_plan_of_an_unknown_training_is_refused_in_a_sentence() -> None:
    with pytest.raises(B4MError, match="Unknown training 'both': choose one of content, style, together"):
        Plan("both", tiny.picture_set(1), (), tiny.settings())


def test_a_plan_together_without_its_adapters_is_refused_in_a_sentence() -> None:
    with pytest.raises(B4MError, match="needs a content adapter, a style adapter and the pictures of both"):
        Plan("together", tiny.picture_set(1), (tiny.picture_set(2),), tiny.settings())


def test_auxiliary_sets_that_would_not_be_kept_while_training_together_are_refused_in_a_sentence() -> None:
    with pytest.raises(B4MError, match="choose correspondence = output_preservation, or leave them out"):
        tiny.plan("together", auxiliary=1, correspondence="multi_correspondence")


def test_a_long_training_keeps_a_thinned_out_curve_with_its_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b4m_core.training.KEPT_LOSSES", 3)
    losses = train(tiny.plan(steps=8, gradient_accumulation_steps=1), tiny.TinyBase(), RunStore(tmp_path)).facts.losses
    assert losses[0][0] == 1 and losses[-1][0] == 8 and len(losses) <= 4
