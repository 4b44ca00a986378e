"""WanCoreSaveVideo: frames to an mp4 in ComfyUI's output folder."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui
from torch import Tensor

from ..wan_core.media.mp4 import write_mp4
from .bounds import Least
from .sockets import CATEGORY

CHUNK = 16  # frames the writer converts at a time


class WanCoreSaveVideo(io.ComfyNode):
    """IMAGE frames to an mp4 that carries the graph which made it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreSaveVideo",
            display_name="Save Video (WanCore)",
            category=CATEGORY,
            description="Writes the frames as an H.264 mp4 with BT.709 colour. Drop the file on ComfyUI to "
            "get its graph back.",
            search_aliases=["mp4", "export video", "h264"],
            inputs=[
                io.Image.Input("images", tooltip="The frames of one video, in order."),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=Least(0.01),
                    max=1000.0,
                    step=1.0,
                    round=0.001,
                    tooltip="Frames per second. The A14B models are made for 16, TI2V-5B for 24.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/wancore",
                    tooltip="Where in the output folder the file goes, and how its name starts.",
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The file just written.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor, fps: float, filename_prefix: str) -> io.NodeOutput:
        height, width = images.shape[1:3]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        file = f"{name}_{counter:05}_.mp4"
        path = Path(folder) / file
        write_mp4(images[..., :3].split(CHUNK), path, fps, cls.metadata())
        shown = ui.PreviewVideo([ui.SavedResult(file, subfolder, io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=shown)

    @classmethod
    def metadata(cls) -> dict[str, str]:
        """The graph as ComfyUI's readers look for it, unless the user started ComfyUI without metadata."""
        if args.disable_metadata:
            return {}
        values = {**(cls.hidden.extra_pnginfo or {}), "prompt": cls.hidden.prompt}
        return {key: json.dumps(value) for key, value in values.items() if value is not None}
