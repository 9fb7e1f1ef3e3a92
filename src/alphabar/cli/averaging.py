"""``alphabar average``: another average of a training's parameters, from the snapshots that it stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from alphabar.cli._arguments import readable, wrote
from alphabar.cli._opening import Opening
from alphabar.errors import ConfigError
from alphabar.training import Averages, checkpoint, list_snapshots, parse_profile, reconstruct
from alphabar.training.posthoc import SNAPSHOTS

__all__ = ["Average"]


@readable
@dataclass(frozen=True, kw_only=True)
class Average(Opening):
    """Write the network of a run with another average of its parameters, of the snapshots in RUN/averages."""

    run: Positional[Path]
    """The folder of the run."""
    out: Path
    """The folder to write."""
    profile: str
    """Of the average: power(0.1), in quotes, with its width σ_rel, or a decay such as 0.9999."""
    step: int | None = None
    """Up to which update; by default to the last snapshot."""

    def __call__(self) -> None:
        """Rebuild the average, write it, and say how near its weights come to those of the profile."""
        profile = parse_profile(self.profile)
        if self.out.resolve() == self.run.resolve():
            raise ConfigError(f"out is {self.out}, which is read: choose another folder")
        checkpoint.check_place(self.out)
        loaded = self.opened(self.run, takes_all=True)
        snapshots = list_snapshots(self.run / SNAPSHOTS)
        updates = snapshots[-1].updates if self.step is None else self.step
        parameters, error = reconstruct(snapshots, profile, updates)
        averages = Averages(loaded.network, [profile])
        averages.load({profile.name: parameters}, updates)
        described = {**loaded.training, "average": profile.name, "updates": updates}
        with averages.averaged():
            checkpoint.save(self.out, replace(loaded, training=described))
        print(f"{profile.name} of {updates} updates, its weights within {error:.2%} of the profile's")
        wrote(self.out)
