"""What the explorer computes, what it refuses, and that its server gives nothing else away."""

import itertools
import json
import math
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from alphabar import DDPM, GaussianMixture, NoiseSchedule, add_noise_step, explorer
from alphabar.cli import main
from alphabar.cli.explore import Explore
from alphabar.errors import ConfigError, TimestepError
from alphabar.explorer import forward, pictures, plane, schedules, svg, tables
from alphabar.explorer.asking import LANGUAGES, RefusedError, said, texts_of
from alphabar.explorer.reverse import Chosen, made_sampler, mosaic
from alphabar.process import normal
from alphabar.samplers import REGISTRY, gaussian_error
from alphabar.schedule import FAMILIES

ENGLISH = texts_of("en")
LINEAR = NoiseSchedule.linear()
STATIC = Path(explorer.__file__).parent / "static"


def encoded(picture, kind="PNG", **options):
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# --- the forward process ---


@pytest.fixture(scope="module")
def photograph():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(3, 64, 64, generator=generator) * 2 - 1


@pytest.mark.parametrize("family", ["linear", "cosine"])
@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_single_steps_are_the_chain_of_the_library(photograph, family, t):
    schedule = FAMILIES[family](1000)
    z = normal((1000, *photograph.shape), seed=3)
    x_t = photograph[None]
    for s in range(t + 1):
        x_t = add_noise_step(schedule, x_t, z[s : s + 1], s)
    torch.testing.assert_close(forward.walked(photograph, schedule, t, seed=3), x_t[0])


@pytest.mark.parametrize("way", [forward.jumped, forward.walked])
@pytest.mark.parametrize("t", [0, 250, 999])
def test_both_ways_give_the_predicted_mean_and_variance(photograph, t, way):
    before = photograph.clone()
    found = forward.moments(way(photograph, LINEAR, t, seed=0))
    assert torch.equal(photograph, before)
    expected = forward.predicted(forward.moments(photograph), LINEAR, t)
    # Errors of a mean and a variance over N pixels: 1/√N and √(2/N), plus the product with the picture.
    error = 1 / math.sqrt(photograph.numel())
    assert found.mean == pytest.approx(expected.mean, abs=4 * error)
    assert found.variance == pytest.approx(expected.variance, abs=4 * 2 * error)


@pytest.mark.parametrize("way", [forward.jumped, forward.walked])
@pytest.mark.parametrize("t", [-1, 1000])
def test_a_level_that_is_not_there_is_refused(photograph, t, way):
    with pytest.raises(TimestepError):
        way(photograph, LINEAR, t, seed=0)


def test_moments_are_those_of_the_pixels(photograph):
    found = forward.moments(photograph)
    assert found.mean == pytest.approx(float(photograph.double().mean()), rel=1e-12)
    assert found.variance == pytest.approx(float(photograph.double().var(correction=0)), rel=1e-12)


def test_the_histogram_and_the_curves_say_what_they_show_in_numbers(photograph):
    x_t = {"linear": forward.jumped(photograph, LINEAR, 999, seed=0)}
    share = float(re.search(r"linear ([\d.]+)%", forward.histogram(x_t, 999, ENGLISH))[1])
    assert share == pytest.approx(68.27, abs=4 * 100 * math.sqrt(0.68 * 0.32 / photograph.numel()))
    densities = forward._shares(x_t["linear"])
    assert torch.allclose(
        densities, torch.histc(x_t["linear"], 80, -4, 4) / photograph.numel(), atol=2 / photograph.numel()
    )
    drawn = forward.curves({"linear": LINEAR, "cosine": NoiseSchedule.cosine()}, ENGLISH, 500)
    assert len(drawn) == 4
    assert f"linear {svg.number(float(LINEAR.beta[500]))}" in drawn[0]


# --- plots ---


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.5, 3.5), (0, 999), (1e-9, 3e-9), (-1e6, 2e5)])
def test_ticks_are_round_inside_and_few(low, high):
    ticks = svg.nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert low - 1e-9 * (high - low) <= ticks[0] < ticks[-1] <= high + 1e-9 * (high - low)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in itertools.pairwise(ticks)}
    assert steps == {1.0}


@pytest.mark.parametrize("log", [False, True])
def test_a_curve_goes_through_its_values_and_is_broken_where_they_are_not_finite(log):
    values = [1.0, 10.0, math.nan, 1000.0, math.inf, 10.0]
    picture = svg.plot([svg.Curve("", range(6), values)], title="<&>", alt='"1"', y=(1, 1000), log_y=log)
    assert "&lt;&amp;&gt;" in picture
    assert 'aria-label="&quot;1&quot;"' in picture
    (line,) = re.findall(r'class="curve c0" d="([^"]+)"', picture)
    frame = svg.Frame((0, 5), (1, 1000), log_y=log)
    assert line.count("M") == 3
    assert line.startswith(f"M{frame.across(0):.1f} {frame.down(1):.1f}L{frame.across(1):.1f}")
    assert frame.down(1000) == svg.TOP
    assert (frame.down(1) - frame.down(10) > 30) == log


@pytest.mark.parametrize(
    ("value", "text"), [(1e-5, "10⁻⁵"), (-2.5e7, "−2.5·10⁷"), (0.25, "0.25"), (math.inf, "∞"), (0, "0")]
)
def test_numbers_are_written_without_the_signs_of_programs(value, text):
    assert svg.number(value) == text


# --- schedules ---


@pytest.mark.parametrize("steps", [2, 50, 1000])
@pytest.mark.parametrize("kind", schedules.KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_copied_code_and_the_configuration_make_the_schedule_that_is_drawn(family, kind, steps):
    points = schedules.points_of(family, kind, steps)
    drawn = schedules.drawn(points, kind, steps, ENGLISH)
    made = {}
    exec(drawn.code, made)
    assert made["schedule"] == drawn.schedule
    assert len(drawn.schedule) == steps
    assert NoiseSchedule.from_config(json.loads(drawn.config)) == drawn.schedule


@pytest.mark.parametrize("kind", schedules.KINDS)
def test_a_schedule_goes_through_its_points(kind):
    points = schedules.points_of("linear", kind, 601)
    values = schedules.KINDS[kind].read(schedules.drawn(points, kind, 601, ENGLISH).schedule)
    # log-SNR is read back from ᾱ, which near 1 holds 1 − ᾱ to 2⁻⁵³ of 1
    assert values[::100].tolist() == pytest.approx(points, rel=1e-11, abs=1e-9)


@pytest.mark.parametrize(
    ("points", "kind", "steps", "warning"),
    [
        ([1e-4, 1e-4], "beta", 100, "warn_left"),
        ([1e-2, 0.5], "beta", 1000, "warn_empty"),
        ([1e-6, 1e-6, 0.1], "beta", 1000, "warn_clean"),
        ([0.1, 0.9, 0.9], "beta", 10, "warn_step"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said(points, kind, steps, warning):
    said = schedules.drawn(points, kind, steps, ENGLISH).warnings
    assert any(each.startswith(ENGLISH[warning].partition("{")[0]) for each in said)


@pytest.mark.parametrize("family", ["linear", "scaled_linear"])
def test_there_is_nothing_to_say_against_schedules_that_are_in_use(family):
    said = schedules.warnings_of(FAMILIES[family](1000), ENGLISH)
    assert all(each.startswith("Wasted") for each in said)


@pytest.mark.parametrize(("points", "kind"), [([1, 2, 0], "log_snr"), ([0.1, 2], "beta"), ([0, 0.1], "beta")])
def test_points_that_no_schedule_can_have_are_refused(points, kind):
    with pytest.raises(RefusedError):
        schedules.drawn(points, kind, 10, ENGLISH)


# --- two dimensions ---


@pytest.fixture
def clusters():
    means = torch.tensor([[-1.0, 0.3], [1.2, -0.4], [0.2, 1.5]], dtype=torch.float64)
    widths = torch.tensor([0.3, 0.1, 0.5], dtype=torch.float64)
    return GaussianMixture(means, widths, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64))


def density_of(data, schedule, x, t):
    """q(x_t) of a mixture, written out."""
    alpha_bar = float(schedule.alpha_bar[t])
    power = alpha_bar * data.widths**2 + 1 - alpha_bar
    offset = x[:, None] - alpha_bar**0.5 * data.means
    each = (-offset.square().sum(2) / (2 * power)).exp() / (2 * math.pi * power)
    return each @ (data.weights / data.weights.sum())


def test_the_score_is_the_gradient_of_the_log_density(clusters, rng):
    x = torch.randn(20, 2, generator=rng, dtype=torch.float64).requires_grad_()
    density_of(clusters, LINEAR, x, 400).log().sum().backward()
    found = plane.score(clusters, LINEAR, x.detach(), 400)
    assert torch.allclose(found, x.grad, rtol=1e-9, atol=1e-11)


def test_one_step_back_is_shown_along_the_line_between_two_clusters():
    data = plane.mixture("two", [], 0.12)
    found = plane.step_back(data, LINEAR, [0, 0.3], 400, 100)
    torch.testing.assert_close(found.direction, torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(found.exact.moments.mean, found.gaussian.moments.mean)
    alpha_bar, before = LINEAR.alpha_bar[400], LINEAR.alpha_bar[100]
    variance = (1 - before) / (1 - alpha_bar) * (1 - alpha_bar / before)  # of q(x_s | x_t, x_0)
    assert plane.deviation(found.gaussian) ** 2 == pytest.approx(float(variance), rel=1e-12)
    told = plane.step_back_told(found, ENGLISH)
    assert svg.number(plane.deviation(found.exact), 3) in told
    assert told in plane.step_back_plot(found, 400, 100, ENGLISH)


def test_a_short_step_back_is_nearly_the_gaussian_and_a_long_one_is_not(clusters):
    def ratio(t, s):
        found = plane.step_back(clusters, LINEAR, [0.1, 0.2], t, s)
        return plane.deviation(found.exact) / plane.deviation(found.gaussian)

    assert ratio(500, 499) == pytest.approx(1, abs=0.01)
    assert ratio(500, 0) > 3


def test_particles_end_as_the_data_are_distributed(clusters):
    found = plane.flow(clusters, LINEAR, DDPM(steps=1000), count=2000, seed=0)
    assert found.frames.shape == (1001, 2000, 2)
    assert found.ts[0] == 999
    assert found.ts[-1] == -1
    nearest = torch.cdist(found.frames[-1], clusters.means).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / 2000
    drawn = torch.cdist(clusters.draw(20_000, generator=torch.Generator().manual_seed(2)), clusters.means)
    expected = torch.bincount(drawn.argmin(1), minlength=3) / 20_000
    assert (shares - expected).abs().max() < 4 * math.sqrt(0.25 / 2000) + 0.01


@pytest.mark.parametrize("points", [[], [[0, 9]], [[0, 0]] * 301, [[1]]])
def test_points_that_cannot_be_drawn_are_refused(points):
    with pytest.raises(ConfigError):
        plane.mixture("drawn", points, 0.1)


# --- samplers ---


@pytest.mark.parametrize("name", REGISTRY)
def test_a_table_shows_the_plan_and_the_curve_its_exact_error(name):
    chosen = Chosen(name, 10)
    found = tables.table(chosen, LINEAR)
    sampler = made_sampler(chosen)
    assert len(found.rows) == found.evaluations == len(sampler.plan(LINEAR))
    assert found.rows[0][0] == svg.number(sampler.plan(LINEAR).rows[0].t, 6)
    assert dict(tables.error_curve(chosen, LINEAR))[found.evaluations] == gaussian_error(sampler, LINEAR)
    assert "Error against" in tables.error_plot([chosen], LINEAR, ENGLISH)


def test_a_long_table_is_cut_in_its_middle():
    found = tables.table(Chosen("ddim", 100), LINEAR)
    assert len(found.rows) + found.left_out == found.evaluations == 100
    assert found.rows[-1][1] == "−1"


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (10, 2, 5), (11, 3, 5)])
def test_samples_lie_side_by_side_with_lines_between(count, rows, columns):
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 3, 8, 8) / 100
    sheet = mosaic(images)
    assert sheet.shape == (3, rows * 9 - 1, columns * 9 - 1)
    for i in range(count):
        top, left = i // columns * 9, i % columns * 9
        assert (sheet[:, top : top + 8, left : left + 8] == i / 100).all()


# --- pictures ---


def test_an_upload_becomes_its_middle_square_at_most_512_wide():
    x_0 = pictures.decoded(encoded(Image.new("RGB", (900, 700), (255, 0, 0))))
    assert x_0.shape == (3, 512, 512)
    assert x_0[:, 0, 0].tolist() == [1, -1, -1]
    assert pictures.decoded(encoded(Image.new("L", (40, 30)))).shape == (1, 30, 30)


def eps():
    return encoded(Image.new("RGB", (4, 4)), "EPS")


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (lambda: b"", "upload_broken"),
        (lambda: b"GIF89a", "upload_broken"),
        (lambda: encoded(Image.new("RGB", (64, 64), "red"))[:-40], "upload_broken"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "upload_broken"),
        (lambda: encoded(Image.new("1", (10_000, 6_800))), "upload_pixels"),
        (lambda: encoded(Image.new("1", (20_000, 20_000))), "upload_pixels"),
        (lambda: bytes(pictures.LARGEST_UPLOAD + 1), "upload_bytes"),
        (eps, "upload_broken"),
    ],
)
def test_a_file_that_cannot_be_shown_is_refused_in_every_language(content, key):
    with pytest.raises(RefusedError) as refused:
        pictures.decoded(content())
    for language in LANGUAGES:
        text = texts_of(language)[key].format(most={"upload_bytes": 10}.get(key, 67))
        assert said(refused.value, texts_of(language)) == text


def test_what_the_library_refuses_is_quoted_in_a_sentence_of_the_readers_language():
    wrong = ConfigError("steps is 0")
    assert said(wrong, ENGLISH) == "steps is 0"
    assert said(wrong, texts_of("zh")) == texts_of("zh")["library_says"].format(why="steps is 0")


@pytest.mark.parametrize(("side", "kept"), [(64, 64), (65, 33), (512, 64), (8, 8)])
def test_a_thinned_picture_has_pixels_at_equal_distances(side, kept):
    x = torch.arange(side * side, dtype=torch.float32).view(1, side, side)
    found = pictures.thinned(x, 64)
    assert found.shape == (1, kept, kept)
    stride = -(-side // 64)
    assert found[0, 1, 2] == stride * side + 2 * stride
    assert pictures.thinned(x[:, : side // 2], 64).shape[2] == kept


def test_only_the_last_uploads_are_kept():
    album = pictures.Album()
    names = [album.add(torch.zeros(1, 2, 2)) for _ in range(pictures.KEPT + 1)]
    assert album[names[-1]].shape == (1, 2, 2)
    with pytest.raises(RefusedError, match="upload it again"):
        album[names[0]]


@pytest.mark.parametrize("name", ["china", "flower", "digit"])
def test_pictures_come_with_scikit_learn(name):
    x_0 = pictures.Album()[name]
    assert x_0.abs().max() <= 1
    assert x_0.shape[1] == x_0.shape[2] == (8 if name == "digit" else 512)


def test_a_picture_is_sent_exactly(photograph):
    import base64

    content = base64.b64decode(pictures.data_url(photograph).partition(",")[2])
    assert torch.equal(pictures.pixels(Image.open(BytesIO(content))), pictures.to_uint8(photograph))


# --- texts ---


def test_both_languages_have_the_same_texts_with_the_same_gaps():
    gaps = [
        {key: sorted(re.findall(r"\{\w*\}", text)) for key, text in texts_of(language).items()}
        for language in LANGUAGES
    ]
    assert gaps[0] == gaps[1]
    same = {key for key, text in ENGLISH.items() if texts_of("zh")[key] == text}
    assert same == {"moment_mean_predicted", "moment_variance_predicted"}  # formulas


def test_every_text_is_used_and_every_text_that_is_used_is_there():
    folder = Path(explorer.__file__).parent
    sources = [*STATIC.iterdir(), *folder.glob("*.py")]
    text = "\n".join(path.read_text("utf-8") for path in sources)
    used = set(re.findall(r"""(?:data-text|data-label)="(\w+)"|text\("(\w+)"\)|texts\["(\w+)"\]""", text))
    names = {name for found in used for name in found if name}
    assert names <= set(ENGLISH)
    families = ("picture_", "data_", "moment_", "what_", "warn_", "state_", "tab_")
    for name in ENGLISH:
        assert name in names or f'"{name}"' in text or name.startswith(families), name
    assert {f"picture_{name}" for name in ["given", "upload", *pictures.SHIPPED]} <= set(ENGLISH)
    assert {f"data_{name}" for name in ["drawn", *plane.PRESETS]} <= set(ENGLISH)


def test_the_page_and_its_scripts_name_no_other_address():
    for path in STATIC.iterdir():
        addresses = set(re.findall(r"https?://[^\"'\s]+", path.read_text("utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name  # the name of SVG, which is not fetched


# --- the command ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "0"], "port is 0"),
        (["--lang", "fr"], "choose one of 'en', 'zh'"),
        (["--image", "nowhere.png"], "nowhere.png: No such file"),
        (["no/such/run"], "no/such/run"),
        (["--seconds", "0"], "seconds is 0"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, said, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["explore", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_command_serves_the_page_until_it_is_interrupted(tmp_path):
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    Image.new("RGB", (30, 20), "red").save(tmp_path / "photo.png")
    arguments = ["--port", str(port), "--image", str(tmp_path / "photo.png"), "--lang", "zh"]
    command = [sys.executable, "-m", "alphabar", "explore", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout.readline() == f"http://127.0.0.1:{port}\n"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/options") as answer:
                found = json.load(answer)
        finally:
            running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 0
    assert found["language"] == "zh"
    assert found["pictures"][0] == "given"


def test_a_run_that_is_given_or_lies_where_the_demo_left_it_is_shown(tmp_path, monkeypatch):
    few = ["--steps", "1", "--batch-size", "4", "--channels", "8", "--precision", "float32"]
    monkeypatch.chdir(tmp_path)
    assert Explore()._page().run.progress.state == "none"
    assert main(["train", *few, "--out", "demo/run"]) == 0
    for command in (Explore(), Explore(run="demo/run")):
        page = command._page()
        assert page.run.progress.state == "ready"
        assert page.run.trained.shape == (1, 8, 8)


def test_without_its_extra_the_command_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "alphabar.explorer.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["explore"]) == 2
    assert "pip install 'alphabar[explore]'" in capsys.readouterr().err


def test_a_port_in_use_is_one_line(capsys):
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["explore", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be listened on" in capsys.readouterr().err
