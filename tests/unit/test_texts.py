"""Each prompt is read once in a network's turn, whatever the number of steps."""

from __future__ import annotations

import gc
import weakref

import torch

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
