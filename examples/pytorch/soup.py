"""A network of one's own, from a dense one to a soup that is measured, by PyTorch and
`sms-merge merge`: a convolutional network with batch norm on the digits.

    python soup.py [DIRECTORY]

It prunes with `torch.nn.utils.prune`, retrains three times, saves with `torch.save`,
merges, loads the soup, estimates batch norm's statistics again with
`torch.optim.swa_utils.update_bn`, and measures. `sms-merge` is looked for on the path, or
where the variable SMS_MERGE says. Files go to DIRECTORY, or to a temporary one.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

from train import digits, load

SPARSITY, INGREDIENTS, BATCH = 0.9, 3, 32


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return self.head(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def images(part):
    pixels, labels = digits(part)
    return TensorDataset(pixels.reshape(-1, 1, 8, 8), labels)


def train(model, data, epochs, rate, seed):
    torch.manual_seed(seed)
    model.train()
    loader = DataLoader(data, BATCH, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(epochs):
        for pixels, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(pixels), labels).backward()
            optimizer.step()
            schedule.step()


def weights_of(model):
    return [(module, "weight") for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def retrained(pruned, data, seed):
    """A copy of the pruned network, retrained with the mask of its zeros."""
    model = Network()
    model.load_state_dict(pruned)
    for module, name in weights_of(model):
        prune.custom_from_mask(module, name, module.weight != 0)
    train(model, data, 4, 0.1, seed)
    for module, name in weights_of(model):
        prune.remove(module, name)
    return model.state_dict()


def accuracy(model, data):
    model.eval()
    pixels, labels = data.tensors
    with torch.no_grad():
        return (model(pixels).argmax(1) == labels).float().mean().item()


def main(directory):
    torch.set_num_threads(1)
    program = os.environ.get("SMS_MERGE", "sms-merge")
    data, test = images("train"), images("t10k")
    torch.manual_seed(0)
    model = Network()
    train(model, data, 6, 0.05, 0)
    found = {"dense": accuracy(model, test)}

    # One mask for all: the smallest weights of the whole network are pruned.
    prune.global_unstructured(weights_of(model), prune.L1Unstructured, amount=SPARSITY)
    for module, name in weights_of(model):
        prune.remove(module, name)
    found["pruned"] = accuracy(model, test)
    pruned, paths = model.state_dict(), []
    for seed in range(1, INGREDIENTS + 1):
        path = directory / f"ingredient-{seed}.pt"
        torch.save(retrained(pruned, data, seed), path)
        paths.append(str(path))

    soup = directory / "soup.safetensors"
    subprocess.run([program, *paths, "-o", str(soup), "--force"], check=True)

    found["ingredients"] = []
    for path in paths:
        model.load_state_dict(torch.load(path))
        found["ingredients"].append(accuracy(model, test))
    # With the package: safetensors.torch.load_file.
    model.load_state_dict(load(soup))
    found["soup as merged"] = accuracy(model, test)
    update_bn(DataLoader(data, BATCH), model)
    found["soup"] = accuracy(model, test)
    zeros = sum((module.weight == 0).sum().item() for module, _ in weights_of(model))
    found["sparsity"] = zeros / sum(module.weight.numel() for module, _ in weights_of(model))
    torch.save(model.state_dict(), directory / "soup.pt")
    print(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
