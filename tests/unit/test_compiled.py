"""Compiled blocks: the same numbers, one graph for both experts, and a way back when compiling fails.

pytest tests/unit/test_compiled.py

Graphs are captured and run without code generation, which is torch's to test and takes a minute.
"""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from wan_core.attention import Attention, attention, choice, choose
from wan_core.attention.backend import Backend
from wan_core.memory.streamer import Streamer
from wan_core.models import compiled, spans
from wan_core.models.compiled import compile_blocks, uncompile_blocks

from .test_transformer import inputs, tiny_network

EAGER_COMPILE = torch.compile
STEPS = 3  # of a block: read, attend, feed


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    """No graph of another test, and no code generation."""
    torch._dynamo.reset()
    counters.clear()
    compiled.compiled_class.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda step, **how: EAGER_COMPILE(step, backend="eager", **how))
    yield
    compiled.compiled_class.cache_clear()
    torch._dynamo.reset()


@pytest.fixture
def said(caplog):
    """What our own log says; torch keeps one of its own."""
    return lambda: [record.getMessage() for record in caplog.records if record.name == "wancore"]


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def expert(scale: float = 1.0):
    network = tiny_network().requires_grad_(False)
    for parameter in network.parameters():
        parameter.mul_(scale)
    return network


def test_both_experts_share_their_graphs_and_compute_as_before():
    experts = [expert(), expert(1.1)]
    with torch.no_grad():
        before = [network(*inputs()) for network in experts]
        for network in experts:
            compile_blocks(network.blocks)
        for _ in range(2):
            for network, expected in zip(experts, before, strict=True):
                out = network(*inputs())
                assert float((out - expected).norm() / expected.norm()) < 1e-5
    assert graphs() == STEPS


def test_the_attention_that_is_chosen_by_default_is_compiled(said):
    choice._chosen.cache_clear()
    network = expert()
    with torch.no_grad():
        expected = network(*inputs())
        network.attention = choose("auto", torch.device("cpu"), torch.float32)
        compile_blocks(network.blocks)
        assert torch.allclose(network(*inputs()), expected, rtol=1e-4, atol=1e-5)
    assert graphs() == STEPS
    assert not [line for line in said() if line.startswith("compile")]


def test_many_spans_and_kept_texts_cost_no_graph_for_each(monkeypatch):
    """18 tokens in spans of 5 and a rest of 3; the second size of a step may get a graph for all sizes."""
    monkeypatch.setattr(spans, "CPU_SPANS", (10, 5))
    network = expert()
    latent, timestep, context = inputs(batch=1)
    with torch.no_grad():
        expected = network(latent, timestep, context)
        compile_blocks(network.blocks)
        text = network.read_text(context)
        for _ in range(2):
            assert torch.allclose(network(latent, timestep, text), expected, rtol=1e-4, atol=1e-5)
    assert graphs() <= 2 * STEPS


def test_prompts_of_other_lengths_cost_one_more_graph():
    network = expert()
    with torch.no_grad():
        expected = {rows: network(*inputs(rows=rows)) for rows in (7, 9, 11, 5)}
        compile_blocks(network.blocks)
        for rows, before in expected.items():
            assert torch.allclose(network(*inputs(rows=rows)), before, rtol=1e-4, atol=1e-5)
    assert graphs() == STEPS + 1


def test_a_compiled_network_is_let_go_at_once():
    network = expert()
    compile_blocks(network.blocks)
    with torch.no_grad():
        network(*inputs())
    gone = weakref.ref(network)
    del network
    assert gone() is None


def test_compiling_is_undone():
    network = expert()
    plain = type(network.blocks[0])
    for _ in range(2):
        compile_blocks(network.blocks)
        compile_blocks(network.blocks)  # twice is once
        assert type(network.blocks[0]).plain is plain
        uncompile_blocks(network.blocks)
        assert {type(block) for block in network.blocks} == {plain}
    assert list(vars(network.blocks[0])) == list(vars(expert().blocks[0]))


def failing(*_: object) -> None:
    raise RuntimeError("no compiler here\nand a trace")


def test_without_a_compiler_the_model_runs_and_says_so_once(monkeypatch, said):
    monkeypatch.setattr(torch, "compile", lambda step, **how: EAGER_COMPILE(step, backend=failing, **how))
    network = expert()
    with torch.no_grad():
        before = network(*inputs())
        compile_blocks(network.blocks)
        for _ in range(2):
            assert torch.equal(network(*inputs()), before)
    assert said() == [
        "compile: backend='failing' raised: RuntimeError: no compiler here; the model runs uncompiled"
    ]


def test_what_goes_wrong_while_computing_is_told(monkeypatch, said):
    """By then the input may have been changed, so there is no way back."""

    def backend(graph: object, _: object):
        def run(*_: Tensor) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    monkeypatch.setattr(torch, "compile", lambda step, **how: EAGER_COMPILE(step, backend=backend, **how))
    network = expert()
    compile_blocks(network.blocks)
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        network(*inputs())
    assert not said()


def test_blocks_that_wear_a_lora_run_uncompiled(said):
    """Also when the graph is there already: it would leave out what the hook adds."""
    network = expert()
    compile_blocks(network.blocks)
    with torch.no_grad():
        plain = network(*inputs())
        hook = network.blocks[1].ffn[0].register_forward_hook(lambda _, inputs, out: out.add_(1.0))
        changed = network(*inputs())
        network(*inputs())
        hook.remove()
        again = network(*inputs())
        uncompile_blocks(network.blocks)
        hook = network.blocks[1].ffn[0].register_forward_hook(lambda _, inputs, out: out.add_(1.0))
        expected = network(*inputs())
    assert torch.equal(plain, again)
    assert float((changed - expected).norm() / expected.norm()) < 1e-5
    assert float((changed - plain).norm() / plain.norm()) > 0.01
    assert said() == ["compile: a LoRA works beside the layers; the blocks that wear it run uncompiled"]


def test_hooks_of_the_block_itself_run_around_its_graph():
    """As those that bring its weights in, and those that change its modulation, do."""
    network = expert()
    compile_blocks(network.blocks)
    seen = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda block, _: seen.append(block))
    with torch.no_grad():
        network(*inputs())
        network(*inputs())
    assert seen == 2 * list(network.blocks)
    assert graphs() == STEPS


def test_blocks_whose_weights_come_and_go_share_the_graphs():
    network = expert()
    with torch.no_grad():
        before = network(*inputs())
        compile_blocks(network.blocks)
        streamer = Streamer(network, list(network.blocks), range(len(network.blocks)), torch.device("cpu"))
        for _ in range(3):
            assert torch.allclose(network(*inputs()), before, rtol=1e-4, atol=1e-5)
        streamer.close()
    assert graphs() == STEPS


def test_weights_that_are_cast_once_for_many_spans_stay_so(monkeypatch, said):
    """A graph would cast, or decode, them for each span anew."""
    monkeypatch.setattr(spans, "CPU_SPANS", (10, 5))
    network = expert()
    network.compute_dtype = torch.bfloat16  # of float32 weights
    with torch.no_grad():
        before = network(*inputs(batch=1))
        compile_blocks(network.blocks)
        for _ in range(2):
            assert torch.equal(network(*inputs(batch=1)), before)
    assert graphs() == 0
    assert said() == ["compile: weights that are decoded or cast on the way run uncompiled"]


def test_an_optional_attention_kernel_is_called_from_the_graph():
    calls = []

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(q.shape)
        return attention(q, k, v)

    chosen = Attention([Backend("ours", "", lambda: (kernel, "Ours"), lambda _: True, 128)], asked_for=True)
    q, k, v = (torch.randn(1, 2, tokens, 16).to(torch.bfloat16) for tokens in (6, 9, 9))
    compiled_call = torch.compile(lambda q, k, v: chosen(q * 1.0, k, v) + 0.0, fullgraph=True)
    for _ in range(2):
        assert torch.equal(compiled_call(q, k, v), attention(q, k, v))
    assert len(calls) == 2
    bias = torch.zeros(1, 1, 1, 9)
    assert torch.equal(torch.compile(chosen, fullgraph=True)(q, k, v, bias), attention(q, k, v, bias))
    assert len(calls) == 2
