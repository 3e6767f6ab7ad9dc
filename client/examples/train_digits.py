"""Two models, one training set larger than its memory, a crash, and the same result.

    pip install torch scikit-learn
    python client/examples/train_digits.py

The story: 1,797 small images of digits (the UCI test set, which scikit-learn ships) are too few, so
each is shifted and blurred into 32. They are written one digit after another, so in the worst order
there is, and the set may use a fraction of its size in memory. Two models learn from it at once;
every row is read once for both. Then the same again, but one of the trainings is killed in the
middle (kill -9) and started again. Both models must come out bit for bit the same.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

import arrayd
import arrayd.torch

COPIES = 32
BUDGET = "4M"
BATCH = 128
EPOCHS = 2
SEED = 7
MODELS = {"small": 24, "large": 96}  # units of the hidden layer


# ---- the data --------------------------------------------------------------------------------


def write_training_set(folder: Path, copies: int) -> None:
    """Write the images of 80 % of the digits, augmented and sorted by label, and the other 20 %."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.float32) / 16
    test = np.arange(len(labels)) % 5 == 0
    np.savez(folder / "test.npz", x=images[test].reshape(-1, 64), y=labels[test])
    images, labels = images[~test], labels[~test]
    random = np.random.default_rng(SEED)
    with (
        arrayd.writer(folder / "x.npy", "f4", (64,)) as x,
        arrayd.writer(folder / "y.npy", "i8", ()) as y,
    ):
        for label in range(10):
            some = images[labels == label]
            for _ in range(copies):
                x.append(augmented(some, random).reshape(-1, 64))
                y.append(np.full(len(some), label))


def augmented(images: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return images shifted by up to a pixel, with noise."""
    down, right = random.integers(-1, 2, 2)
    moved = np.roll(images, (down, right), axis=(1, 2))
    noisy: np.ndarray[Any, Any] = moved + random.normal(0, 0.1, images.shape)
    return noisy.astype(np.float32)


def training_set(folder: Path) -> arrayd.Dataset:
    """Return the augmented images and their labels, as one dataset with a small budget."""
    sources = {"x": str(folder / "x.npy"), "y": str(folder / "y.npy")}
    return arrayd.dataset(sources, budget=BUDGET)


# ---- a training ------------------------------------------------------------------------------


def train(folder: Path, name: str, run: str, together: int) -> None:
    """Train one model; go on from its last checkpoint if there is one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = MODELS[name]
    model = torch.nn.Sequential(
        torch.nn.Linear(64, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = arrayd.torch.stream(
        training_set(folder), BATCH, seed=SEED, epochs=EPOCHS, consumers=together, grace=5.0
    )
    checkpoint = folder / f"{run}-{name}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        batches.load_state_dict(state["stream"])
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            save(checkpoint, model, optimizer, batches)
    save(checkpoint, model, optimizer, batches)
    print(accuracy(folder, model), batches.receipt(EPOCHS - 1).sha256)


def save(path: Path, model: Any, optimizer: Any, batches: Any) -> None:
    """Save a checkpoint; whoever is killed meanwhile leaves the one before."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "stream": batches.state_dict(),
    }
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def accuracy(folder: Path, model: Any) -> float:
    """Return how many of the digits that were left out are recognised."""
    with np.load(folder / "test.npz") as test, torch.no_grad():
        found = model(torch.from_numpy(test["x"])).argmax(1).numpy()
        return round(float((found == test["y"]).mean()), 4)


# ---- the story -------------------------------------------------------------------------------


def started(folder: Path, name: str, run: str, together: int) -> subprocess.Popen[str]:
    """Start a training in a process of its own."""
    command = [sys.executable, __file__, "--train", name, run, str(folder), str(together)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(training: subprocess.Popen[str]) -> str:
    """Wait for a training, and return what it prints: accuracy, and sha256 of its rows."""
    out, _ = training.communicate(timeout=300)
    if training.returncode:
        raise SystemExit(f"a training failed with {training.returncode}")
    return out.strip()


def same(folder: Path, name: str) -> bool:
    """Say whether a model of the second run is that of the first, bit for bit."""
    first, second = (torch.load(folder / f"{run}-{name}.pt")["model"] for run in ("1", "2"))
    return all(torch.equal(first[key], second[key]) for key in first)


def tell(folder: Path, copies: int) -> None:
    """Train both models twice, the second time with a crash, and compare."""
    write_training_set(folder, copies)
    dataset = training_set(folder)
    print(dataset)
    print(dataset.plan(BATCH))
    print("\nRun 1: two trainings at once")
    for name, training in [(name, started(folder, name, "1", 2)) for name in MODELS]:
        print(f"  {name}: accuracy, sha256 of the last epoch: {result(training)}")
    print("\nRun 2: the same, and one is killed in the middle")
    trainings = {name: started(folder, name, "2", 2) for name in MODELS}
    checkpoint = folder / "2-large.pt"
    while not checkpoint.exists() and trainings["large"].poll() is None:
        time.sleep(0.01)
    os.kill(trainings["large"].pid, signal.SIGKILL)
    trainings["large"].wait()
    state = torch.load(checkpoint)["stream"]
    print(f"  large: killed; its checkpoint is at epoch {state['epoch']}, row {state['pos']:,}")
    print(f"  small: {result(trainings['small'])}")
    print(f"  large: {result(started(folder, 'large', '2', 1))} (resumed)")
    print()
    for name in MODELS:
        print(f"{name}: {'the same model, bit for bit' if same(folder, name) else 'DIFFERENT'}")
    if not all(same(folder, name) for name in MODELS):
        raise SystemExit(1)


def main() -> None:
    """Tell the story, or (in a process of its own) train one model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--copies", type=int, default=COPIES, help="of each image")
    arguments = parser.parse_args()
    if arguments.train:
        name, run, folder, together = arguments.train
        train(Path(folder), name, run, int(together))
        return
    with tempfile.TemporaryDirectory() as folder:
        tell(Path(folder), arguments.copies)


if __name__ == "__main__":
    main()
