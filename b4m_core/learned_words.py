"""Learned words: the token embeddings of a trigger, trained beside the adapter through the frozen text encoders.

Textual inversion (Gal et al. 2022, arXiv 2208.01618); together with an adapter also called pivotal tuning. What is
learned is added to the rows of the trigger's tokens in the table of either encoder, from 0. As a file it is an ordinary
LoRA of those two tables: up (vocabulary, t) picks the t rows, down (t, d) holds what is added to them.

In every optimiser step a prompt that holds the trigger is encoded once with the rows as they are. The network's
micro-steps give the gradients of these contexts; when all are added up, the step's prompts go through the encoders once
more, a few together, forward and back, and their gradients go on to the rows: so that nothing of the encoders is kept while
the network's own pass is. The pooled vector follows the rows, without a gradient: a step would have to go back through
all of the network for it, down to its first block.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .base_model import BaseModel, TextEncoders
from .carried import DOWN, UP, Carried, of_concept
from .encoding import PROMPT
from .errors import B4MError
from .models.sdxl.modules import TOKEN_EMBEDDINGS
from .models.sdxl.text import encode_tokens
from .pictures import PictureSet

LEARNING_RATE = 5e-3
"""Of the rows, without weight decay: what textual inversion is usually trained at, and what was measured (docs/roads.md)."""
_AT_ONCE = 4
"""Prompts that go back through the encoders at once: SDXL's keep about 0.15 GB for each piece of 77 tokens, in bfloat16."""
Ids = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Trigger:
    """What is to be learned: the ``tokens`` (t,) of a ``concept``'s trigger, for either encoder, and the tokens (k, 77) of
    all ``prompts`` that hold one of them.
    """

    concept: str
    tokens: Ids
    prompts: Mapping[str, Ids]


def trigger_of(
    concept: str, sets: Sequence[PictureSet], base: BaseModel, tell: Callable[[str], None]
) -> Trigger | None:
    """The words of ``concept`` that are to be learned from ``sets``, the first of which has the trigger; None where there
    is nothing to be learned, and then ``tell`` gets a sentence about it.

    Raises :class:`B4MError` for a base model whose text encoders cannot be trained through.
    """
    encoders, word = _text_encoders_of(base), sets[0].trigger
    tokens = _tokens_of(encoders, word)
    if tokens is None:
        tell(f"No words are learned (textual_inversion): the trigger {word!r} is no word that the text encoders have tokens for.")
        return None
    prompts, left = {}, []
    for prompt in dict.fromkeys(prompt for each in sets for prompt in each.prompts()):
        ids = encoders.token_ids(prompt)
        if ids is None:
            left.append(prompt)
        elif any(bool(torch.isin(*each).any()) for each in zip(ids, tokens, strict=True)):
            prompts[prompt] = ids
    if left:
        tell(
            f"{len(left)} captions hold weights or embeddings, and no words are learned from them (textual_inversion), such as "
            f'"{left[0][:80]}".'
        )
    if not prompts:
        tell(f"No words are learned (textual_inversion): no caption holds the trigger {word!r}.")
        return None
    return Trigger(concept, tokens, prompts)


def _text_encoders_of(base: BaseModel) -> TextEncoders:
    if not hasattr(base, "token_ids"):
        raise B4MError(
            f"The text encoders of {base.name} cannot be trained through, so its words cannot be learned: switch textual_inversion off."
        )
    return cast(TextEncoders, base)


def _tokens_of(encoders: TextEncoders, word: str) -> Ids | None:
    """The tokens of ``word`` for either encoder, each once, ascending, without what frames and fills up every prompt; None
    where it has none.
    """
    ids, empty = encoders.token_ids(word.strip()), encoders.token_ids("")
    if ids is None or empty is None:
        return None
    first, second = (
        torch.tensor(sorted({*own.flatten().tolist()} - {*frame.flatten().tolist()}), dtype=torch.long)
        for own, frame in zip(ids, empty, strict=True)
    )
    return (first, second) if len(first) and len(second) else None


class LearnedWords:
    """The rows of one training, and the text encoders that they are learned through.

    ``rows``: what is added to the embeddings of the trigger's tokens, (t, d) for either encoder: parameters with a
    gradient, float32 or finer, on the device of the encoders.
    """

    def __init__(self, trigger: Trigger, base: BaseModel) -> None:
        encoders = _text_encoders_of(base)
        self.concept, self.layer, self.encoders = trigger.concept, encoders.hidden_layer, encoders.text_encoders
        self.tables: list[Any] = [cast(Any, encoder).get_input_embeddings() for encoder in self.encoders]
        self.tokens = [own.to(base.device) for own in trigger.tokens]
        self.ids = [tuple(own.to(base.device) for own in ids) for ids in trigger.prompts.values()]
        self.rows: list[nn.Parameter] = []
        for tokens, table in zip(self.tokens, self.tables, strict=True):
            dtype = torch.promote_types(table.weight.dtype, torch.float32)
            rows = nn.Parameter(torch.zeros(len(tokens), table.embedding_dim, dtype=dtype, device=base.device))
            rows.grad = torch.zeros_like(rows)
            self.rows.append(rows)
        self._texts: dict[int, tuple[Tensor, Tensor]] = {}

    def named(self) -> dict[str, Tensor]:
        """The rows by names for people."""
        return {f"the learned words of text encoder {number}": rows for number, rows in enumerate(self.rows, start=1)}

    def read(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a micro-step with the rows in their text; what its context gets as a gradient is kept for
        :meth:`learn`.

        ``inputs``: with PROMPT (R,), the number of each row's prompt, and ``context`` (R, S, width), ``pooled`` (R, p).
        """
        given = dict(inputs)
        numbers: list[int] = given.pop(PROMPT).tolist()
        if max(numbers) < 0:
            return given
        context, pooled = (given[name].to(self.rows[0].device) for name in ("context", "pooled"))  # (R, S, width), (R, p)
        self._encode(sorted({number for number in numbers if number >= 0} - self._texts.keys()), context.dtype)
        length = context.shape[1]
        contexts, pools = list(context), list(pooled)
        for row, number in enumerate(numbers):
            if number >= 0:
                states, pool = self._texts[number]
                contexts[row], pools[row] = states.repeat(length // len(states), 1), pool  # as batches.py fills up
        return {**given, "context": torch.stack(contexts), "pooled": torch.stack(pools)}

    @torch.no_grad()
    def _encode(self, numbers: Sequence[int], dtype: torch.dtype) -> None:
        """Keep the texts of these prompts until the step ends: states that may get a gradient, and the pooled vector."""
        for number, (states, pool) in self._encoded(numbers).items():
            self._texts[number] = states.to(dtype).requires_grad_(), pool.to(dtype)

    def learn(self) -> None:
        """Add to the gradients of the rows what the contexts of this step's micro-steps got. Nothing is changed where
        memory runs out on the way.
        """
        found = {number: states.grad for number, (states, _) in self._texts.items() if states.grad is not None}
        numbers, totals = list(found), [torch.zeros_like(rows) for rows in self.rows]
        for first in range(0, len(numbers), _AT_ONCE):
            encoded = self._encoded(numbers[first : first + _AT_ONCE])
            outputs = [states for states, _ in encoded.values()]
            gradients = [found[number].to(states.dtype) for number, (states, _) in encoded.items()]
            for total, gradient in zip(totals, torch.autograd.grad(outputs, self.rows, gradients), strict=True):
                total.add_(gradient)
        for rows, total in zip(self.rows, totals, strict=True):
            rows.grad.add_(total)  # type: ignore[union-attr]
        self._texts.clear()

    def forget(self) -> None:
        """Begin a step anew: what its contexts got is not wanted."""
        self._texts.clear()

    def _encoded(self, numbers: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
        """The states (77 k, width) and the pooled vector (p,) of these prompts, all pieces in one pass."""
        if not numbers:
            return {}
        pieces = [len(self.ids[number][0]) for number in numbers]
        with self._moved():
            states, pooled = encode_tokens(
                self.encoders, [torch.cat([self.ids[number][place] for number in numbers]) for place in (0, 1)], self.layer
            )
        parts = zip(numbers, torch.split(states, pieces), torch.split(pooled, pieces), strict=True)
        return {number: (own.flatten(0, 1), pool[0]) for number, own, pool in parts}

    @contextlib.contextmanager
    def _moved(self) -> Iterator[None]:
        """Within: the tables answer with the rows in them."""
        with contextlib.ExitStack() as stack:
            for table, tokens, rows in zip(self.tables, self.tokens, self.rows, strict=True):
                stack.callback(table.register_forward_hook(_adding(tokens, rows)).remove)
            yield

    def pieces(self) -> tuple[Carried, ...]:
        """The rows as what an adapter carries along (carried.py): live, where they are, as its layers are."""
        made = []
        for key, table, tokens, rows in zip(TOKEN_EMBEDDINGS, self.tables, self.tokens, self.rows, strict=True):
            up = torch.zeros(table.num_embeddings, len(tokens))
            up[tokens.cpu(), torch.arange(len(tokens))] = 1
            made.append(Carried(self.concept, key, {UP: up, DOWN: rows.detach()}))
        return tuple(made)


def _adding(tokens: Tensor, rows: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """What a table's answer (P, 77, d) to tokens (P, 77) becomes."""

    def hook(table: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> Tensor:
        picked = (given[0][..., None] == tokens).to(rows.dtype)  # (P, 77, t)
        return (answer + picked @ rows).to(answer.dtype)

    return hook


def shared_words_note(content: Adapter, style: Adapter) -> list[str]:
    """A sentence for people where a content and a style have learned the same token, so that each moves the other's."""
    known = [_learned_tokens(of_concept(each.carried, concept)) for each, concept in ((content, "content"), (style, "style"))]
    shared = len(known[0] & known[1])
    if not shared:
        return []
    return [
        f"The triggers of the content and of the style share {'a token' if shared == 1 else f'{shared} tokens'}, and both have learned "
        "what is added to it: where one is said, the other is heard. Other triggers keep them apart."
    ]


def without_words(adapter: Adapter) -> tuple[Adapter, list[str]]:
    """The adapter for a layout that has no place for learned words, and a sentence for people where it had some."""
    rest = [piece for piece in adapter.carried if piece.key not in TOKEN_EMBEDDINGS]
    if len(rest) == len(adapter.carried):
        return adapter, []
    return adapter.carrying(rest), [
        "The learned words are left out, since this layout has no place for them: there a trigger means what the model makes of it."
    ]


def _learned_tokens(pieces: Sequence[Carried]) -> set[int]:
    """The tokens of the first text encoder whose embeddings these pieces move."""
    ups = [piece.tensors[UP] for piece in pieces if piece.key == TOKEN_EMBEDDINGS[0] and piece.is_plain]
    return {int(token) for up in ups for token in up.any(1).nonzero().flatten()}
