"""torch.compile for a network's blocks: their steps are three graphs, which all blocks of both experts share.

A compiled block is the same module under a subclass of its class, so its hooks, its weights and its place in
the network stay as they are, and nothing keeps a network alive. Its loops over the tokens run as they did, in
the same memory; compiled is what they do with some tokens. That is never needed: whatever goes wrong while a
graph is made, the block computes as it always did.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

log = logging.getLogger("wancore")

# The methods of TransformerBlock that are compiled: of tensors alone, the same for every part of the video.
STEPS = ("read", "attend", "feed")

Step = Callable[..., Any]


class Compiling:
    """How compiling goes for one network; its blocks share it."""

    def __init__(self) -> None:
        self.failed = False
        self.working = False  # in the block that runs
        self.said: set[str] = set()

    def enter(self, block: nn.Module) -> None:
        """Decide for a block that is about to run."""
        self.working = not self.failed
        # A graph does not see hooks that come and go with each call, and would leave out what they add.
        if self.working and wears_hooks(block):
            self.rest("a LoRA works beside the layers; the blocks that wear it run uncompiled")

    def rest(self, why: str) -> None:
        """Run what comes next uncompiled, and say why, once."""
        if self.working and why not in self.said:
            self.said.add(why)
            log.warning("compile: %s", why)
        self.working = False

    def fail(self, error: Exception) -> None:
        """Compile nothing more of this network, and say so."""
        self.failed, self.working = True, False
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])[:300]
        log.warning("compile: %s; the model runs uncompiled", why or type(error).__name__)


class CompiledBlock:
    """Mixed into a block's class, before it; beside it stand the steps, by `compiled_step`."""

    plain: ClassVar[type[nn.Module]]
    compiling: Compiling

    def forward(self, x: Tensor, given: Any) -> Tensor:
        """As the block's own."""
        self.compiling.enter(self)
        return self.plain.forward(self, x, given)

    @contextmanager
    def held(self, spans: Any, layers: tuple[nn.Module, ...], like: Tensor) -> Iterator[None]:
        """As the block's own. A layer whose weight was decoded for a loop has a forward for that time only,
        for which each loop would need a graph."""
        working = self.compiling.working
        with self.plain.held(self, spans, layers, like):
            if any("forward" in vars(layer) for layer in layers):
                self.compiling.rest("weights that are decoded or cast on the way run uncompiled")
            yield
        self.compiling.working = working and not self.compiling.failed


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Have the steps of one network's blocks compiled when they are first called."""
    compiling = Compiling()
    for block in blocks:
        if not isinstance(block, CompiledBlock):
            block.__class__ = compiled_class(type(block))
            block.compiling = compiling


def uncompile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Undo `compile_blocks`."""
    for block in blocks:
        if isinstance(block, CompiledBlock):
            block.__class__ = block.plain
            del block.compiling


def wears_hooks(block: nn.Module) -> bool:
    """Whether a layer inside has hooks. Those of the block itself run outside its steps."""
    return any(
        layer._forward_hooks or layer._forward_pre_hooks for layer in block.modules() if layer is not block
    )


@cache
def compiled_class(plain: type[nn.Module]) -> type[nn.Module]:
    """One class, with compiled functions of its own, for all blocks of a class: so they share the graphs."""
    steps = {name: compiled_step(getattr(plain, name)) for name in STEPS}
    return type(f"Compiled{plain.__name__}", (CompiledBlock, plain), {"plain": plain, **steps})


def compiled_step(plain: Step) -> Step:
    """A method that runs compiled, or as it is where its block does not."""
    # Whole graphs only: what broke off between two could not start again, as it changes its input.
    compiled = torch.compile(plain, fullgraph=True)

    def step(self: CompiledBlock, *inputs: Any) -> Any:
        if self.compiling.working:
            try:
                return compiled(self, *inputs)
            except while_compiling() as error:
                self.compiling.fail(error)
        return plain(self, *inputs)

    return step


def while_compiling() -> tuple[type[Exception], ...]:
    """What torch raises while it makes a graph: before anything has run, so the step still can."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException  # a second to import

    return TorchDynamoException, FailOnRecompileLimitHit
