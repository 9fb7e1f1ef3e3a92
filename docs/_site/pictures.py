"""Pictures and numbers of the site, made by the library while the site is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gallery import PICTURES
from torch import Tensor
from torch.nn.functional import interpolate

from alphabar import DDIM, DDPM, DEIS, DPMSolver, Fitted, NoiseSchedule, UniPC, normal
from alphabar.errors import ConfigError
from alphabar.samplers import Sampler, gaussian_error

__all__ = ["write_all"]

SCHEDULES: dict[str, NoiseSchedule] = {
    "linear": NoiseSchedule.linear(),
    "scaled_linear": NoiseSchedule.scaled_linear(),
    "cosine": NoiseSchedule.cosine(),
    "rectified_flow": NoiseSchedule.rectified_flow(),
}
SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "DDPM": DDPM,
    "DDIM": DDIM,
    "DPM-Solver++ 2M": lambda evaluations: DPMSolver(evaluations, spacing="log_snr"),
    "UniPC 3": lambda evaluations: UniPC(evaluations, order=3, spacing="log_snr"),
    "DEIS 4": lambda evaluations: DEIS(evaluations, order=4, lower_order_final=False, spacing="log_snr"),
    "Fitted": Fitted,
}
EVALUATIONS = (5, 6, 8, 10, 12, 15, 20, 30, 50)
CHINESE = {
    "evaluations of the network": "网络计算次数",
    "exact error of the standard deviation": "标准差的精确误差",
    "data": "数据",
    "kept": "保留的",
    "drawn": "补出的",
    "blended": "直接混合",
    "20 steps": "20 步",
    "100 steps": "100 步",
}
SIZE = 80  # of the picture that the reader noises


def write_all(folder: Path, language: str) -> None:
    """Write every picture into a folder, and the numbers of the page where the reader moves t."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "alphabar", "font.size": 11}
    folder.mkdir(exist_ok=True)
    words = CHINESE if language.startswith("zh") else {}
    _save(schedule_curves(), folder / "schedules.svg", words)
    _save(error_curves(), folder / "errors.svg", words)
    for name, draw in PICTURES.items():
        _save(draw(), folder / f"{name}.svg", words)
    (folder / "numbers.js").write_text(f"window.ALPHABAR = {json.dumps(numbers())};\n", encoding="utf-8")


def _save(figure: Any, path: Path, words: dict[str, str]) -> None:
    """Write a figure, its text as text, so that words can be replaced: its own fonts have no Chinese."""
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    drawing = path.read_text(encoding="utf-8")
    for word, other in words.items():
        drawing = drawing.replace(f">{word}<", f">{other}<")
    path.write_text(drawing, encoding="utf-8")


def _figure(columns: int, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def schedule_curves() -> Any:
    """Return √ᾱ, √(1−ᾱ) and the log-SNR of several schedules."""
    figure, axes = _figure(3, 3.2)
    curves: dict[str, Callable[[NoiseSchedule], Tensor]] = {
        "√ᾱ": lambda schedule: schedule.signal_scale,
        "√(1−ᾱ)": lambda schedule: schedule.noise_scale,
        "log-SNR": lambda schedule: schedule.log_snr.clamp(min=-20),
    }
    for axis, (title, curve) in zip(axes, curves.items(), strict=True):
        for name, schedule in SCHEDULES.items():
            axis.plot(curve(schedule), label=name)
        axis.set(title=title, xlabel="t")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=9)
    return figure


def error_curves() -> Any:
    """Return the exact error of several samplers by the number of evaluations, on two schedules."""
    figure, axes = _figure(2, 4.2)
    for axis, name in zip(axes, ("linear", "cosine"), strict=True):
        for label, make in SAMPLERS.items():
            axis.loglog(EVALUATIONS, _errors(make, SCHEDULES[name]), marker="o", markersize=3, label=label)
        axis.set(
            title=name, xlabel="evaluations of the network", ylabel="exact error of the standard deviation"
        )
        axis.set_xticks(EVALUATIONS, map(str, EVALUATIONS))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=10)
    return figure


def _errors(make: Callable[[int], Sampler], schedule: NoiseSchedule) -> list[float]:
    def error(evaluations: int) -> float:
        try:
            return gaussian_error(make(evaluations), schedule)
        except ConfigError:  # a number of evaluations that has no table
            return float("nan")

    return [error(evaluations) for evaluations in EVALUATIONS]


def numbers() -> dict[str, Any]:
    """Return a photograph, noise, and √ᾱ, √(1−ᾱ) and β of every schedule, as JSON values."""
    from alphabar.training import sample_photograph, to_unit

    photograph = to_unit(sample_photograph()[None])
    side = photograph.shape[-2]
    small = interpolate(photograph[..., :side], size=(SIZE, SIZE), mode="area")[0]
    return {
        "size": SIZE,
        "x_0": _rounded(small, 3),
        "z": _rounded(normal((1, *small.shape), seed=0)[0], 3),
        "schedules": {
            name: {
                "signal": _rounded(schedule.signal_scale, 6),
                "noise": _rounded(schedule.noise_scale, 6),
                "beta": _rounded(schedule.beta, 6),
            }
            for name, schedule in SCHEDULES.items()
        },
    }


def _rounded(values: Tensor, digits: int) -> list[float]:
    return [round(value, digits) for value in values.double().flatten().tolist()]
