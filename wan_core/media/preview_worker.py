"""Previews made and shown beside the work they are of, by a thread of their own.

The work waits for none of it, and no fault of it can end the work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger("wancore")

SECONDS = 1.0  # from one preview to the next, at least
SHARE = 0.1  # of one core's time at most: sampling on a CPU wants the rest


class PreviewWorker:
    """Within `with`, `offer` a preview whenever there is a new one; the newest wins.

    The last that was offered is shown, too, after the end if need be, unless the work fails or is stopped.
    """

    def __init__(self, show: Callable[[Tensor, bool], None], seconds: float = SECONDS) -> None:
        """show(frames, is_last): called in the thread; what it raises ends the previews, and nothing else."""
        self._show, self._seconds = show, seconds
        self._newest: Callable[[], Tensor] | None = None
        self._ended = False
        self._changed = threading.Condition()

    def __enter__(self) -> PreviewWorker:
        threading.Thread(target=self._work, name="wancore preview", daemon=True).start()
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._ended = True
            if failed is not None:
                self._newest = None
            self._changed.notify()

    def offer(self, make: Callable[[], Tensor]) -> None:
        """A preview that `make`, called in the thread, works out."""
        with self._changed:
            self._newest = make
            self._changed.notify()

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while (make := self._next()) is not None:
                    frames = make()  # waits for the device
                    del make  # its tensors would stay there until the next comes
                    started = time.monotonic()
                    self._show(frames, self._ended)
                    taken = time.monotonic() - started
                    self._rest(max(self._seconds, taken / SHARE) - taken)
        except Exception as error:  # noqa: BLE001 (a preview is a courtesy: whatever it was, the work goes on)
            log.warning("preview: %s; the run goes on without", error)

    def _next(self) -> Callable[[], Tensor] | None:
        """The newest not shown yet, waiting for one; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended)
            make, self._newest = self._newest, None
            return make

    def _rest(self, seconds: float) -> None:
        """Leave the time to the work, as long as it lasts."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, seconds)
