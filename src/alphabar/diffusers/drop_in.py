"""Classes that stand for diffusers': their constructors, signatures and names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from typing import Any, TypeVar

from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from alphabar.diffusers.adapter import SCHEDULERS, Adapter
from alphabar.errors import MissingExtraError

__all__ = ["drop_in"]

Kind = TypeVar("Kind", bound=type[Adapter])


def drop_in(module: str) -> Callable[[Kind], Kind]:
    """Give a class the constructor, ``set_timesteps`` and module of diffusers' scheduler of the same name.

    Its module is diffusers' too: pipelines write module and name of their parts into ``model_index.json``,
    and diffusers alone must be able to open what they save. Where diffusers cannot import its own, the class
    is left out of ``SCHEDULERS``, and making one is an error that names the missing package.

    Args:
        module: where it is, within ``diffusers.schedulers``.
    """

    def decorate(kind: Kind) -> Kind:
        try:
            source = import_module(f"diffusers.schedulers.{module}")
        except ImportError as error:
            kind.__init__ = _missing(kind.__name__, error.name or "diffusers")  # type: ignore[method-assign]
            return kind
        kind.peer = peer = getattr(source, kind.__name__)
        for name in ("order", "_compatibles", "ignore_for_config", "_deprecated_kwargs"):
            setattr(kind, name, getattr(peer, name))
        kind.output = getattr(source, kind.__name__.replace("Inverse", "") + "Output", SchedulerOutput)
        kind.second_output = next((field.name for field in fields(kind.output)[1:]), None)
        kind.__init__ = _constructor(peer)  # type: ignore[method-assign]
        kind.set_timesteps = _with_signature_of(peer.set_timesteps, kind._set_timesteps)
        kind.__module__ = peer.__module__
        SCHEDULERS[kind.__name__] = kind
        return kind

    return decorate


def _missing(name: str, package: str) -> Any:
    def __init__(self: Adapter, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        raise MissingExtraError(name, package=package.partition(".")[0])

    return __init__


def _constructor(peer: Any) -> Any:
    theirs = inspect.signature(peer.__init__)

    def __init__(self: Adapter, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        self._initialise()

    __init__.__signature__ = theirs  # type: ignore[attr-defined]
    registered = register_to_config(__init__)
    strict = inspect.Parameter("strict", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    parameters = list(theirs.parameters.values())
    at = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)

    @functools.wraps(peer.__init__)
    def checked(self: Adapter, *args: Any, strict: bool = False, **kwargs: Any) -> None:
        try:
            theirs.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        self.strict = strict
        registered(self, *args, **kwargs)

    checked.__signature__ = theirs.replace(parameters=[*parameters[:at], strict, *parameters[at:]])  # type: ignore[attr-defined]
    return checked


def _with_signature_of(theirs: Any, ours: Any) -> Any:
    signature = inspect.signature(theirs)

    @functools.wraps(theirs)
    def method(self: Adapter, *args: Any, **kwargs: Any) -> None:
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        del given["self"]
        ours(self, **given)

    return method
