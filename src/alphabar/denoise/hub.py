"""Runs on the Hugging Face hub: the files that a run's manifest lists, as one commit of a repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from alphabar.denoise._card import CARD
from alphabar.denoise._places import DESCRIPTION, first_line, is_checkpoint, is_hub_name
from alphabar.denoise.files import finish, is_untouched, listed, read_json
from alphabar.errors import CheckpointError, ConfigError, MissingExtraError

__all__ = ["push_to_hub"]


def push_to_hub(run: str | Path, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a run as the repository ``owner/name`` of the hub, and return the address of the commit.

    What goes there are the files that ``alphabar.json`` lists, that file, and the model card; samples and
    whatever else lies in the folder stay. ``Denoiser.from_pretrained("owner/name")`` opens it then.

    Args:
        run: the folder.
        name: ``"owner/name"``; the repository is made where it is not there.
        private: whether a new repository is for its owner alone.
        token: of the hub; by default the one that its own tools have stored or find in the environment.

    Raises:
        CheckpointError: no run, a damaged or missing file, or an upload that failed.
        ConfigError: another form of name, or no token.
        MissingExtraError: huggingface_hub is not installed.
    """
    if not isinstance(name, str) or not is_hub_name(name):
        raise ConfigError(f"name is {name!r}: give the owner and a name, such as 'someone/digits'")
    place = Path(run)
    names = _files(place)
    hub = _open_hub()
    token = token or hub.get_token()
    if not token:
        raise ConfigError("the hub asks for a token: log in with `hf auth login`, or set HF_TOKEN")
    try:
        made = hub.create_repo(name, token=token, private=private or None, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=made.repo_id,
            folder_path=place,
            allow_patterns=names,
            commit_message="Upload a run of alphabar",
            token=token,
        )
    except Exception as error:  # whatever the network and the hub answer
        raise CheckpointError(f"{name} could not be uploaded: {first_line(error)}") from error
    return str(commit.commit_url)


def _files(place: Path) -> list[str]:
    """Return the names of a run's files, each checked to be the one that was written."""
    if place.is_dir():
        finish(place, DESCRIPTION)
    if not is_checkpoint(place) or not (place / DESCRIPTION).is_file():
        raise CheckpointError(f"{place} is no run of alphabar: give the folder that training has written")
    files: Mapping[str, Any] | None = listed(read_json(place / DESCRIPTION), place / DESCRIPTION)
    if files is None:
        raise CheckpointError(f"{place / DESCRIPTION} lists no files: open the run and save it again")
    for name, facts in files.items():
        if name != CARD and not is_untouched(place / name, facts):
            raise CheckpointError(f"{place / name} is missing, or not the file that {DESCRIPTION} lists")
    has_card = (place / CARD).is_file() and not (place / CARD).is_symlink()
    return sorted({*files, DESCRIPTION} - {CARD} | ({CARD} if has_card else set()))


def _open_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError("the hub", "train") from None
    return huggingface_hub
