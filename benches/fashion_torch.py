"""What torch reaches on Fashion-MNIST with the recipe that `sms-merge train --data
fashion-mnist --model NAME` follows: prints test accuracy and minutes.

    python fashion_torch.py DIRECTORY mlp lenet5 convnet resnet8 [--plain]

DIRECTORY holds the four IDX files (.gz). SGD with Nesterov's momentum 0.9, decay 5e-4,
batches of 128, 10 epochs, a cosine after one epoch of warm-up; rate 0.05, or 0.1 and
crops (padding 4) and flips where there is batch norm; a tenth of the training images is
held out. With --plain, images stay as they are (`--augment off`). Two threads.
"""

import gzip
import math
import sys
import time

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from train_torch import Block, lenet5, mlp

EPOCHS, BATCH, WARMUP = 10, 128, 1


def read(name):
    with gzip.open(f"{sys.argv[1]}/{name}.gz") as file:
        data = file.read()
    rank = data[3]
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * rank).copy())


def images(name):
    return ((read(name).float() / 255 - 0.2860) / 0.3530).reshape(-1, 1, 28, 28)


def convnet():
    layers, inputs, side = [], 1, 28
    for width in (32, 64, 128):
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        inputs, side = width, side // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * side * side, 10))


def resnet8():
    layers, inputs = [nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for outputs, stride in [(16, 1), (32, 2), (64, 2)]:
        layers.append(Block(inputs, outputs, stride))
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


MODELS = {
    "mlp": (lambda: mlp(300, 100), 0.05, False),
    "lenet5": (lenet5, 0.05, False),
    "convnet": (convnet, 0.1, True),
    "resnet8": (resnet8, 0.1, True),
}


def varied(batch):
    """Each image cropped out of a border of 4 of zeros (after normalisation) and flipped
    or not."""
    samples = len(batch)
    padded = F.pad(batch, (4, 4, 4, 4))
    tops, lefts = torch.randint(0, 9, (2, samples))
    rows = (tops[:, None] + torch.arange(28))[:, None, :, None]
    columns = (lefts[:, None] + torch.arange(28))[:, None, None, :]
    cropped = padded[torch.arange(samples)[:, None, None, None], 0, rows, columns]
    flips = torch.rand(samples) < 0.5
    return torch.where(flips[:, None, None, None], cropped.flip(3), cropped)


def train(name):
    make, rate, is_varied = MODELS[name]
    is_varied = is_varied and not is_plain
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    kept = torch.randperm(60000, generator=torch.Generator().manual_seed(0))[:54000]
    per_epoch = math.ceil(len(kept) / BATCH)
    warmup, steps = WARMUP * per_epoch, EPOCHS * per_epoch
    start, step = time.time(), 0
    for _ in range(EPOCHS):
        order = kept[torch.randperm(len(kept))]
        for indices in order.split(BATCH):
            if step < warmup:
                now = rate * step / warmup
            else:
                now = rate * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
            for group in optimizer.param_groups:
                group["lr"] = now
            batch = train_images[indices]
            optimizer.zero_grad(set_to_none=True)
            logits = model(varied(batch) if is_varied else batch)
            F.cross_entropy(logits, train_labels[indices]).backward()
            optimizer.step()
            step += 1
    minutes = (time.time() - start) / 60
    model.eval()
    with torch.inference_mode():
        correct = sum(
            (model(batch).argmax(1) == labels).sum().item()
            for batch, labels in zip(test_images.split(500), test_labels.split(500))
        )
    print(f"{name}: {correct / len(test_labels):.4f} in {minutes:.1f} minutes", flush=True)


torch.set_num_threads(2)
train_images, train_labels = images("train-images-idx3-ubyte"), read("train-labels-idx1-ubyte").long()
test_images, test_labels = images("t10k-images-idx3-ubyte"), read("t10k-labels-idx1-ubyte").long()
is_plain = "--plain" in sys.argv
for name in sys.argv[2:]:
    if name != "--plain":
        train(name)
