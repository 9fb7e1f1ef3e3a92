"""Sample by an exported chain, without alphabar: python run_exported.py chain.onnx 16 x.npy"""

import sys

import numpy as np
import onnxruntime


def sample(path: str, count: int) -> np.ndarray:
    """Return (count, C, H, W), images in [-1, 1]."""
    chain = onnxruntime.InferenceSession(path)
    generator, given = np.random.default_rng(0), {}
    for each in chain.get_inputs():  # x_t; noise, if it adds some; labels, of a network with classes
        shape = [count if size == "batch" else size for size in each.shape]
        is_label = each.name == "labels"
        given[each.name] = np.zeros(shape, int) if is_label else generator.standard_normal(shape, np.float32)
    return chain.run(["x_0"], given)[0]


if __name__ == "__main__":
    np.save(sys.argv[3], sample(sys.argv[1], int(sys.argv[2])))
