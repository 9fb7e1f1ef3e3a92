"""Text as vectors, by a text encoder of transformers that lies in a folder; nothing is fetched.

    CLIP      its projected embedding, or the pooled state where it has no projection
    others    the mean over the tokens of the last hidden state, without those that pad

Radford et al. 2021, arXiv 2103.00020, section 2.4, for the first; Reimers & Gurevych 2019, arXiv 1908.10084,
section 3, for the second. What pads a text changes nothing of it: a batch gives what each text gives alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from alphabar.denoise._places import first_line, loading, part
from alphabar.denoise.files import read_json, whole_file
from alphabar.denoise.precision import autocast
from alphabar.errors import CheckpointError, DataError, MissingExtraError, NoAnswerError
from alphabar.training.images import translated
from alphabar.training.paths import files_of

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = ["TextEncoder", "embed", "open_text_encoder", "write_embedded"]

LONGEST = 512  # tokens, where neither network nor tokenizer says how many it takes


class TextEncoder(NamedTuple):
    """A tokenizer and a network of transformers."""

    tokenizer: Any
    model: Any

    @property
    def most(self) -> int:
        """How many tokens of a text are read."""
        places = getattr(self.model.config, "max_position_embeddings", None) or LONGEST
        return int(min(places, self.tokenizer.model_max_length))


def open_text_encoder(place: str | Path, device: torch.device | str = "cpu") -> TextEncoder:
    """Return the text encoder of a folder that transformers wrote, or of a diffusers pipeline.

    Args:
        place: a folder with network and tokenizer, or with ``text_encoder/`` and ``tokenizer/``.
        device: where its weights go.

    Raises:
        CheckpointError: no such folder, or one that holds something else or does not load.
        MissingExtraError: transformers is not installed.
    """
    folder = part(Path(place), "text_encoder")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{place} holds no text encoder: give a folder with the config.json of one")
    name = str((read_json(folder / "config.json").get("architectures") or [""])[0])
    kind: Any = getattr(_transformers(), name, None) if name.isidentifier() else None
    is_network = isinstance(kind, type) and issubclass(kind, _transformers().PreTrainedModel)
    if not is_network:
        raise CheckpointError(f"{folder} holds {name!r:.60}: give a text encoder, such as a CLIPTextModel")
    with loading(folder), redirect_stderr(StringIO()):  # of bars
        tokenizer = _transformers().AutoTokenizer.from_pretrained(
            part(Path(place), "tokenizer"), local_files_only=True
        )
        model, found = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(f"{folder} misses {len(missing)} weights of {name}, such as {missing[0]}")
    return TextEncoder(tokenizer, model.eval().requires_grad_(False).to(device))


def embed(encoder: TextEncoder, texts: Sequence[str], precision: str = "float32") -> Tensor:
    """Return the embedding of each text, (B, E) float32; of one that is too long, that of its beginning.

    Args:
        encoder: as :func:`open_text_encoder` returns it.
        texts: at least one.
        precision: of its arithmetic, as of a :class:`~alphabar.Denoiser`.

    Raises:
        DataError: no text, or something else among them.
        CheckpointError: a network that returns no such state for tokens alone.
        NoAnswerError: embeddings that are not finite.
    """
    if not len(texts):
        raise DataError("there is no text")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"text {number} is {text!r:.60}: give words")
    device = next(encoder.model.parameters()).device
    try:
        tokens = encoder.tokenizer(
            list(texts), padding=True, truncation=True, max_length=encoder.most, return_tensors="pt"
        ).to(device)
        given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad(), autocast(device, precision):
            found = _pooled(encoder.model, given)
    except Exception as error:  # of a network that is no text encoder, or a tokenizer of another one
        name = type(encoder.model).__name__
        raise CheckpointError(f"{name} does not read the tokens of this text: {first_line(error)}") from error
    if not found.isfinite().all():
        raise NoAnswerError("the text encoder returned embeddings that are not finite: encode in float32")
    return found


def write_embedded(
    source: str,
    out: Path,
    column: str,
    embedded: Callable[[Sequence[str]], Tensor],
    batch_size: int,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> tuple[int, int]:
    """Write a table whose texts are replaced by their embeddings; return its rows, and their length E.

    Args:
        source: .parquet files, by a name as :func:`alphabar.training.load_data` takes it.
        out: the .parquet file, which is there when it is whole.
        column: of the texts.
        embedded: makes (B, E) of some of them.
        batch_size: how many.
        progress: wraps the groups of rows, for instance to draw a bar.

    Raises:
        DataError: no such files or column, or a text that is missing.
        MissingExtraError: pyarrow is not installed.
    """
    with translated(f"{source!r}, taken for .parquet files, cannot be read"):
        from pyarrow.parquet import ParquetFile, ParquetWriter

        files = [ParquetFile(path) for path in files_of(source)]
        groups = [(file, group) for file in files for group in range(file.num_row_groups)]
        rows, width, schema = 0, 0, None
        with ExitStack() as stack:
            draft = stack.enter_context(whole_file(out))
            for file, group in progress(groups):
                table = file.read_row_group(group)
                if column not in table.column_names:
                    raise ValueError(f"it has no column {column!r}, only {', '.join(table.column_names)}")
                texts = table.column(column).to_pylist()
                if not texts:
                    continue
                _check_texts(texts, column, rows)
                parts = [embedded(texts[at : at + batch_size]) for at in range(0, len(texts), batch_size)]
                table = _replaced(table, column, torch.cat(parts).cpu())
                if schema is None:
                    schema = table.schema
                    writer = stack.enter_context(ParquetWriter(draft, schema))
                writer.write_table(table.cast(schema))
                rows, width = rows + len(texts), parts[0].shape[1]
            if not rows:
                raise ValueError("it has no row")
    return rows, width


def _check_texts(texts: Sequence[Any], column: str, first: int) -> None:
    for row, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise ValueError(f"its column {column!r} holds {text!r:.60} in row {row}: expected a text")


def _replaced(table: Table, column: str, values: Tensor) -> Table:
    """Return a table with values, (N, E), in place of a column; what it says of its columns stays true."""
    import pyarrow as pa

    width = values.shape[1]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.flatten().numpy()), width)
    table = table.set_column(table.column_names.index(column), column, lists)
    said = dict(table.schema.metadata or {})
    known = json.loads(said.get(b"huggingface", b"{}"))
    features = known.get("info", {}).get("features", {})
    if column in features:
        number = {"dtype": "float32", "_type": "Value"}
        features[column] = {"feature": number, "length": width, "_type": "Sequence"}
        said[b"huggingface"] = json.dumps(known).encode()
    return table.replace_schema_metadata(said)


def _pooled(model: Any, given: Mapping[str, Tensor]) -> Tensor:
    """Return what stands for each text, (B, E) float32."""
    answer = model(**given)
    own = getattr(answer, "text_embeds", None)
    if own is None and "clip" in str(model.config.model_type):
        own = answer.pooler_output  # that of others, as BERT, was trained for something else
    if isinstance(own, Tensor):
        return own.float()
    kept = given["attention_mask"][..., None].float()
    mean: Tensor = (answer.last_hidden_state.float() * kept).sum(1) / kept.sum(1).clamp(min=1)
    return mean


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("a text encoder", package="transformers") from None
    return transformers
