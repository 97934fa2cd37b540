"""How the files beside this one were made: a small classifier of PyTorch, exported by PyTorch.

Made with torch 2.13.0 (CPU), onnx and onnxscript, which no test needs: ``python make.py`` in this
folder writes ``classic.onnx`` and ``dynamo.onnx`` by PyTorch's two exporters, and ``answers.npz``:
images (n, rows, columns, channels) uint8, and what PyTorch itself says of them, (n, 1) float32
probabilities. The weights are random, drawn with a fixed seed and learned from nothing.
"""

import numpy as np
import onnx
import torch
from torch import nn

SIDE = 40
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # Normalize of torchvision


class Excite(nn.Module):
    """Squeeze and excitation (Hu and others, 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * nn.functional.hardsigmoid(self.excite(torch.relu(self.squeeze(pooled))))


class Block(nn.Module):
    """An inverted residual, as MobileNet has them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 3 * channels
        self.steps = nn.Sequential(
            *(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish()),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            *(nn.BatchNorm2d(wide), nn.SiLU(), Excite(wide)),
            *(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.steps(x)


def classifier() -> nn.Module:
    """Return the network; it gives a logit, as most of PyTorch do."""
    torch.manual_seed(18)
    stem = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 1))
    model = nn.Sequential(
        stem, nn.GELU(), Block(12), nn.Conv2d(12, 16, 3, stride=2, padding=1), Block(16), *head
    )
    for part in model.modules():  # what training would have left there
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.3, 1.5)
    return model.eval()


def spread(model: nn.Module, images: np.ndarray) -> None:
    """Move the last layer so that the logits have a mean of 0 and a deviation of 2."""
    last, logit = model[-1], logits(model, images)
    factor = 2 / logit.std()
    last.weight.data.mul_(factor)
    last.bias.data.sub_(logit.mean()).mul_(factor)


def images() -> np.ndarray:
    """Return (12, SIDE, SIDE, 3) uint8: noise of several sizes of grain and levels."""
    random = np.random.default_rng(18)
    found = []
    for n in range(12):
        grain = 2 ** (1 + n % 3)
        coarse = random.integers(0, 256, (SIDE // grain, SIDE // grain, 3))
        level = random.uniform(0.2, 1)
        found.append(np.kron(coarse, np.ones((grain, grain, 1))) * level)
    return np.stack(found).astype(np.uint8)


def logits(model: nn.Module, images: np.ndarray) -> torch.Tensor:
    """Return what PyTorch says: ToTensor, Normalize and the model."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    shape = (1, 3, 1, 1)
    batch = (batch - torch.tensor(MEAN).view(shape)) / torch.tensor(DEVIATION).view(shape)
    with torch.no_grad():
        return model(batch)


def without_paths(file: str) -> None:
    """Take out what the exporter notes of each node: lines of source, with paths of a machine."""
    model = onnx.load(file)
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in model.graph.value_info:
        del value.metadata_props[:]
    onnx.save(model, file)


def main() -> None:
    """Write the three files."""
    model, made = classifier(), images()
    spread(model, made)
    image = torch.zeros(2, 3, SIDE, SIDE)
    torch.onnx.export(
        model, image, "classic.onnx", dynamo=False,
        input_names=["image"], dynamic_axes={"image": {0: "n"}},
    )  # fmt: skip
    torch.onnx.export(
        model, image, "dynamo.onnx", external_data=False,
        input_names=["image"], dynamic_shapes=({0: torch.export.Dim("n")},),
    )  # fmt: skip
    without_paths("dynamo.onnx")
    said = torch.sigmoid(logits(model, made)).numpy()
    np.savez_compressed("answers.npz", image=made, probability=said)


if __name__ == "__main__":
    main()
