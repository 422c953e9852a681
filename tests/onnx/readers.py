"""Loads exported models with other programs: a manifest walks in, what they said walks out.

Called by tests/onnx.rs as `readers.py MANIFEST`. The manifest is a JSON list of objects:
path, images and logits (files of little-endian f32), shape of the images, classes. Prints
one JSON object: `versions`, and `results`, one object by reader for each entry: `difference`
from the logits, relative to the largest, or `error`.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import openvino


def difference(found, expected):
    found = np.asarray(found, dtype=np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"shape {found.shape}, expected {expected.shape}")
    relative = np.abs(found - expected).max() / np.abs(expected).max()
    return float(relative) if np.isfinite(relative) else 1e300


def check(path, images, expected):
    onnx.checker.check_model(path)
    return 0.0


def full_check(path, images, expected):
    onnx.checker.check_model(path, full_check=True)
    return 0.0


def run_onnxruntime(path, images, expected):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = path + ".optimized"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {node.op_type for node in onnx.load(path + ".optimized", load_external_data=False).graph.node}
    # What decodes weights must be gone once the model is loaded.
    left = names & {"BitwiseAnd", "CumSum", "ScatterElements", "Gather", "Cast"}
    if left:
        raise ValueError(f"not folded: {sorted(left)}")
    feed = session.get_inputs()[0].name
    whole = session.run(None, {feed: images})[0]
    # Batches of any size.
    single = session.run(None, {feed: images[:1]})[0]
    return max(difference(whole, expected), difference(single, expected[:1]))


CORE = openvino.Core()


def run_openvino(path, images, expected):
    model = CORE.read_model(path)
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = CORE.compile_model(model, "CPU", hints)
    return difference(compiled([images])[0], expected)


READERS = {
    "checker": check,
    "full_check": full_check,
    "onnxruntime": run_onnxruntime,
    "openvino": run_openvino,
}


def read(entry):
    images = np.fromfile(entry["images"], dtype="<f4").reshape(entry["shape"])
    expected = np.fromfile(entry["logits"], dtype="<f4").reshape(-1, entry["classes"])
    found = {}
    for name in entry["readers"]:
        try:
            found[name] = {"difference": READERS[name](entry["path"], images, expected.astype(np.float64))}
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
    return found


def main():
    with open(sys.argv[1]) as file:
        entries = json.load(file)
    versions = {
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__,
    }
    print(json.dumps({"versions": versions, "results": [read(entry) for entry in entries]}))


if __name__ == "__main__":
    main()
