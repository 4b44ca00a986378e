"""Questions that need ComfyUI's own Python: run by test_inside.py as

    <ComfyUI's python> inside_comfyui.py <ComfyUI> <pack> <models folder>

All answers, in JSON, are the last line of stdout. No server, no graph: nodes are called as functions.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

COMFYUI, PACK, MODELS = map(Path, sys.argv[1:4])
sys.path.insert(0, str(COMFYUI))
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402 - ComfyUI must be on the path first

comfy.options.enable_args_parsing()

import comfy.memory_management  # noqa: E402
import comfy.model_management as mm  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.wan  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402, F401 - for those who import this
import torch  # noqa: E402

PROMPT = "a red circle moves to the right over a plain dark background"
HIGH = MODELS / "diffusion_models" / "wan_tiny_t2v_high_noise.safetensors"
LOW = MODELS / "diffusion_models" / "wan_tiny_t2v_low_noise.safetensors"
VAE_2_1, VAE_2_2 = (MODELS / "vae" / f"wan_tiny_vae{kind}.safetensors" for kind in ("", "_2_2"))
TEXT_ENCODER = MODELS / "text_encoders" / "wan_tiny_umt5.safetensors"


def load_pack() -> ModuleType:
    """The pack as ComfyUI imports it: by its path, under a name that is no package anyone can import."""
    spec = importlib.util.spec_from_file_location(
        "pack_under_test", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return importlib.import_module("pack_under_test.nodes")


nodes = load_pack()
handles = importlib.import_module("pack_under_test.nodes.handles")
checkpoints = importlib.import_module("pack_under_test.wan_core.checkpoints")
models = importlib.import_module("pack_under_test.wan_core.models.vae")
to_frames = importlib.import_module("pack_under_test.wan_core.models.video_vae").to_frames
hosting = importlib.import_module("pack_under_test.nodes.hosting")


def text_encoders_agree() -> dict[str, Any]:
    """Core's UMT5 and ours, on one file: how far apart are the conditionings, and their latents?"""
    ours = handles.load_text_encoder(TEXT_ENCODER)
    theirs = core_clip()
    positive, negative = nodes.WanCoreTextEncode.execute(ours, PROMPT, "").args
    core_positive, core_negative = nodes.WanCoreTextEncode.execute(theirs, PROMPT, "").args
    straight = theirs.encode_from_tokens_scheduled(theirs.tokenize(PROMPT))
    model = handles.load_model(HIGH, LOW, None)
    latents = [sample(model, *texts) for texts in ((positive, negative), (core_positive, core_negative))]
    return {
        "shape": list(positive[0][0].shape),
        "core_shape": list(core_positive[0][0].shape),
        "positive": distance(positive[0][0], core_positive[0][0]),
        "negative": distance(negative[0][0], core_negative[0][0]),
        "straight": distance(core_positive[0][0], straight[0][0]),
        "latent": distance(*latents),
    }


def looks_reach_core() -> float:
    """Aesthetic into core's CLIP Text Encode, beside Text Encode with the same words typed: how far apart?"""
    core = importlib.import_module("nodes")
    clip, choices = core_clip(), {"color_tone": "warm colors"}
    (said,) = nodes.WanCoreAesthetic.execute(PROMPT, **choices).args
    (looked,) = core.CLIPTextEncode().encode(clip, said)
    typed, _ = nodes.WanCoreTextEncode.execute(clip, f"{PROMPT}, warm colors", "").args
    return distance(looked[0][0], typed[0][0])


def texts_are_encoded_once() -> dict[str, Any]:
    """How often each kind of encoder runs for one pair of prompts after the other."""
    found: dict[str, Any] = {}
    for name, encoder in (("ours", handles.load_text_encoder(TEXT_ENCODER)), ("core's", core_clip())):
        tables = [part for part in encoder.patcher.model.modules() if isinstance(part, torch.nn.Embedding)]
        runs: list[int] = []
        words = max(tables, key=lambda table: table.weight.shape[0])
        words.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        asked, pairs = [], [("a", "b"), ("c", "b"), (" a ", "c"), ("d", "d")]
        for positive, negative in pairs:
            first = nodes.WanCoreTextEncode.execute(encoder, positive, negative).args
            asked.append(len(runs))
        again = nodes.WanCoreTextEncode.execute(encoder, *pairs[-1]).args
        first[0][0][1]["mine"] = True  # a node that forgets to copy must not reach the others
        text_encode = importlib.import_module("pack_under_test.nodes.text_encode")
        for number in range(text_encode.KEPT_TEXTS):
            nodes.WanCoreTextEncode.execute(encoder, f"filler {number}", "d")
        asked.append(len(runs))
        text_encode._made.clear()
        anew = nodes.WanCoreTextEncode.execute(encoder, *pairs[-1]).args
        found[name] = {
            "runs": asked,
            "kept": len(text_encode._made[encoder.patcher]),
            "own": "mine" not in again[0][0][1],
            "equal": torch.equal(again[0][0][0], anew[0][0][0]),
        }
        if name == "core's":
            nodes.WanCoreTextEncode.execute(encoder.clone(), *pairs[-1])
            found["clone"] = len(runs) - asked[-1]
    del encoder, words, tables, first, again, anew
    gc.collect()
    found["left"] = len(text_encode._made)
    return found


def experts_take_turns() -> dict[str, Any]:
    """Which models are asked of core during one run, and with how much room."""
    asked = []
    load_models_gpu = mm.load_models_gpu

    def noted(models: list[Any], memory_required: int = 0, **more: Any) -> None:
        asked.append(([id(model) for model in models], memory_required))
        load_models_gpu(models, memory_required=memory_required, **more)

    model = handles.load_model(HIGH, LOW, None)
    positive, negative = conditioning()
    mm.load_models_gpu = noted
    sample(model, positive, negative)
    mm.load_models_gpu = load_models_gpu
    names = {id(expert.patcher): name for name, expert in model.experts.items()}
    return {
        "asked": [[names[one] for one in models] for models, _ in asked],
        "room": [room for _, room in asked],
        "handle": [
            isinstance(model.patcher, comfy.model_patcher.ModelPatcher),
            len(model.get_models()),
            model.is_dynamic(),
        ],
    }


def short_of_memory() -> dict[str, Any]:
    """A device too small for both experts, or even for one: the same latent, and never more than fits."""
    positive, negative = conditioning()
    plenty = sample(handles.load_model(HIGH, LOW, None), positive, negative)
    mm.unload_all_models()
    size = HIGH.stat().st_size
    pretend_a_gpu()
    mm.should_use_fp16 = mm.should_use_bf16 = lambda *_, **__: False  # so it computes in float32 as before
    handles.prediction_bytes = lambda *_: 1 << 16
    answer = {}
    for name, budget in (("one", int(1.4 * size)), ("half", int(0.7 * size))):
        give_memory(budget)
        model = handles.load_model(HIGH, LOW, None)
        latent = sample(model, positive, negative)
        answer[name] = {
            "distance": distance(latent, plenty),
            "high": model.experts["high_noise"].patcher.loaded_size() / size,
            "low": model.experts["low_noise"].patcher.loaded_size() / size,
        }
        mm.unload_all_models()
    return answer


def vaes_short_of_memory() -> dict[str, Any]:
    """Core's layers and ours: one video, with all weights on the device, and with half of them coming by."""
    pretend_a_gpu()
    handles.decode_bytes = lambda *_, **__: 1 << 16
    answer = {}
    for file in (VAE_2_1, VAE_2_2):
        checkpoint = checkpoints.open_checkpoint(file)
        ours = models.make_vae(checkpoints.vae_config(checkpoint.header), device="meta")
        ours = checkpoints.load_module(ours, checkpoint, torch.float32)
        latent = torch.randn(1, ours.config.latent_channels, 3, 6, 5)
        plain = torch.cat([to_frames(chunk) for chunk in ours.decode_chunks(latent)])
        size = file.stat().st_size
        for name, budget in (("all", 8 * size), ("half", size // 2)):
            give_memory(budget)
            vae = handles.load_vae(file)
            frames = torch.cat(list(vae.decode(latent)))
            loaded = vae.patcher.loaded_size() / size
            answer[f"{file.stem} {name}"] = {"distance": distance(frames, plain), "loaded": loaded}
            mm.unload_all_models()
    return answer


def weights_that_come_late() -> dict[str, Any]:
    """With core's dynamic VRAM, layers have no weights until the file is loaded: the audit must not mind."""
    positive, negative = conditioning()
    plain = sample(handles.load_model(HIGH, LOW, None), positive, negative)
    comfy.memory_management.aimdo_enabled = True
    late = handles.load_model(HIGH, LOW, None)
    comfy.memory_management.aimdo_enabled = False
    empty = [
        name
        for name, value in late.experts["high_noise"].module.named_parameters()
        if value is None or value.is_meta
    ]
    return {"empty": empty, "distance": distance(sample(late, positive, negative), plain)}


def weight_dtypes() -> dict[str, Any]:
    """Each choice of weight_dtype: what the weights are kept in, and how far the latent moves."""
    positive, negative = conditioning()
    exact = sample(handles.load_model(HIGH, LOW, None), positive, negative)
    answer = {}
    for name, dtype in handles.WEIGHT_DTYPES.items():
        model = handles.load_model(HIGH, LOW, dtype)
        module = model.experts["low_noise"].module
        answer[name] = {
            "weights": str(module.blocks[0].ffn[0].weight.dtype),
            "compute": str(module.compute_dtype),
            "distance": distance(sample(model, positive, negative), exact),
        }
    return answer


def other_devices() -> dict[str, Any]:
    """What a transformer computes in, by what the device can do and what the user chose."""
    device = torch.device("cpu", 0)
    can = {"none": (), "fp16": ("fp16",), "both": ("fp16", "bf16")}
    answer = {}
    for name, dtypes in can.items():
        mm.should_use_fp16 = lambda *_, dtypes=dtypes, **__: "fp16" in dtypes
        mm.should_use_bf16 = lambda *_, dtypes=dtypes, **__: "bf16" in dtypes
        answer[name] = {
            chosen: str(handles.compute_dtype(device, dtype))
            for chosen, dtype in handles.WEIGHT_DTYPES.items()
        }
    return answer


def latents_are_copied() -> dict[str, Any]:
    """What the Sampler does to the LATENT it is given."""
    positive, negative = conditioning()
    given = {"samples": torch.zeros(1, 16, 1, 4, 4), "downscale_ratio_spacial": 8, "note": "kept"}
    before = dict(given)
    with torch.inference_mode():
        made = nodes.WanCoreSampler.execute(
            handles.load_model(HIGH, LOW, None), positive, negative, given, 1, 2, 12.0, 0.9, 1.0, 1.0, "euler"
        )[0]
    return {
        "given is as it was": given == before and not given["samples"].any().item(),
        "keys": sorted(made),
        "dtype": str(made["samples"].dtype),
        "device": str(made["samples"].device),
    }


def speed_settings() -> dict[str, Any]:
    """What Speed does to a handle and, compiled without code generation, to its experts and their latent."""
    plain = handles.load_model(HIGH, LOW, None)
    texts = conditioning()
    exact = sample(plain, *texts)
    settings = {"attention": "sage", "compile": True, "residual": "16-bit", "fp8_matmul": True}
    fast = nodes.WanCoreSpeed.execute(plain, **settings)[0]
    compiler = torch.compile
    torch.compile = lambda step, **how: compiler(step, backend="eager", **how)
    try:
        latent = sample(fast, *texts)
    finally:
        torch.compile = compiler
    blocks = fast.experts["low_noise"].module.blocks
    compiled = {type(block).__name__ for block in blocks}
    again = sample(plain, *texts)
    return {
        "settings": vars(fast.speed) == settings,
        "defaults": plain.speed.changed(),
        "experts are shared": fast.experts is plain.experts,
        "classes": [sorted(compiled), sorted({type(block).__name__ for block in blocks})],
        "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
        "distance": distance(latent, exact),
        "again": distance(again, exact),
    }


def conditioning() -> tuple[Any, Any]:
    encoder = handles.load_text_encoder(TEXT_ENCODER)
    return nodes.WanCoreTextEncode.execute(encoder, PROMPT, "").args


def sample(model: Any, positive: Any, negative: Any) -> torch.Tensor:
    """A short run: 6 steps, 4 of them on the high-noise side."""
    with torch.inference_mode():
        latent = nodes.WanCoreEmptyVideoLatent.execute(96, 96, 5)[0]
        output = nodes.WanCoreSampler.execute(
            model, positive, negative, latent, 1, 6, 12.0, 0.875, 4.0, 3.0, "unipc"
        )
    return output[0]["samples"]


def core_clip() -> comfy.sd.CLIP:
    """Core's text encoder with the toy file's sizes; its own loader knows the released size only."""
    tensors = comfy.utils.load_torch_file(str(TEXT_ENCODER))
    table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    sizes = {
        "d_model": tensors["shared.weight"].shape[1],
        "d_ff": tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        "num_heads": tensors[table].shape[1],
        "d_kv": tensors["encoder.block.0.layer.0.SelfAttention.q.weight"].shape[0] // tensors[table].shape[1],
        "num_layers": 1
        + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.block.")),
        "vocab_size": tensors["shared.weight"].shape[0],
    }

    target = SimpleNamespace(
        params={},
        clip=comfy.text_encoders.wan.te(dtype_t5=torch.float32),
        tokenizer=comfy.text_encoders.wan.WanT5Tokenizer,
    )
    spiece = {"spiece_model": tensors.pop("spiece_model")}
    options = {"umt5xxl_model_config": sizes, "model_name": "umt5xxl"}
    return comfy.sd.CLIP(target, tokenizer_data=spiece, state_dict=[tensors], model_options=options)


def pretend_a_gpu() -> torch.device:
    """Have core believe in a device with memory of its own, to be set with `give_memory`; returns it.

    torch.device("cpu", 0) is not torch.device("cpu"), so cpu:0 can play the GPU.
    """
    device = torch.device("cpu", 0)
    mm.vram_state = mm.VRAMState.NORMAL_VRAM
    mm.cpu_state = mm.CPUState.GPU
    mm.get_torch_device = mm.text_encoder_device = lambda: device
    mm.get_all_torch_devices = lambda exclude_current=False: [device]
    mm.is_device_cpu = lambda which: which == torch.device("cpu")
    mm.minimum_inference_memory = lambda: 1 << 16
    mm.extra_reserved_memory = lambda: 0
    mm.pin_memory = lambda tensor: False
    return device


def give_memory(budget: int, patchers: Iterable[comfy.model_patcher.ModelPatcher] = ()) -> None:
    """The pretended device has `budget` bytes, less what is loaded.

    `patchers` are counted also while they are off core's list, where it takes one that it loads anew.
    """

    def free(device: object = None, torch_free_too: bool = False) -> Any:
        if device == torch.device("cpu"):
            return (1 << 34, 1 << 34) if torch_free_too else 1 << 34
        models = {*patchers, *mm.loaded_models()} - {None}
        left = budget - sum(model.loaded_size() for model in models)
        return (left, left) if torch_free_too else left

    mm.get_free_memory = free


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative L2."""
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


if __name__ == "__main__":
    # The last three leave core believing in a device that is not there.
    questions = (
        text_encoders_agree,
        texts_are_encoded_once,
        looks_reach_core,
        experts_take_turns,
        weight_dtypes,
        weights_that_come_late,
        latents_are_copied,
        speed_settings,
        short_of_memory,
        vaes_short_of_memory,
        other_devices,
    )
    sys.stdout.write(json.dumps({question.__name__: question() for question in questions}) + "\n")
