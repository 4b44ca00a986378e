"""Train wan-tiny's tokenizer and text encoder on its own grammar.

    python -m wan_core.tiny.train_text --out runs/text

The encoder learns to say, from every one of its output rows, what the whole sentence says about each
attribute (or that it says nothing): a transformer that reads any row then knows the scene. The released
default negative prompt and the empty prompt are taught as "says nothing". The reading heads are thrown away.
Writes `spiece.model` and `text.safetensors` into --out.
"""

from __future__ import annotations

import argparse
import io
import logging
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..models.umt5 import UMT5Config, UMT5Encoder
from ..text.tokenizer import Tokenizer
from ..variants.t2v_a14b import T2V_A14B
from .captions import caption, said
from .scenes import BACKGROUNDS, COLOURS, LIGHTS, MOTIONS, SHAPES, random_scene

log = logging.getLogger("wancore")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "motion": MOTIONS,
    "background": tuple(BACKGROUNDS),
    "light": tuple(LIGHTS),
}
VOCABULARY = 512


def tiny_umt5(vocabulary: int) -> UMT5Config:
    """The released encoder's shape at toy size."""
    return UMT5Config(vocab_size=vocabulary, dim=64, dim_attn=64, dim_ffn=128, num_heads=4, num_layers=2)


def train_tokenizer(seed: int) -> bytes:
    """A sentencepiece model with the released special ids, trained on captions of random scenes."""
    rng = np.random.default_rng(seed)
    sentences = (caption(random_scene(rng), rng) for _ in range(20_000))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        model_type="unigram",
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()


def make_batch(tokenizer: Tokenizer, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids and mask (B, L), and the class of each attribute (B, 5); the last class means "not said"."""
    texts, classes = [], []
    for _ in range(size):
        scene = random_scene(rng)
        text = caption(scene, rng)
        facts = said(scene, text)
        draw = rng.random()
        if draw < 0.04:
            text, facts = "", dict.fromkeys(facts)
        elif draw < 0.08:
            text, facts = T2V_A14B.negative_prompt, dict.fromkeys(facts)
        texts.append(tokenizer.encode(text))
        classes.append([len(v) if facts[n] is None else v.index(facts[n]) for n, v in ATTRIBUTES.items()])
    return *padded(texts), torch.tensor(classes)


def padded(texts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, L), L being the longest text's length: short, where the tokenizer gives 512."""
    length = max(map(len, texts))
    ids = torch.tensor([t + [0] * (length - len(t)) for t in texts])
    mask = torch.tensor([[1] * len(t) + [0] * (length - len(t)) for t in texts])
    return ids, mask


def train(out: Path, steps: int, seed: int = 0) -> None:
    out.mkdir(parents=True, exist_ok=True)
    spiece = train_tokenizer(seed)
    (out / "spiece.model").write_bytes(spiece)
    tokenizer = Tokenizer.from_spiece(spiece)
    torch.manual_seed(seed)
    config = tiny_umt5(sentencepiece.SentencePieceProcessor(model_proto=spiece).vocab_size())
    encoder = UMT5Encoder(config)
    for name, parameter in encoder.named_parameters():
        if parameter.ndim > 1:
            scale = 1.0 if "token_embedding" in name else 0.1 if "pos_embedding" in name else config.dim**-0.5
            nn.init.normal_(parameter, std=scale)
        else:
            nn.init.ones_(parameter)
    heads = nn.ModuleList(nn.Linear(config.dim, len(values) + 1) for values in ATTRIBUTES.values())
    weights = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(1, steps + 1):
        ids, mask, classes = make_batch(tokenizer, np.random.default_rng((seed, step)), 64)
        rows = encoder(ids, mask)[mask.bool()]
        which = torch.arange(len(ids)).repeat_interleave(mask.sum(1))
        logits = [head(rows) for head in heads]
        losses = [F.cross_entropy(read, classes[which, n]) for n, read in enumerate(logits)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            right = [
                (read.argmax(-1) == classes[which, n]).float().mean().item() for n, read in enumerate(logits)
            ]
            log.info("step %d loss %.4f right %s", step, loss.item(), [round(r, 4) for r in right])
    tensors = {name: value.contiguous() for name, value in encoder.state_dict().items()}
    tensors["spiece_model"] = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    save_file(tensors, out / "text.safetensors")


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(args.out, args.steps, args.seed)


if __name__ == "__main__":
    main()
