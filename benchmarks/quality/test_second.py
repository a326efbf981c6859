"""The contest on another kind of base model: the same trainings, merges and courses on a network that is no UNet."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.world.diffusion import alphas_cumprod
from benchmarks.world.flow import FLOW, load_flow, make_flow
from benchmarks.world.judge import load_judge

from . import concepts, contest, references, rows, second
from .bases import EpsilonNoise, FlowNoise, Noise, flow_base
from .families import FAMILIES, Adapters
from .final_report import tables
from .grouped import GroupedNetwork, Segment
from .methods import Contest
from .report import read_seeds
from .second_report import save_grids, trials
from .training import Batch, Part, Step, Trainings

CPU = torch.device("cpu")
EMBEDDED = Path(__file__).resolve().parents[2] / "mini"
NOISES = {"epsilon": EpsilonNoise(alphas_cumprod(CPU)), "flow": FlowNoise(CPU)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of one head with both kinds of blocks; random, also where a fresh one is zero."""
    made = tmp_path_factory.mktemp("flow")
    torch.manual_seed(0)
    network = make_flow(64, 1, 1, 160, 96)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    network.save_pretrained(made / "transformer")
    return made


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_a_course_with_true_answers_ends_at_the_picture(noise: Noise) -> None:
    latents, start = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    times, levels = noise.course(6)
    for begin in (0, 2):
        x = noise.start(start, latents, levels[begin])
        for k in range(begin, 6):
            expected = noise.add(latents, start, times[k].expand(2))
            torch.testing.assert_close(noise.shown(x, levels[k]), expected, rtol=1e-3, atol=1e-4)
            x = x + (levels[k + 1] - levels[k]) * noise.target(latents, start)
        torch.testing.assert_close(x, latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_a_tilt_draws_times_with_less_noise(noise: Noise) -> None:
    means = [noise.draw(4000, torch.Generator().manual_seed(1), tilt).float().mean() for tilt in (0.5, 1.0, 2.0)]
    assert means[0] > 1.1 * means[1] > 1.2 * means[2]
    assert means[1] == pytest.approx(noise.at(0.5), rel=0.05)


def asked(count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    shapes = (count, 4, 8, 8), (count,), (count, 77, 160), (count, 96)
    noisy, times, context, pooled = (torch.randn(shape, generator=generator) for shape in shapes)
    return noisy, times.sigmoid(), context, pooled


def filled(net: GroupedNetwork, groups: int) -> Adapters:
    adapters, generator = Adapters.fresh(FAMILIES["free"], net, 2, groups, seed=0), torch.Generator().manual_seed(3)
    for stack in adapters.learned:
        stack.update({name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in stack.items()})
    return adapters


def test_every_group_wears_its_own_update_in_joint_attention_too(folder: Path) -> None:
    net = GroupedNetwork(flow_base(folder), EMBEDDED, CPU, torch.float32)
    assert sum(map(len, net.names)) == 12
    inputs, adapters = asked(4), filled(net, 2)
    factors = adapters.factors(frozenset(), torch.float32)
    with torch.no_grad():
        base = net(*inputs)
        net.wear(2, [Segment(0, 2, factors)])
        found = net(*inputs)
        for group in range(2):
            plain = load_flow(folder, torch.float32).eval()
            for shape, names in enumerate(net.names):
                for place, name in enumerate(names):
                    plain.get_submodule(name).weight += factors.up[shape][place, group] @ factors.down[shape][place, group]
            mine = slice(2 * group, 2 * group + 2)
            given = dict(zip(("noisy", "timesteps", "context", "pooled"), (each[mine] for each in inputs), strict=True))
            torch.testing.assert_close(found[mine], FLOW.predict(plain, given, torch.float32), rtol=1e-3, atol=1e-4)
    assert (found - base).abs().max() > 0.01


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Iterator[tuple[references.Studio, tuple[concepts.Split, ...]]]:
    """So small that a training or a picture takes a moment: it only proves that it runs."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (references, "SIZE", 64),
            (rows, "STEPS", 2),
            (contest, "EXAMINED", ()),
            (concepts, "PROMPTS", concepts.PROMPTS[:1]),
            (concepts, "NOISES", concepts.NOISES[:1]),
            (concepts, "AUXILIARY_PICTURES", 1),
            (second, "RATES", second.RATES[:2]),
            (second, "STRENGTHS", second.STRENGTHS[:2]),
            (second, "JOINT_RATES", second.JOINT_RATES[:2]),
            (second, "SWEPT", second.SWEPT[:1]),
        ):
            patch.setattr(module, name, value)
        splits = tuple(concepts.Split(each.contents[:1], each.styles[:1]) for each in (concepts.DEVELOPMENT, concepts.LARGE))
        studio = references.Studio(EMBEDDED, CPU, base=flow_base(folder))
        studio.sampling = references.Sampling(steps=2)
        yield studio, splits


def test_rows_are_taught_the_velocity_and_kept_ones_what_the_base_says(tiny: tuple[references.Studio, tuple[concepts.Split, ...]]) -> None:
    studio, (split, _) = tiny
    small = Contest(studio, {}, split, (0,))
    family = FAMILIES["free"]
    live = frozenset(family.content)
    parts = [Part(small.contents, [[0]], 2, live), Part(small.auxiliary["styles"], [[0, 1]], 2, live, "base")]
    what = Trainings(parts, [0], [1e-3], 1)
    batch = Batch(studio, what)
    batch.fill()
    step = Step(studio, what, Adapters.fresh(family, studio.learner, 2, 1, seed=0), batch)
    step()
    with torch.no_grad():
        inputs = [x[0, :2] for x in (batch.latents, batch.noise, batch.times, batch.context, batch.pooled)]
        noisy = (1 - inputs[2].view(-1, 1, 1, 1)) * inputs[0] + inputs[2].view(-1, 1, 1, 1) * inputs[1]
        studio.learner.wear(1, [])
        said = studio.learner(noisy, inputs[2], *inputs[3:])
    assert step.losses[0, 0].item() == pytest.approx((said - (inputs[1] - inputs[0])).square().mean().item(), rel=1e-4)
    assert step.losses[0, 1].item() == pytest.approx(0.0, abs=1e-8)


def test_the_whole_contest_runs_and_goes_on_where_it_was(
    tiny: tuple[references.Studio, tuple[concepts.Split, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studio, splits = tiny
    judges = {name: load_judge(name) for name in ("first", "second")}
    second.run(studio, judges, tmp_path, 1e12, splits, most_steps=1)
    found = read_seeds(tmp_path, splits[1])
    assert set(found) == {*second.APART, second.NULLED, *second.JOINED, second.ALONE, "base model", "true pictures"}
    assert {name: len(each.marks["second"]) for name, each in found.items() if each.about["league"] != "frame"} == dict.fromkeys(
        (*second.APART, second.NULLED, *second.JOINED, second.ALONE), 3
    )
    lines = trials(tmp_path, "chosen")
    assert len(lines) == 2 + 6 * 2
    assert len(trials(tmp_path / "strengths", "swept")) == 2 + 3
    assert sum(line.startswith("| ours") for line in tables(found, few=False)) == 2
    save_grids(sorted((tmp_path / "rows").glob("*.webp")), tmp_path / "grids.webp", splits[1])
    capsys.readouterr()
    second.run(studio, judges, tmp_path, 1e12, splits, most_steps=1)
    again = capsys.readouterr().out
    assert "left out" not in again
    assert again.count("there:") == 8 + 2 * 6
    assert trials(tmp_path, "chosen") == lines
