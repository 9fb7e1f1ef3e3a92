"""How the tables of ``alphabar.samplers.Fitted`` are fitted: everything that ``fit.py`` leaves open.

There are several ways, which differ in how many estimates a row has, how rough the denoisers are, and in the
stages. Where two ways make a table the later counts.
"""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, Any] = {
    "share_of_steps_beyond_20": 0.4,
    "spacings": [[4.5, 0.03], [3.5, 0.1]],
    "ways": {
        "smooth": {
            "schedules": ["linear", "cosine", "scaled_linear", "sigmoid"],
            "first": [10, 8, 7, 6, 5, 9, 12, 15, 20, 25, 30, 40, 50],
            "estimates": 3,
            "regularisation": 0.01,
            "noise": 0.02,
            "gaussian_weight": 0.5,
            "seeds": [1],
            "rough": None,
            "stages": [
                {"crowded": 0, "starts": 10, "rms": 0.4, "pooled": 0.0, "choose": 70, "steps": 400},
                {"crowded": 18, "starts": 30, "rms": 0.2, "pooled": 0.7, "choose": 0, "steps": 300},
                {"crowded": 18, "starts": 5, "rms": 0.2, "pooled": 0.7, "choose": 5, "steps": 100},
            ],
        },
        "twenty": {
            "schedules": ["linear", "cosine"],
            "first": [20],
            "estimates": 4,
            "regularisation": 0.06,
            "noise": 0.02,
            "gaussian_weight": 0.5,
            "seeds": [1],
            "rough": [0.02, 0.25],
            "stages": [
                {"crowded": 0, "starts": 10, "rms": 0.4, "pooled": 0.0, "choose": 50, "steps": 60},
                {"crowded": 18, "starts": 30, "rms": 0.2, "pooled": 0.7, "choose": 0, "steps": 250},
            ],
        },
        "six": {
            "schedules": ["cosine"],
            "first": [6],
            "estimates": 3,
            "regularisation": 0.01,
            "noise": 0.02,
            "gaussian_weight": 0.5,
            "seeds": [1],
            "rough": [0.03, 0.15],
            "stages": [
                {"crowded": 0, "starts": 10, "rms": 0.4, "pooled": 0.0, "choose": 70, "steps": 400},
                {"crowded": 18, "starts": 30, "rms": 0.1, "pooled": 0.9, "choose": 0, "steps": 300},
            ],
        },
        "evener": {
            "schedules": ["cosine"],
            "first": [20],
            "beside": {"way": "twenty", "trailing": 0.15},
            "share": 0.3,
            "estimates": 4,
            "regularisation": 0.06,
            "noise": 0.02,
            "gaussian_weight": 0.05,
            "seeds": [1, 2, 3, 4, 5, 6, 7, 8],
            "rough": [0.05, 0.4],
            "stages": [
                {"crowded": 18, "starts": 30, "rms": 0.1, "pooled": 0.9, "choose": 0, "steps": 150},
            ],
        },
    },
}
"""``first``: the n that are fitted first, in that order; the others, 5 … 50, in a third stage if there is
one. ``rough``: the least and the largest size of the waves. ``seeds``: of the mixtures, all in one loss.
``beside``: the descent starts from the table of another way, moved so far towards the spacing ``trailing``,
and what is written is the mean of the two tables, this one counting for ``share``."""
LINEAR_GOALS = {5: 0.0069, 6: 0.0069, 10: 0.0108, 20: 0.0037, 50: 0.001}
GOALS = {
    "linear": LINEAR_GOALS,
    "sigmoid": LINEAR_GOALS,
    "scaled_linear": {5: 0.008, 10: 0.008, 20: 0.0013, 50: 0.00055},
    "cosine": {5: 0.0143, 6: 0.0143, 10: 0.0078, 20: 0.0018, 50: 0.0027},
}
"""Gaussian errors at which the weight of that error fades; between them interpolated in the logarithm."""
