"""Lightning, with an open_clip model.

    python examples/lightning_module.py SHARDS --reference laion2b_s34b_b79k

SHARDS is a folder that `jest-loader pack` wrote. The run is saved each 100 steps; given again, the
command goes on where it was. With several devices each has a part of the shards.
"""

import argparse
from pathlib import Path

import lightning.pytorch as lightning
import open_clip
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy

from jest_loader import Embeddings, FrozenReference, JestDataset, Learnability, LiveLearner
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.lightning import JestCallback
from jest_loader.adapters.mds import MdsSource

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("shards", type=Path)
parser.add_argument("--model", default="ViT-B-32")
parser.add_argument("--reference", help="its pretrained weights, as open_clip names them")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--save-every", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("lightning-run"))
options = parser.parse_args()


def embed(model, batch):
    image = model.encode_image(batch["image"], normalize=True)
    text = model.encode_text(batch["tokens"], normalize=True)
    return Embeddings(image, text, model.logit_scale.exp(), 0.0)


class Clip(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model, _, self.transform = open_clip.create_model_and_transforms(options.model)
        self.tokenizer = open_clip.get_tokenizer(options.model)

    def train_dataloader(self):  # Called once the processes are there and the model is in place.
        reference = open_clip.create_model(
            options.model, pretrained=options.reference, device=self.device
        )
        decode = DecodeImages("image", transform=self.transform)
        return JestDataset(
            MdsSource(options.shards, batch_size=options.batch_size),
            Learnability(
                LiveLearner(self.model, embed), FrozenReference(reference, embed), loss="softmax"
            ),
            super_batch_size=5 * options.batch_size,
            sub_batch_size=options.batch_size,
            prepare=lambda batch: {**decode(batch), "tokens": self.tokenizer(batch["caption"])},
        )

    def training_step(self, batch, index):
        pair = embed(self.model, batch)
        logits = pair.logit_scale * pair.image @ pair.text.T
        labels = torch.arange(len(logits), device=self.device)
        loss = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-4)


saves = ModelCheckpoint(options.out, every_n_train_steps=options.save_every, save_last=True)
trainer = lightning.Trainer(
    max_steps=options.steps, callbacks=[JestCallback(), saves], default_root_dir=options.out
)
last = options.out / "last.ckpt"
trainer.fit(Clip(), ckpt_path=last if last.exists() else None)
