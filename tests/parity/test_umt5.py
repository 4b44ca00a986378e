"""The text encoder against recorded answers of the released code, and against transformers.

Golden file: random bf16 weights under `w.`, and of each case the ids, the released float32 answer `out` and
the float64 answer `gold` for the real tokens.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from transformers import UMT5Config as HFConfig
from transformers import UMT5EncoderModel

from wan_core.errors import WanError
from wan_core.models.umt5 import UMT5Config, UMT5Encoder, position_buckets

TINY = UMT5Config(vocab_size=256, dim=64, dim_attn=64, dim_ffn=160, num_heads=4, num_layers=3)
CASES = ("len1", "len17", "len130", "len512")


@pytest.fixture(scope="module")
def golden(root):
    with safe_open(root / "tests/parity/golden/umt5.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return tensors, json.loads(file.metadata()["released_bf16_rel_l2"])


def recorded_encoder(golden, dtype=torch.float32):
    encoder = UMT5Encoder(TINY, dtype=dtype)
    weights = {name[2:]: tensor for name, tensor in golden[0].items() if name.startswith("w.")}
    encoder.load_state_dict(weights)
    return encoder.requires_grad_(False)


def padded(*rows):
    ids, mask = torch.zeros(len(rows), 512, dtype=torch.long), torch.zeros(len(rows), 512)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask


def relative_l2(ours, reference):
    return ((ours.double() - reference.double()).norm() / reference.double().norm()).item()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16-weights"])
def test_recorded_answers(golden, case, dtype):
    want = golden[0][f"{case}.out"]
    states = recorded_encoder(golden, dtype)(*padded(golden[0][f"{case}.ids"]))[0]
    torch.testing.assert_close(states[: len(want)], want, rtol=0, atol=1e-5)
    assert states.shape == (512, TINY.dim)
    assert not states[len(want) :].any()


def test_ragged_batch_gives_each_prompt_its_own_answer(golden):
    states = recorded_encoder(golden)(*padded(*(golden[0][f"{case}.ids"] for case in CASES[:3])))
    for state, case in zip(states, CASES, strict=False):
        want = golden[0][f"{case}.out"]
        torch.testing.assert_close(state[: len(want)], want, rtol=0, atol=1e-5)
        assert not state[len(want) :].any()


@pytest.mark.parametrize("case", CASES)
def test_bf16_feed_forwards_stay_within_4e_3_and_below_the_released_error(golden, case):
    encoder = recorded_encoder(golden, torch.bfloat16)
    encoder.compute_dtype = torch.bfloat16
    want = golden[0][f"{case}.gold"]
    error = relative_l2(encoder(*padded(golden[0][f"{case}.ids"]))[0, : len(want)], want)
    assert 1e-5 < error < min(4e-3, golden[1][case])


def test_recorded_position_buckets(golden):
    assert position_buckets(512, 32, 128).tolist() == golden[0]["buckets"].tolist()


def test_transformers_agrees():
    torch.manual_seed(0)
    hf_config = HFConfig(vocab_size=99, d_model=32, d_kv=12, d_ff=56, num_heads=4, num_layers=2)
    hf = UMT5EncoderModel(hf_config).eval()
    for parameter in hf.parameters():  # the norms and biases start at values that hide a mistake
        torch.nn.init.normal_(parameter, std=0.3)
    ours = UMT5Encoder(UMT5Config(vocab_size=99, dim=32, dim_attn=48, dim_ffn=56, num_heads=4, num_layers=2))
    ours.load_state_dict(from_huggingface(hf.state_dict(), layers=2))

    ids = torch.randint(1, 99, (3, 150))
    mask = torch.arange(150) < torch.tensor([[150], [31], [1]])
    with torch.no_grad():
        want = hf(ids, mask.long()).last_hidden_state
        torch.testing.assert_close(ours(ids, mask)[mask], want[mask], rtol=0, atol=1e-5)


def from_huggingface(state, layers):
    names = {"shared": "token_embedding", "encoder.final_layer_norm": "norm"}
    for i in range(layers):
        old, new = f"encoder.block.{i}.layer", f"blocks.{i}"
        names[f"{old}.0.layer_norm"] = f"{new}.norm1"
        names[f"{old}.1.layer_norm"] = f"{new}.norm2"
        names[f"{old}.0.SelfAttention.relative_attention_bias"] = f"{new}.pos_embedding.embedding"
        names |= {f"{old}.0.SelfAttention.{x}": f"{new}.attn.{x}" for x in "qkvo"}
        names |= {
            f"{old}.1.DenseReluDense.{a}": f"{new}.ffn.{b}"
            for a, b in (("wi_0", "gate.0"), ("wi_1", "fc1"), ("wo", "fc2"))
        }
    return {f"{new}.weight": state[f"{old}.weight"] for old, new in names.items()}


def test_full_size_has_the_released_keys_and_parameters():
    encoder = UMT5Encoder(UMT5Config(), device="meta")
    in_block = "norm1 norm2 attn.q attn.k attn.v attn.o ffn.gate.0 ffn.fc1 ffn.fc2 pos_embedding.embedding"
    keys = {f"blocks.{i}.{name}.weight" for i in range(24) for name in in_block.split()}
    assert set(encoder.state_dict()) == keys | {"token_embedding.weight", "norm.weight"}
    assert len(encoder.state_dict()) == 242
    assert sum(p.numel() for p in encoder.parameters()) == 5_680_910_336


def test_padding_is_not_computed():
    encoder, lengths = UMT5Encoder(TINY), []
    encoder.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    encoder(*padded(torch.tensor([5, 6, 1]), torch.tensor([1])))
    assert lengths == [3]


def test_a_sample_without_tokens_is_zero_not_nan():
    ids, mask = padded(torch.tensor([5, 1]), torch.tensor([], dtype=torch.long))
    assert not UMT5Encoder(TINY)(ids, mask)[1].any()
    assert not UMT5Encoder(TINY)(ids[1:], mask[1:]).any()


def test_gradients_reach_every_parameter():
    encoder = UMT5Encoder(TINY)
    encoder(*padded(torch.arange(1, 20), torch.arange(3, 9))).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_ids_of_another_tokenizer_are_refused():
    with pytest.raises(WanError, match=r"token 300 is outside the text encoder's 256 embeddings"):
        UMT5Encoder(TINY)(torch.tensor([[300, 1]]))
    with pytest.raises(WanError, match=r"\(1, 2\) with mask \(1, 3\)"):
        UMT5Encoder(TINY)(torch.tensor([[3, 1]]), torch.ones(1, 3))
