"""Whole sampling loops against the released pipelines: small networks with the recorded weights.

I2V starts from the recorded picture and goes through our VAE (that of vae21_d8) to the recorded video; for
TI2V the recorded latent stands in for its VAE, whose weights were not recorded.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from wan_core.models.latent_scale import denormalize_latent, normalize_latent
from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.vae_2_1 import VAEConfig, WanVAE
from wan_core.sampling.denoise import denoise
from wan_core.sampling.experts import plan_experts
from wan_core.sampling.noise import make_noise
from wan_core.schedulers import make_schedule
from wan_core.variants import I2V_A14B, TI2V_5B

GOLDEN = Path(__file__).parent / "golden"
NAMES = {"high": "high_noise", "low": "low_noise", "model": "dense"}
TOLERANCE = 2e-5
FRAMES = 9


class Case:
    """One recorded run: tensors by name, and the settings it was made with."""

    def __init__(self, name):
        self.tensors = load_file(GOLDEN / f"loop_{name}.safetensors")
        self.meta = json.loads((GOLDEN / f"loop_{name}.json").read_text("utf-8"))

    def __getitem__(self, key):
        return self.tensors[key]

    def run(self, experts, conditioning=None):
        """Sample as recorded; (final latent without its batch axis, the steps' infos, the plan)."""
        meta, infos = self.meta, []
        schedule = make_schedule(meta["sample_solver"], meta["sampling_steps"], meta["shift"])
        plan = plan_experts(schedule.timesteps, meta["boundary"])
        scale = meta["guide_scale"]
        # The released tuple starts with the low-noise guidance.
        scales = {"low_noise": scale[0], "high_noise": scale[1]} if isinstance(scale, list) else scale
        noise = make_noise(tuple(self["noise"].shape), meta["seed"])
        assert torch.equal(noise[0], self["noise"])
        contexts = self["ctx"].unsqueeze(0), self["ctx_null"].unsqueeze(0)
        latent = denoise(noise, experts, *contexts, scales, schedule, plan, infos.append, conditioning)
        assert [info.timestep for info in infos] == meta["timesteps"]
        assert [info.expert for info in infos] == [NAMES[name] for name in meta["experts"]]
        return latent[0], infos, plan

    @property
    def picture(self):
        return self["image_u8"].float() / 255.0

    def size(self, variant):
        """(width, height) that the released rule gives the picture."""
        height, width, _ = self["image_u8"].shape
        return variant.size_for_image(width, height, self.meta["max_area"], "released")


class Loaded:
    """The recorded networks; they note every change, and every latent they are asked about."""

    def __init__(self, case, **swapped):
        recorded = sorted({key.split(".")[1] for key in case.tensors if key.startswith("w.")})
        self.models = {NAMES[name]: tiny_expert(case, swapped.get(name, name)) for name in recorded}
        self.switches, self.inputs = [], []

    def at(self, name):
        self.switches.append(name)

        def predict(latent, timestep, context):
            self.inputs.append(latent[0].clone())
            return self.models[name](latent, timestep, context)

        return predict

    def check_inputs(self, recorded):
        """Each step asks twice, for the prompt and against it, about the recorded latent."""
        for step, latent in enumerate(recorded):
            close(self.inputs[2 * step][: len(latent)], latent)
            assert torch.equal(self.inputs[2 * step], self.inputs[2 * step + 1])


def close(ours, recorded):
    torch.testing.assert_close(ours, recorded, rtol=0, atol=TOLERANCE)


def tiny_expert(case, name):
    """One recorded network, float32, heads of 32."""
    released = case.meta["config"]
    fields = ("dim", "ffn_dim", "num_heads", "num_layers", "freq_dim", "text_dim", "text_len", "eps")
    config = TransformerConfig(
        in_channels=released["in_dim"],
        out_channels=released["out_dim"],
        **{field: released[field] for field in fields},
    )
    model = WanTransformer(config)
    prefix = f"w.{name}."
    weights = {
        key.removeprefix(prefix): value for key, value in case.tensors.items() if key.startswith(prefix)
    }
    model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=True)
    return model.eval()


def tiny_vae():
    golden = load_file(GOLDEN / "vae21_d8.safetensors")
    vae = WanVAE(VAEConfig(dim=8))
    vae.load_state_dict({key[2:]: value.float() for key, value in golden.items() if key.startswith("w.")})
    return vae.eval().requires_grad_(False)


def test_t2v_loop():
    case = Case("t2v")
    experts = Loaded(case)
    latent, infos, plan = case.run(experts)
    close(latent, case["final_latent"])
    experts.check_inputs(case["model_inputs"])
    assert plan.switch == 6
    assert experts.switches == ["high_noise", "low_noise"]
    close(infos[-1].denoised[0], infos[-1].latent[0])


def test_swapped_experts_give_another_latent():
    """What the agreement above is worth: it is lost when the experts trade places."""
    case = Case("t2v")
    latent, _, _ = case.run(Loaded(case, high="low", low="high"))
    assert (latent - case["final_latent"]).abs().max() > 0.01


def test_i2v_from_a_picture_to_the_video():
    case, vae = Case("i2v"), tiny_vae()
    width, height = case.size(I2V_A14B)
    given = I2V_A14B.prepare(
        case.picture, None, FRAMES, height, width, lambda chunks: normalize_latent(vae.encode_chunks(chunks))
    )
    close(given.channels[0], case["y"])
    experts = Loaded(case)
    latent, _, plan = case.run(experts, given)
    close(latent, case["final_latent"])
    experts.check_inputs(case["model_inputs"])
    assert torch.equal(experts.inputs[0][16:], given.channels[0])
    assert plan.switch == 3
    video = vae.decode(denormalize_latent(latent.unsqueeze(0)))[0].clamp(-1.0, 1.0)
    torch.testing.assert_close(video, case["video"], rtol=0, atol=1e-4)


def test_i2v_needs_its_channels_to_agree():
    """Without the mask, or with the latent before the mask, the answer is another."""
    case = Case("i2v")
    given = I2V_A14B.prepare(case.picture, None, FRAMES, 32, 64, lambda _: case["y"][None, 4:])
    wrong = given.channels.clone()
    wrong[:, :4] = 0.0
    for channels in (wrong, given.channels.roll(-4, dims=1)):
        latent, _, _ = case.run(Loaded(case), type(given)(channels=channels))
        assert (latent - case["final_latent"]).abs().max() > 0.01


def test_ti2v_from_a_picture_keeps_its_first_frame_clean():
    case, encoded = Case("ti2v"), []
    width, height = case.size(TI2V_5B)

    def encode(chunks):
        encoded.extend(chunk[0] for chunk in chunks)
        return case["vae_encode_output"].unsqueeze(0)

    given = TI2V_5B.prepare(case.picture, None, FRAMES, height, width, encode)
    close(encoded[0], case["vae_encode_input_first_frame"])
    experts = Loaded(case)
    latent, infos, plan = case.run(experts, given)
    close(latent, case["final_latent"])
    experts.check_inputs(case["model_inputs"])
    assert plan.switch is None
    assert all(torch.equal(info.latent[0, :, :1], case["vae_encode_output"]) for info in infos)


def test_ti2v_told_one_time_for_all_tokens_gives_another_latent():
    case = Case("ti2v")
    given = TI2V_5B.prepare(
        case.picture, None, FRAMES, 64, 96, lambda _: case["vae_encode_output"].unsqueeze(0)
    )

    class OneTime(type(given)):
        def timesteps(self, timestep, latent):
            return torch.full((1,), timestep)

    latent, _, _ = case.run(Loaded(case), OneTime(None, given.clean_latent, given.denoise_mask))
    assert (latent - case["final_latent"]).abs().max() > 0.01
