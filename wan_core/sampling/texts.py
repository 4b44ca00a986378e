"""What a network makes of a prompt, made once for all steps of its turn."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class ReadsText(Protocol):
    """A transformer, alone or wearing LoRAs."""

    def __call__(self, latent: Tensor, timestep: Tensor, context: Any) -> Tensor:
        """The velocity; context is a context tensor, or what `read_text` made of it."""
        ...

    def read_text(self, context: Tensor) -> Any:
        """The context (B, L, D) embedded, which also keeps what each block makes of it."""
        ...


class KeepTexts:
    """A network as the loop asks it, (latent, timestep, context) -> velocity, that reads each prompt once.

    For one turn of one network: what it holds is the network's, and goes with it. Contexts are told apart by
    identity, so a context tensor must not be written into meanwhile.
    """

    def __init__(self, network: ReadsText) -> None:
        self._network = network
        self._read: dict[int, tuple[Tensor, Any]] = {}  # with the context, whose id would be given out again

    def __call__(self, latent: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        if id(context) not in self._read:
            self._read[id(context)] = context, self._network.read_text(context)
        return self._network(latent, timestep, self._read[id(context)][1])
