"""Every run says what it is in a model card, and goes to the hub whole, or not at all."""

import json
import shutil
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from cases import check_error
from test_checkpoint import checkpoint

from alphabar.cli import main
from alphabar.errors import CheckpointError, ConfigError
from alphabar.training import Checkpoint, TrainConfig, load, push_to_hub, save, train


@pytest.fixture
def run(tmp_path):
    return save(tmp_path / "run", checkpoint(("cat", "dog")))


def block(card):
    return card.partition("```python\n")[2].partition("```")[0]


@pytest.mark.parametrize("classes", [(), ("cat", "dog|\nwolf", *map(str, range(30)))])
def test_the_card_says_what_the_network_is_and_its_lines_sample_from_it(classes, tmp_path):
    saved = save(tmp_path / "run", checkpoint(classes))
    text = (saved / "README.md").read_text("utf-8")
    head = huggingface_hub.ModelCard(text).data
    assert head.library_name == "alphabar"
    assert head.license is None
    loaded = load(saved)
    parameters = sum(each.numel() for each in loaded.network.parameters())
    for said in (
        f"{parameters:,} parameters",
        "NoiseSchedule.cosine(steps=20)",
        "`v_prediction`",
        "1×8×8",
        "| `seed` |",
    ):
        assert said in text
    assert all(line.count(" | ") == 1 for line in text.splitlines() if line.startswith("| `"))
    assert ("DDPMPipeline" in text) == bool(classes)
    names = {}
    exec(block(text).replace("PLACE", str(saved)), names)
    assert names["images"].shape == (16, 1, 8, 8)


def test_training_writes_its_settings_into_the_card(tmp_path):
    *_, last = train(TrainConfig(steps=1, batch_size=4, channels=(8,), precision="float32", loss="p2"))
    text = (save(tmp_path / "run", last.snapshot()) / "README.md").read_text("utf-8")
    assert "| `loss` | `p2` |" in text
    assert "| `batch_size` | `4` |" in text


@pytest.mark.parametrize("given", ["{}/photos", "photos", "./photos/"])
def test_a_run_names_the_folder_of_its_data_and_not_where_it_lay(given, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    trained = replace(checkpoint(), training={"data": given.format(tmp_path), "seed": 3})
    saved = save(tmp_path / "run", trained)
    assert load(saved).training == {"data": "photos", "seed": 3}
    assert "| `data` | `photos` |" in (saved / "README.md").read_text("utf-8")
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in saved.rglob("*") if path.is_file())


@pytest.mark.parametrize("source", ["digits", "owner/flowers"])
def test_data_that_anybody_can_find_keep_their_whole_name(source, tmp_path):
    saved = save(tmp_path / "run", replace(checkpoint(), training={"data": source}))
    assert load(saved).training == {"data": source}


def test_a_card_that_somebody_has_changed_is_theirs(run):
    card = run / "README.md"
    save(run, checkpoint())
    assert "classes | none" in card.read_text("utf-8")
    edited = card.read_text("utf-8").replace("# license: yours to choose", "license: mit")
    card.write_text(edited, encoding="utf-8")
    for classes in (("a",), ("b", "c")):
        save(run, checkpoint(classes))
        assert card.read_text("utf-8") == edited
        assert load(run).classes == classes
    card.unlink()
    save(run, checkpoint())
    assert "classes | none" in card.read_text("utf-8")


def test_a_card_that_is_a_link_is_left_alone(run, tmp_path):
    (tmp_path / "mine.md").write_text("mine")
    (run / "README.md").unlink()
    (run / "README.md").symlink_to(tmp_path / "mine.md")
    save(run, checkpoint())
    assert (tmp_path / "mine.md").read_text() == "mine"


# --- the hub, of which nothing is asked here ---


class Hub:
    """Stands for the hub: keeps what is uploaded in a folder."""

    def __init__(self, place, monkeypatch, token="secret"):
        self.place, self.calls = place, []
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
        monkeypatch.setattr(huggingface_hub, "create_repo", self.create)
        monkeypatch.setattr(huggingface_hub, "upload_folder", self.upload)

    def create(self, name, *, token, private, exist_ok):
        self.calls.append((name, token, private, exist_ok))
        return huggingface_hub.RepoUrl(f"{huggingface_hub.constants.ENDPOINT}/{name}")

    def upload(self, *, repo_id, folder_path, allow_patterns, commit_message, token):
        assert token == self.calls[-1][1]
        paths = [path for path in sorted(folder_path.rglob("*")) if path.is_file()]
        names = [path.relative_to(folder_path).as_posix() for path in paths]
        for name in huggingface_hub.utils.filter_repo_objects(names, allow_patterns=allow_patterns):
            (self.place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder_path / name, self.place / name)
        return huggingface_hub.CommitInfo(
            commit_url=f"{repo_id}/commit/1", commit_message=commit_message, commit_description="", oid="1"
        )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    return Hub(tmp_path / "hub", monkeypatch)


def test_a_run_goes_to_the_hub_without_what_else_lies_beside_it(run, hub, capsys):
    (run / "samples").mkdir()
    (run / "samples" / "00000.png").write_bytes(b"private")
    (run / "notes.json").write_text("private")
    assert main(["push", str(run), "someone/digits"]) == 0
    assert capsys.readouterr().out == "uploaded someone/digits/commit/1\n"
    assert hub.calls == [("someone/digits", "secret", None, True)]
    sent = {path.relative_to(hub.place).as_posix() for path in hub.place.rglob("*") if path.is_file()}
    listed = json.loads((run / "alphabar.json").read_text())["files"]
    assert sent == {*listed, "alphabar.json"}
    assert "README.md" in sent
    weights = load(run).network.state_dict()
    assert all(
        torch.equal(weights[name], each) for name, each in load(hub.place).network.state_dict().items()
    )


def test_an_edited_card_goes_with_it_and_a_new_repository_may_be_private(run, hub):
    (run / "README.md").write_text("mine")
    push_to_hub(run, "someone/digits", private=True, token="other")
    assert hub.calls == [("someone/digits", "other", True, True)]
    assert (hub.place / "README.md").read_text() == "mine"


def test_a_damaged_run_and_what_is_no_run_stay_here(run, hub, tmp_path):
    check_error(lambda: push_to_hub(tmp_path / "none", "a/b"), CheckpointError, "none", "is no run")
    check_error(lambda: push_to_hub(tmp_path, "a/b"), CheckpointError, "is no run")
    for name in ("digits", "a/b/c", "../b", None):
        check_error(lambda name=name: push_to_hub(run, name), ConfigError, repr(name), "someone/digits")
    weights = run / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    check_error(lambda: push_to_hub(run, "a/b"), CheckpointError, str(weights), "lists")
    weights.unlink()
    check_error(lambda: push_to_hub(run, "a/b"), CheckpointError, str(weights), "missing")
    assert hub.calls == []


def test_without_a_token_it_says_how_to_get_one(run, tmp_path, monkeypatch, capsys):
    hub = Hub(tmp_path / "hub", monkeypatch, token=None)
    assert main(["push", str(run), "someone/digits"]) == 2
    assert "hf auth login" in capsys.readouterr().err
    assert hub.calls == []


def test_what_the_hub_refuses_is_one_line_without_the_token(run, hub, monkeypatch, capsys):
    def refuse(*arguments, **more):
        raise OSError("403 Forbidden\nask the owner")

    monkeypatch.setattr(huggingface_hub, "create_repo", refuse)
    assert main(["push", str(run), "someone/digits"]) == 2
    assert capsys.readouterr().err == "alphabar: someone/digits could not be uploaded: 403 Forbidden\n"


def test_a_network_of_another_shape_is_described_by_its_own_numbers(tmp_path):
    wide = checkpoint()
    saved = save(tmp_path / "run", Checkpoint(wide.network, wide.schedule, "epsilon", (1, 8, 8)))
    assert "How it was trained" not in (saved / "README.md").read_text("utf-8")
