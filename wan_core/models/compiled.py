"""torch.compile for a network's blocks: all blocks, of both experts, share the graphs of a block's steps.

A step's graph is of a span of tokens: of the whole sequence it would be unrolled over the spans.

A compiled block is the same module under a subclass of its class, so its hooks, its weights and its place in
the network stay as they are, and nothing keeps a network alive. It is never needed: whatever goes wrong while
a graph is made, the block computes as it always did.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, ClassVar

import torch
from torch import nn

log = logging.getLogger("wancore")

Step = Callable[..., Any]


class Compiling:
    """How compiling went for one network; its blocks share it."""

    def __init__(self) -> None:
        self.failed = False
        self.hooks_seen = False

    def fail(self, error: Exception) -> None:
        """Compile nothing more of this network, and say so."""
        self.failed = True
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])[:300]
        log.warning("compile: %s; the model runs uncompiled", why or type(error).__name__)

    def found_hooks(self) -> None:
        """Say, once, that a LoRA is in the way."""
        if not self.hooks_seen:
            self.hooks_seen = True
            log.warning("compile: a LoRA works beside the layers; the blocks that wear it run uncompiled")


class CompiledBlock:
    """Mixed into a block's class, before it."""

    plain: ClassVar[type[nn.Module]]
    steps: ClassVar[dict[str, Step]]
    compiling: Compiling

    def read(self, *inputs: Any) -> Any:
        """As the block's own."""
        return self._step("read", *inputs)

    def attend(self, *inputs: Any) -> Any:
        """As the block's own."""
        return self._step("attend", *inputs)

    def feed(self, *inputs: Any) -> Any:
        """As the block's own."""
        return self._step("feed", *inputs)

    def held(self, *inputs: Any) -> AbstractContextManager[None]:
        """As the block's own; a graph takes the weights from their layers."""
        return self.plain.held(self, *inputs) if self._uncompiled() else nullcontext()

    def _step(self, name: str, *inputs: Any) -> Any:
        if not self._uncompiled():
            try:
                return self.steps[name](self, *inputs)
            except while_compiling() as error:
                self.compiling.fail(error)
        return getattr(self.plain, name)(self, *inputs)

    def _uncompiled(self) -> bool:
        if not self.compiling.failed and wears_hooks(self):
            # A graph does not see hooks that come and go with each call, and would leave out what they add.
            self.compiling.found_hooks()
            return True
        return self.compiling.failed


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Have the blocks of one network compiled when they are first called."""
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
    """Whether a layer inside has hooks. Those of the block itself run around its graph."""
    return any(
        layer._forward_hooks or layer._forward_pre_hooks for layer in block.modules() if layer is not block
    )


def while_compiling() -> tuple[type[Exception], ...]:
    """What torch raises while it makes a graph: before anything has run, so the block still can."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException  # a second to import

    return TorchDynamoException, FailOnRecompileLimitHit


@cache
def compiled_class(plain: type[nn.Module]) -> type[nn.Module]:
    """One class, and one compiled function a step, for all blocks of a class: so they share its graphs."""
    # Whole graphs only: a step that broke off between two could not start again, as it changes its input.
    steps = {name: torch.compile(getattr(plain, name), fullgraph=True) for name in ("read", "attend", "feed")}
    return type(f"Compiled{plain.__name__}", (CompiledBlock, plain), {"plain": plain, "steps": steps})
