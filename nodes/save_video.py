"""WanCoreSaveVideo: frames, or a video, to an mp4 in ComfyUI's output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import Input, InputImpl, io, ui
from torch import Tensor

from ..wan_core.media.contact_sheet import write_contact_sheet
from .decoded_video import save_mp4
from .hosting import say
from .sockets import CATEGORY, fps_input

MANY_PIXELS = 2e7  # some two seconds of encoding; for less a line would only take room from the player
NO_SHEET, SHEET_BESIDE = "none", "beside the video"


class WanCoreSaveVideo(io.ComfyNode):
    """IMAGE frames or a VIDEO to an mp4 that carries the graph which made it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreSaveVideo",
            display_name="Save Video (WanCore)",
            category=CATEGORY,
            description="Writes frames or a video as an H.264 mp4 with BT.709 colour. Drop the file on "
            "ComfyUI to get its graph back.",
            search_aliases=["mp4", "export video", "h264"],
            inputs=[
                io.MultiType.Input(
                    "images",
                    types=[io.Image, io.Video],
                    tooltip="The frames of one video, in order; or a video, such as Decode to Video's, which "
                    "is decoded while it is saved.",
                ),
                fps_input(" A video keeps its own rate."),
                io.String.Input(
                    "filename_prefix",
                    default="video/wancore",
                    tooltip="Where in the output folder the file goes, and how its name starts.",
                ),
                io.Combo.Input(
                    "contact_sheet",
                    options=[NO_SHEET, SHEET_BESIDE],
                    default=NO_SHEET,
                    optional=True,
                    advanced=True,
                    tooltip="A JPEG of the first, middle and last frame, named as the video and beside it.",
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The file just written.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: Tensor | Input.Video,
        fps: float,
        filename_prefix: str,
        contact_sheet: str = NO_SHEET,
    ) -> io.NodeOutput:
        is_video = isinstance(images, Input.Video)
        width, height = images.get_dimensions() if is_video else (images.shape[2], images.shape[1])
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        path = Path(folder) / f"{name}_{counter:05}_.mp4"
        if not is_video and images[..., 0].numel() > MANY_PIXELS:
            say("writing the video")
        save_mp4(images, path, fps, cls.graph())
        saved = ui.SavedResult(path.name, subfolder, io.FolderType.output)
        shown = ui.PreviewVideo([saved]).as_dict()
        if contact_sheet == SHEET_BESIDE:
            sheet = path.with_suffix(".jpg")
            write_contact_sheet(path, sheet)
            # Under a key of its own: among the images it would take the player's place on the node.
            shown["contact_sheet"] = [ui.SavedResult(sheet.name, subfolder, io.FolderType.output)]
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=shown)

    @classmethod
    def graph(cls) -> dict[str, Any]:
        """The graph as ComfyUI's readers look for it, unless the user started ComfyUI without metadata."""
        if args.disable_metadata:
            return {}
        values = {**(cls.hidden.extra_pnginfo or {}), "prompt": cls.hidden.prompt}
        return {key: value for key, value in values.items() if value is not None}
