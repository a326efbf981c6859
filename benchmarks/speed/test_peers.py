"""What stands between the peers' own programs and ours."""

import pytest
import torch

from .network import SDXL, TINY, random_network
from .peer_comfyui import unet_config
from .peer_process import Enough, Job, Watch, ask
from .peers import Peft, TunedPeft


def test_a_watched_loop_ends_and_its_first_two_steps_do_not_count() -> None:
    watch = Watch(0.0, torch.device("cpu"))
    with pytest.raises(Enough):
        for _ in range(100):
            watch(1, total=9)
    reading = watch.reading("theirs", 64)
    assert (reading.name, reading.size, reading.times, len(watch.ends)) == ("theirs", 64, 3, 5)


def test_the_network_in_comfyuis_words_is_sdxl() -> None:
    known = unet_config(SDXL, torch.bfloat16)
    assert known["channel_mult"] == [1, 2, 4]
    assert known["transformer_depth"] == [0, 0, 2, 2, 10, 10]
    assert known["transformer_depth_output"] == [0, 0, 0, 2, 2, 2, 10, 10, 10]
    assert (known["num_head_channels"], known["transformer_depth_middle"]) == (64, 10)


def test_a_peer_that_is_not_there_says_so_in_a_line() -> None:
    with pytest.raises(RuntimeError, match="No module named 'comfy"):
        ask("peer_comfyui", Job("nowhere", SDXL, 64, 4, 4, 0.1, "float32"))


def test_one_network_can_be_given_to_both_pefts_one_after_the_other() -> None:
    unet = random_network(TINY, torch.device("cpu"), torch.float32)
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    counts = []
    for peer in (Peft, TunedPeft):
        made = peer(unet, 4, torch.float32)
        counts.append(len(made.parameters))
        made.close()
    assert counts[0] == counts[1] > 0
    assert before.keys() == unet.state_dict().keys()
    assert all(module._compiled_call_impl is None for module in unet.modules())
