"""How a method writes the update of a layer: its learned and frozen tensors, and the factors that they make.

A family knows nothing of pictures or optimisers. All tensors of one layer shape are stacked, (L, G, ...) for L layers and G adapters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from b4m_core.basis import frozen_halves

from .grouped import Factors, GroupedUNet

Stack = dict[str, Tensor]  # the tensors of one layer shape, by name


@dataclass(frozen=True)
class Family:
    """One way to write an update.

    ``make`` (net, shape index, rank, groups, generator) gives the learned tensors (L, G, ...) and the frozen ones (L, 1, ...) of one shape;
    ``factors`` (tensors) gives up (L, G, m, k) and down (L, G, k, n). ``content`` and ``style`` name the learned tensors that are a
    content's and a style's own; the others are partners. A strength scales those of them whose names do not end in "down".
    """

    make: Callable[[GroupedUNet, int, int, int, torch.Generator], tuple[Stack, Stack]]
    factors: Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]
    content: tuple[str, ...]
    style: tuple[str, ...]


class Adapters:
    """G adapters of one family on one network: ``learned[i]`` and ``frozen[i]`` are the tensors of shape i."""

    def __init__(self, family: Family, learned: list[Stack], frozen: list[Stack]) -> None:
        self.family, self.learned, self.frozen = family, learned, frozen

    @staticmethod
    def fresh(family: Family, net: GroupedUNet, rank: int, groups: int, seed: int) -> "Adapters":
        generator = torch.Generator().manual_seed(seed)
        made = [family.make(net, shape, rank, groups, generator) for shape in range(len(net.shapes))]
        return Adapters(family, [learned for learned, _ in made], [frozen for _, frozen in made])

    def factors(self, live: frozenset[str], dtype: torch.dtype) -> Factors:
        """The factors, in which autograd sees only the tensors named in ``live``."""
        ups, downs = [], []
        for learned, frozen in zip(self.learned, self.frozen, strict=True):
            tensors = {name: (value if name in live else value.detach()) for name, value in learned.items()}
            up, down = self.family.factors({**tensors, **frozen})
            ups.append(up.to(dtype))
            downs.append(down.to(dtype))
        return Factors(ups, downs)

    def scaled(self, content: Tensor | float = 1.0, style: Tensor | float = 1.0) -> "Adapters":
        """A copy in which each concept's share of the update is scaled."""
        learned = []
        for stack in self.learned:
            changed = dict(stack)
            for names, strength in ((self.family.content, content), (self.family.style, style)):
                for name in names:
                    if not name.endswith("down"):
                        changed[name] = changed[name] * strength
            learned.append(changed)
        return Adapters(self.family, learned, self.frozen)

    def take(self, groups: list[int]) -> "Adapters":
        rows = torch.tensor(groups, device=next(iter(self.learned[0].values())).device)
        return Adapters(self.family, [{k: v[:, rows].detach().clone() for k, v in stack.items()} for stack in self.learned], self.frozen)


def merged(content: Adapters, contents: list[int], style: Adapters, looks: list[int]) -> Adapters:
    """Adapter p has the content tensors of content run ``contents[p]`` and the style tensors of style run ``looks[p]``."""
    family, left, right = content.family, content.take(contents), style.take(looks)
    learned = [
        {**{name: a[name] for name in a}, **{name: b[name] for name in family.style}}
        for a, b in zip(left.learned, right.learned, strict=True)
    ]
    return Adapters(family, learned, content.frozen)


# ---- low rank adaptation: both factors learned, one pair for a content and one for a style ----------------------------------------


def _lora(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    m, n = net.shapes[shape]
    layers = len(net.names[shape])

    def down() -> Tensor:
        return (torch.randn(layers, groups, rank, n, generator=generator) / rank).to(net.device)

    def up() -> Tensor:
        return torch.zeros(layers, groups, m, rank, device=net.device)

    return {"content_down": down(), "content_up": up(), "style_down": down(), "style_up": up()}, {}


def _two_pairs(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([t["content_up"], t["style_up"]], -1), torch.cat([t["content_down"], t["style_down"]], -2)


LORA = Family(_lora, _two_pairs, ("content_down", "content_up"), ("style_down", "style_up"))


# ---- partly learnable projections -------------------------------------------------------------------------------------------------


def _bases(net: GroupedUNet, shape: int, rank: int, full: bool) -> tuple[Tensor, Tensor]:
    """A and C of every layer from b4m_core's own basis, (L, 1, m', r) and (L, 1, r, n')."""
    m, n = net.shapes[shape]
    m, n = (2 * m, 2 * n) if full else (m, n)
    halves = [frozen_halves(m, n, rank, name=name, seed=0) for name in net.names[shape]]
    return tuple(torch.stack(column)[:, None].to(net.device) for column in zip(*halves, strict=True))  # type: ignore[return-value]


def _halves(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    (m, n), layers = net.shapes[shape], len(net.names[shape])
    a, c = _bases(net, shape, rank, full=False)
    b = torch.zeros(layers, groups, m - m // 2, rank, device=net.device)
    d = torch.zeros(layers, groups, rank, n - n // 2, device=net.device)
    return {"D": d, "B": b}, {"A": a, "C": c}


def _published(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    learned, frozen = _halves(net, shape, rank, groups, generator)
    learned["D"] = (torch.randn(*learned["D"].shape, generator=generator) / rank).to(net.device)
    return learned, frozen


def _full(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    (m, n), layers = net.shapes[shape], len(net.names[shape])
    a, c = _bases(net, shape, rank, full=True)
    b, d = torch.zeros(layers, groups, m, rank, device=net.device), torch.zeros(layers, groups, rank, n, device=net.device)
    return {"D": d, "B": b}, {"A": a, "C": c}


def _full_singular(largest: bool) -> Callable[..., tuple[Stack, Stack]]:
    """Full reach on W's own singular vectors instead of the random basis; scaled to the random basis's column norm."""

    def make(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
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


def _interleaved(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The cornerless halves with even output rows and input columns frozen, odd ones learned, so that both concepts reach every head."""
    up, down = _blocks(corner=False, constant=False)(t)
    half_m, half_n = t["A"].shape[-2], t["C"].shape[-1]

    def weave(x: Tensor, half: int, axis: int) -> Tensor:
        order = torch.stack([torch.arange(half), torch.arange(half) + half], 1).flatten().to(x.device)
        return x.index_select(axis, order)

    return weave(up, half_m, -2), weave(down, half_n, -1)


INTERLEAVED = Family(_halves, _interleaved, ("D",), ("B",))


# ---- the tangent space of A C: both halves learned by each concept, on one frozen basis, so that every merge is a sum of one rank -----


def _tangent(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
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


def _two_tangents(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
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


def _free(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    """The downs start as disjoint rows of one orthonormal basis, shared by everyone; the ups start at zero."""
    (m, n), layers = net.shapes[shape], len(net.names[shape])
    rows = torch.stack([frozen_halves(2 * m, 2 * n, 2 * rank, name=name, seed=0)[1] for name in net.names[shape]]).to(net.device)
    learned = {}
    for concept, part in (("content", slice(0, rank)), ("style", slice(rank, None))):
        learned[f"{concept}_down"] = rows[:, None, part].expand(-1, groups, -1, -1).clone()
        learned[f"{concept}_up"] = torch.zeros(layers, groups, m, rank, device=net.device)
    return learned, {}


FREE = Family(_free, _two_pairs, ("content_down", "content_up"), ("style_down", "style_up"))


# ---- leaning halves: each concept's own factor at the full rate, its frozen basis at a share of it -----------------------------------


def _leaning(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
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


def _never(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    raise NotImplementedError("made from two finished LoRAs")


ZIPPED = Family(_never, _zipped_factors, ("content_mask",), ("style_mask",))


# ---- B-LoRA (ECCV 2024): a LoRA in two blocks alone ------------------------------------------------------------------------------------


def block_lora(content: str, style: str) -> Family:
    """Trained in both blocks, whatever the concept; the merge keeps one block of each (merging.only_blocks)."""

    def make(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
        learned, _ = _lora(net, shape, rank, groups, generator)
        inside = [float(name.startswith((content, style))) for name in net.names[shape]]
        return learned, {"inside": torch.tensor(inside, device=net.device)[:, None, None, None]}

    def factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        up, down = _two_pairs(t)
        return up * t["inside"], down

    return Family(make, factors, ("content_down", "content_up"), ("style_down", "style_up"))


BLOCKS = ("up_blocks.1.attentions.0.", "up_blocks.1.attentions.1.")  # where one block alone shows most of the content, of the style


# ---- orthogonal inputs: both factors learned, content reads one half of a shared orthonormal basis of the input, style the other ------


def _two_inputs(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
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


def _orthogonal(net: GroupedUNet, shape: int, rank: int, groups: int, generator: torch.Generator) -> tuple[Stack, Stack]:
    (m, n), layers = net.shapes[shape], len(net.names[shape])
    q = torch.stack([frozen_halves(2 * n, 2 * n, 2 * rank, name=name, seed=1)[1] for name in net.names[shape]]) * 2**0.5
    ups = {name: torch.zeros(layers, groups, m, rank, device=net.device) for name in ("content_up", "style_up")}
    rows = {name: q[:, None, part].to(net.device) for name, part in (("content_down", slice(0, rank)), ("style_down", slice(rank, None)))}
    return ups, rows


def _orthogonal_factors(t: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    up = torch.cat([t["content_up"], t["style_up"]], -1)
    return up, torch.cat([_wide(t["content_down"], up), _wide(t["style_down"], up)], -2)


ORTHOGONAL = Family(_orthogonal, _orthogonal_factors, ("content_up",), ("style_up",))

FAMILIES = {
    "lora": LORA,
    "halves": HALVES,
    "published": PUBLISHED,
    "no corner": NO_CORNER,
    "full": FULL,
    "full, major": FULL_MAJOR,
    "full, minor": FULL_MINOR,
    "interleaved": INTERLEAVED,
    "free": FREE,
    "leaning": LEANING,
    "blocks": block_lora(*BLOCKS),
    "tangent": TANGENT,
    "two tangents": TWO_TANGENTS,
    "two inputs": TWO_INPUTS,
    "orthogonal": ORTHOGONAL,
}
