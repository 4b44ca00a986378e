"""What a run is heading for, as moving pictures on its node while it samples.

Worked out, encoded and sent by a thread of its own, so that sampling waits for none of it and no fault of it
can end a run.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import threading
import time
from typing import Any

import torch
from comfy_api import feature_flags
from protocol import BinaryEventTypes

from ..wan_core.media.preview import LatentRgb, animated_webp, enlarged, preview_frames
from ..wan_core.sampling.denoise import StepInfo
from .hosting import listened_to, place_in_graph

log = logging.getLogger("wancore")

SECONDS = 1.0  # at least, between two previews
SHARE = 0.1  # of one core's time at most: sampling on a CPU wants the rest
ANIMATED = "animated"
PREVIEWS = (ANIMATED, "none")


class Preview:
    """The previews of one run of one node. Within `with`, `show` each step; the newest wins.

    rgb: how the latent's cells become colours. fps: latent frames per second of the video. kind: of PREVIEWS.
    """

    def __init__(self, rgb: LatentRgb, fps: float, kind: str) -> None:
        self.rgb, self.fps = rgb, fps
        self._viewer = Viewer.of_this_run() if kind == ANIMATED else None
        self._newest: StepInfo | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._began = time.monotonic()

    def __enter__(self) -> Preview:
        if self._viewer is not None:
            threading.Thread(target=self._work, name="wancore preview", daemon=True).start()
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """The last step is still shown, by and by, unless the run was stopped or failed."""
        with self._changed:
            self._ended = True
            if failed is not None:
                self._newest = None
            self._changed.notify()

    def show(self, info: StepInfo) -> None:
        """One step is done."""
        if self._viewer is None:
            return
        with self._changed:
            self._newest = info
            self._changed.notify()

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while (info := self._next()) is not None:
                    frames = preview_frames(info.denoised[0].float(), self.rgb)  # waits for the device
                    del info  # its tensors would stay there until the next comes
                    started = time.monotonic()
                    self._send(frames)
                    taken = time.monotonic() - started
                    self._rest(max(SECONDS, taken / SHARE) - taken)
        except Exception as error:  # noqa: BLE001 (a preview is a courtesy: whatever it was, sampling goes on)
            log.warning("preview: %s; the run goes on without", error)

    def _next(self) -> StepInfo | None:
        """The newest step not shown yet, waiting for one; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended)
            info, self._newest = self._newest, None
            return info

    def _rest(self, seconds: float) -> None:
        """Leave the time to sampling, as long as it lasts."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, seconds)

    def _send(self, frames: torch.Tensor) -> None:
        if self._viewer.plays():
            self._viewer.send_webp(animated_webp(enlarged(self._in_time(frames)), self.fps))
        else:
            self._viewer.send_still(enlarged(frames[len(frames) // 2 :][:1])[0])

    def _in_time(self, frames: torch.Tensor) -> torch.Tensor:
        """Beginning where a clip that plays since the run began would be: each new picture starts anew, and
        of a long one the end would never be seen. The last begins at the beginning."""
        if self._ended:
            return frames
        passed = int((time.monotonic() - self._began) * self.fps)
        return frames.roll(-(passed % len(frames)), dims=0)


class Viewer:
    """Who queued the graph and is looking, and the node that is to show something."""

    def __init__(self, server: Any, client_id: str, place: dict[str, str | None]) -> None:
        self.server, self.client_id, self.place = server, client_id, place

    @classmethod
    def of_this_run(cls) -> Viewer | None:
        """None for a graph queued by nobody who listens, and for a node called as a function."""
        server = listened_to()
        return None if server is None else cls(server, server.client_id, place_in_graph())

    def plays(self) -> bool:
        """Whether what listens knows previews that say what they are."""
        known = self.server.sockets_metadata
        return feature_flags.supports_feature(known, self.client_id, "supports_preview_metadata")

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
