"""A trainer for `sms-merge cycle` that needs torch only: digits, an MLP, SGD.

    python train.py JOB

JOB is a `job.json`: where to begin (`base`, null for the dense network), which weights
stay pruned (`mask`), where the outcome goes (`output`) and its metrics (`metrics`), the
seed, and what the recipe says (`hyperparameters`, `parameters`). Masks are put on with
`torch.nn.utils.prune`, so that pruned weights stay exactly zero, whatever the optimiser
does, and are made permanent before saving.
"""

import gzip
import json
import math
import struct
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

DTYPES = {"F32": torch.float32, "BOOL": torch.bool, "I64": torch.int64}
MEAN, DEVIATION = 0.3054, 0.3761
DIGITS = Path(__file__).resolve().parents[2] / "src/train/data/digits"


def load(path):
    """The tensors of a safetensors file. With the package: safetensors.torch.load_file."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, info in header.items():
        begin, end = (8 + length + offset for offset in info["data_offsets"])
        values = torch.frombuffer(bytearray(data[begin:end]), dtype=DTYPES[info["dtype"]])
        tensors[name] = values.reshape(info["shape"])
    return tensors


def save(tensors, path):
    """A safetensors file of F32 tensors. With the package: safetensors.torch.save_file."""
    header, payload = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        values = bytes(tensor.detach().contiguous().view(-1).view(torch.uint8).tolist())
        offsets = [len(payload), len(payload) + len(values)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        payload += values
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + payload)


def digits(part):
    """The images and labels that sms-merge trains on, from IDX files."""
    images = gzip.decompress((DIGITS / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((DIGITS / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = torch.frombuffer(bytearray(images), dtype=torch.uint8).reshape(-1, 64)
    # Pixels count to 16.
    pixels = (pixels.float() / 16 - MEAN) / DEVIATION
    return pixels, torch.frombuffer(bytearray(labels), dtype=torch.uint8).long()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def main(path):
    job = json.loads(Path(path).read_text())
    torch.manual_seed(job["seed"])
    torch.set_num_threads(job["threads"])
    model = Network()
    if job["base"]:
        model.load_state_dict(load(job["base"]))
        for name, mask in load(job["mask"]).items():
            module, _, parameter = name.rpartition(".")
            prune.custom_from_mask(model.get_submodule(module), parameter, mask)
    images, labels = digits("train")
    epochs, parameters = job["hyperparameters"]["epochs"], job["parameters"]
    rate, size = parameters["learning_rate"], parameters["batch_size"]
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * math.ceil(len(images) / size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    curve = []
    for epoch in range(1, epochs + 1):
        total, correct = 0.0, 0
        for batch in torch.randperm(len(images)).split(size):
            optimizer.zero_grad()
            logits = model(images[batch])
            loss = F.cross_entropy(logits, labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
            correct += (logits.argmax(1) == labels[batch]).sum().item()
        print(f"epoch {epoch}: loss {total / len(images):.4f}", flush=True)
        curve.append({
            "epoch": epoch,
            "train_loss": total / len(images),
            "train_accuracy": correct / len(images),
            "learning_rate": schedule.get_last_lr()[0],
        })
    for module in model.modules():
        if prune.is_pruned(module) and hasattr(module, "weight_orig"):
            prune.remove(module, "weight")
    save(model.state_dict(), job["output"])
    Path(job["metrics"]).write_text(json.dumps({"epochs": curve}))


if __name__ == "__main__":
    main(sys.argv[1])
