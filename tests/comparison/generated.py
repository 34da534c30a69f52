"""``python -m tests.comparison.generated FOLDER N [SECONDS]``: compare on N generated images, and print what it took.

The images are drawn when they are read, and which ones are read is noted in FOLDER/read.txt, so that nothing but the
comparison itself grows with their number. SECONDS is how long each of them takes to read.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lit_decom import DecomCAM, compare
from lit_decom.comparison.result import Comparison
from lit_decom.methods import GradCAM, LayerCAM
from lit_decom.metrics import AverageDrop, Gini, InsertionDeletion

BATCH, SIDE = 25, 24


class Generated(Dataset):
    """Noise with a bright quarter, which is the class."""

    def __init__(self, n: int, seconds: float, noted: Path) -> None:
        self.n, self.seconds, self.noted = n, seconds, noted

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= self.n:
            raise IndexError(index)
        time.sleep(self.seconds)
        with self.noted.open("a") as file:
            file.write(f"{index}\n")
        label = index % 4
        image = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index))
        half = SIDE // 2
        image[:, half * (label // 2) :, half * (label % 2) :][:, :half, :half] += 0.7
        return image, label


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)),
        ).eval()


def compared(folder: Path, n: int, seconds: float = 0.0) -> Comparison:
    folder.mkdir(parents=True, exist_ok=True)
    data = DataLoader(Generated(n, seconds, folder / "read.txt"), BATCH)
    metrics = [Gini(), AverageDrop(), InsertionDeletion(n_steps=3)]
    methods = [DecomCAM(n_components=2), GradCAM(), LayerCAM()]
    return compare(network(), "3", methods, data, metrics, output=folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = compared(Path(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:]))
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images": found.n_images, "peak_mib": mib, "seconds": time.process_time()}))
