"""Networks by name: in :mod:`alphabar.denoise.nets`, or of what builds one's own, ``package.module:factory``.

    network = factory((C, …), classes=K, out_channels=N)      a torch.nn.Module
    network(x, time), or network(x, time, class_labels=labels) where K > 0, returns (B, N, …)
    with conditions: factory(…, conditions={"name": shape, …}), network(…, name=code, …)
        x: (B, C, …);  N = C, or 2C where it learns its variance
        time: (B,), t in int64, or in float32 between the integers; of flow and EDM networks their own time
        labels: (B,) int64, 0 … K − 1, and K for "no label"
        code: (B, *shape), see alphabar.denoise.conditions; zeros for "no condition"

All that it learns lies in its parameters and buffers. A run records the name, never code. What
``package.module:factory`` stands for is run where whoever opens the run says by the same name that it may be.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alphabar.denoise._places import first_line
from alphabar.denoise.conditioned import Conditioned
from alphabar.denoise.conditions import Condition
from alphabar.denoise.conditions import described as conditions_of
from alphabar.denoise.nets import NETS, build
from alphabar.errors import AlphabarError, CheckpointError, ConfigError, MissingExtraError

__all__ = [
    "Factory",
    "check_allowed",
    "check_call",
    "check_name",
    "digest_of",
    "find",
    "named_errors",
    "save_weights",
]


@dataclass(frozen=True)
class Factory:
    """What builds a network, by its name, and what it is called with.

    >>> Factory("mynets:small", (1, 8, 8), classes=10, out_channels=2).learns_variance
    True

    Args:
        name: in :data:`alphabar.denoise.nets.NETS`, or ``package.module:factory``.
        shape: (C, …) of the data.
        classes: how many labels the network takes, beside "no label"; 0: it takes none.
        out_channels: C, or 2C where it learns its variance.
        width: of a network of that table.
        conditions: what it is told beside the label, by name.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    out_channels: int
    width: int | None = None
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> Factory | None:
        """Return the factory that the description of a run names; None where it names none."""
        if "factory" not in description:
            return None
        shape, times = tuple(description["shape"]), 2 if description["learned_variance"] else 1
        labels, width = len(description["classes"]), description.get("width")
        conditions = conditions_of(description)
        return cls(description["factory"], shape, labels, times * shape[0], width, conditions)

    @property
    def description(self) -> dict[str, Any]:
        """What the description of a run says of it, as JSON values."""
        width = {} if self.width is None else {"width": self.width}
        return {"factory": self.name, **width, "learned_variance": self.learns_variance}

    @property
    def consent(self) -> str | None:
        """The name by which a user allows to run the code; None where it is this library's."""
        return None if self.name in NETS else self.name

    @property
    def learns_variance(self) -> bool:
        """Whether the network returns twice the channels of the data."""
        return self.out_channels == 2 * self.shape[0]

    def build(self, seed: int = 0) -> nn.Module:
        """Return a new network; a factory is imported.

        Args:
            seed: of the parameters it begins with.

        Raises:
            ConfigError: no such module or factory; one that is called otherwise, fails, or returns something
                else; data or a width that a network of the table does not take.
        """
        options: dict[str, Any] = {"classes": self.classes, "out_channels": self.out_channels}
        if self.consent:
            shapes = {name: condition.code_shape for name, condition in self.conditions.items()}
            factory, options = find(self.name), options | ({"conditions": shapes} if shapes else {})
            check_call(self.name, factory, self.shape, **options)
        else:
            factory = partial(build, self.name, width=self.width)
            factory = partial(Conditioned, factory, self.conditions) if self.conditions else factory
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            with named_errors(f"{self.name} builds no network for data of shape {self.shape}"):
                network = factory(self.shape, **options)
        if not isinstance(network, nn.Module):
            raise ConfigError(f"{self.name} returned a {type(network).__name__}: expected a torch.nn.Module")
        return network

    def check_built(self, network: nn.Module) -> None:
        """Require a network whose parameters and buffers are those of what the factory builds.

        Raises:
            ConfigError: with the first that differs; and as :meth:`build`.
        """
        here, there = _shapes(network), _shapes(self.build())
        if here != there:
            name = min(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
            is_now, built = here.get(name, "nothing"), there.get(name, "nothing")
            raise ConfigError(
                f"the network is not what {self.name} builds, and its run could not be opened: {name} is "
                f"{is_now}, and {built} there"
            )

    def load(self, path: Path) -> nn.Module:
        """Build the network, and read its weights from a safetensors file.

        Raises:
            CheckpointError: a file that cannot be read, or holds the weights of another network.
            ConfigError: as :meth:`build`.
        """
        library = _safetensors()
        try:
            if not self.consent:
                self._check_file(path)
            network = self.build()
            library.torch.load_model(network, path)
        except (OSError, RuntimeError, library.SafetensorError) as error:
            why = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path} does not load into what {self.name} builds: {why}") from error
        return network.eval()

    def _check_file(self, path: Path) -> None:
        """Require a file of the shapes that will be built, before any memory is taken for them.

        Raises:
            RuntimeError: with the first that differs, or sizes that no network can have.
        """
        with torch.device("meta"):
            built = _shapes(self.build())
        with _safetensors().safe_open(path, "pt") as file:
            there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        for name in sorted(there.keys() | built.keys()):
            if there.get(name) != built.get(name):
                is_now, made = there.get(name, "nothing"), built.get(name, "nothing")
                raise RuntimeError(f"{name} is {is_now}, and {made} in the network")


def save_weights(network: nn.Module, path: Path) -> None:
    """Write parameters and buffers as a safetensors file; what is shared is written once.

    Raises:
        MissingExtraError: safetensors is not installed.
    """
    _safetensors().torch.save_model(network, path)


def digest_of(network: nn.Module, about: object) -> str:
    """Return a SHA-256, in hexadecimal digits, of parameters and buffers, and of what belongs to them.

    Args:
        network: whose they are.
        about: what else must be the same, by its ``repr``.
    """
    found = hashlib.sha256(repr(about).encode())
    for name, value in network.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_name(name: str, what: str = "network") -> None:
    """Require a name of the form ``package.module:factory``.

    Args:
        name: as a user gives it.
        what: the setting that has it.

    Raises:
        ConfigError: another form.
    """
    module, _, factory = str(name).partition(":")
    if not isinstance(name, str) or not all(part.isidentifier() for part in f"{module}.{factory}".split(".")):
        raise ConfigError(
            f"{what} is {name!r:.80}: expected the name of what makes it, such as 'package.module:factory'"
        )


def find(name: str, what: str = "network") -> Callable[..., Any]:
    """Import the module that a name leads to, and return the function or class in it.

    An error in that module is raised as it is.

    Args:
        name: ``package.module:function``.
        what: the setting that has it.

    Raises:
        ConfigError: another form of name, no such module, nothing of that name in it, or nothing to call.
    """
    check_name(name, what)
    module, _, factory = name.partition(":")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if not f"{module}.".startswith(f"{missing.name}."):
            raise  # of what this module imports
        raise ConfigError(f"{what} is {name!r}: there is no module {missing.name} to import") from None
    try:
        found = attrgetter(factory)(imported)
    except AttributeError:
        raise ConfigError(f"{what} is {name!r}: {module} has no {factory}") from None
    if not callable(found):
        raise ConfigError(f"{what} is {name!r}, a {type(found).__name__}: expected a function or a class")
    return found  # type: ignore[no-any-return]


def check_call(what: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Require a function that can be called in this way.

    Raises:
        ConfigError: its parameters are others.
    """
    try:
        parameters = inspect.signature(function)
    except ValueError:  # built in: it does not say
        return
    try:
        parameters.bind(*arguments, **options)
    except TypeError as error:
        given = ", ".join(["…"] * len(arguments) + [f"{name}=…" for name in options])
        raise ConfigError(f"{what} is called as ({given}), and does not take that: {error}") from None


@contextmanager
def named_errors(what: str) -> Iterator[None]:
    """Make a ConfigError of what code that is not ours raises in the block."""
    try:
        yield
    except AlphabarError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: {type(error).__name__}, {first_line(error)}") from error


def check_allowed(recorded: str | None, allowed: str | None, place: object) -> None:
    """Require consent to the code that a run asks for; nothing is imported here.

    Args:
        recorded: the name of the factory that the run asks for; None for one of diffusers or alphabar.
        allowed: the name that the user gives.
        place: the run.

    Raises:
        CheckpointError: no consent, or to another factory.
    """
    if recorded == allowed:
        return
    if recorded is None:
        raise CheckpointError(
            f"{place} holds a network of diffusers or alphabar, none of {allowed}: leave out network"
        )
    if allowed is None:
        raise CheckpointError(
            f"{place} holds a network that the code {recorded} builds. If you have that code and trust it, "
            f"say so: network={recorded!r} in Python, --network {recorded} on the command line"
        )
    raise CheckpointError(
        f"{place} holds a network that the code {recorded} builds, and what may run is {allowed}: give the "
        "name that the run asks for"
    )


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise MissingExtraError("a checkpoint", "train") from None
    return safetensors
