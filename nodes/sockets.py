"""The socket types that ComfyUI has no word for."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "WanCore"

WanModel = io.Custom("WANCORE_MODEL")
WanTextEncoder = io.Custom("WANCORE_TEXT_ENCODER")
WanVAE = io.Custom("WANCORE_VAE")
