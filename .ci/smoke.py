"""Try an installed alphabar: python smoke.py [native | pure], which says the kernels that it must have."""

import sys

import torch

import alphabar
from alphabar.kernels import cpu

wanted = sys.argv[1:]
if wanted and (cpu.LIBRARY is not None) != (wanted == ["native"]):
    sys.exit(f"the kernels should be {wanted[0]}: {cpu.REASON or 'they were built'}")
schedule = alphabar.NoiseSchedule.cosine()
data = alphabar.GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.1]))
denoiser, sampler = data.denoiser(schedule), alphabar.DPMSolver(steps=20)
points = alphabar.sample(denoiser, (1000, 1), sampler, seed=0, progress=False)
near = ((points.abs() - 1).abs() < 0.5).double().mean()
if near < 0.99:
    sys.exit(f"{near:.1%} of the samples are where the data are")
print(f"alphabar {alphabar.__version__} in {alphabar.__path__[0]} samples; kernels: {cpu.REASON or 'native'}")
