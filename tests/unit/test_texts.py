"""Each prompt is read once in a network's turn, whatever the number of steps."""

from __future__ import annotations

import gc
import weakref

import torch
from safetensors.torch import save_file

from tests.unit.lora_files import CONFIG, SCHEMES, factors, randn
from wan_core.checkpoints.loras import load_lora
from wan_core.lora import with_changes
from wan_core.models.transformer import WanTransformer
from wan_core.sampling import KeepTexts


class Network:
    """Answers with what it was told, and writes down what it read."""

    def __init__(self):
        self.read = []

    def read_text(self, context):
        self.read.append(context)
        return [f"read {len(self.read)}"]

    def __call__(self, latent, timestep, context):
        return latent, timestep, context


def test_each_prompt_is_read_once_and_told_apart_by_identity():
    network = Network()
    kept = KeepTexts(network)
    positive, negative = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)  # equal, and not the same
    answers = [kept(step, "time", context) for step in range(3) for context in (positive, negative)]
    assert [context is positive for context in network.read] == [True, False]
    assert [answer[:2] for answer in answers] == [(step, "time") for step in range(3) for _ in "+-"]
    assert [answer[2] for answer in answers] == [["read 1"], ["read 2"]] * 3
    assert answers[0][2] is answers[2][2]


def test_a_context_that_is_gone_is_not_mistaken_for_another():
    """Python gives the id of a dead object out again, so contexts are held."""
    network = Network()
    kept = KeepTexts(network)
    answers = [kept(None, None, torch.full((1, 2, 3), float(number)))[2] for number in range(8)]
    assert answers == [[f"read {number}"] for number in range(1, 9)]


def test_what_was_read_goes_with_the_turn():
    network, context = Network(), torch.zeros(1, 2, 3)
    alive = weakref.ref(network)
    kept = KeepTexts(network)
    kept(None, None, context)
    del network, kept
    gc.collect()
    assert alive() is None


def test_a_network_that_wears_a_lora_reads_with_it(tmp_path):
    """Also where the LoRA changes what reads: the text embedding, and the blocks' keys and values."""
    network = WanTransformer(CONFIG).requires_grad_(False)
    for index, parameter in enumerate(network.parameters()):
        parameter.data.copy_(0.15 * randn(*parameter.shape, seed=index))
    layers = ["text_embedding.0", "blocks.0.cross_attn.k", "blocks.1.cross_attn.v"]
    save_file(SCHEMES["kijai"](factors(layers=layers)), tmp_path / "style.safetensors")
    changes = load_lora(tmp_path / "style.safetensors", CONFIG, {"dense": 1.0}).changes["dense"]
    assert {change.layer for change in changes} == {*layers}
    worn, plain = with_changes(network, changes, torch.device("cpu")), KeepTexts(network)
    kept, context = KeepTexts(worn), randn(1, 5, CONFIG.text_dim, seed=2)
    for step in range(2):
        asked = randn(1, 16, 2, 4, 6, seed=step), torch.tensor([700.0 - step])
        torch.testing.assert_close(kept(*asked, context), worn(*asked, context), rtol=1e-5, atol=1e-5)
        assert (kept(*asked, context) - plain(*asked, context)).abs().max() > 1e-3
