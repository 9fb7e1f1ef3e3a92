"""Embeddings of texts: what stands for a text, tables of them, a training and samples that are told them."""

import io
import json
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from cases import check_error
from PIL import Image
from pyarrow import parquet

from alphabar.cli import main
from alphabar.errors import CheckpointError, DataError, MissingExtraError
from alphabar.training import load_data
from alphabar.training.text import embed, open_text_encoder

transformers = pytest.importorskip("transformers")

TEXTS = ["a cat", "a dog and a cat", "dog"]
WORDS = ("a", "and", "cat", "dog")


def saved(folder, model):
    """A folder of a network and of a tokenizer of words, as transformers writes them."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces))
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=8).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def clip(kind="CLIPTextModel"):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    ids = {"vocab_size": 16, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = transformers.CLIPTextConfig(**sizes, **ids, projection_dim=6, max_position_embeddings=8)
    return getattr(transformers, kind)(config).eval()


def bert():
    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    return transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=16)).eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of three text encoders, one of them in the form of a pipeline, and a table with captions."""
    place = tmp_path_factory.mktemp("text")
    saved(place / "clip", clip())
    saved(place / "pipeline" / "text_encoder", clip("CLIPTextModelWithProjection"))
    (place / "pipeline" / "tokenizer").mkdir()
    for path in (place / "clip").glob("*token*"):
        (place / "pipeline" / "tokenizer" / path.name).write_bytes(path.read_bytes())
    (place / "pipeline" / "tokenizer" / "vocab.txt").write_bytes((place / "clip" / "vocab.txt").read_bytes())
    saved(place / "bert", bert())
    table = pa.table({"image": [png(k) for k in range(12)], "caption": [TEXTS[k % 3] for k in range(12)]})
    features = {"image": {"_type": "Image"}, "caption": {"dtype": "string", "_type": "Value"}}
    said = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": said})
    parquet.write_table(table, place / "data.parquet", row_group_size=5)
    return place


def png(k):
    buffer = io.BytesIO()
    Image.fromarray((np.arange(64) * (k + 1) % 256).astype("uint8").reshape(8, 8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def alone(encoder, text):
    """What the network says of one text, without anything that pads it."""
    with torch.no_grad():
        return encoder.model(**encoder.tokenizer([text], return_tensors="pt", return_token_type_ids=False))


@pytest.mark.parametrize(
    ("folder", "width", "stands"),
    [
        ("clip", 8, lambda answer: answer.pooler_output[0]),
        ("pipeline", 6, lambda answer: answer.text_embeds[0]),
        ("bert", 8, lambda answer: answer.last_hidden_state[0].mean(0)),
    ],
)
def test_an_embedding_is_that_of_the_text_alone(folder, width, stands, here):
    encoder = open_text_encoder(folder)
    found = embed(encoder, TEXTS)
    assert found.shape == (3, width)
    for text, each in zip(TEXTS, found, strict=True):
        torch.testing.assert_close(each, stands(alone(encoder, text)), rtol=1e-5, atol=1e-6)  # of float32
    assert (found[0] - found[2]).abs().max() > 1e-3


def test_a_text_that_is_too_long_is_cut(here):
    encoder = open_text_encoder("clip")
    assert encoder.most == 8
    long, longer = ("cat " * 20).strip(), ("cat " * 30).strip()
    assert torch.equal(embed(encoder, [long]), embed(encoder, [longer]))


def test_a_table_keeps_all_else_and_its_texts_become_vectors(here):
    assert main(["encode", "data.parquet", "told.parquet", "--text", "clip", "--batch-size", "4"]) == 0
    before, after = parquet.read_table("data.parquet"), parquet.read_table("told.parquet")
    assert after.column_names == ["image", "caption"]
    assert after.column("image").equals(before.column("image"))
    expected = embed(open_text_encoder("clip"), TEXTS)
    found = torch.tensor(after.column("caption").to_pylist())
    torch.testing.assert_close(found, expected[torch.arange(12) % 3], rtol=1e-5, atol=1e-6)
    features = json.loads(after.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["caption"]["length"] == 8
    data = load_data("told.parquet", conditions=("caption",))
    assert data.conditions["caption"].shape == (12, 8)
    assert data.shape == (1, 8, 8)


def test_a_run_is_trained_on_captions_and_told_others(here, capsys):
    parquet.write_table(pa.table({"caption": ["a dog", "cat and dog"]}), "wanted.parquet")
    for command in (
        "encode data.parquet with.parquet --text bert",
        "encode wanted.parquet asked.parquet --text bert",
        "train with.parquet --condition caption --channels 8 --steps 2 --batch-size 4 --out run",
        "sample run --conditions asked.parquet --num 2 --steps 2 --guidance 2",
    ):
        assert main(command.split()) == 0, capsys.readouterr().err
    assert len(list((here / "run" / "samples").glob("*.png"))) == 2


# --- what is refused ---


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("encode data.parquet a.parquet", "--text FOLDER"),
        ("encode data.parquet a.parquet --text clip --vae clip", "--text FOLDER"),
        ("encode data.parquet folder --text clip", "new .parquet file"),
        ("encode data.parquet data.parquet --text clip", "new .parquet file"),
        ("encode none.parquet a.parquet --text clip", "none.parquet"),
        ("encode data.parquet a.parquet --text clip --text-column title", "no column 'title'"),
        ("encode data.parquet a.parquet --text clip --text-column image", "row 0: expected a text"),
        ("encode holes.parquet a.parquet --text clip", "holds None in row 2"),
        ("encode empty.parquet a.parquet --text clip", "no row"),
        ("encode data.parquet a.parquet --text nowhere", "nowhere holds no text encoder"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_no_file(command, says, here, capsys):
    parquet.write_table(pa.table({"caption": ["a", "cat", None]}), "holes.parquet")
    parquet.write_table(pa.table({"caption": pa.array([], pa.string())}), "empty.parquet")
    before = (here / "data.parquet").read_bytes()
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (here / "a.parquet").exists()
    assert (here / "data.parquet").read_bytes() == before


def test_a_folder_that_is_no_text_encoder_is_a_named_error(place, tmp_path):
    for name, config, says in (
        ("none", {}, "''"),
        ("other", {"architectures": ["rm -rf"]}, "'rm -rf'"),
        ("unknown", {"architectures": ["NoSuchModel"]}, "NoSuchModel"),
        ("function", {"architectures": ["logging"]}, "logging"),
        ("empty", {"architectures": ["BertModel"], "model_type": "bert"}, "does not load"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        check_error(lambda name=name: open_text_encoder(tmp_path / name), CheckpointError, says)


def test_weights_that_are_missing_are_a_named_error(place, tmp_path):
    model = bert()
    folder = saved(tmp_path / "part", model)
    state = {name: each for name, each in model.state_dict().items() if "layer.1" not in name}
    model.save_pretrained(folder, state_dict=state)
    check_error(lambda: open_text_encoder(folder), CheckpointError, "misses", "layer.1")


def test_what_is_no_text_is_a_named_error(here):
    encoder = open_text_encoder("clip")
    check_error(lambda: embed(encoder, []), DataError, "no text")
    check_error(lambda: embed(encoder, ["cat", None]), DataError, "text 1 is None")


def test_transformers_that_is_missing_is_named(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match="pip install transformers"):
        open_text_encoder("clip")
