"""How a method writes the update of a layer: its learned and frozen tensors, and the factors that they make.

A family knows nothing of pictures or optimisers. All tensors of one layer shape are stacked, (L, G, ...) for L layers and G adapters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from b4m_core.basis import frozen_halves

from . import concepts
from .grouped import Factors, GroupedNetwork

WORDS = ("content_words", "style_words")  # of the families that learn them
Stack = dict[str, Tensor]  # the tensors of one layer shape, by name


@dataclass(frozen=True)
class Family:
    """One way to write an update.

    ``make`` (net, shape index, rank, groups, generator) gives the learned tensors (L, G, ...) and the frozen ones (L, 1, ...) of one shape;
    ``factors`` (tensors) gives up (L, G, m, k) and down (L, G, k, n). ``content`` and ``style`` name the learned tensors that are a
    content's and a style's own; the others are partners. A strength scales those of them whose names end neither in "down" nor "words".
    """

    make: Callable[[GroupedNetwork, int, int, int, torch.Generator], tuple[Stack, Stack]]
    factors: Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]
    content: tuple[str, ...]
    style: tuple[str, ...]


class Adapters:
    """G adapters of one family on one network: ``learned[i]`` and ``frozen[i]`` are the tensors of shape i."""

    def __init__(self, family: Family, learned: list[Stack], frozen: list[Stack]) -> None:
        self.family, self.learned, self.frozen = family, learned, frozen

    @staticmethod
    def fresh(family: Family, net: GroupedNetwork, rank: int, groups: int, seed: int) -> "Adapters":
        generator = torch.Generator().manual_seed(seed)
        made = [family.make(net, shape, rank, groups, generator) for shape in range(len(net.shapes))]
        return Adapters(family, [learned for learned, _ in made], [frozen for _, frozen in made])

    def words(self) -> Tensor | None:
        """What is added to the rows of the triggers' tokens, (G, tokens, width), the content's first; None where no words were learned."""
        if WORDS[0] not in self.learned[0]:
            return None
        return torch.cat([self.learned[0][name][0] for name in WORDS], 1)

    @property
    def count(self) -> int:
        return next(iter(self.learned[0].values())).shape[1]

    def factors(self, live: frozenset[str], dtype: torch.dtype) -> Factors:
        """The factors, in which autograd sees only the tensors named in ``live``."""
        ups, downs = [], []
        for learned, frozen in zip(self.learned, self.frozen, strict=True):
            tensors = {name: (value if name in live else value.detach()) for name, value in learned.items()}
            up, down = self.family.factors({**tensors, **frozen})
            ups.append(up.to(dtype))
            downs.append(down.to(dtype))
        return Factors(ups, downs)

    def wearing(self, bank: "Bank", picked: Tensor, live: frozenset[str], dtype: torch.dtype, *, alone: bool = False) -> Factors:
        """Like ``factors``, for every row by itself: row r of adapter g has the bank's own tensors of its adapter ``picked[g, r]``.

        ``alone``: only these, without the adapter's own part."""
        rows, flat, learned = picked.shape[1], picked.flatten(), []
        for mine, partner in zip(self.learned, bank.adapters.learned, strict=True):
            stack = {name: (value if name in live else value.detach()).repeat_interleave(rows, 1) for name, value in mine.items()}
            if alone:
                stack = {name: value if name.endswith("down") else torch.zeros_like(value) for name, value in stack.items()}
            learned.append({**stack, **{name: partner[name].index_select(1, flat) for name in bank.names}})
        return Adapters(self.family, learned, self.frozen).factors(live, dtype)

    def scaled(self, content: Tensor | float = 1.0, style: Tensor | float = 1.0) -> "Adapters":
        """A copy in which each concept's share of the update is scaled."""
        learned = []
        for stack in self.learned:
            changed = dict(stack)
            for names, strength in ((self.family.content, content), (self.family.style, style)):
                for name in names:
                    if name in stack and not name.endswith(("down", "words")):
                        changed[name] = changed[name] * strength
            learned.append(changed)
        return Adapters(self.family, learned, self.frozen)

    def take(self, groups: list[int]) -> "Adapters":
        rows = torch.tensor(groups, device=next(iter(self.learned[0].values())).device)
        return Adapters(self.family, [{k: v[:, rows].detach().clone() for k, v in stack.items()} for stack in self.learned], self.frozen)


@dataclass(frozen=True)
class Bank:
    """Finished adapters whose tensors ``names`` a training may wear in place of its own, to fit partners that it will never meet."""

    adapters: Adapters
    names: tuple[str, ...]


def joined(several: Sequence[Adapters]) -> Adapters:
    """Adapters of one family and the same frozen tensors, one after the other."""
    first = several[0]
    if len(several) == 1:
        return first
    shapes = range(len(first.learned))
    learned = [{name: torch.cat([each.learned[shape][name] for each in several], 1) for name in first.learned[shape]} for shape in shapes]
    return Adapters(first.family, learned, first.frozen)


def side_by_side(several: Sequence[Adapters]) -> Adapters:
    """Adapters of families whose learned tensors have the same names and shapes as one, one after the other, to be trained as one batch."""
    if len(several) == 1:
        return several[0]
    ends = [sum(each.count for each in several[: k + 1]) for k in range(len(several))]
    shapes = range(len(several[0].learned))

    def factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        parts = []
        for k, each in enumerate(several):
            own = {name: t[name][:, ends[k] - each.count : ends[k]] for name in each.learned[0] if name in t}
            parts.append(each.family.factors({**own, **{name: t[f"{name} {k}"] for name in each.frozen[0]}}))
        return torch.cat([up for up, _ in parts], 1), torch.cat([down for _, down in parts], 1)

    learned = [
        {name: torch.cat([each.learned[shape][name] for each in several], 1) for name in several[0].learned[shape]} for shape in shapes
    ]
    frozen = [{f"{name} {k}": value for k, each in enumerate(several) for name, value in each.frozen[shape].items()} for shape in shapes]
    first = several[0].family
    return Adapters(Family(first.make, factors, first.content, first.style), learned, frozen)


def merged(content: Adapters, contents: list[int], style: Adapters, looks: list[int]) -> Adapters:
    """Adapter p has the content tensors of content run ``contents[p]`` and the style tensors of style run ``looks[p]``."""
    family, left, right = content.family, content.take(contents), style.take(looks)
    learned = [{**a, **{name: b[name] for name in family.style if name in b}} for a, b in zip(left.learned, right.learned, strict=True)]
    return Adapters(family, learned, content.frozen)


# ---- low rank adaptation: both factors learned, one pair for a content and one for a style ----------------------------------------


def _pairs(net: GroupedNetwork, shape: int, content_down: Tensor, style_down: Tensor) -> tuple[Stack, Stack]:
    """Both factors of both concepts learned: the downs (L, G, r, n) start as given, the ups at zero."""
    learned = {}
    for concept, down in (("content", content_down), ("style", style_down)):
        learned[f"{concept}_down"] = down.to(net.device).contiguous()
        learned[f"{concept}_up"] = down.new_zeros(*down.shape[:2], net.shapes[shape][0], down.shape[2]).to(net.device)
    return learned, {}


def _lora(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    size = (len(net.names[shape]), groups, rank, net.shapes[shape][1])
    return _pairs(net, shape, *(torch.randn(size, generator=generator) / rank for _ in range(2)))


def _two_pairs(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([t["content_up"], t["style_up"]], -1), torch.cat([t["content_down"], t["style_down"]], -2)


LORA = Family(_lora, _two_pairs, ("content_down", "content_up"), ("style_down", "style_up"))


# ---- partly learnable projections -------------------------------------------------------------------------------------------------


def _bases(net: GroupedNetwork, shape: int, rank: int, full: bool) -> tuple[Tensor, Tensor]:
    """A and C of every layer from b4m_core's own basis, (L, 1, m', r) and (L, 1, r, n')."""
    m, n = net.shapes[shape]
    m, n = (2 * m, 2 * n) if full else (m, n)
    halves = [frozen_halves(m, n, rank, name=name, seed=0) for name in net.names[shape]]
    return tuple(torch.stack(column)[:, None].to(net.device) for column in zip(*halves, strict=True))  # type: ignore[return-value]


def _halves(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    (m, n), layers = net.shapes[shape], len(net.names[shape])
    a, c = _bases(net, shape, rank, full=False)
    b = torch.zeros(layers, groups, m - m // 2, rank, device=net.device)
    d = torch.zeros(layers, groups, rank, n - n // 2, device=net.device)
    return {"D": d, "B": b}, {"A": a, "C": c}


def _halves_singular(largest: bool) -> Callable[..., tuple[Stack, Stack]]:
    """The halves on those of W's own singular vectors, scaled to the size of the random basis."""

    def make(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
        learned, frozen = _halves(net, shape, rank, groups, generator)
        u, _, v = torch.linalg.svd(net.weights[shape], full_matrices=False)
        picked = slice(0, rank) if largest else slice(u.shape[-1] - rank, u.shape[-1])
        a, c = u[:, None, : frozen["A"].shape[-2], picked], v[:, None, picked, : frozen["C"].shape[-1]]
        return learned, {"A": a * (frozen["A"].norm() / a.norm()), "C": c * (frozen["C"].norm() / c.norm())}

    return make


def _published(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    learned, frozen = _halves(net, shape, rank, groups, generator)
    learned["D"] = (torch.randn(*learned["D"].shape, generator=generator) / rank).to(net.device)
    return learned, frozen


def _full(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    (m, n), layers = net.shapes[shape], len(net.names[shape])
    a, c = _bases(net, shape, rank, full=True)
    b, d = torch.zeros(layers, groups, m, rank, device=net.device), torch.zeros(layers, groups, rank, n, device=net.device)
    return {"D": d, "B": b}, {"A": a, "C": c}


def _full_singular(largest: bool) -> Callable[..., tuple[Stack, Stack]]:
    """Full reach on W's own singular vectors instead of the random basis; scaled to the random basis's column norm."""

    def make(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
        learned, frozen = _full(net, shape, rank, groups, generator)
        (m, n), (u, _, v) = net.shapes[shape], torch.linalg.svd(net.weights[shape], full_matrices=False)
        picked = slice(0, rank) if largest else slice(u.shape[-1] - rank, u.shape[-1])
        frozen["A"], frozen["C"] = u[:, None, :, picked] * (m / (m + n)) ** 0.5, v[:, None, picked] * (n / (m + n)) ** 0.5
        return learned, frozen

    return make


def _wide(x: Tensor, like: Tensor) -> Tensor:
    """A frozen tensor for every adapter."""
    return x.expand(-1, like.shape[1], -1, -1)


def _blocks(corner: bool, constant: bool) -> Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]:
    """dW = [[k A C, A D], [B C, j B D]]: ``constant`` is k, ``corner`` is j."""

    def factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        a, c, b, d = _wide(t["A"], t["B"]), _wide(t["C"], t["B"]), t["B"], t["D"]
        if constant and corner:
            return torch.cat([a, b], -2), torch.cat([c, d], -1)
        up = torch.cat([torch.cat([a, torch.zeros_like(a)], -1), torch.cat([b.new_zeros(b.shape), b], -1)], -2)
        first = torch.cat([c * constant, d], -1)
        return up, torch.cat([first, torch.cat([c, d if corner else torch.zeros_like(d)], -1)], -2)

    return factors


def _sum(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """dW = A D + B C."""
    return torch.cat([_wide(t["A"], t["B"]), t["B"]], -1), torch.cat([t["D"], _wide(t["C"], t["B"])], -2)


HALVES = Family(_halves, _blocks(corner=True, constant=False), ("D",), ("B",))
PUBLISHED = Family(_published, _blocks(corner=True, constant=True), ("D",), ("B",))
NO_CORNER = Family(_halves, _blocks(corner=False, constant=False), ("D",), ("B",))
FULL = Family(_full, _sum, ("D",), ("B",))
FULL_MAJOR = Family(_full_singular(True), _sum, ("D",), ("B",))
FULL_MINOR = Family(_full_singular(False), _sum, ("D",), ("B",))
HALVES_MAJOR = Family(_halves_singular(True), _blocks(corner=True, constant=False), ("D",), ("B",))
HALVES_MINOR = Family(_halves_singular(False), _blocks(corner=True, constant=False), ("D",), ("B",))
HALVES_SWAPPED = Family(_halves, _blocks(corner=True, constant=False), ("B",), ("D",))
FULL_SWAPPED = Family(_full, _sum, ("B",), ("D",))


def _woven(most: int) -> Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]:
    """The cornerless halves with frozen and learned rows and columns in turns, in blocks of ``most`` or, where a half is no multiple of
    it, the next that fits; so that both concepts reach every head."""

    def weave(x: Tensor) -> Tensor:
        """Both halves of the last axis in turns."""
        block = math.gcd(most, x.shape[-1] // 2)
        return x.unflatten(-1, (2, -1, block)).transpose(-3, -2).flatten(-3)

    def factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        up, down = _blocks(corner=False, constant=False)(t)
        return weave(up.mT).mT, weave(down)

    return factors


INTERLEAVED = Family(_halves, _woven(1), ("D",), ("B",))
WITHIN_HEADS = Family(_halves, _woven(32), ("D",), ("B",))  # half of each head of the embedded model, whose heads are 64 wide


# ---- the tangent space of A C: both halves learned by each concept, on one frozen basis, so that every merge is a sum of one rank -----


def _tangent(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    (m, n), layers = net.shapes[shape], len(net.names[shape])
    a, c = _bases(net, shape, rank, full=True)
    learned = {}
    for concept in ("content", "style"):
        learned[f"{concept}_D"] = torch.zeros(layers, groups, rank, n, device=net.device)
        learned[f"{concept}_B"] = torch.zeros(layers, groups, m, rank, device=net.device)
    return learned, {"A": a, "C": c}


def _tangent_factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """dW = A (D_content + D_style) + (B_content + B_style) C."""
    b, d = t["content_B"] + t["style_B"], t["content_D"] + t["style_D"]
    return torch.cat([_wide(t["A"], b), b], -1), torch.cat([d, _wide(t["C"], d)], -2)


TANGENT = Family(_tangent, _tangent_factors, ("content_D", "content_B"), ("style_D", "style_B"))


def _two_tangents(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    """Each concept has half of a basis of rank 2r: the two bases are orthogonal."""
    learned, _ = _tangent(net, shape, rank, groups, generator)
    a, c = _bases(net, shape, 2 * rank, full=True)
    return learned, {"content_A": a[..., :rank], "style_A": a[..., rank:], "content_C": c[..., :rank, :], "style_C": c[..., rank:, :]}


def _two_tangents_factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    like = t["content_B"]
    up = [_wide(t["content_A"], like), t["content_B"], _wide(t["style_A"], like), t["style_B"]]
    return torch.cat(up, -1), torch.cat([t["content_D"], _wide(t["content_C"], like), t["style_D"], _wide(t["style_C"], like)], -2)


TWO_TANGENTS = Family(_two_tangents, _two_tangents_factors, ("content_D", "content_B"), ("style_D", "style_B"))


# ---- free: both factors of each concept learned; what is left of the break is where they start ------------------------------------------


def _free(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    """The downs start as disjoint rows of one orthonormal basis, shared by everyone; the ups start at zero."""
    m, n = net.shapes[shape]
    rows = torch.stack([frozen_halves(2 * m, 2 * n, 2 * rank, name=name, seed=0)[1] for name in net.names[shape]])
    return _pairs(net, shape, *(part[:, None].expand(-1, groups, -1, -1).clone() for part in rows.split(rank, 1)))


def _shared_random(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    """As a LoRA starts, but everyone from the same numbers."""
    learned, _ = _lora(net, shape, rank, 1, generator)
    return {name: value.expand(-1, groups, -1, -1).clone() for name, value in learned.items()}, {}


def _own_orthogonal(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    """Like free, but every adapter from an orthonormal basis of its own, of the same size."""
    m, n = net.shapes[shape]
    columns = torch.linalg.qr(torch.randn(len(net.names[shape]), groups, n, 2 * rank, generator=generator))[0]
    return _pairs(net, shape, *(columns.mT * (n / (m + n)) ** 0.5).split(rank, 2))


def resized(family: Family, larger: bool) -> Family:
    """``family``, whose downs start larger or smaller by what an orthonormal start and a LoRA's differ by: sqrt(m + n) / rank.

    That is 1 in the embedded model's attention at rank 16, and 1.6 to 3.1 in its convolutions.
    """

    def make(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
        learned, frozen = family.make(net, shape, rank, groups, generator)
        factor = (sum(net.shapes[shape]) ** 0.5 / rank) ** (1 if larger else -1)
        return {name: value * factor if name.endswith("down") else value for name, value in learned.items()}, frozen

    return Family(make, family.factors, family.content, family.style)


FREE = Family(_free, _two_pairs, ("content_down", "content_up"), ("style_down", "style_up"))
SHARED_RANDOM = Family(_shared_random, _two_pairs, FREE.content, FREE.style)
OWN_ORTHOGONAL = Family(_own_orthogonal, _two_pairs, FREE.content, FREE.style)


# ---- leaning halves: each concept's own factor at the full rate, its frozen basis at a share of it -----------------------------------


def _leaning(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    """Full reach whose A and C are each concept's own copy, so that a training may move them too."""
    learned, frozen = _full(net, shape, rank, groups, generator)
    return {
        "content_down": learned["D"],
        "content_up": frozen["A"].expand(-1, groups, -1, -1).clone(),
        "style_down": frozen["C"].expand(-1, groups, -1, -1).clone(),
        "style_up": learned["B"],
    }, {}


LEANING = Family(_leaning, _two_pairs, ("content_down", "content_up"), ("style_down", "style_up"))
SLOW = ("content_up", "style_down")  # of the leaning family


# ---- ZipLoRA (ECCV 2024): a weight for every input column of two finished LoRAs -------------------------------------------------------


def zipped(adapters: "Adapters") -> "Adapters":
    """Two finished LoRAs under column weights that are all one."""
    learned, frozen = [], []
    for stack in adapters.learned:
        masks = {f"{name}_mask": torch.ones_like(stack[f"{name}_down"][..., :1, :]) for name in ("content", "style")}
        learned.append(masks)
        frozen.append({name: tensor.detach() for name, tensor in stack.items()})
    return Adapters(ZIPPED, learned, frozen)


def _zipped_factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    downs = [t[f"{name}_down"] * t[f"{name}_mask"] for name in ("content", "style")]
    return torch.cat([t["content_up"], t["style_up"]], -1), torch.cat(downs, -2)


def zip_penalty(adapters: "Adapters") -> Tensor:
    """0.01 times the mean of the two masks' product, summed over adapters, as in the paper."""
    products = [(stack["content_mask"] * stack["style_mask"]).abs().mean((0, 2, 3)) for stack in adapters.learned]
    return 0.01 * torch.stack(products).mean(0).sum()


def _never(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    raise NotImplementedError("made from two finished LoRAs")


ZIPPED = Family(_never, _zipped_factors, ("content_mask",), ("style_mask",))


# ---- B-LoRA (ECCV 2024): a LoRA in two blocks alone ------------------------------------------------------------------------------------


def block_lora(content: str, style: str) -> Family:
    """Trained in both blocks, whatever the concept; the merge keeps one block of each (merging.only_blocks)."""

    def make(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
        learned, _ = _lora(net, shape, rank, groups, generator)
        inside = [float(name.startswith((content, style))) for name in net.names[shape]]
        return learned, {"inside": torch.tensor(inside, device=net.device)[:, None, None, None]}

    def factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        up, down = _two_pairs(t)
        return up * t["inside"], down

    return Family(make, factors, ("content_down", "content_up"), ("style_down", "style_up"))


BLOCKS = ("up_blocks.1.attentions.0.", "up_blocks.1.attentions.1.")  # where one block alone shows most of the content, of the style


# ---- orthogonal inputs: both factors learned, content reads one half of a shared orthonormal basis of the input, style the other ------


def _two_inputs(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    (m, n), layers = net.shapes[shape], len(net.names[shape])
    q = [torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(place)))[0] for place in range(layers)]
    basis = torch.stack(q)[:, None].to(net.device)
    learned = {}
    for concept in ("content", "style"):
        down = torch.randn(layers, groups, rank, n // 2, generator=generator) / rank * 2**0.5
        learned[f"{concept}_down"] = down.to(net.device)
        learned[f"{concept}_up"] = torch.zeros(layers, groups, m, rank, device=net.device)
    return learned, {"content_basis": basis[..., : n // 2, :], "style_basis": basis[..., n // 2 :, :]}


def _two_inputs_factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    downs = [t[f"{concept}_down"] @ t[f"{concept}_basis"] for concept in ("content", "style")]
    return torch.cat([t["content_up"], t["style_up"]], -1), torch.cat(downs, -2)


TWO_INPUTS = Family(_two_inputs, _two_inputs_factors, ("content_down", "content_up"), ("style_down", "style_up"))


# ---- Orthogonal Adaptation (Po et al., CVPR 2024): a frozen down of each concept from one orthonormal basis, up learned -------------


def _orthogonal(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    (m, n), layers = net.shapes[shape], len(net.names[shape])
    q = torch.stack([frozen_halves(2 * n, 2 * n, 2 * rank, name=name, seed=1)[1] for name in net.names[shape]]) * 2**0.5
    ups = {name: torch.zeros(layers, groups, m, rank, device=net.device) for name in ("content_up", "style_up")}
    rows = {name: q[:, None, part].to(net.device) for name, part in (("content_down", slice(0, rank)), ("style_down", slice(rank, None)))}
    return ups, rows


def _orthogonal_factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    up = torch.cat([t["content_up"], t["style_up"]], -1)
    return up, torch.cat([_wide(t["content_down"], up), _wide(t["style_down"], up)], -2)


ORTHOGONAL = Family(_orthogonal, _orthogonal_factors, ("content_up",), ("style_up",))

# ---- words learned beside the adapter (textual inversion, Gal et al. 2022; with a LoRA, pivotal tuning) ---------------------------------


def with_words(family: Family) -> Family:
    """``family`` and, in the first stack, (1, G, tokens, width): what is added to the rows of each trigger's tokens."""

    def make(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
        learned, frozen = family.make(net, shape, rank, groups, generator)
        if shape == 0:
            for name, trigger in zip(WORDS, (concepts.CONTENT_TRIGGER, concepts.STYLE_TRIGGER), strict=True):
                learned[name] = torch.zeros(1, groups, len(trigger.split()), net.text_width, device=net.device)
        return learned, frozen

    return Family(make, family.factors, (*family.content, "content_words"), (*family.style, "style_words"))


def attention_alone(family: Family) -> Family:
    """``family`` on a network whose other layers are adapted too, with a content that leaves those alone."""

    def make(net: GroupedNetwork, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
        learned, frozen = family.make(net, shape, rank, groups, generator)
        inside = [float(".attn" in name) for name in net.names[shape]]
        return learned, frozen | {"inside": torch.tensor(inside, device=net.device)[:, None, None, None]}

    def factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return family.factors({**t, "content_up": t["content_up"] * t["inside"]})

    return Family(make, factors, family.content, family.style)


FAMILIES = {
    "free, content in attention": attention_alone(FREE),
    "free, words": with_words(FREE),
    "lora, words": with_words(LORA),
    "free, as large as lora": resized(FREE, larger=True),
    "free, as large as lora, words": with_words(resized(FREE, larger=True)),
    "lora, as small as free": resized(LORA, larger=False),
    "lora, as small as free, words": with_words(resized(LORA, larger=False)),
    "lora": LORA,
    "halves": HALVES,
    "published": PUBLISHED,
    "no corner": NO_CORNER,
    "full": FULL,
    "full, major": FULL_MAJOR,
    "full, minor": FULL_MINOR,
    "halves, major": HALVES_MAJOR,
    "halves, minor": HALVES_MINOR,
    "halves, swapped": HALVES_SWAPPED,
    "full, swapped": FULL_SWAPPED,
    "interleaved": INTERLEAVED,
    "within heads": WITHIN_HEADS,
    "free": FREE,
    "shared random": SHARED_RANDOM,
    "own orthogonal": OWN_ORTHOGONAL,
    "leaning": LEANING,
    "blocks": block_lora(*BLOCKS),
    "tangent": TANGENT,
    "two tangents": TWO_TANGENTS,
    "two inputs": TWO_INPUTS,
    "orthogonal": ORTHOGONAL,
}
