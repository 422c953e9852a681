"""Loads a safetensors file as other programs do: prints names, sums and the `format`.

Called by tests/onnx.rs as `tensors.py PATH`. With torch, `safetensors.torch.load_file`
loads it too and must agree.
"""

import json
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

try:
    import safetensors.torch as with_torch
except ImportError:
    with_torch = None


def main():
    path = sys.argv[1]
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if with_torch:
        loaded = with_torch.load_file(path)
        assert loaded.keys() == tensors.keys()
        for name, tensor in loaded.items():
            assert np.array_equal(tensor.numpy(), tensors[name]), name
    print(
        json.dumps(
            {
                "format": metadata.get("format"),
                "torch": bool(with_torch),
                "sums": {name: float(tensor.astype(np.float64).sum()) for name, tensor in tensors.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
