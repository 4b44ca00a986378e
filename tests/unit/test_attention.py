"""The attention backends: their adapters, the probe, and what happens when one is missing or wrong.

pytest tests/unit/test_attention.py

The packages are played by modules that compute the right answer in the package's own layout.
"""

from __future__ import annotations

import logging
import re
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wan_core.attention import NAMES, Attention, attention, choice, choose
from wan_core.attention.backend import Backend
from wan_core.errors import WanError

CARD = torch.device("cuda", 0)
HEAD = 16


@pytest.fixture(autouse=True)
def no_choice_is_kept(caplog):
    caplog.set_level(logging.WARNING, "wancore")  # the command line, run by other tests, lets more through
    choice._chosen.cache_clear()
    yield
    choice._chosen.cache_clear()


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    """Queries of 40 tokens, keys and values of 70, as a model makes them: heads transposed out of rows."""
    generator = torch.Generator().manual_seed(0)

    def rows(tokens: int) -> Tensor:
        made = torch.randn(2, tokens, 3, HEAD, generator=generator, dtype=torch.float32)
        return made.to(torch.bfloat16).transpose(1, 2)

    return rows(40), rows(70), rows(70)


def sdpa_on_tokens(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in flash-attention's layout (B, L, H, d), computed without our code."""
    q, k, v = (one.transpose(1, 2).float() for one in (q, k, v))
    return (torch.softmax(q @ k.mT / HEAD**0.5, -1) @ v).transpose(1, 2).to(torch.bfloat16)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    assert (dropout_p, softmax_scale, causal) == (0.0, None, False)
    return sdpa_on_tokens(q, k, v)


def sageattn(q, k, v, tensor_layout="NHD", is_causal=False, sm_scale=None):
    assert (tensor_layout, is_causal, sm_scale) == ("HND", False, None)
    return sdpa_on_tokens(*(one.transpose(1, 2) for one in (q, k, v))).transpose(1, 2)


def package(monkeypatch, name: str, **members: object) -> None:
    """Put a package into sys.modules."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def close(out: Tensor, qkv: tuple[Tensor, Tensor, Tensor]) -> bool:
    expected = F.scaled_dot_product_attention(*(one.float() for one in qkv))
    return float((out.float() - expected).norm() / expected.norm()) < 1e-2


PACKAGES = {
    "flash2": (
        "flash_attn",
        {"flash_attn_func": flash_attn_func, "__version__": "2.8.3"},
        "flash_attn 2.8.3",
    ),
    "flash3": ("flash_attn_interface", {"flash_attn_func": flash_attn_func}, "FlashAttention 3"),
    "flash3, older": (
        "flash_attn_interface",
        {"flash_attn_func": lambda q, k, v: (sdpa_on_tokens(q, k, v), torch.zeros(1))},
        "FlashAttention 3",
    ),
    "sage": ("sageattention", {"sageattn": sageattn}, "SageAttention (8-bit, not exact)"),
}


@pytest.mark.parametrize("case", PACKAGES)
def test_each_package_is_called_in_its_own_layout_and_named_once(case, monkeypatch, qkv, caplog):
    name, members, label = PACKAGES[case]
    package(monkeypatch, name, **members)
    chosen = Attention([choice.BACKENDS[case.split(",")[0]]], asked_for=True)
    with caplog.at_level(logging.INFO, "wancore"):
        first, second = chosen(*qkv), chosen(*qkv)
    assert close(first, qkv)
    assert torch.equal(first, second)
    assert first.shape == qkv[0].shape
    assert caplog.messages == [f"attention: {label}"]


def test_cudnn_first_computes_attention(qkv):
    assert close(choice.cudnn.cudnn_first(*qkv), qkv)


def test_a_bias_goes_to_sdpa(monkeypatch, qkv):
    package(monkeypatch, "sageattention", sageattn=None)  # calling it would fail
    bias = torch.zeros(2, 1, 1, 70)
    bias[..., 50:] = -torch.inf
    q, k, v = qkv
    out = Attention([choice.BACKENDS["sage"]], asked_for=True)(q, k, v, bias)
    assert torch.equal(out, attention(q, k, v, bias))
    assert close(out, (q, k[:, :, :50], v[:, :, :50]))


# --- backends that are missing, wrong or raise --------------------------------------------------------------


def backend(kernel, name="odd", tolerance=2e-2) -> Backend:
    """A backend of ours, whose kernel counts its calls."""

    def counted(*qkv: Tensor) -> Tensor:
        calls.append(name)
        return kernel(*qkv)

    calls: list[str] = []
    made = Backend(name, "", lambda: (counted, name.title()), lambda _: True, 128, tolerance)
    object.__setattr__(made, "calls", calls)
    return made


def raising(*_: Tensor) -> Tensor:
    raise RuntimeError("no kernel image is available\nfor execution on the device")


FAULTS = {
    "another head's": (
        lambda q, k, v: attention(q, k, v).flip(1),
        r"Odd is 1\d\d\.\d% off on keys of \(2, 3, 70, 16\)",
    ),
    "rows of another query": (lambda q, k, v: attention(q.roll(1, 2), k, v), r"Odd is \d+\.\d% off"),
    "scaled wrongly": (lambda q, k, v: attention(q * 1.2, k, v), r"Odd is \d+\.\d% off"),
    "the last keys left out": (
        lambda q, k, v: attention(q, k[:, :, :64], v[:, :, :64]),
        r"Odd is \d+\.\d% off",
    ),
    "not a number": (lambda q, k, v: attention(q, k, v) * torch.nan, "Odd is nan% off"),
    "in another layout": (lambda q, k, v: attention(q, k, v).mT, r"gave torch.bfloat16 \(2, 3, 16, 40\)"),
    "in another dtype": (lambda q, k, v: attention(q, k, v).float(), "gave torch.float32"),
    "raising": (raising, "Odd failed with RuntimeError: no kernel image is available; SDPA is used$"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_backend_at_fault_is_left_out_with_one_line(case, qkv, caplog):
    kernel, words = FAULTS[case]
    odd = backend(kernel)
    chosen = Attention([odd], asked_for=True)
    for _ in range(3):
        assert torch.equal(chosen(*qkv), attention(*qkv))
    assert odd.calls == ["odd"]  # asked once and never again
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("SDPA is used")
    assert re.search(words, caplog.messages[0])


def test_a_backend_that_fails_later_is_left_out_too(qkv, caplog):
    answers = iter([attention, raising])
    chosen = Attention([backend(lambda *qkv: next(answers)(*qkv))], asked_for=True)
    assert close(chosen(*qkv), qkv)
    assert torch.equal(chosen(*qkv), attention(*qkv))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_next_backend_takes_the_place_of_a_wrong_one(qkv, caplog):
    wrong, right = backend(lambda q, k, v: attention(q, k, v) * 1.1, "wrong"), backend(attention, "right")
    chosen = Attention([wrong, right], asked_for=False)
    with caplog.at_level(logging.INFO, "wancore"):
        assert close(chosen(*qkv), qkv)
        assert close(chosen(*qkv), qkv)
    assert (wrong.calls, right.calls) == (["wrong"], ["right", "right"])
    assert [message[-13:] for message in caplog.messages] == ["next is right", "ention: Right"]


def test_other_shapes_are_probed_again(qkv, caplog):
    """Right on 70 keys, wrong on more: a kernel that mishandles what does not fit its tiles."""
    odd = backend(lambda q, k, v: attention(q, k[:, :, :70], v[:, :, :70]))
    chosen = Attention([odd], asked_for=True)
    q, k, v = qkv
    assert close(chosen(q, k, v), qkv)
    assert close(chosen(q[:, :, :7], k, v), (q[:, :, :7], k, v))  # other queries of the same sequence
    longer = (q, torch.cat([k, q], 2), torch.cat([v, q], 2))
    assert close(chosen(*longer), longer)
    assert odd.calls == ["odd"] * 3
    assert len(caplog.messages) == 1


def test_input_that_is_not_finite_proves_nothing(qkv, caplog):
    q, k, v = qkv
    chosen = Attention([backend(attention)], asked_for=True)
    assert chosen(q, k * torch.inf, v).isnan().any()
    assert not caplog.messages
    assert close(chosen(q, k, v), qkv)


def test_out_of_memory_is_not_the_backend_s_fault(qkv, caplog):
    def full(*_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    chosen = Attention([backend(full)], asked_for=True)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            chosen(*qkv)
    assert not caplog.messages


def test_the_probe_has_room_for_8_bit_kernels_only_where_they_say_so(qkv):
    def int8(x: Tensor) -> Tensor:
        scale = x.float().abs().amax(-1, keepdim=True) / 127
        return (x.float() / scale).round() * scale

    def eight_bits(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(int8(q), int8(k), v.to(torch.float8_e4m3fn).float()).to(q.dtype)

    exact, sage = backend(eight_bits), backend(eight_bits, tolerance=choice.sage.TOLERANCE)
    for one in (exact, sage):
        chosen = Attention([one], asked_for=True)
        chosen(*qkv), chosen(*qkv)
    assert (len(exact.calls), len(sage.calls)) == (1, 2)


def test_a_missing_package_is_said_to_who_asked_for_it(monkeypatch, qkv, caplog):
    monkeypatch.setitem(sys.modules, "sageattention", None)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    assert torch.equal(Attention([choice.BACKENDS["sage"]], asked_for=True)(*qkv), attention(*qkv))
    assert torch.equal(Attention([choice.BACKENDS["flash3"]], asked_for=False)(*qkv), attention(*qkv))
    assert caplog.messages == ["attention: sageattention is not installed; SDPA is used"]


def test_a_package_that_cannot_be_loaded_is_said_to_everyone(monkeypatch, qkv, caplog):
    package(monkeypatch, "flash_attn_interface")  # without flash_attn_func
    assert torch.equal(Attention([choice.BACKENDS["flash3"]], asked_for=False)(*qkv), attention(*qkv))
    assert len(caplog.messages) == 1
    assert "flash_attn_interface cannot be loaded: " in caplog.messages[0]


def test_heads_too_wide_go_to_sdpa(monkeypatch, caplog):
    package(monkeypatch, "sageattention", sageattn=sageattn)
    wide = [torch.randn(1, 1, 8, 192).to(torch.bfloat16) for _ in range(3)]
    assert torch.equal(Attention([choice.BACKENDS["sage"]], asked_for=True)(*wide), attention(*wide))
    assert "takes heads of at most 128, and these have 192" in caplog.text


# --- which one is chosen -----------------------------------------------------------------------------------

CHOICES = [
    ("auto", (9, 0), ["flash3", "cudnn"]),
    ("auto", (8, 9), []),
    ("auto", (7, 5), []),
    ("sdpa", (9, 0), []),
    ("cudnn", (9, 0), ["cudnn"]),
    ("flash2", (8, 0), ["flash2"]),
    ("flash2", (7, 5), []),
    ("flash3", (8, 9), []),
    ("sage", (12, 0), ["sage"]),
    ("sage", None, []),
]


@pytest.mark.parametrize(("name", "capability", "names"), CHOICES)
def test_what_a_card_gets(name, capability, names, monkeypatch, caplog):
    monkeypatch.setattr(choice, "compute_capability", lambda _: capability)
    with caplog.at_level(logging.INFO, "wancore"):
        chosen = choose(name, CARD, torch.bfloat16)
    assert [one.name for one in chosen._waiting] == names
    said = "attention: SDPA" if name in ("auto", "sdpa") else "; SDPA is used"
    assert [said in message for message in caplog.messages] == [True] * (not names)
    assert choose(name, CARD, torch.bfloat16) is chosen


@pytest.mark.parametrize(("device", "dtype"), [(CARD, torch.float32), (torch.device("cpu"), torch.bfloat16)])
def test_float32_and_the_cpu_get_sdpa(device, dtype, monkeypatch, caplog):
    if device is CARD:
        monkeypatch.setattr(choice, "compute_capability", lambda _: (9, 0))
    assert [choose(name, device, dtype)._waiting for name in NAMES] == [[]] * len(NAMES)
    assert f"attention: sage is not for {dtype} on {device}; SDPA is used" in caplog.messages


def test_no_8_bit_kernel_is_chosen_unasked():
    assert choice.sage.BACKEND not in choice.EXACT
    assert all(one.tolerance <= 2e-2 for one in choice.EXACT)


def test_another_name_is_refused():
    with pytest.raises(WanError, match="attention: there is no 'xformers'; choose one of auto, sdpa, "):
        choose("xformers", CARD, torch.bfloat16)
