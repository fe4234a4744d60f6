"""Your own loop with an open_clip model.

    python examples/open_clip_loop.py SHARDS --reference laion2b_s34b_b79k

SHARDS is a folder that `jest-loader pack` wrote. The run is saved each 100 steps; given again, the
command goes on where it was.
"""

import argparse
from pathlib import Path

import open_clip
import torch
from torch.nn.functional import cross_entropy

from jest_loader import Embeddings, FrozenReference, JestDataset, Learnability, LiveLearner
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("shards", type=Path)
parser.add_argument("--model", default="ViT-B-32")
parser.add_argument("--reference", help="its pretrained weights, as open_clip names them")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--out", type=Path, default=Path("run.pt"))
options = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
model, _, transform = open_clip.create_model_and_transforms(options.model, device=device)
reference = open_clip.create_model(options.model, pretrained=options.reference, device=device)
tokenizer = open_clip.get_tokenizer(options.model)
decode = DecodeImages("image", transform=transform)


def prepare(batch):
    """What both models read; pictures that cannot be decoded are skipped and named."""
    return {**decode(batch), "tokens": tokenizer(batch["caption"])}


def embed(model, batch):
    image = model.encode_image(batch["image"], normalize=True)
    text = model.encode_text(batch["tokens"], normalize=True)
    return Embeddings(image, text, model.logit_scale.exp())  # The scale, not its logarithm.


learner, reference = LiveLearner(model, embed), FrozenReference(reference, embed)
dataset = JestDataset(
    MdsSource(options.shards, batch_size=options.batch_size),
    Learnability(learner, reference, loss="softmax"),
    super_batch_size=5 * options.batch_size,
    sub_batch_size=options.batch_size,
    prepare=prepare,
)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
step = 0
if options.out.exists():
    saved = torch.load(options.out, weights_only=True)
    step = saved["step"]
    for part, name in ((model, "model"), (optimizer, "optimizer"), (dataset, "dataset")):
        part.load_state_dict(saved[name])

while step < options.steps:
    for batch in dataset:
        pair = embed(model, {name: batch[name].to(device) for name in ("image", "tokens")})
        logits = pair.logit_scale * pair.image @ pair.text.T
        labels = torch.arange(len(logits), device=device)
        loss = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0 or step == options.steps:
            parts = {"model": model, "optimizer": optimizer, "dataset": dataset}
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({"step": step, **states}, options.out)
            print(f"step {step}: loss {loss.item():.3f}, {dataset.stats}")
        if step == options.steps:
            break
