r"""An open_clip ViT in FSDP2 with a cached reference; the same command goes on where it was.

jest-loader cache --data SHARDS --loss softmax --out CACHE \
    --open-clip.name ViT-L-14 --open-clip.pretrained openai
torchrun --nproc-per-node 8 examples/fsdp2_cached.py SHARDS CACHE
"""

import argparse
import json
import os
from itertools import chain, islice, repeat
from pathlib import Path

import open_clip
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from jest_loader import CachedReference, Embeddings, JestDataset, Learnability, LiveLearner
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("shards", type=Path)
parser.add_argument("cache", type=Path)
parser.add_argument("--model", default="ViT-B-32")
parser.add_argument("--batch-size", type=int, default=64, help="on each rank")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--save-every", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("fsdp2-run"))
options = parser.parse_args()

kind = "cuda" if torch.cuda.is_available() else "cpu"
torch.get_device_module(kind).set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group()
torch.manual_seed(0)  # The same weights on all ranks before each keeps its part.
settings = {"device": kind, "nonscalar_logit_scale": True}  # FSDP2 shards no scalar.
model, _, transform = open_clip.create_model_and_transforms(options.model, **settings)
for part in (*model.visual.transformer.resblocks, *model.transformer.resblocks, model):
    fully_shard(part)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
tokenizer = open_clip.get_tokenizer(options.model)
decode = DecodeImages("image", transform=transform)
loss_of = open_clip.ClipLoss(True, True, rank=dist.get_rank(), world_size=dist.get_world_size())


def embed(model, batch):  # By forward, in which FSDP2 gathers the weights.
    return Embeddings(*model(batch["image"], batch["tokens"]))


source = MdsSource(options.shards, batch_size=options.batch_size)
cache = CachedReference.open(options.cache, expect={"data": source.fingerprint()}, device=kind)
dataset = JestDataset(
    source,
    Learnability(LiveLearner(model, embed), cache, loss="softmax"),
    super_batch_size=5 * options.batch_size,
    sub_batch_size=options.batch_size,
    prepare=lambda batch: {**decode(batch), "tokens": tokenizer(batch["caption"])},
)
parts = ("model_state_dict", "optim_state_dict")  # Each rank saves and loads its share of them.
done = max((int(file.parent.name) for file in options.out.glob("*/dataset.json")), default=0)
if done:
    states = dict(zip(parts, get_state_dict(model, optimizer), strict=True))
    dcp.load(states, checkpoint_id=options.out / str(done))
    set_state_dict(model, optimizer, **states)
    dataset.load_state_dict(json.loads((options.out / str(done) / "dataset.json").read_text()))
batches = islice(chain.from_iterable(repeat(dataset)), options.steps - done)
for step, batch in enumerate(batches, start=done + 1):
    loss = loss_of(*model(batch["image"].to(kind), batch["tokens"].to(kind)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % options.save_every == 0 or step == options.steps:
        states = dict(zip(parts, get_state_dict(model, optimizer), strict=True))
        dcp.save(states, checkpoint_id=(folder := options.out / str(step)))
        if dist.get_rank() == 0:  # Last: a folder without it is not whole.
            (folder / "dataset.json").write_text(json.dumps(dataset.state_dict()))
dist.destroy_process_group()
