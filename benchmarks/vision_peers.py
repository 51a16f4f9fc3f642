"""CS230's net on SIGNS, trained with other trainers as their users would: whole scripts, for `vision_speed --peers`.

    python -m benchmarks.vision_peers lightning --data_dir data/64x64_SIGNS --folder /tmp/there

All read the images as CS230 does: each JPEG when it is needed, by torchvision's transforms. All evaluate on val after
each epoch and save a checkpoint into --folder; everything else is the trainer's default.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from model.vision.net import Net
from model.vision.params import Params

LEARNING_RATE = 1e-3


class SignsDataset(Dataset[tuple[Tensor, int]]):
    """SIGNS as CS230 reads it: files whose name begins with the label.

    Args:
        folder: of JPEG files
        is_train: whether to flip half of the images
    """

    def __init__(self, folder: Path, is_train: bool) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        flip = [transforms.RandomHorizontalFlip()] if is_train else []
        self.transform = transforms.Compose([transforms.Resize(64), *flip, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(self.paths[index])), int(self.paths[index].name[0])


def fetch_loaders(args: argparse.Namespace) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return plain DataLoaders of train and val."""
    data_dir = Path(args.data_dir)
    train = DataLoader(SignsDataset(data_dir / "train_signs", True), batch_size=args.batch_size, shuffle=True)
    return train, DataLoader(SignsDataset(data_dir / "val_signs", False), batch_size=args.batch_size)


def fetch_model() -> nn.Module:
    """Return CS230's net as it is there: weights contiguous."""
    params = Params.from_values({}, "benchmark").with_facts({"classes": list("012345")})
    return Net(params).to(memory_format=torch.contiguous_format)


@torch.no_grad()
def score(model: nn.Module, loader: DataLoader[Any]) -> float:
    """Return the accuracy."""
    model.eval()
    hits = [(model(images).argmax(dim=1) == labels).sum().item() for images, labels in loader]
    return sum(hits) / len(loader.dataset)  # type: ignore[arg-type]


def save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Save a checkpoint as CS230 does."""
    torch.save({"state_dict": model.state_dict(), "optim_dict": optimizer.state_dict()}, folder / "last.pth.tar")


def cs230(args: argparse.Namespace) -> None:
    """Train as CS230's scripts do: the loss read and averaged each step, metrics by NumPy now and then."""
    train, val = fetch_loaders(args)
    model = fetch_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(args.num_epochs):
        model.train()
        total = 0.0
        for step, (images, labels) in enumerate(train):
            outputs = model(images)
            loss = F.cross_entropy(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 100 == 0:
                (outputs.detach().numpy().argmax(axis=1) == labels.numpy()).mean()
            total += loss.item()
        score(model, val)
        save(model, optimizer, Path(args.folder))


def accelerate(args: argparse.Namespace) -> None:
    """Train with Hugging Face's accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator()
    loaders = fetch_loaders(args)
    model = fetch_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    model, optimizer, train, val = accelerator.prepare(model, optimizer, *loaders)
    for _ in range(args.num_epochs):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            accelerator.backward(loss)
            optimizer.step()
        score(model, val)
        accelerator.save_state(args.folder)


def ignite(args: argparse.Namespace) -> None:
    """Train with PyTorch-Ignite."""
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.handlers import Checkpoint, DiskSaver
    from ignite.metrics import Accuracy, Loss

    train, val = fetch_loaders(args)
    model = fetch_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    trainer = create_supervised_trainer(model, optimizer, F.cross_entropy)
    evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy(), "loss": Loss(F.cross_entropy)})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run(val) and None)
    saver = Checkpoint({"model": model, "optimizer": optimizer}, DiskSaver(args.folder, require_empty=False))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)
    trainer.run(train, max_epochs=args.num_epochs)


def lightning(args: argparse.Namespace) -> None:
    """Train with Lightning's Trainer."""
    import lightning as lightning_package

    class Module(lightning_package.LightningModule):
        """What Lightning wants to know."""

        def __init__(self) -> None:
            super().__init__()
            self.net = fetch_model()

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
            outputs = self.net(batch[0])
            self.log("val_accuracy", (outputs.argmax(dim=1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)

    trainer = lightning_package.Trainer(
        max_epochs=args.num_epochs, accelerator="cpu", default_root_dir=args.folder, log_every_n_steps=10
    )
    trainer.fit(Module(), *fetch_loaders(args))


def transformers(args: argparse.Namespace) -> None:
    """Train with transformers' Trainer."""
    from transformers import Trainer, TrainingArguments

    class Wrapped(nn.Module):
        """What transformers wants of a model: a loss among the outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.net = fetch_model()

        def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            outputs = self.net(images)
            return {"loss": F.cross_entropy(outputs, labels), "logits": outputs}

    def collate(examples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        return {"images": torch.stack([x for x, _ in examples]), "labels": torch.tensor([y for _, y in examples])}

    settings = TrainingArguments(
        args.folder, num_train_epochs=args.num_epochs, per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size, learning_rate=LEARNING_RATE, eval_strategy="epoch",
        save_strategy="epoch", use_cpu=True, report_to=[], remove_unused_columns=False,
    )  # fmt: skip
    train, val = fetch_loaders(args)
    Trainer(
        Wrapped(), settings, data_collator=collate, train_dataset=train.dataset, eval_dataset=val.dataset,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(axis=1) == p.label_ids).mean())},
    ).train()  # fmt: skip


PEERS: dict[str, Callable[[argparse.Namespace], None]] = {
    "cs230": cs230, "lightning": lightning, "transformers": transformers, "accelerate": accelerate, "ignite": ignite,
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--data_dir", required=True, help="SIGNS, in CS230's layout")
    parser.add_argument("--folder", required=True, help="where checkpoints go")
    parser.add_argument("--num_epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args(argv)
    torch.manual_seed(230)
    PEERS[args.peer](args)


if __name__ == "__main__":
    main()
