"""Whether peft and diffusers load soups of adapters, and make of them what they make of the
ingredients. `check.py PROGRAM FIXTURES` works in the current directory."""

import os
import subprocess
import sys
import warnings

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from peft import PeftModel
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

warnings.filterwarnings("error", message=".*(missing|unexpected).*")
program, fixtures = sys.argv[1:]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(10, 8)
        self.block = torch.nn.ModuleDict(
            {"q": torch.nn.Linear(8, 12), "k": torch.nn.Linear(8, 8, bias=False)}
        )
        self.conv = torch.nn.Conv2d(3, 6, 3)
        self.point = torch.nn.Conv2d(6, 4, 1)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x):
        return x


class Gpt(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn = Conv1D(8, 8)
        self.c_fc = Conv1D(12, 8)

    def forward(self, x):
        return x


def run(*words):
    subprocess.run([program, *words], check=True)


def merged(base, state, directory):
    """What peft makes of a network and an adapter, in double precision."""
    model = base()
    model.load_state_dict(state)
    model = PeftModel.from_pretrained(model, directory).double()
    return {name: weight.numpy() for name, weight in model.merge_and_unload().state_dict().items()}


def near(found, expected, most):
    error = np.linalg.norm(found - expected)
    assert error <= most * np.linalg.norm(expected), error


net = load_file(f"{fixtures}/net.st")
gpt = load_file(f"{fixtures}/gpt.st")
rounding = 2.0**-24

# The delta of a soup that peft loads is the mean of the deltas.
run(f"{fixtures}/a", f"{fixtures}/b", "-o", "soup")
assert os.path.exists("soup/adapter_model.safetensors"), os.listdir("soup")
zero = {name: torch.zeros_like(weight) for name, weight in net.items()}
soup, a, b = (merged(Net, zero, path) for path in ("soup", f"{fixtures}/a", f"{fixtures}/b"))
for name, found in soup.items():
    if not name.endswith(("conv.bias", "point.bias", "q.bias")):
        near(found, (a[name] + b[name]) / 2, rounding)

# Cut to a rank, and of other modules.
run(f"{fixtures}/a", f"{fixtures}/c", "--rank", "4", "-o", "cut")
cut, c = merged(Net, zero, "cut"), merged(Net, zero, f"{fixtures}/c")
for name in ("emb.weight", "block.k.weight", "conv.weight", "point.weight"):
    near(cut[name], (a[name] + c[name]) / 2, 1e-6)
mean = (a["block.q.weight"] + c["block.q.weight"]) / 2
tail = np.linalg.svd(mean, compute_uv=False)[4:]
lost = np.linalg.norm(cut["block.q.weight"] - mean)
assert abs(lost - np.linalg.norm(tail)) <= 1e-6, lost

# What is added inside a mask is what peft adds, times the mask.
for base, state, adapter in ((Net, net, "soup"), (Gpt, gpt, f"{fixtures}/gpt")):
    name = f"{base.__name__.lower()}.st"
    run("apply", adapter, "--to", f"{fixtures}/{name}", "-o", name)
    found = load_file(name)
    for key, whole in merged(base, state, adapter).items():
        mask = (state[key] != 0).numpy() if state[key].dim() > 1 else 1.0
        near(found[key].double().numpy(), whole * mask, rounding)
        assert not np.any(found[key].numpy()[mask == 0.0]) if state[key].dim() > 1 else True

# diffusers loads a soup of its files, and scales it as it is meant.
run(f"{fixtures}/unet_a", f"{fixtures}/unet_b", "-o", "unet")


def deltas(directory):
    torch.manual_seed(10)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8,), down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=8, attention_head_dim=4,
    )
    file = [name for name in os.listdir(directory) if name.endswith(".safetensors")][0]
    state, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
        directory, weight_name=file, return_lora_metadata=True, local_files_only=True
    )
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, unet, metadata=metadata)
    return {
        name: layer.double().get_delta_weight("default_0").detach().numpy()
        for name, layer in unet.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


soup, a, b = (deltas(path) for path in ("unet", f"{fixtures}/unet_a", f"{fixtures}/unet_b"))
assert len(soup) == 8
for name, found in soup.items():
    near(found, (a[name] + b[name]) / 2, rounding)
print("4 checks passed")
