"""Sample by an exported chain, without alphabar: python run_exported.py chain.onnx 16 x.npy"""

import sys

import numpy as np
import onnxruntime

path, count, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
chain = onnxruntime.InferenceSession(path)
generator, given = np.random.default_rng(0), {}
for each in chain.get_inputs():  # x_t; noise, of a sampler that adds some; labels, of a network with classes
    shape = [count if size == "batch" else size for size in each.shape]
    is_label = each.name == "labels"
    given[each.name] = np.zeros(shape, int) if is_label else generator.standard_normal(shape, np.float32)
(x_0,) = chain.run(["x_0"], given)
np.save(out, x_0)  # (count, C, H, W), images in [-1, 1]
