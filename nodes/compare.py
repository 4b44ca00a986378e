"""WanCoreCompare: two videos beside each other or under a wipe, in step, on the node."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import Input, InputImpl, io, ui
from torch import Tensor

from ..wan_core.media.clips import ClipFacts, compare_clips
from .decoded_video import save_mp4
from .sockets import CATEGORY, fps_input


class WanCoreCompare(io.ComfyNode):
    """Two of IMAGE or VIDEO to mp4s in ComfyUI's temporary folder, for the player on the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreCompare",
            display_name="Compare Videos (WanCore)",
            category=CATEGORY,
            description="Plays two videos in step on the node, side by side or under a wipe that you drag. "
            "Nothing is saved to the output folder.",
            search_aliases=["side by side", "wipe", "a b", "difference", "preview video"],
            inputs=[
                _clip_input("left"),
                _clip_input("right"),
                fps_input(" A video keeps its own rate."),
                _label_input("left"),
                _label_input("right"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        left: Tensor | Input.Video,
        right: Tensor | Input.Video,
        fps: float,
        left_label: str = "left",
        right_label: str = "right",
    ) -> io.NodeOutput:
        files = [_saved(clip, fps) for clip in (left, right)]
        facts = [_facts(path) for _, path in files]
        shown = [
            {**saved, **asdict(fact), "label": label}
            for (saved, _), fact, label in zip(files, facts, (left_label, right_label), strict=True)
        ]
        return io.NodeOutput(ui={"compare": shown, "note": compare_clips(*facts)})


def _clip_input(name: str) -> io.MultiType.Input:
    return io.MultiType.Input(
        name,
        types=[io.Image, io.Video],
        tooltip=f"The video on the {name}: frames in order, or a video such as Save Video's.",
    )


def _label_input(name: str) -> io.String.Input:
    return io.String.Input(
        f"{name}_label", default=name, optional=True, tooltip=f"What stands over the video on the {name}."
    )


def _saved(clip: Tensor | Input.Video, fps: float) -> tuple[dict[str, Any], Path]:
    """The clip as an mp4 in the temporary folder: how the page asks for it, and where it is."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        "wancore_compare", folder_paths.get_temp_directory()
    )
    path = Path(folder) / f"{name}_{counter:05}_.mp4"
    if isinstance(clip, Tensor):
        # H.264 takes even sizes only; to look at, a row or a column less is the same
        clip = clip[:, : clip.shape[1] // 2 * 2, : clip.shape[2] // 2 * 2]
    save_mp4(clip, path, fps)
    return ui.SavedResult(path.name, subfolder, io.FolderType.temp), path


def _facts(path: Path) -> ClipFacts:
    video = InputImpl.VideoFromFile(str(path))
    return ClipFacts(*video.get_dimensions(), video.get_frame_count(), float(video.get_frame_rate()))
