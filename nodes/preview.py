"""What a run is heading for, as moving pictures on its node while it samples."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from comfy_api import feature_flags
from protocol import BinaryEventTypes
from torch import Tensor

from ..wan_core.media.preview import LatentRgb, animated_webp, enlarged, preview_frames
from ..wan_core.media.preview_worker import PreviewWorker
from ..wan_core.sampling.denoise import StepInfo
from .hosting import listened_to, place_in_graph

ANIMATED = "animated"
PREVIEWS = (ANIMATED, "none")


@contextmanager
def previews(kind: str, rgb: LatentRgb, fps: float) -> Iterator[Callable[[StepInfo], None]]:
    """What is to be called with each step of a run of the node that runs.

    kind: of PREVIEWS. rgb: how the latent's cells become colours. fps: latent frames per second of the video.
    """
    viewer = Viewer.of_this_run() if kind == ANIMATED else None
    if viewer is None:
        yield lambda _: None
        return
    began = time.monotonic()

    def show(frames: Tensor, is_last: bool) -> None:
        passed = 0 if is_last else time.monotonic() - began
        viewer.show(in_time(frames, passed, fps), fps)

    with PreviewWorker(show) as worker:
        yield lambda info: worker.offer(partial(frames_of, info, rgb))


def frames_of(info: StepInfo, rgb: LatentRgb) -> Tensor:
    """(F, h, w, 3) uint8: where a step believed the video to be."""
    return preview_frames(info.denoised[0].float(), rgb)


def in_time(frames: Tensor, seconds: float, fps: float) -> Tensor:
    """The frames in their order, beginning where a clip would be that has played for so long.

    A page begins each picture it gets anew: of a long clip and quick steps it would never come to the end.
    """
    return frames.roll(-(int(seconds * fps) % len(frames)), dims=0)


class Viewer:
    """Who queued the graph and is looking, and the node that is to show something."""

    def __init__(self, server: Any, client_id: str, place: dict[str, str | None]) -> None:
        self.server, self.client_id, self.place = server, client_id, place

    @classmethod
    def of_this_run(cls) -> Viewer | None:
        """None for a graph queued by nobody who listens, and for a node called as a function."""
        server = listened_to()
        return None if server is None else cls(server, server.client_id, place_in_graph())

    def show(self, frames: Tensor, fps: float) -> None:
        """Show frames (F, h, w, 3) uint8: moving, or to an older listener the one in the middle."""
        known = self.server.sockets_metadata
        if feature_flags.supports_feature(known, self.client_id, "supports_preview_metadata"):
            self.send_webp(animated_webp(enlarged(frames), fps))
        else:
            self.send_still(enlarged(frames[len(frames) // 2 :][:1])[0])

    def send_webp(self, picture: bytes) -> None:
        """Show a WebP, moving or not. Core's own way knows JPEG and PNG only, so it is packed here."""
        about = json.dumps({**self.place, "image_type": "image/webp"}).encode()
        message = struct.pack(">I", len(about)) + about + picture
        kind = BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA
        sending = self.server.send_bytes(kind, message, self.client_id)
        asyncio.run_coroutine_threadsafe(sending, self.server.loop)

    def send_still(self, picture: Any) -> None:
        """Show a Pillow picture to an older listener, on the node that runs.

        Not by core's progress bar: that would eat, in this thread, the interrupt meant for the sampling.
        """
        kind = BinaryEventTypes.UNENCODED_PREVIEW_IMAGE
        self.server.send_sync(kind, ("JPEG", picture, None), self.client_id)
