"""Words that are learned beside an adapter: the token embeddings of a trigger, through the frozen text encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import tiny_folder
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from b4m_core import Adapter, B4MError, Plan, Progress, RunStore, engine, load_adapter, merge, save_adapter, train, trainings
from b4m_core.apart import apart
from b4m_core.attempts import asked_for
from b4m_core.batches import Batches, MicroSteps
from b4m_core.carried import DOWN, UP, Carried
from b4m_core.commandline import main
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.encoding import PROMPT, encode_sets
from b4m_core.engine import Engine
from b4m_core.files import save_in_layout
from b4m_core.layers import ATTENTION, CONVOLUTIONS
from b4m_core.learned_words import LearnedWords, Trigger, shared_words_note, trigger_of
from b4m_core.models.sdxl.modules import TOKEN_EMBEDDINGS
from b4m_core.pictures import PictureSet
from b4m_core.plan import first_adapter
from b4m_core.several import ALONE, Processes
from b4m_core.training import take
from b4m_core.trainings import training

IN_FILES = [f"text_encoders.clip_{letter}.transformer.text_model.embeddings.token_embedding" for letter in "lg"]
VOCABULARY, WIDTH = 190, tiny.TEXT_WIDTH // 2
PRESERVED = {"split": "free", "correspondence": "output_preservation", "textual_inversion": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder.write_folder(tmp_path_factory.mktemp("model"))


def words_plan(role: str = "content", **changes: object) -> Plan:
    """A content ``#@`` or a style ``^&``, whose tokens stand in no other caption."""
    trigger, word = {"content": ("#@", "bear"), "style": ("^&", "drawing")}[role]
    plan = tiny.plan(role, **{**PRESERVED, **changes})
    pictures = tiny.picture_set(1, 2, 3, trigger=trigger, class_word=word)
    return dataclasses.replace(plan, pictures=pictures)


def found_in(plan: Plan, base: tiny.TinyBase | DiffusersFolder, tell: Callable[[str], object] = pytest.fail) -> Trigger | None:
    """What ``plan`` learns."""
    return trigger_of(plan.learns_words_of, [plan.pictures, *plan.others], base, tell)  # type: ignore[arg-type]


class Prepared:
    """A training's engine with learned words, one step short of the first."""

    def __init__(
        self, folder: Path, *, fused: bool, dtype: torch.dtype = torch.float64, processes: Processes = ALONE, **changes: object
    ) -> None:
        plan, self.base = words_plan(**changes), DiffusersFolder(folder, dtype=dtype)
        trigger = found_in(plan, self.base)
        assert trigger is not None
        self.words, row = LearnedWords(trigger, self.base), training(plan.role, plan.settings.correspondence)
        self.adapter = tiny.filled(first_adapter(plan, self.base), scale=0.05)
        if dtype == torch.float64:
            for layer in self.adapter.layers.values():
                layer.double()
        first, *others = encode_sets(
            self.base, [plan.pictures, *plan.others], plan.settings.resolution, primary_sets=1, learned=trigger.prompts
        )
        drawn = Batches(
            first, others, batch_size=plan.settings.batch_size, seed=1, schedule=self.base.schedule, preserves=row.preserves
        )
        self.micro_steps = MicroSteps(drawn, self.base.schedule, processes.share(plan.settings))
        self.engine = Engine.build(
            self.base.unet, self.adapter, row, plan.settings, other_sets=len(plan.others), fused=fused, words=self.words,
            processes=processes,
        )  # fmt: skip

    def loss(self) -> float:
        """That of the batches of one step; the rows and the layers get their gradients."""
        self.engine.learned.zero_grad()
        found = 0.0
        for batch in self.micro_steps.of_step(0):
            inputs = {name: value.to(self.base.dtype) if value.is_floating_point() else value for name, value in batch.inputs.items()}
            self.engine._batches.append(batch)
            found += float(self.engine._pass(batch._replace(inputs=inputs)).sum())
        self.words.learn()
        return found / self.engine.share.pieces


@pytest.mark.parametrize(
    ("fused", "layers"),
    [(False, ATTENTION), (True, ATTENTION), (True, CONVOLUTIONS)],
    ids=["reference", "fused", "fused, convolutions"],
)
def test_the_gradient_of_the_rows_is_that_of_finite_differences(
    folder: Path, fused: bool, layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision, with the pooled vector held: it follows the rows, and gives no gradient."""
    encoded, held = LearnedWords._encoded, {}

    def without_pooled(words: LearnedWords, numbers: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
        return {number: (states, held.setdefault(number, pool.detach())) for number, (states, pool) in encoded(words, numbers).items()}

    monkeypatch.setattr(LearnedWords, "_encoded", without_pooled)
    made = Prepared(folder, fused=fused, gradient_accumulation_steps=2, layers=layers)
    with torch.no_grad():
        for rows in made.words.rows:
            rows.copy_(0.1 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(2)))
    made.loss()
    gradients = [rows.grad.clone() for rows in made.words.rows]  # type: ignore[union-attr]
    for rows, gradient in zip(made.words.rows, gradients, strict=True):
        direction = torch.randn(rows.shape, generator=torch.Generator().manual_seed(3), dtype=rows.dtype)
        losses = []
        for sign in (1, -2):  # one step up, then from there two down
            with torch.no_grad():
                rows.add_(direction, alpha=sign * 1e-5)
            losses.append(made.loss())
        with torch.no_grad():
            rows.add_(direction, alpha=1e-5)
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-6)
        assert gradient.abs().max() > 0


def test_the_words_alone_lower_the_loss(folder: Path) -> None:
    """The adapter stands still, in all but name."""
    made = Prepared(folder, fused=True, dtype=torch.float32, learning_rate=1e-12, weight_decay=0.0, gradient_accumulation_steps=3)
    layers = {name: layer.D.detach().clone() for name, layer in made.adapter.layers.items()}
    before = made.loss()
    for _ in range(12):
        made.engine._batches, made.engine._losses = [], []
        for batch in made.micro_steps.of_step(0):
            made.engine.gradients(batch)
        made.engine.step()
    made.engine._batches, made.engine._losses = [], []
    after = made.loss()
    with torch.no_grad():
        for rows in made.words.rows:
            rows.neg_()
    assert after < 0.997 * before and made.loss() > before  # not any rows of that size
    assert all(torch.allclose(layers[name], layer.D, atol=1e-9) for name, layer in made.adapter.layers.items())


def test_a_prompt_without_the_trigger_is_not_encoded_again(folder: Path) -> None:
    made = Prepared(folder, fused=False, dtype=torch.float32)
    (batch,) = made.micro_steps.of_step(0)
    assert batch.inputs[PROMPT].tolist() == [0, -1]  # a row of the content, and a preservation row beside it
    inputs = made.words.read(batch.inputs)
    assert torch.equal(inputs["context"][1], batch.inputs["context"][1]) and torch.equal(inputs["pooled"], batch.inputs["pooled"])
    torch.testing.assert_close(inputs["context"][0], batch.inputs["context"][0])
    assert inputs["context"].requires_grad and not inputs["pooled"].requires_grad and PROMPT not in inputs
    with torch.no_grad():
        made.words.rows[1].add_(0.1)
    made.words.forget()
    inputs = made.words.read(batch.inputs)
    assert torch.equal(inputs["context"][1], batch.inputs["context"][1])
    assert not torch.allclose(inputs["context"][0], batch.inputs["context"][0])
    assert not torch.equal(inputs["pooled"], batch.inputs["pooled"])
    none = {**batch.inputs, PROMPT: torch.tensor([-1, -1])}
    assert made.words.read(none)["context"] is batch.inputs["context"]


def test_a_step_encodes_a_prompt_once_and_goes_back_through_the_encoders_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls, encoded = Prepared(folder, fused=False, dtype=torch.float32, gradient_accumulation_steps=3), [], LearnedWords._encoded

    def counted(words: LearnedWords, numbers: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
        calls.append((list(numbers), torch.is_grad_enabled()))
        return encoded(words, numbers)

    monkeypatch.setattr(LearnedWords, "_encoded", counted)
    made.loss()
    assert calls == [([0], False), ([], False), ([], False), ([0], True)]
    once = [rows.grad.clone() for rows in made.words.rows]  # type: ignore[union-attr]
    made.words.learn()
    assert all(torch.equal(before, rows.grad) for before, rows in zip(once, made.words.rows, strict=True))  # type: ignore[arg-type]


def test_more_prompts_than_go_through_the_encoders_at_once_add_up_to_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for at_once in (1, 2, 9):
        monkeypatch.setattr("b4m_core.learned_words._AT_ONCE", at_once)
        made = Prepared(folder, fused=False)
        prompts = {f"a #@ {word}": made.base.token_ids(f"a #@ {word}") for word in "xyz"}
        words = LearnedWords(Trigger("content", (made.words.tokens[0], made.words.tokens[1]), prompts), made.base)
        context = torch.randn(3, 77, tiny.TEXT_WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        given = {PROMPT: torch.arange(3), "context": torch.zeros_like(context), "pooled": torch.zeros(3, tiny.POOLED)}
        (words.read(given)["context"] * context).sum().backward()  # type: ignore[no-untyped-call]
        words.learn()
        found.append([rows.grad for rows in words.rows])
    for one, two, nine in zip(*found, strict=True):
        assert one.any()
        torch.testing.assert_close(one, nine, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(two, nine, rtol=1e-9, atol=1e-12)


def test_memory_that_runs_out_in_the_encoders_is_asked_for_in_another_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, learn, ways = Prepared(folder, fused=True, dtype=torch.float32), LearnedWords.learn, []

    def full_once(words: LearnedWords) -> None:
        if not ways:
            ways.append(made.engine.micro_step.mode)  # type: ignore[attr-defined]
            raise torch.cuda.OutOfMemoryError("full")
        learn(words)

    monkeypatch.setattr(LearnedWords, "learn", full_once)
    for batch in made.micro_steps.of_step(0):
        made.engine.gradients(batch)
    made.engine.step()
    assert ways == [0] and made.engine.micro_step.mode == 1  # type: ignore[attr-defined]
    assert all(rows.any() for rows in made.words.rows)


def test_the_rows_are_bounded_summed_over_processes_and_looked_at_as_all_that_is_learned(folder: Path) -> None:
    made = Prepared(folder, fused=False, dtype=torch.float32, max_grad_norm=1e-6)
    made.loss()
    gradients = made.engine.learned.gradients()
    assert all(any(rows.grad is each for each in gradients) for rows in made.words.rows)
    made.engine.update.bounded(torch.zeros(2))
    norm = torch.stack([rows.grad.norm() for rows in made.words.rows]).norm()  # type: ignore[union-attr]
    assert float(norm) == pytest.approx(1e-6, rel=1e-3)
    with torch.no_grad():
        made.words.rows[1][0, 0] = float("nan")
    with pytest.raises(B4MError, match="the learned words of text encoder 2 holds what is not a number after step 0"):
        made.engine.require_finite(0)


class OneOfTwo(Processes):
    """A process that knows its place, and asks nobody."""

    count = 2

    def __init__(self, index: int) -> None:
        self.index = index


def test_the_rows_of_two_processes_add_up_to_those_of_one(folder: Path) -> None:
    """A micro-step of two pictures, cut into two."""
    found = []
    for processes in (ALONE, OneOfTwo(0), OneOfTwo(1)):
        made = Prepared(folder, fused=True, processes=processes, batch_size=2)
        made.loss()
        found.append([rows.grad for rows in made.words.rows])
    for whole, first, second in zip(*found, strict=True):
        torch.testing.assert_close(first + second, whole, rtol=1e-9, atol=1e-15)
        assert not torch.allclose(first, second)


def trained(folder: Path, store: Path, plan: Plan, watch: Callable[[Progress], None] = lambda progress: None) -> Adapter:
    return train(plan, DiffusersFolder(folder), RunStore(store), watch)


def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    plan, base = words_plan(), DiffusersFolder(folder)
    trained(folder, tmp_path / "whole", plan)
    with pytest.raises(tiny.Cancelled):
        trained(folder, tmp_path / "stopped", plan, tiny.cancel_at(12))
    trained(folder, tmp_path / "stopped", plan)
    whole, stopped = (tiny.file_of(tmp_path / name, plan, base) for name in ("whole", "stopped"))  # type: ignore[arg-type]
    assert whole.read_bytes() == stopped.read_bytes()
    states = [load_file(file.with_name(file.name.replace("adapter", "state"))) for file in (whole, stopped)]
    learned = [name for name in states[0] if name.startswith("1.")]
    assert learned == ["1.0", "1.0.exp_avg", "1.0.exp_avg_sq", "1.1", "1.1.exp_avg", "1.1.exp_avg_sq"]
    assert all(states[0][name].any() and torch.equal(states[0][name], states[1][name]) for name in learned)


def test_a_card_that_works_ahead_learns_the_same_words(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a processor that is taken for one."""
    plain = trained(folder, tmp_path / "plain", words_plan(steps=3))
    monkeypatch.setattr(engine, "works_ahead", lambda device, step: True)
    monkeypatch.setattr(trainings, "AdamW", lambda *given, **named: torch.optim.AdamW(*given, **{**named, "fused": True}))
    ahead = trained(folder, tmp_path / "ahead", words_plan(steps=3))
    for mine, other in zip(ahead.carried, plain.carried, strict=True):
        torch.testing.assert_close(mine.tensors[DOWN], other.tensors[DOWN], rtol=1e-3, atol=1e-5)
    assert ahead.facts.losses[-1][0] == 3 and ahead.carried[0].tensors[DOWN].any()


def test_a_watcher_sees_an_adapter_that_wears_the_words_as_they_are(folder: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.step_done and progress.adapter is not None:
            seen.append(float(progress.adapter.carried[1].tensors[DOWN].abs().max()))

    trained(folder, tmp_path, words_plan(), watch)
    assert len(seen) == 4 and seen == sorted(seen) and seen[0] == pytest.approx(5e-3, rel=1e-2) and seen[-1] > 1e-2


def test_the_result_carries_the_words_in_its_file_dtype_and_its_facts_say_so(folder: Path, tmp_path: Path) -> None:
    plan = words_plan(file_dtype="float16")
    adapter = trained(folder, tmp_path, plan)
    assert [(piece.concept, piece.key) for piece in adapter.carried] == [("content", key) for key in TOKEN_EMBEDDINGS]
    assert {tensor.dtype for piece in adapter.carried for tensor in piece.tensors.values()} == {torch.float16}
    assert adapter.facts.settings["textual_inversion"] is True
    assert "carried along: 2 tables of token embeddings (learned words) as LoRA" in adapter.summary()
    kept = load_adapter(tiny.file_of(tmp_path, plan, DiffusersFolder(folder)))  # type: ignore[arg-type]
    assert asked_for(kept, plan.settings.as_dict()).digest() == adapter.digest()
    assert take(plan, DiffusersFolder(folder), RunStore(tmp_path)).digest() == adapter.digest()


def test_without_the_setting_nothing_is_as_it_would_be_with_it(folder: Path, tmp_path: Path) -> None:
    plain = words_plan(textual_inversion=False)
    assert "textual_inversion" not in plain.settings.as_dict() and plain.learns_words_of == ""
    assert plain.key(tiny.TinyBase()) != words_plan().key(tiny.TinyBase())
    assert trained(folder, tmp_path, plain).carried == ()


@pytest.mark.parametrize(
    ("trigger", "captions", "said"),
    [("", "a photo of a bear", "the trigger '' is no word that"), ("#@", "a photo of a bear", "no caption holds the trigger '#@'")],
)
def test_a_trigger_that_nothing_can_be_learned_of_is_told(folder: Path, trigger: str, captions: str, said: str) -> None:
    pictures, told = PictureSet((tiny.picture(1, captions),), trigger, "bear"), []
    assert found_in(dataclasses.replace(words_plan(), pictures=pictures), DiffusersFolder(folder), told.append) is None
    assert len(told) == 1 and told[0].startswith("No words are learned (textual_inversion): ") and said in told[0]


def test_a_model_whose_text_encoders_cannot_be_reached_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(B4MError, match="The text encoders of tiny cannot be trained through, .* switch textual_inversion off"):
        train(words_plan(), tiny.TinyBase(), RunStore(tmp_path))


def test_a_caption_that_is_more_than_tokens_is_told_and_teaches_no_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = DiffusersFolder.token_ids
    monkeypatch.setattr(DiffusersFolder, "token_ids", lambda base, prompt: None if "(" in prompt else ids(base, prompt))
    pictures = PictureSet((tiny.picture(1, "a #@ bear"), tiny.picture(2, "a (#@ bear:1.2)")), "#@", "bear")
    told: list[str] = []
    found = found_in(dataclasses.replace(words_plan(), pictures=pictures), DiffusersFolder(folder), told.append)
    assert found is not None and list(found.prompts) == ["a #@ bear"] and len(told) == 1 and '"a (#@ bear:1.2)"' in told[0]


def worded(role: str, tokens: tuple[int, ...], seed: int, vocabulary: int = VOCABULARY) -> Adapter:
    """A small adapter that has learned words."""
    adapter, pieces = tiny.small_adapter(role, split="free", fill=seed), []
    for key in TOKEN_EMBEDDINGS:
        up = torch.zeros(vocabulary, len(tokens))
        up[list(tokens), range(len(tokens))] = 1
        pieces.append(Carried(role, key, {UP: up, DOWN: torch.randn(len(tokens), WIDTH, generator=torch.Generator().manual_seed(seed))}))
    return adapter.carrying(pieces)


def added(tensors: dict[str, Tensor], name: str) -> Tensor:
    """What a loader of ordinary LoRAs adds to a table of embeddings (vocabulary, d)."""
    up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
    return float(tensors[f"{name}.alpha"]) / len(down) * up @ down


def test_the_file_holds_an_ordinary_lora_of_both_tables_under_the_names_of_comfyui(tmp_path: Path) -> None:
    adapter = worded("content", (7, 11), seed=1)
    tensors = load_file(save_adapter(adapter, tmp_path / "a.safetensors"))
    for name, piece in zip(IN_FILES, adapter.carried, strict=True):
        expected = torch.zeros(VOCABULARY, WIDTH)
        expected[[7, 11]] = piece.tensors[DOWN]
        assert torch.equal(added(tensors, name), expected)
    assert not any(name.startswith("lora_te") for name in tensors)
    again = load_adapter(tmp_path / "a.safetensors")
    assert again.digest() == adapter.digest() and [piece.key for piece in again.carried] == list(TOKEN_EMBEDDINGS)


def test_a_merge_holds_the_words_of_both_each_at_its_own_strength(folder: Path, tmp_path: Path) -> None:
    content, style = worded("content", (7, 11), seed=1), worded("style", (20, 21, 22), seed=2)
    merged = load_adapter(save_adapter(merge(content, style), tmp_path / "both.safetensors"))
    assert [len(piece.tensors[DOWN]) for piece in merged.carried] == [2, 3, 2, 3]
    base = DiffusersFolder(folder)
    table = base.text_encoders[1].get_input_embeddings().weight  # type: ignore[operator]
    before = table.clone()
    base.wear(merged.carried, {"content": 0.5, "style": 2.0})
    expected = before.clone()
    expected[[7, 11]] += 0.5 * content.carried[1].tensors[DOWN]
    expected[[20, 21, 22]] += 2.0 * style.carried[1].tensors[DOWN]
    torch.testing.assert_close(table, expected)
    parts = apart(merged)
    assert {name: sorted({piece.concept for piece in one.carried}) for name, one in parts.items()} == {
        "content": ["content"],
        "style": ["style"],
    }
    assert torch.equal(parts["style"].carried[1].tensors[DOWN], style.carried[1].tensors[DOWN])


def test_triggers_that_share_tokens_are_told(tmp_path: Path) -> None:
    content, apart_from_it, shares = worded("content", (7, 11), 1), worded("style", (20, 21), 2), worded("style", (11, 20), 3)
    assert shared_words_note(content, apart_from_it) == shared_words_note(content, tiny.small_adapter("style")) == []
    (said,) = shared_words_note(content, shares)
    assert said.startswith("The triggers of the content and of the style share a token, and both have learned")


def test_words_of_another_vocabulary_are_refused_and_nothing_has_changed(folder: Path) -> None:
    base = DiffusersFolder(folder)
    before = {name: weight.clone() for encoder in base.text_encoders for name, weight in encoder.named_parameters()}
    with pytest.raises(B4MError, match="token_embedding does not fit .*: it was made for a model of another kind"):
        base.wear(worded("content", (7,), 1, vocabulary=VOCABULARY + 1).carried, {})
    assert all(torch.equal(before[name], weight) for encoder in base.text_encoders for name, weight in encoder.named_parameters())


def test_a_layout_without_a_place_for_words_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = worded("content", (7,), 1)
    with pytest.raises(B4MError, match=r"no place for .* \(2 tables of token embeddings \(learned words\) as LoRA\): choose kohya"):
        save_in_layout(adapter, tmp_path / "out", "diffusers")
    file = save_adapter(adapter, tmp_path / "a.safetensors")
    assert main(["convert", str(file), "--to", "diffusers", "--out", str(tmp_path / "folder")]) == 0
    assert "The learned words are left out, since this layout has no place for them" in capsys.readouterr().err
    converted = load_adapter(tmp_path / "folder")
    assert converted.carried == () and converted.digest() == adapter.carrying([]).digest()


def test_painting_with_the_words_is_painting_with_what_was_learned(folder: Path, tmp_path: Path) -> None:
    """What a text becomes while the adapter is worn is what the training encoded it to."""
    plan, base = words_plan(), DiffusersFolder(folder)
    prompt, other = plan.pictures.prompts()[0], "a photo of a bear"
    before = base.encode_text([prompt, other])[0]
    adapter = trained(folder, tmp_path, plan)
    trigger = found_in(plan, base)
    assert trigger is not None
    words = LearnedWords(trigger, base)
    for rows, piece in zip(words.rows, adapter.carried, strict=True):
        rows.data.copy_(piece.tensors[DOWN])
    expected = words._encoded([0])[0][0].detach()
    with base.wearing(adapter):
        after = base.encode_text([prompt, other])[0]
    torch.testing.assert_close(after[0], expected)
    assert not torch.allclose(after[0], before[0]) and torch.equal(after[1], before[1])
    assert torch.equal(base.encode_text([prompt, other])[0], before)


def test_training_together_wears_the_words_of_both_and_learns_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(B4MError, match="Training together learns no words, it wears those of its two adapters"):
        tiny.plan("together", textual_inversion=True)
    adapters = [trained(folder, tmp_path, words_plan(role)) for role in ("content", "style")]
    start, base = merge(*adapters), DiffusersFolder(folder)
    assert shared_words_note(*adapters) == [] and len(start.carried) == 4
    prompt = words_plan().pictures.prompts()
    before = base.encode_text(prompt)[0]
    base.wear(start.carried, {})
    assert not torch.allclose(base.encode_text(prompt)[0], before)
    plan = tiny.plan("together", adapter=start, split="free", correspondence="output_preservation")
    together = train(plan, base, RunStore(tmp_path)).carrying(start.carried)
    saved = load_adapter(save_adapter(together, tmp_path / "together.safetensors"))
    assert saved.digest() == together.digest() and [piece.concept for piece in saved.carried] == ["content", "style"] * 2


def test_the_command_line_trains_words_paints_with_them_and_keeps_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"content": "#@", "style": "^&"}
    common = ["--model", str(folder), "--device", "cpu", "--dtype", "float32", "--steps", "2", "--rank", "2", "--textual-inversion"]
    common += ["--gradient-accumulation-steps", "1", "--auxiliary-sets", "0", "--store", str(tmp_path / "store")]
    joint = []
    for seed, (role, trigger) in enumerate(words.items()):
        (tmp_path / role).mkdir()
        Image.fromarray(tiny.picture(seed).pixels).save(tmp_path / role / "1.png")
        out = str(tmp_path / f"{role}.safetensors")
        given = ["--pictures", str(tmp_path / role), "--trigger", trigger, "--sample-every", "1", "--out", out]
        assert main(["train", role, *given, *common]) == 0
        assert [piece.concept for piece in load_adapter(out).carried] == [role, role]
        joint += [f"--{role}-pictures", str(tmp_path / role), f"--{role}-trigger", trigger, f"--{role}-adapter", out]
    samples = [Image.open(file).tobytes() for file in sorted((tmp_path / "store").rglob("sample-*.jpg"))]
    assert len(samples) == len(set(samples)) == 4
    (record,) = [text for file in (tmp_path / "store").rglob("run.toml") if 'role = "style"' in (text := file.read_text())]
    assert "textual_inversion = true" in record
    capsys.readouterr()
    assert main(["train", "content", *given[:-1], str(tmp_path / "x.b4m"), "--compact", *common]) == 1
    assert "A compact file has no place for learned words: leave out --compact or" in capsys.readouterr().err
    assert main(["train", "joint", *joint, "--out", str(tmp_path / "both.safetensors"), *common]) == 0
    said = capsys.readouterr().err
    assert "training together learns no words (--textual-inversion): it wears those of its two adapters as they are" in said
    both = load_adapter(tmp_path / "both.safetensors")
    assert len(both.carried) == 4 and "textual_inversion" not in both.facts.settings
    assert main(["inspect", str(tmp_path / "content.safetensors")]) == 0
    assert "textual inversion: True" in capsys.readouterr().out
