"""Whole sampling loops against the released pipelines.

T2V runs two small networks with the recorded weights through our transformer, guidance, solver and switch.
I2V and TI2V replay the recorded predictions, which leaves the loop: their conditioning is not built yet.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.sampling.denoise import denoise
from wan_core.sampling.experts import plan_experts
from wan_core.sampling.noise import make_noise
from wan_core.schedulers import make_schedule
from wan_core.variants import Conditioning

GOLDEN = Path(__file__).parent / "golden"
NAMES = {"high": "high_noise", "low": "low_noise", "model": "dense"}
TOLERANCE = 2e-5


class Case:
    """One recorded run: tensors by name, and the settings it was made with."""

    def __init__(self, name):
        self.tensors = load_file(GOLDEN / f"loop_{name}.safetensors")
        self.meta = json.loads((GOLDEN / f"loop_{name}.json").read_text("utf-8"))

    def __getitem__(self, key):
        return self.tensors[key]

    def run(self, experts, context=True, negative_context=False, noise=None, **options):
        """Sample as recorded; (final latent without its batch axis, the steps' infos, the plan)."""
        meta, infos = self.meta, []
        schedule = make_schedule(meta["sample_solver"], meta["sampling_steps"], meta["shift"])
        plan = plan_experts(schedule.timesteps, meta["boundary"])
        scale = meta["guide_scale"]
        # The released tuple starts with the low-noise guidance.
        scales = {"low_noise": scale[0], "high_noise": scale[1]} if isinstance(scale, list) else scale
        noise = self.noise() if noise is None else noise
        latent = denoise(
            noise, experts, context, negative_context, scales, schedule, plan, infos.append, **options
        )
        assert [info.timestep for info in infos] == meta["timesteps"]
        assert [info.expert for info in infos] == [NAMES[name] for name in meta["experts"]]
        return latent[0], infos, plan

    def noise(self):
        noise = make_noise(tuple(self["noise"].shape), self.meta["seed"])
        assert torch.equal(noise[0], self["noise"])
        return noise


class Replay:
    """Both experts of a recorded run: checks each question, answers as recorded."""

    def __init__(self, case):
        self.case, self.asked = case, 0

    def at(self, name):
        return self

    def __call__(self, latent, timestep, is_prompt):
        step, self.asked = self.asked // 2, self.asked + 1
        assert set(timestep.unique().tolist()) - {0} == {self.case.meta["timesteps"][step]}
        close(latent[0], self.case["model_inputs"][step])
        return self.case["cond_out" if is_prompt else "uncond_out"][step].unsqueeze(0)


def close(ours, recorded):
    torch.testing.assert_close(ours, recorded, rtol=0, atol=TOLERANCE)


def tiny_expert(case, name):
    """One recorded network, float32, heads of 32."""
    released = case.meta["config"]
    fields = ("dim", "ffn_dim", "num_heads", "num_layers", "freq_dim", "text_dim", "text_len", "eps")
    model = WanTransformer(TransformerConfig(**{field: released[field] for field in fields}))
    prefix = f"w.{name}."
    weights = {
        key.removeprefix(prefix): value for key, value in case.tensors.items() if key.startswith(prefix)
    }
    model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=True)
    return model.eval()


class Loaded:
    """Experts that note every change, and every latent the network is asked about."""

    def __init__(self, models):
        self.models, self.switches, self.inputs = models, [], []

    def at(self, name):
        self.switches.append(name)

        def predict(latent, timestep, context):
            self.inputs.append(latent[0].clone())
            return self.models[name](latent, timestep, context)

        return predict


def test_t2v_loop_with_both_networks():
    case = Case("t2v")
    experts = Loaded({"high_noise": tiny_expert(case, "high"), "low_noise": tiny_expert(case, "low")})
    latent, infos, plan = case.run(experts, case["ctx"].unsqueeze(0), case["ctx_null"].unsqueeze(0))
    close(latent, case["final_latent"])
    for step, recorded in enumerate(case["model_inputs"]):
        close(experts.inputs[2 * step], recorded)
        assert torch.equal(experts.inputs[2 * step], experts.inputs[2 * step + 1])
    assert plan.switch == 6
    assert experts.switches == ["high_noise", "low_noise"]
    close(infos[-1].denoised[0], infos[-1].latent[0])


def test_swapped_experts_give_another_latent():
    """What the agreement above is worth: it is lost when the experts trade places."""
    case = Case("t2v")
    swapped = Loaded({"high_noise": tiny_expert(case, "low"), "low_noise": tiny_expert(case, "high")})
    latent, _, _ = case.run(swapped, case["ctx"].unsqueeze(0), case["ctx_null"].unsqueeze(0))
    assert (latent - case["final_latent"]).abs().max() > 0.01


def test_i2v_loop_on_recorded_predictions():
    case = Case("i2v")
    replay = Replay(case)
    latent, _, plan = case.run(replay)
    close(latent, case["final_latent"])
    assert plan.switch == 3
    assert replay.asked == 16


def test_ti2v_loop_keeps_its_first_frame_clean():
    case = Case("ti2v")
    mask = torch.ones(1, 1, 3, 1, 1)
    mask[:, :, 0] = 0.0
    given = Conditioning(clean_latent=case["vae_encode_output"].unsqueeze(0), denoise_mask=mask)
    latent, _, plan = case.run(Replay(case), conditioning=given)
    close(latent, case["final_latent"])
    assert plan.switch is None
