"""Likeness in a vision model's space: cosines, beside what they could be."""

import pytest
import torch

from b4m_core.likeness import Likeness, likeness, told


def test_a_cosine_knows_no_lengths_and_is_the_mean_over_the_references() -> None:
    references = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    found = likeness(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), references)
    assert found.each == pytest.approx((0.5, 0.5**0.5))
    assert found.mean == pytest.approx((0.5 + 0.5**0.5) / 2)
    assert found.among == pytest.approx(0.0) and found.unlike is None and found.share is None


def test_the_references_themselves_are_all_the_way_and_the_others_none_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(1, 16, generator=generator)
    references = middle + 0.3 * torch.randn(6, 16, generator=generator)
    fresh = middle + 0.3 * torch.randn(200, 16, generator=generator)
    others = torch.randn(40, 16, generator=generator)
    assert likeness(fresh, references, others).share == pytest.approx(1.0, abs=0.05)
    assert likeness(others, references, others).share == pytest.approx(0.0, abs=1e-5)
    half = likeness(torch.cat([fresh[:40], others]), references, others).share
    assert half is not None and 0.4 < half < 0.6


def test_one_reference_has_nothing_to_be_compared_with() -> None:
    found = likeness(torch.eye(3), torch.eye(3)[:1], torch.eye(3)[1:])
    assert found.among is None and found.unlike == pytest.approx(0.0) and found.share is None


def test_two_sets_that_the_model_cannot_tell_apart_give_no_share() -> None:
    same = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert likeness(same, same, torch.tensor([[1.0, -1.0]])).share is None


def test_the_report_has_every_number_and_the_nearest_picture_first() -> None:
    content, style = Likeness((0.2, 0.9), 0.8, 0.3), Likeness((0.3, 0.4), 0.9, None)
    lines = told([("content", content), ("style", style)]).splitlines()
    assert lines[0] == "content: 0.550 (its own pictures to each other 0.800, other pictures to them 0.300), 50 % of the way"
    assert lines[1] == "style: 0.350 (its own pictures to each other 0.900)"
    assert lines[2:] == ["picture 2: content 0.900, style 0.400", "picture 1: content 0.200, style 0.300"]
