"""Refuses what cannot be read, does what the message says, and is read.

    python tests/torch/remedies.py PROGRAM FOLDER
"""

import argparse
import collections
import os
import subprocess
import sys
import warnings

import torch
from torch import nn

PROGRAM, FOLDER = sys.argv[1:]


class Image(torch.Tensor):
    pass


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)


def refused(said, *arguments):
    found = run(*arguments)
    assert found.returncode in (3, 5), (arguments, found)
    for part in said:
        assert part in found.stderr, (part, found.stderr)


def read(*arguments):
    found = run(*arguments)
    assert found.returncode == 0, (arguments, found.stderr)
    return found


def sparse_twice():
    indices = [[0, 0, 1], [1, 1, 0]]
    return torch.sparse_coo_tensor(indices, [1.0, 2.0, 4.0], (2, 2))


def tensors():
    """A tensor that is refused, a part of the message, and what the message says."""
    matrix = torch.tensor([[0.0, 3.0], [2.0, 0.0]])
    yield Image(matrix), ".as_subclass(torch.Tensor)", lambda w: w.as_subclass(torch.Tensor)
    yield sparse_twice(), ".coalesce()", lambda w: w.coalesce()
    for made in [matrix.to_sparse_csc(), matrix.to_sparse_bsr((1, 1)), matrix.to_sparse_bsc((1, 1))]:
        yield made, ".to_dense()", lambda w: w.to_dense()
    yield matrix.to_sparse(1), ".to_dense()", lambda w: w.to_dense()
    yield torch.stack([matrix, matrix]).to_sparse_csr(), ".to_dense()", lambda w: w.to_dense()
    quantised = torch.quantize_per_tensor(matrix, 0.1, 0, torch.qint8)
    yield quantised, ".dequantize()", lambda w: w.dequantize()
    yield matrix.to(torch.complex128), "torch.view_as_real", torch.view_as_real
    yield matrix.to(torch.complex64).conj(), ".resolve_conj()", lambda w: w.resolve_conj().resolve_neg()
    yield torch._neg_view(matrix), ".resolve_neg()", lambda w: w.resolve_conj().resolve_neg()
    yield torch.ones(1).expand(9), "contiguous()", lambda w: w.contiguous()


def single_tensors():
    for value, said, remedy in tensors():
        torch.save({"w": value, "b": torch.ones(3)}, "refused.pt")
        refused([said], "inspect", "refused.pt")
        loaded = torch.load("refused.pt", weights_only=False)
        loaded["w"] = remedy(loaded["w"])
        torch.save(loaded, "read.pt")
        read("inspect", "read.pt")
        read("read.pt", "read.pt", "-o", "soup.st", "--force", "--no-sync")


def models():
    """A whole model: its state dict alone."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for whole, model_of in [(model, lambda w: w), ({"model": model, "epoch": 1}, lambda w: w["model"])]:
        torch.save(whole, "whole.pt")
        refused(["`torch.nn.modules.container.Sequential`", "its state dict alone"], "inspect", "whole.pt")
        torch.save(model_of(torch.load("whole.pt", weights_only=False)).state_dict(), "alone.pt")
        read("inspect", "alone.pt")


def keys():
    """Several dicts: one by its key, and all of them."""
    state = nn.Sequential(nn.Linear(3, 2)).state_dict()
    # torch notes that two names stand for one dict.
    other = collections.OrderedDict(state)
    for whole, named in [
        ({"net": state, "ema": other, "epoch": 1}, ["net", "ema"]),
        ({"model": {"net": state, "ema": other}, "optimizer": {"state": {0: torch.ones(1)}}}, ["model.net", "model.ema"]),
        ({"state_dict": state, "model": other}, ["state_dict", "model"]),
        ({"net": {"state_dict": state}, "args": argparse.Namespace(w=torch.ones(1))}, ["net"]),
    ]:
        torch.save(whole, "several.pt")
        refused([*(f"`{key}`" for key in named), "--key"], "inspect", "several.pt")
        for key in named:
            read("inspect", "several.pt", "--key", key)
        if "`--key .`" in run("inspect", "several.pt").stderr:
            read("inspect", "several.pt", "--key", ".")
    torch.save({**state, "ema": other}, "nested.pt")
    refused(["`--key .`"], "inspect", "nested.pt")
    read("inspect", "nested.pt", "--key", ".")


def pruning():
    """torch.ao.pruning: the warning, what it says, and no warning."""
    from torch.ao.pruning import WeightNormSparsifier

    model = nn.Sequential(nn.Linear(16, 16))
    sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 4), zeros_per_block=4)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    torch.save(model.state_dict(), "masked.pt")
    found = read("inspect", "masked.pt")
    assert "`0.parametrizations.weight.original`" in found.stderr, found.stderr
    assert "sparsifier.squash_mask()" in found.stderr, found.stderr
    sparsifier.squash_mask()
    torch.save(model.state_dict(), "squashed.pt")
    found = read("inspect", "squashed.pt")
    assert "squash" not in found.stderr and "50.00 %" in found.stdout, found
    # Other parametrizations keep what they need in the state dict.
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    torch.save(normed.state_dict(), "normed.pt")
    assert "squash" not in read("inspect", "normed.pt").stderr


def shards():
    """A tensor that processes share: whole again in the process that has it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    if not dist.is_available():
        return
    store = dist.HashStore()
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    mesh = init_device_mesh("cpu", (1,))
    torch.save({"w": distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])}, "shard.pt")
    refused(["`torch.distributed.tensor.DTensor`", ".full_tensor()"], "inspect", "shard.pt")
    loaded = torch.load("shard.pt", weights_only=False)
    torch.save({name: tensor.full_tensor() for name, tensor in loaded.items()}, "full.pt")
    read("inspect", "full.pt")

    import torch.distributed.checkpoint as dcp

    dcp.save({"w": torch.ones(4, 2)}, checkpoint_id="parts")
    dist.destroy_process_group()
    refused(["dcp_to_torch"], "inspect", "parts")
    convert = "torch.distributed.checkpoint.format_utils"
    subprocess.run([sys.executable, "-m", convert, "dcp_to_torch", "parts", "joined.pt"], check=True)
    read("inspect", "joined.pt")


def prefixes():
    """Every pair of wrappers is made the same by what the message says."""
    state = nn.Sequential(nn.Linear(3, 2)).state_dict()
    begins = ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "net.", "model._orig_mod."]
    for first in begins:
        for other in begins:
            if first == other:
                continue
            for name, begin in [("a.pt", first), ("b.pt", other)]:
                torch.save({begin + key: value for key, value in state.items()}, name)
            for given in [[], ["--strip-prefix", "_orig_mod.module."]]:
                command = ["a.pt", "b.pt", "-o", "soup.st", "--force", "--no-sync"]
                found = run(*command, *given)
                if found.returncode == 0:
                    continue
                recipe = found.stderr.split("`--strip-prefix", 1)
                assert len(recipe) == 2, (first, other, given, found.stderr)
                read(*command, *("--strip-prefix" + recipe[1].split("`")[0]).split())
    counted = {"n_averaged": torch.tensor(3), **{f"module.{key}": value for key, value in state.items()}}
    torch.save(counted, "a.pt")
    torch.save(state, "b.pt")
    refused(["`--strip-prefix module. --exclude n_averaged`"], "a.pt", "b.pt", "-o", "soup.st", "--force")
    read("a.pt", "b.pt", "-o", "soup.st", "--force", "--strip-prefix", "module.", "--exclude", "n_averaged")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    os.chdir(FOLDER)
    for check in [single_tensors, models, keys, pruning, shards, prefixes]:
        check()
        print(check.__name__)
