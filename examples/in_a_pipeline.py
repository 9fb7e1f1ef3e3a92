"""In a diffusers pipeline: the same pipeline, with a scheduler of alphabar in place of its own.

One sees that both make the same digits from the same seed, then digits of another scheduler in fewer steps.
"""

import tempfile

import torch
from diffusers import DDIMScheduler, DDPMPipeline

import alphabar.diffusers
from alphabar.training import TrainConfig, save, train


def main(steps: int = 600, inference_steps: int = 50) -> None:
    """Train a small network for so many steps, and run it in a pipeline of so many."""
    *_, last = train(TrainConfig(data="digits", class_conditional=False, steps=steps))
    with tempfile.TemporaryDirectory() as folder:  # a run is a folder that diffusers opens
        pipeline = DDPMPipeline.from_pretrained(save(f"{folder}/run", last.snapshot()))
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config

    def digits(scheduler: object, evaluations: int) -> torch.Tensor:
        pipeline.scheduler = scheduler
        generator = torch.Generator().manual_seed(0)
        made = pipeline(6, generator, num_inference_steps=evaluations, output_type="np")
        return torch.from_numpy(made.images)[..., 0]  # (6, 8, 8) in [0, 1]

    theirs = digits(DDIMScheduler.from_config(config), inference_steps)
    ours = digits(alphabar.diffusers.DDIMScheduler.from_config(config), inference_steps)
    print(f"largest difference of a pixel: {(ours - theirs).abs().max():.1e}")
    fast = digits(alphabar.diffusers.DPMSolverMultistepScheduler.from_config(config), 20)
    for row in torch.cat(list(fast), dim=1):
        print("".join(" .:*#"[level] for level in (row * 5).long().clamp(0, 4)))


if __name__ == "__main__":
    main()
