"""ComfyUI's own classes, in float32 and with `--use-pytorch-cross-attention`: its default on a CPU is slower.

ComfyUI is looked for at $COMFYUI_PATH, then ~/comfy/ComfyUI. Its modules run on this interpreter's torch;
small packages that they import and this interpreter lacks are taken from ComfyUI's own environment.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import os
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from wan_core.checkpoints.layouts import UMT5
from wan_core.models.transformer import TransformerConfig
from wan_core.models.umt5 import UMT5Config
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config

from ..work import Inputs, Output, Run, Task
from .names import fill


def version() -> str | None:
    """Of the ComfyUI found."""
    root = folder()
    if root is None:
        return None
    found = re.search(r'"(.+)"', (root / "comfyui_version.py").read_text())
    return found.group(1) if found else "unknown"


def folder() -> Path | None:
    """Where ComfyUI stands."""
    places = [os.environ.get("COMFYUI_PATH"), "~/comfy/ComfyUI"]
    found = (Path(place).expanduser() for place in places if place)
    return next((place for place in found if (place / "comfyui_version.py").is_file()), None)


def module(name: str) -> Any:
    """A module of ComfyUI, set up as `--cpu --use-pytorch-cross-attention` does where there is no GPU."""
    root = folder()
    assert root is not None
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
        sys.path.extend(map(str, root.glob(".venv/lib/python*/site-packages")))
        arguments = importlib.import_module("comfy.cli_args").args
        arguments.cpu = not torch.cuda.is_available()
        arguments.use_pytorch_cross_attention = True
        sys.meta_path.insert(0, _Absent())
    return importlib.import_module(name)


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands for torchvision and torchaudio, whose compiled parts fit one torch only; Wan needs neither."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:  # noqa: ARG002
        if name.split(".")[0] not in ("torchvision", "torchaudio"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        vars(module)["__getattr__"] = lambda _: MagicMock()
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


def loader() -> Callable[[Path], Any]:
    """As its Load Diffusion Model node does."""
    utils, models = module("comfy.utils"), module("comfy.sd")

    def load(path: Path) -> Any:
        return models.load_diffusion_model_state_dict(utils.load_torch_file(str(path)))

    return load


def transformer(config: TransformerConfig, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Its network of these sizes."""
    return module("comfy.ldm.wan.model").WanModel(
        model_type="t2v",
        patch_size=config.patch_size,
        in_dim=config.in_channels,
        dim=config.dim,
        ffn_dim=config.ffn_dim,
        freq_dim=config.freq_dim,
        text_dim=config.text_dim,
        out_dim=config.out_channels,
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        device=device,
        dtype=dtype,
        operations=module("comfy.ops").disable_weight_init,
    )


def vae(config: VAEConfig | VAE22Config) -> Any:
    """Its VAE of these sizes, with the settings of comfy.sd."""
    settings: dict[str, Any] = {
        "dim": config.dim,
        "z_dim": config.latent_channels,
        "dim_mult": list(config.dim_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_scales": [],
        "temperal_downsample": list(config.temporal_downsample),
        "dropout": 0.0,
    }
    if isinstance(config, VAE22Config):
        return module("comfy.ldm.wan.vae2_2").WanVAE(dec_dim=config.decoder_dim, **settings)
    return module("comfy.ldm.wan.vae").WanVAE(image_channels=3, conv_out_channels=3, **settings)


def _load(network: Any, task: Task) -> Any:
    assert task.weights is not None
    network.load_state_dict(load_file(task.weights), strict=True)
    return network.eval().requires_grad_(False)


def _predictor(task: Task) -> Callable[[Inputs, torch.Tensor, torch.Tensor], torch.Tensor]:
    assert isinstance(task.config, TransformerConfig)
    network = _load(transformer(task.config), task)
    rows = task.config.text_len

    def predict(inputs: Inputs, latent: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        timestep = inputs.get("timestep_of_frames", inputs["timestep"])  # the form that WAN22 gives it
        timestep = timestep.expand(latent.shape[0], *timestep.shape[1:])
        text = F.pad(text, (0, 0, 0, rows - text.shape[1]))
        return network(latent, timestep, text, transformer_options={})

    return predict


def _predict(task: Task) -> Run:
    predict = _predictor(task)

    def run(inputs: Inputs) -> Output:
        with torch.inference_mode():
            return predict(inputs, inputs["latent"], inputs["context"])

    return run


def _predict_guided(task: Task) -> Run:
    """Both prompts in one batch, as its sampler does while memory lasts."""
    predict = _predictor(task)

    def run(inputs: Inputs) -> Output:
        with torch.inference_mode():
            rows = max(inputs[name].shape[1] for name in ("context", "negative"))
            texts = [F.pad(inputs[n], (0, 0, 0, rows - inputs[n].shape[1])) for n in ("context", "negative")]
            both = predict(inputs, torch.cat([inputs["latent"]] * 2), torch.cat(texts))
            positive, negative = both.chunk(2)
            return negative + (positive - negative) * inputs["guidance"]

    return run


def _vae(task: Task) -> Any:
    assert isinstance(task.config, VAEConfig | VAE22Config)
    return _load(vae(task.config), task)


def _decode(task: Task) -> Run:
    network = _vae(task)

    def run(inputs: Inputs) -> Output:
        with torch.inference_mode():
            return network.decode(inputs["latent"])

    return run


def _encode(task: Task) -> Run:
    network = _vae(task)

    def run(inputs: Inputs) -> Output:
        with torch.inference_mode():
            return network.encode(inputs["video"])

    return run


def _read_prompt(task: Task) -> Run:
    assert isinstance(task.config, UMT5Config)
    config = task.config
    t5 = module("comfy.text_encoders.t5")
    root = folder()
    assert root is not None
    settings = json.loads((root / "comfy/text_encoders/umt5_config_xxl.json").read_text())
    settings |= {
        "d_ff": config.dim_ffn,
        "d_kv": config.dim_attn // config.num_heads,
        "d_model": config.dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "vocab_size": config.vocab_size,
    }
    encoder = t5.T5(settings, torch.float32, "cpu", module("comfy.ops").disable_weight_init)
    encoder = fill(encoder, task.weights, UMT5, "huggingface")

    def run(inputs: Inputs) -> Output:
        with torch.inference_mode():
            rows = encoder.get_input_embeddings()(inputs["ids"], out_dtype=torch.float32)
            states, _ = encoder(None, inputs["mask"], embeds=rows, dtype=torch.float32, embeds_info=[])
            states *= inputs["mask"].unsqueeze(-1).float()
            return states

    return run


def _loop(solver: str) -> Callable[[Task], Run]:
    """Its sampler and guidance; without the bookkeeping of conditions that its sampling does around them."""

    def prepare(_task: Task) -> Run:
        sampling = module("comfy.model_sampling").CONST()
        euler = module("comfy.k_diffusion.sampling").sample_euler
        sampler = euler if solver == "euler" else module("comfy.extra_samplers.uni_pc").sample_unipc_bh2

        def run(inputs: Inputs) -> Output:
            def denoised(latent: torch.Tensor, sigma: torch.Tensor, **_options: Any) -> torch.Tensor:
                positive = sampling.calculate_denoised(sigma, inputs["velocity"], latent)
                negative = sampling.calculate_denoised(sigma, inputs["negative"], latent)
                return negative + (positive - negative) * inputs["guidance"]

            with torch.inference_mode():
                return sampler(denoised, inputs["noise"], inputs["sigmas"].clone(), {}, disable=True)

        return run

    return prepare


WORKS: dict[str, Callable[[Task], Run]] = {
    "predict": _predict,
    "predict_guided": _predict_guided,
    "decode": _decode,
    "stream": _decode,  # it gives the whole clip
    "encode": _encode,
    "read_prompt": _read_prompt,
    "euler": _loop("euler"),
    "unipc": _loop("unipc"),
}
