"""The answers to the page's questions: what is asked, checked, computed by the package, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from alphabar.errors import AlphabarError, ConfigError, look_up
from alphabar.explorer import forward, plane, schedules, tables
from alphabar.explorer.asking import LANGUAGES, Asked, said, texts_of
from alphabar.explorer.pictures import LARGEST_UPLOAD, SIDE, Album, data_url, decoded, png, thinned
from alphabar.explorer.reverse import Chosen, Run, chain, made_sampler, mosaic
from alphabar.explorer.svg import number
from alphabar.samplers import REGISTRY, State
from alphabar.schedule import FAMILIES, SPACINGS, NoiseSchedule

__all__ = ["ANSWERS", "Page", "check_body", "noised", "options", "run_state", "samples", "uploaded"]

STEPS = 1000  # T of the families on the page
SEEDS = 2**32
SIDES = 3  # schedules side by side
WALKED_SIDE = 64  # pixels of a side that take single steps: a thousand steps of 512×512 take seconds

Answer = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Args:
        album: the pictures.
        run: the network.
        language: that it begins in.
    """

    album: Album
    run: Run
    language: str = "en"


@lru_cache(maxsize=16)
def _family(name: str) -> NoiseSchedule:
    return look_up(FAMILIES, name, "schedule")(STEPS)


def options(page: Page) -> Answer:
    """Return what can be chosen, and all texts."""
    return {
        "language": page.language,
        "languages": LANGUAGES,
        "texts": {language: dict(texts_of(language)) for language in LANGUAGES},
        "pictures": page.album.names,
        "families": list(FAMILIES),
        "samplers": {name: {"spaced": entry.spaced} for name, entry in REGISTRY.items()},
        "spacings": list(SPACINGS),
        "presets": list(plane.PRESETS),
        "largest_upload": LARGEST_UPLOAD,
        "reach": plane.REACH,
    }


def _noised(page: Page, asked: Asked) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the picture that is noised, and its x_t by the names of the schedules."""
    given, t = page.album[asked.name("picture")], asked.whole("t", 0, STEPS - 1)
    seed, in_steps = asked.whole("seed", 0, SEEDS - 1), asked.name("way") == "steps"
    names = [part.name("name") for part in asked.parts("schedules", SIDES)]
    x_0, noise = (thinned(given, WALKED_SIDE), forward.walked) if in_steps else (given, forward.jumped)
    return x_0, {name: noise(x_0, _family(name), t, seed=seed) for name in names}


def noised(page: Page, asked: Asked) -> bytes:
    """Return x_t under the first of the schedules as a PNG file, which the page shows beside the numbers.

    It fetches them at once: within that answer, pictures would have to wait for all the rest.
    """
    _, found = _noised(page, asked)
    return png(next(iter(found.values())))


def _forward(page: Page, asked: Asked) -> Answer:
    x_0, found = _noised(page, asked)
    t, of_x_0 = asked.whole("t", 0, STEPS - 1), forward.moments(x_0)
    chosen = {name: _family(name) for name in found}
    panes = []
    for name, schedule in chosen.items():
        facts = {
            "signal": number(float(schedule.signal_scale[t])),
            "noise": number(float(schedule.noise_scale[t])),
            "snr": number(float(schedule.snr[t]), 3),
        }
        measured, expected = forward.moments(found[name]), forward.predicted(of_x_0, schedule, t)
        beside = (measured.mean, expected.mean, measured.variance, expected.variance)
        values = [f"{value:.4f}".replace("-", "−") for value in beside]
        alt = asked.texts["x_t_alt"].format(name=name, t=t, **facts)
        panes.append({"name": name, "alt": alt, **facts, "moments": values})
    all_, some = page.album[asked.name("picture")].shape[-1], x_0.shape[-1]
    return {
        "panes": panes,
        "thinned": asked.texts["thinned"].format(all=all_, some=some) if some < all_ else "",
        "histogram": forward.histogram(found, t, asked.texts),
        "curves": forward.curves(chosen, asked.texts, t),
    }


def _points(page: Page, asked: Asked) -> Answer:
    steps = asked.whole("steps", 2, 4000)
    kind = look_up(schedules.KINDS, asked.name("kind"), "kind")
    points = schedules.points_of(asked.name("family"), asked.name("kind"), steps)
    return {"points": points, "low": kind.low, "high": kind.high}


def _schedule(page: Page, asked: Asked) -> Answer:
    steps, points = asked.whole("steps", 2, 4000), asked.numbers("points", 20)
    drawn = schedules.drawn(points, asked.name("kind"), steps, asked.texts)
    return {name: value for name, value in drawn._asdict().items() if name != "schedule"}


def _field(page: Page, asked: Asked) -> Answer:
    data, schedule, t = _mixture(asked), _family(asked.name("schedule")), asked.whole("t", 1, STEPS - 1)
    x_t = [asked.real("x", -plane.REACH, plane.REACH), asked.real("y", -plane.REACH, plane.REACH)]
    s = max(0, t - asked.whole("back", 1, STEPS))
    found = plane.step_back(data, schedule, x_t, t, s)
    return {
        "field": plane.field(data, schedule, t, asked.texts, x_t),
        "reverse": plane.step_back_plot(found, t, s, asked.texts),
        "told": plane.step_back_told(found, asked.texts),
        "s": s,
    }


def _flow(page: Page, asked: Asked) -> Answer:
    schedule, chosen = _family(asked.name("schedule")), _chosen(asked, STEPS)
    count, seed = asked.whole("count", 1, 500), asked.whole("seed", 0, SEEDS - 1)
    found = plane.flow(_mixture(asked), schedule, made_sampler(chosen), count=count, seed=seed)
    frames = [[[round(value, 3) for value in point] for point in frame] for frame in found.frames.tolist()]
    return {"ts": found.ts, "frames": frames, "distance": found.distance}


def _mixture(asked: Asked) -> Any:
    points = asked.pairs("points")
    return plane.mixture(asked.name("data"), points, asked.real("width", plane.LEAST_WIDTH, 2.0))


def _chosen(asked: Asked, most: int) -> Chosen:
    spacing = asked.body.get("spacing") or None
    if spacing is not None:
        look_up(SPACINGS, spacing, "spacing")
    return Chosen(
        asked.name("sampler"), asked.whole("evaluations", 1, most), asked.real("eta", 0, 1), spacing
    )


def _table(page: Page, asked: Asked) -> Answer:
    schedule = _family(asked.name("schedule"))
    chosen = [_chosen(part, STEPS) for part in asked.parts("samplers", 2)]
    shown = []
    for each in chosen:
        found = tables.table(each, schedule)
        caption = asked.texts["table_caption"].format(name=tables.label(each), evaluations=found.evaluations)
        left = asked.texts["rows_left_out"].format(count=found.left_out) if found.left_out else ""
        shown.append({"head": found.head, "rows": found.rows, "left_out": left, "caption": caption})
    return {"plot": tables.error_plot(chosen, schedule, asked.texts), "tables": shown}


def _train(page: Page, asked: Asked) -> Answer:
    page.run.start()
    return run_state(page)


def run_state(page: Page) -> Answer:
    """Return how far the network is, and what it knows."""
    progress = page.run.progress
    answer: Answer = progress._asdict()
    if progress.state == "ready":
        trained = page.run.trained
        answer |= {
            "classes": list(trained.classes),
            "shape": list(trained.shape),
            "steps": len(trained.schedule),
            "guided": trained.can_be_guided,
            "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
        }
    return answer


def samples(page: Page, asked: Asked) -> Iterator[Answer]:
    """Yield the states of two chains from the same noise, side after side; a trouble is the last answer."""
    try:
        trained = page.run.trained
        label = asked.body.get("label") or None
        settings: Answer = {
            "label": None if label is None else str(label),
            "guidance": asked.real("guidance", 0, 20),
            "seed": asked.whole("seed", 0, SEEDS - 1),
            "num": asked.whole("num", 1, 25),
        }
        for side, part in enumerate(asked.parts("samplers", 2)):
            sampler = made_sampler(_chosen(part, len(trained.schedule)))
            for state in chain(trained, sampler, **settings):
                yield _state(side, state)
    except AlphabarError as wrong:
        yield {"error": said(wrong, asked.texts)}


def _state(side: int, state: State) -> Answer:
    answer: Answer = {"side": side, "step": state.step, "t": state.t}
    for name, x in (("x_t", state.x_t), ("x_0", state.x_0)):
        picture = data_url(thinned(mosaic(x).cpu(), SIDE))
        answer |= {name: picture, f"{name}_spread": float(x.std(correction=0))}
    return answer


def uploaded(page: Page, content: bytes) -> Answer:
    """Keep an uploaded picture; return the name it goes by.

    Raises:
        RefusedError: it is no picture within the limits.
    """
    return {"picture": page.album.add(decoded(content))}


ANSWERS: Mapping[str, Callable[[Page, Asked], Answer]] = {
    "forward": _forward,
    "points": _points,
    "schedule": _schedule,
    "field": _field,
    "flow": _flow,
    "table": _table,
    "train": _train,
}
"""Answers by the last part of the address that is asked."""


def check_body(body: Any) -> Mapping[str, Any]:
    """Require a JSON object.

    Raises:
        ConfigError: something else.
    """
    if not isinstance(body, dict):
        raise ConfigError("the question must be a JSON object")
    return body
