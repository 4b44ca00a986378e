"""diffusers, as its WanPipeline calls it: padded text, a timestep per token for TI2V, CFG in two calls."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wan_core.checkpoints.layouts import TRANSFORMER, UMT5, VAE_2_1, VAE_2_2
from wan_core.models.transformer import TransformerConfig
from wan_core.models.umt5 import UMT5Config
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import PATCH_CHANNELS, VAE22Config

from ..work import SHIFT, Inputs, Output, Run, Task
from .names import fill


def version() -> str | None:
    """The installed one."""
    if importlib.util.find_spec("diffusers") is None or importlib.util.find_spec("transformers") is None:
        return None
    return importlib.metadata.version("diffusers")


def loader() -> Callable[[Path], Any]:
    """As its low_cpu_mem_usage does: built on meta, tensors assigned from the mapped file."""
    from diffusers import WanTransformer3DModel  # noqa: F401 - imports itself when first asked for
    from safetensors.torch import load_file

    def load(path: Path) -> Any:
        stored = load_file(path)
        with torch.device("meta"):
            layers = 1 + max(int(name.split(".")[1]) for name in stored if name.startswith("blocks."))
            network = transformer(TransformerConfig(num_layers=layers))
        network.load_state_dict(stored, strict=True, assign=True)
        return network

    return load


def transformer(config: TransformerConfig) -> Any:
    """Its network of these sizes, on the default device."""
    import diffusers

    return diffusers.WanTransformer3DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.dim // config.num_heads,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        freq_dim=config.freq_dim,
    )


def vae(config: VAEConfig | VAE22Config) -> Any:
    """Its VAE of these sizes."""
    import diffusers

    settings: dict[str, Any] = {
        "base_dim": config.dim,
        "z_dim": config.latent_channels,
        "dim_mult": list(config.dim_mult),
        "num_res_blocks": config.num_res_blocks,
        "temperal_downsample": list(config.temporal_downsample),
    }
    if isinstance(config, VAE22Config):
        settings |= {
            "decoder_base_dim": config.decoder_dim,
            "is_residual": True,
            "patch_size": 2,
            "in_channels": PATCH_CHANNELS,
            "out_channels": PATCH_CHANNELS,
            "scale_factor_spatial": 16,
        }
    return diffusers.AutoencoderKLWan(**settings)


def text_encoder(config: UMT5Config) -> Any:
    """The transformers class that its pipelines use."""
    import transformers

    return transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=config.vocab_size,
            d_model=config.dim,
            d_kv=config.dim_attn // config.num_heads,
            d_ff=config.dim_ffn,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            relative_attention_num_buckets=config.num_buckets,
            relative_attention_max_distance=config.max_distance,
            layer_norm_epsilon=config.eps,
            feed_forward_proj="gated-gelu",
        )
    )


def _predictor(task: Task) -> Callable[[Inputs, str], Tensor]:
    assert isinstance(task.config, TransformerConfig)
    network = fill(transformer(task.config), task.weights, TRANSFORMER, "diffusers")
    rows = task.config.text_len

    def predict(inputs: Inputs, words: str) -> Tensor:
        text = inputs[words]
        text = F.pad(text, (0, 0, 0, rows - text.shape[1]))
        return network(inputs["latent"], inputs["timestep"], text, return_dict=False)[0]

    return predict


def _predict(task: Task) -> Run:
    predict = _predictor(task)

    def run(inputs: Inputs) -> Output:
        with torch.no_grad():
            return predict(inputs, "context")

    return run


def _predict_guided(task: Task) -> Run:
    predict = _predictor(task)

    def run(inputs: Inputs) -> Output:
        with torch.no_grad():
            positive = predict(inputs, "context")
            negative = predict(inputs, "negative")
            return negative + inputs["guidance"] * (positive - negative)

    return run


def _vae(task: Task) -> Any:
    assert isinstance(task.config, VAEConfig | VAE22Config)
    family = VAE_2_2 if isinstance(task.config, VAE22Config) else VAE_2_1
    return fill(vae(task.config), task.weights, family, "diffusers")


def _decode(task: Task) -> Run:
    network = _vae(task)

    def run(inputs: Inputs) -> Output:
        with torch.no_grad():
            return network.decode(inputs["latent"], return_dict=False)[0]

    return run


def _encode(task: Task) -> Run:
    network = _vae(task)

    def run(inputs: Inputs) -> Output:
        with torch.no_grad():
            return network.encode(inputs["video"]).latent_dist.mode()

    return run


def _read_prompt(task: Task) -> Run:
    assert isinstance(task.config, UMT5Config)
    encoder = fill(text_encoder(task.config), task.weights, UMT5, "huggingface")

    def run(inputs: Inputs) -> Output:
        with torch.no_grad():
            states = encoder(inputs["ids"], inputs["mask"]).last_hidden_state
            real = int(inputs["mask"].sum())
            return torch.cat(
                [states[:, :real], states.new_zeros(1, states.shape[1] - real, states.shape[2])], 1
            )

    return run


def _loop(make: Callable[[], Any]) -> Callable[[Task], Run]:
    """The loop of its pipeline, on the noise levels given: its own grids differ a little."""

    def run(inputs: Inputs) -> Output:
        scheduler, latents = make(), inputs["noise"]
        scheduler.set_timesteps(len(inputs["timesteps"]))
        scheduler.sigmas, scheduler.timesteps = inputs["sigmas"], inputs["timesteps"].float()
        scheduler.set_begin_index(0)
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                positive, negative = inputs["velocity"], inputs["negative"]
                velocity = negative + inputs["guidance"] * (positive - negative)
                latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return latents

    return lambda _task: run


def _euler() -> Any:
    import diffusers

    return diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT)


def _unipc() -> Any:
    import diffusers

    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
    )


def _film(task: Task) -> Run:
    from .diffusers_video import film  # it needs this module

    return film(task)


WORKS: dict[str, Callable[[Task], Run]] = {
    "predict": _predict,
    "predict_guided": _predict_guided,
    "decode": _decode,
    "stream": _decode,  # it has no way to give frames as they are made
    "encode": _encode,
    "read_prompt": _read_prompt,
    "film": _film,
    "euler": _loop(_euler),
    "unipc": _loop(_unipc),
}
