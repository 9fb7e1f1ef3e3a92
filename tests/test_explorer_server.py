"""The explorer's server gives what the page asks, within limits, and nothing else."""

import json
from io import BytesIO

import pytest
import torch
from explorer import page_of
from PIL import Image
from torch import nn

from alphabar import NoiseSchedule
from alphabar.explorer.answers import options
from alphabar.explorer.forward import jumped
from alphabar.explorer.pictures import Album
from alphabar.training import Checkpoint, to_uint8
from alphabar.training.images import pixels

testclient = pytest.importorskip("starlette.testclient", reason="the explore extra is not installed")

from alphabar.explorer.server import HEADERS, LARGEST_QUESTION, application  # noqa: E402

OURS = {"X-Alphabar": "1"}
SAMPLER = {"sampler": "ddim", "evaluations": 4, "eta": 0, "spacing": ""}
MIXTURE = {"data": "ring", "points": [], "width": 0.1, "schedule": "cosine"}
QUESTIONS = {
    "forward": {"picture": "digit", "schedules": [{"name": "linear"}], "t": 3, "seed": 0, "way": "steps"},
    "points": {"family": "cosine", "kind": "beta", "steps": 100},
    "schedule": {"kind": "beta", "points": [0.001, 0.1], "steps": 50},
    "field": {**MIXTURE, "t": 300, "back": 20, "x": 0, "y": 1},
    "flow": {**MIXTURE, **SAMPLER, "count": 5, "seed": 0},
    "table": {"schedule": "linear", "samplers": [SAMPLER]},
}


class Half(nn.Module):
    """A network with one parameter, whose v̂ leads to a finite x̂_0."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, class_labels=None):
        return self.scale * x


def trained(classes=("cat", "dog"), label_dropout=0.1):
    return Checkpoint(
        Half(), NoiseSchedule.cosine(), "v_prediction", (1, 8, 8), classes, {"label_dropout": label_dropout}
    )


def client(page=None, host="127.0.0.1", base="http://127.0.0.1:7860"):
    return testclient.TestClient(
        application(page or page_of(), host), base_url=base, raise_server_exceptions=False
    )


@pytest.fixture(scope="module")
def ours():
    return client()


def sampled(page, **changes):
    body = {"samplers": [SAMPLER], "label": "", "guidance": 1, "seed": 0, "num": 3, **changes}
    answer = client(page).post("/api/sample", json=body, headers=OURS)
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_question_is_answered_in_each_language(ours, question, language):
    answer = ours.post(f"/api/{question}?lang={language}", json=QUESTIONS[question], headers=OURS)
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.json()
    assert ("。" in answer.text or "，" in answer.text or "：" in answer.text) == (
        language == "zh" and question not in ("points", "flow")
    )


@pytest.mark.parametrize(
    "path",
    [
        *("/file=/etc/passwd", "/file/etc/passwd", "/gradio_api/file=/etc/passwd", "/etc/passwd"),
        *("/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e/server.py", "/static/"),
        *(
            "/static//etc/passwd",
            "/static/%2fetc%2fpasswd",
            "/static/page.html%00.js",
            "/static",
            "/texts/en.json",
        ),
        *("/texts/en.json", "/api/picture/../../server.py", "/api", "/docs", "/openapi.json"),
    ],
)
def test_nothing_but_the_page_can_be_read(ours, path):
    answer = ours.get(path)
    assert answer.status_code in (404, 405)
    assert "root:" not in answer.text
    assert "import" not in answer.text


def test_a_picture_is_asked_for_by_name_never_by_path(ours):
    for name in ("/etc/passwd", "../page.html", "given"):
        body = {**QUESTIONS["forward"], "picture": name}
        answer = ours.post("/api/forward", json=body, headers=OURS)
        assert answer.status_code == 400
        assert "unknown picture" in answer.json()["error"]


def test_a_noised_picture_is_sent_exactly_and_to_the_page_alone(ours):
    question = {**QUESTIONS["forward"], "picture": "china", "way": "jump", "t": 400}
    asked = {"params": {"asked": json.dumps(question)}}
    answer = ours.get("/api/noised", **asked)
    assert answer.headers["content-type"] == "image/png"
    noised = jumped(Album()["china"], NoiseSchedule.linear(), 400, seed=0)
    assert torch.equal(pixels(Image.open(BytesIO(answer.content))), to_uint8(noised))
    assert ours.get("/api/noised", headers={"Sec-Fetch-Site": "cross-site"}, **asked).status_code == 400
    for wrong in ({}, {"asked": "no JSON"}, {"asked": json.dumps({**question, "picture": "/etc/passwd"})}):
        assert ours.get("/api/noised", params=wrong).status_code == 400


def test_every_answer_keeps_the_page_to_itself(ours):
    for answer in (ours.get("/"), ours.get("/nowhere"), ours.get("/static/page.js")):
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "'unsafe" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize("question", [*QUESTIONS, "picture", "sample", "train"])
def test_another_sites_page_cannot_ask(ours, question):
    answer = ours.post(f"/api/{question}", content=b"{}")
    assert answer.status_code == 400
    assert "only the explorer's own page" in answer.json()["error"]
    assert ours.options(f"/api/{question}").status_code == 405  # what a browser asks first


def test_on_the_loopback_address_it_answers_under_no_other_name():
    for base in ("http://localhost:7860", "http://127.0.0.1", "http://[::1]:7860"):
        for host in ("127.0.0.1", "localhost", "::1"):
            assert client(host=host, base=base).get("/").status_code == 200
            assert client(host=host, base="http://attacker.example:7860").get("/").status_code == 400
    assert client(host="0.0.0.0", base="http://my-machine:7860").get("/").status_code == 200


@pytest.mark.parametrize(
    ("question", "change", "said"),
    [
        ("forward", {"t": 1000}, "t is 1000"),
        ("forward", {"t": 1.5}, "whole"),
        ("forward", {"t": True}, "t is True"),
        ("forward", {"t": None}, "t is None"),
        ("forward", {"seed": -1}, "seed"),
        ("forward", {"schedules": [{"name": "linear"}] * 4}, "1 to 3"),
        ("forward", {"schedules": ["linear"]}, "objects"),
        ("forward", {"schedules": [{"name": "lin"}]}, "unknown schedule"),
        ("schedule", {"points": [0.1] * 21}, "2 to 20"),
        ("schedule", {"points": ["a", "b"]}, "finite numbers"),
        ("schedule", {"steps": 10**9}, "steps"),
        ("points", {"kind": "gamma"}, "unknown kind"),
        ("field", {"points": [[0, 0, 0]]}, "pairs"),
        ("field", {"data": "drawn", "points": [[0, 0]] * 301}, "301 points"),
        ("field", {"width": 0}, "width"),
        ("flow", {"count": 10**6}, "count"),
        ("flow", {"evaluations": 1001}, "evaluations"),
        ("flow", {"spacing": "odd"}, "unknown spacing"),
        ("table", {"samplers": [{**SAMPLER, "sampler": "magic"}]}, "unknown sampler"),
        ("table", {"samplers": [{**SAMPLER, "sampler": "fitted", "evaluations": 300}]}, "300"),
        ("table", {"samplers": []}, "1 to 2"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(ours, question, change, said):
    answer = ours.post(f"/api/{question}", json={**QUESTIONS[question], **change}, headers=OURS)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"t": NaN}'])
def test_what_is_no_question_is_refused(ours, content):
    answer = ours.post("/api/forward", content=content, headers=OURS)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_body_is_read_no_further_than_its_limit(ours):
    answer = ours.post("/api/forward", content=b" " * (LARGEST_QUESTION + 1), headers=OURS)
    assert "at most" in answer.json()["error"]
    answer = ours.post("/api/picture", content=bytes(options(page_of())["largest_upload"] + 1), headers=OURS)
    assert "10 MB" in answer.json()["error"]


@pytest.mark.parametrize(
    ("question", "change"),
    [
        ("forward", {"t": 1000}),
        ("forward", {"picture": "upload-0"}),
        ("schedule", {"kind": "log_snr", "points": [1, 2]}),
        ("flow", {"evaluations": 1001}),
        ("table", {"samplers": [{**SAMPLER, "sampler": "fitted", "evaluations": 300}]}),
        ("nothing", {}),
    ],
)
def test_a_refusal_is_in_the_readers_language(ours, question, change):
    body = {**QUESTIONS.get(question, {}), **change}
    refused = {}
    for language in ("en", "zh", "xx"):
        answer = ours.post(f"/api/{question}?lang={language}", json=body, headers=OURS)
        assert answer.status_code == 400
        refused[language] = answer.json()["error"]
    assert set("，。") & set(refused["zh"])
    assert refused["xx"] == refused["en"]
    assert refused["en"].isprintable()
    assert not set("，。") & set(refused["en"])


def test_a_refusal_while_sampling_is_in_the_readers_language():
    body = {"samplers": [SAMPLER], "label": "bird", "guidance": 1, "seed": 0, "num": 3}
    for page in (page_of(), page_of(trained())):
        answer = client(page).post("/api/sample?lang=zh", json=body, headers=OURS)
        assert "，" in json.loads(answer.text)["error"]


def test_of_a_long_chain_some_states_are_shown_evenly_and_the_last():
    states = sampled(page_of(trained()), samplers=[{**SAMPLER, "evaluations": 1000}])
    assert [state["step"] for state in states] == [*range(0, 1000, 17), 1000]
    assert states[-1]["t"] == -1
    # Of independent normal numbers, 3 × 64 of them: the error of a standard deviation is 1/√(2N) = .05.
    assert states[0]["x_t_spread"] == pytest.approx(1, abs=0.2)


def test_two_chains_begin_with_the_same_noise_and_pass_every_state():
    states = sampled(page_of(trained()), samplers=[SAMPLER, {**SAMPLER, "sampler": "ddpm", "evaluations": 6}])
    sides = [[state for state in states if state["side"] == side] for side in (0, 1)]
    assert [len(side) for side in sides] == [5, 7]
    assert sides[0][0]["x_t"] == sides[1][0]["x_t"]
    assert [state["t"] for state in sides[0]] == [999, 749, 499, 249, -1]
    assert sides[0][-1]["x_t"] == sides[0][-1]["x_0"]
    again = sampled(page_of(trained()))
    assert again[-1]["x_t"] == sides[0][-1]["x_t"]


def test_guidance_and_classes_go_to_the_network():
    page = page_of(trained())
    assert sampled(page, label="dog", guidance=3)[-1]["t"] == -1
    assert "unknown class" in sampled(page, label="bird")[-1]["error"]
    unguided = page_of(trained(label_dropout=0))
    assert client(unguided).get("/api/run").json()["guided"] is False
    assert "leave guidance at 1" in sampled(unguided, guidance=3)[-1]["error"]
    assert sampled(page_of(trained(classes=())))[-1]["t"] == -1


def test_a_network_that_fails_is_said_in_the_last_line():
    broken = trained()
    broken.network.scale.data.fill_(float("nan"))
    assert "NaN or infinity at step 0" in sampled(page_of(broken))[-1]["error"]


def test_before_a_network_is_there_sampling_says_so():
    page = page_of()
    assert client(page).get("/api/run").json()["state"] == "none"
    assert "no network is trained yet" in sampled(page)[-1]["error"]


def test_a_training_that_fails_says_why_and_can_be_begun_again(monkeypatch):
    import threading

    from alphabar.errors import DataError
    from alphabar.explorer import reverse

    def failing(config):
        raise DataError("no digits here")

    monkeypatch.setattr(reverse, "train", failing)
    page = page_of()
    for _ in range(2):
        client(page).post("/api/train", json={}, headers=OURS)
        for thread in threading.enumerate():
            if thread.name == "training":
                thread.join()
        assert page.run.progress.state == "failed"
        assert page.run.progress.trouble == "no digits here"
