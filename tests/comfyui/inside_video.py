"""Decode to Video inside ComfyUI's own Python: run by test_video.py as

    <ComfyUI's python> inside_video.py <ComfyUI> <pack> <models folder> <folder to write to>

All answers, in JSON, are the last line of stdout.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

OUT = Path(sys.argv.pop(4))

import inside_comfyui as inside  # noqa: E402 - starts ComfyUI, with the arguments that are left
import torch  # noqa: E402
from comfy_api.latest import InputImpl, Types  # noqa: E402

sys.path.append(str(inside.PACK))  # behind ComfyUI's own folders; `bench` is in neither
mm, handles, nodes = inside.mm, inside.handles, inside.nodes
LiveBytes = importlib.import_module("bench.live").LiveBytes
folder_paths = importlib.import_module("folder_paths")
args = importlib.import_module("comfy.cli_args").args
WanError = importlib.import_module("pack_under_test.wan_core.errors").WanError

VAES = {"2.1": "wan_tiny_vae.safetensors", "2.2": "wan_tiny_vae_2_2.safetensors"}
CELLS = {"2.1": (16, 4, 4), "2.2": (48, 2, 2)}  # of 32 x 32 pixels
MP4, MKV = Types.VideoContainer.MP4, Types.VideoContainer.MKV


def facts() -> dict[str, Any]:
    """What a video tells of itself, and how often that decoded it."""
    answer = {}
    for name in VAES:
        with decodings() as count:
            video = lazy(name, 17)
            answer[name] = {
                "size": video.get_dimensions(),
                "frames": video.get_frame_count(),
                "rate": float(video.get_frame_rate()),
                "duration": video.get_duration(),
                "format": video.get_container_format(),
                "depth": video.get_bit_depth(),
            }
            answer[name]["decoded"] = len(count)
            answer[name]["in full"] = list(video.get_components().images.shape)
    return answer


def memory() -> dict[str, Any]:
    """The most bytes that decoding and saving held, by VAE and length."""
    answer = {}
    for name in VAES:
        videos = {frames: lazy(name, frames) for frames in (17, 81)}
        answer[name] = {
            frames: peak(lambda video=video: video.save_to(str(OUT / "peak.mp4")))
            for frames, video in videos.items()
        }
    return answer


def memory_in_full() -> dict[str, int]:
    """The same of the node that makes an IMAGE, above the IMAGE itself."""
    vae = handles.load_vae(vae_file("2.1"))
    answer = {}
    for frames in (17, 81):
        samples = latent("2.1", frames)
        most = peak(lambda samples=samples: nodes.WanCoreDecode.execute(samples, vae))
        answer[str(frames)] = most - frames * 32 * 32 * 3 * 4
    return answer


def files() -> dict[str, Any]:
    """The video saved in every way, and what came of it; the frames themselves beside."""
    video = lazy("2.1", 17)
    frames = video.get_components().images
    folder_paths.set_output_directory(str(OUT))
    nodes.WanCoreSaveVideo.hidden = inside.SimpleNamespace(
        extra_pnginfo={"workflow": {"a": 1}}, prompt={"b": 2}
    )
    saved = {
        key: nodes.WanCoreSaveVideo.execute(what, 16.0, key)[0]
        for key, what in (("from_frames", frames), ("from_video", video))
    }
    (OUT / "stream.mp4").write_bytes(video.get_stream_source().getvalue())
    video.save_to(str(OUT / "core.mkv"), MKV)
    video.save_to(str(OUT / "small.mp4"), MP4, crf=40.0)
    stream = BytesIO()
    video.save_to(stream)
    trimmed = video.as_trimmed(0.25, 0.5)
    return {
        "same": Path(saved["from_frames"].get_stream_source()).read_bytes()
        == Path(saved["from_video"].get_stream_source()).read_bytes(),
        "sizes": {path.name: path.stat().st_size for path in OUT.iterdir()},
        "distance": {
            name: inside.distance(InputImpl.VideoFromFile(str(OUT / name)).get_components().images, frames)
            for name in ("from_video_00001_.mp4", "stream.mp4", "core.mkv")
        },
        "trimmed": list(trimmed.get_components().images.shape),
        "metadata": InputImpl.VideoFromFile(str(OUT / "from_video_00001_.mp4")).get_components().metadata,
    }


def graphs() -> dict[str, Any]:
    """What a saved file carries of graphs, by what was saved and how the run was queued."""
    node = nodes.WanCoreSaveVideo
    queued = {"graph": {"workflow": {"new": 1}}, "headless": None, "no metadata": {"workflow": {"new": 1}}}
    old = OUT / "old.mp4"
    lazy("2.1", 5).save_to(str(old), metadata={"workflow": {"old": 1}, "prompt": {"old": 2}})
    inputs = {"frames": torch.zeros(5, 32, 32, 3), "stream": lazy("2.1", 5)}
    inputs["file"] = InputImpl.VideoFromFile(str(old))
    answer = {}
    for how, extra_pnginfo in queued.items():
        node.hidden = inside.SimpleNamespace(extra_pnginfo=extra_pnginfo, prompt={"new": 2})
        args.disable_metadata = how == "no metadata"
        for what, images in inputs.items():
            path = node.execute(images, 16.0, f"{how}_{what}")[0].get_stream_source()
            tags = InputImpl.VideoFromFile(path).get_components().metadata
            carried = {key: json.loads(tags[key]) for key in ("workflow", "prompt") if key in tags}
            answer[f"{how}, {what}"] = {key: value for key, value in carried.items() if value is not None}
    args.disable_metadata = False
    return answer


def contact_sheet() -> dict[str, Any]:
    """A contact sheet of a video that is decoded while it is saved: how often that decoded it."""
    node = nodes.WanCoreSaveVideo
    with decodings() as count:
        shown = node.execute(lazy("2.1", 17), 16.0, "sheet", contact_sheet="beside the video").ui
    return {"decoded": len(count), "shown": shown, "there": (OUT / "sheet_00001_.jpg").is_file()}


def compare() -> dict[str, Any]:
    """Frames of odd size beside a video that is decoded while it is saved."""
    folder_paths.set_temp_directory(str(OUT))
    with decodings() as count:
        shown = nodes.WanCoreCompare.execute(torch.zeros(3, 33, 49, 3), lazy("2.1", 17), 8.0, "a", "b").ui
    clips = [InputImpl.VideoFromFile(str(OUT / clip["filename"])) for clip in shown["compare"]]
    sizes = [[*clip.get_dimensions(), clip.get_frame_count()] for clip in clips]
    return {"decoded": len(count), "shown": shown, "sizes": sizes}


def interrupted() -> dict[str, Any]:
    """An interrupt after the second latent frame: what is raised, and what is left."""
    video, steps = lazy("2.1", 17), []

    def stop_at_the_second(progress: Any, done: int) -> None:
        steps.append(done)
        mm.interrupt_current_processing(done == 2)
        mm.throw_exception_if_processing_interrupted()

    update, handles.Progress.update = handles.Progress.update, stop_at_the_second
    try:
        video.save_to(str(OUT / "never.mp4"))
        raised = None
    except mm.InterruptProcessingException as error:
        raised = type(error).__name__
    handles.Progress.update = update
    mm.interrupt_current_processing(False)
    return {"raised": raised, "steps": steps, "left": [path.name for path in OUT.glob("*never*")]}


def small_card() -> dict[str, Any]:
    """Decoding on a device that has less and less memory: in how many tiles, and how far from before."""
    channels, _, _ = CELLS["2.1"]
    cells = torch.randn(1, channels, 2, 17, 16, generator=torch.Generator().manual_seed(1))
    before = torch.cat(list(handles.load_vae(vae_file("2.1")).decode(cells)))
    mm.unload_all_models()
    inside.pretend_a_gpu()
    mm.vae_device = mm.get_torch_device
    config, dtype = handles.load_vae(vae_file("2.1")).module.config, torch.float32
    plan, planned = handles.plan_tiles, []

    def noted(*arguments: Any) -> Any:
        planned.append(plan(*arguments))
        return planned[-1]

    handles.plan_tiles = noted
    whole = handles.tiled_bytes(config, 17, 16, handles.plan_tiles(config, 17, 16, 1 << 40, dtype), dtype)
    answer = {}
    for name, room in (("plenty", 1 << 40), ("caches", whole), ("tiles", whole - 1), ("nothing", 1 << 20)):
        planned.clear()
        vae = handles.load_vae(vae_file("2.1"))
        inside.give_memory(room + vae.patcher.model_size())
        frames = torch.cat(list(vae.decode(cells)))
        answer[name] = [len(planned[0]) if planned else None, inside.distance(frames, before)]
        mm.unload_all_models()
    return answer | {"encode": small_card_s_encode()}


def small_card_s_encode() -> dict[str, Any]:
    """Where the causal caches lie when all fits and when a byte is missing, and the distance from all."""
    video = torch.randn(1, 3, 9, 64, 64, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    answer, expected = {}, None
    for name, missing in (("plenty", 0), ("caches", 1)):
        vae = handles.load_vae(vae_file("2.1"))
        room = handles.encode_bytes(vae.module.config, 64, 64, torch.float32, **vae._counted) - missing
        inside.give_memory(room + vae.patcher.model_size())
        encode, caches = type(vae.module).encode_chunks, []
        vae.module.encode_chunks = lambda chunks, on, seen=caches, vae=vae, encode=encode: (
            seen.append(on) or encode(vae.module, chunks, on)
        )
        found = vae.encode(video.split([1, 4, 4], dim=2))
        del vae.module.encode_chunks
        expected = found if expected is None else expected
        answer[name] = [*caches, inside.distance(found, expected)]
        mm.unload_all_models()
    return answer


def core_s_vae() -> dict[str, Any]:
    """Core's VAE in the place of ours decodes at once."""
    core = inside.comfy.sd.VAE(sd=inside.comfy.utils.load_torch_file(str(vae_file("2.1"))))
    theirs = nodes.WanCoreDecodeToVideo.execute(latent("2.1", 17), core, 16.0)[0]
    ours = lazy("2.1", 17)
    return {
        "type": type(theirs).__name__,
        "distance": inside.distance(ours.get_components().images, theirs.get_components().images),
    }


def refused() -> list[str]:
    """Another model's latent, and two videos in one: refused before anything is decoded."""
    vae, messages = handles.load_vae(vae_file("2.1")), []
    for samples in (latent("2.2", 5)["samples"], latent("2.1", 5)["samples"].expand(2, -1, -1, -1, -1)):
        try:
            nodes.WanCoreDecodeToVideo.execute({"samples": samples}, vae, 16.0)
        except WanError as error:
            messages.append(str(error))
    return messages


def lazy(name: str, frames: int) -> Any:
    vae = handles.load_vae(vae_file(name))
    return nodes.WanCoreDecodeToVideo.execute(latent(name, frames), vae, 16.0)[0]


def latent(name: str, frames: int) -> dict[str, torch.Tensor]:
    channels, height, width = CELLS[name]
    generator = torch.Generator().manual_seed(1)
    return {"samples": torch.randn(1, channels, (frames - 1) // 4 + 1, height, width, generator=generator)}


def vae_file(name: str) -> Path:
    return inside.MODELS / "vae" / VAES[name]


@contextmanager
def decodings() -> Iterator[list[int]]:
    """Grows by one each time a latent begins to be decoded."""
    decode, count = handles.VAEHandle.decode, []

    def noted(self: Any, latent: torch.Tensor) -> Any:
        count.append(1)
        return decode(self, latent)

    handles.VAEHandle.decode = noted
    yield count
    handles.VAEHandle.decode = decode


def peak(work: Callable[[], object]) -> int:
    with LiveBytes() as live:
        work()
    return live.peak


if __name__ == "__main__":
    questions = (facts, memory, memory_in_full, files, contact_sheet, interrupted, core_s_vae, refused)
    questions += (compare, graphs, small_card)  # last: it leaves core believing in a device that is not there
    with torch.inference_mode():  # as nodes run
        answers = {question.__name__: question() for question in questions}
    sys.stdout.write(json.dumps(answers) + "\n")
