"""The command that serves the explorer: a page in the browser to move things by hand and see them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from alphabar.cli import demo
from alphabar.cli._arguments import device, one_of, readable
from alphabar.cli._opening import Opening
from alphabar.errors import ConfigError, MissingExtraError, look_up
from alphabar.explorer.answers import Page
from alphabar.explorer.asking import LANGUAGES
from alphabar.explorer.pictures import Album
from alphabar.explorer.reverse import Run

__all__ = ["Explore"]

DEMO = Path("demo", "run")  # where the demo leaves its digits


@readable
@dataclass(frozen=True)
class Explore(Opening):
    """Show noising, schedules and sampling on a page in the browser, to move by hand and see."""

    run: Positional[Annotated[str | None, arg(metavar="[RUN]")]] = None
    """A folder that ``alphabar train`` or diffusers wrote, or the name of a pipeline on the hub; by default
    the digits of the demo: demo/run, or trained when the page asks for it."""
    image: Path | None = None
    """A picture to begin with."""
    port: int = 7860
    """Where the page is found."""
    host: str = "127.0.0.1"
    """The address to listen on; another than the loopback address lets others on the network in."""
    lang: str = one_of(LANGUAGES, "en")
    """Language to begin in."""
    seconds: float = 80.0
    """Longest training of the digits."""

    def __call__(self) -> None:
        """Serve the page until interrupted."""
        serve = _server()
        serve(
            self._page(), self.host, self.port, lambda: print(f"http://{self.host}:{self.port}", flush=True)
        )

    def _page(self) -> Page:
        look_up(LANGUAGES, self.lang, "language")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}: it must be in 1 … 65535")
        album = Album(self.image)
        config = dataclasses.replace(demo.CONFIG, seconds=self.seconds)
        place = self.run or (str(DEMO) if (DEMO / "alphabar.json").is_file() else None)
        trained = None
        if place is not None:
            trained = self.opened(place, takes_conditions=False)
            trained.network.to(device())
        return Page(album, Run(trained, config), self.lang)


def _server() -> Any:
    try:
        from alphabar.explorer.server import serve
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "alphabar":
            raise
        raise MissingExtraError("the explorer", "explore") from None
    return serve
