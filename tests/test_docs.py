"""The two languages have the same pages, links lead somewhere, each of the whys has its place."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LANGUAGES = ("en", "zh")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"(?ms)^```.*?^```$|`[^`\n]*`")
BLOCKS = re.compile(r"(?ms)^```python\n.*?^```$")


def pages(language):
    return {path.relative_to(DOCS / language).as_posix(): path for path in (DOCS / language).rglob("*.md")}


def loaded(name, folder="_site"):
    spec = importlib.util.spec_from_file_location(name, DOCS / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gallery():
    pytest.importorskip("sklearn")
    return loaded("gallery")


def test_every_picture_of_the_gallery_is_shown_in_both_languages(gallery):
    for language in LANGUAGES:
        page = pages(language)["gallery.md"].read_text()
        assert re.findall(r"_pictures/(\w+)\.svg", page) == list(gallery.PICTURES)
        assert all(callable(getattr(gallery, name)) for name in re.findall(r":pyobject: (\w+)", page))


def test_digits_of_the_gallery_are_in_the_data_up_to_their_blur(gallery):
    gallery.EVALUATIONS = (50,)
    made, pixels = gallery.by_evaluations().flatten(0, 1), gallery.handwriting().means
    assert torch.cdist(made, pixels).amin(1).max() < 2 * 0.1 * 64**0.5  # the blur is .1 in 64 dimensions


def test_what_inpainting_keeps_is_kept(gallery):
    x_0, _, drawn = gallery.completed()
    assert torch.equal(drawn[:, :32], x_0[:, :32])


def test_the_ends_of_an_interpolation_come_back_the_nearer_the_more_steps_there_are(gallery):
    blended, coarse, fine = gallery.between()[:, [0, -1]]
    assert (fine - blended).norm() < (coarse - blended).norm() < 2


def test_guidance_of_scale_one_leaves_the_classes_where_they_are(gallery):
    distances = gallery.guided(1.0).mean(1).norm(dim=1)
    assert (distances - 0.5).abs().max() < 4 * 0.4 / 400**0.5  # four standard errors of 400 points


def test_both_languages_have_the_same_pages():
    assert pages("en").keys() == pages("zh").keys()


@pytest.mark.parametrize("page", sorted(pages("en")))
def test_both_languages_have_blocks_that_run(page):
    en, zh = (len(BLOCKS.findall(pages(language)[page].read_text())) for language in LANGUAGES)
    assert zh or not en


@pytest.mark.parametrize(
    "path", [*pages("en").values(), *pages("zh").values()], ids=lambda path: str(path.relative_to(DOCS))
)
def test_links_of_the_sources_lead_to_files(path):
    links = [a or b for a, b in LINK.findall(FENCED.sub("", path.read_text()))]
    local = [link.partition("#")[0] for link in links if not re.match(r"https?:|#", link)]
    missing = [link for link in local if "_pictures/" not in link and not (path.parent / link).exists()]
    assert not missing


WHY = re.compile(r"(?m)^\((why-(\d+)-[\w-]+)\)=\n##+ (\d+)\. \S")


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_of_the_whys_has_a_place_one_can_link_to(language):
    found = WHY.findall(pages(language)["whys.md"].read_text())
    assert (
        [int(number) for _, number, _ in found] == [int(number) for _, _, number in found] == [*range(1, 21)]
    )


def test_the_whys_have_the_same_places_in_both_languages():
    places = (
        [place for place, _, _ in WHY.findall(pages(language)["whys.md"].read_text())]
        for language in LANGUAGES
    )
    assert next(places) == next(places)


def site(root, **texts):
    for name, text in texts.items():
        (root / f"{name}.html").write_text(text)
    return list(loaded("check").faults(root))


def test_a_sound_site_has_no_faults(tmp_path):
    assert not site(
        tmp_path, a='<a href="b.html#x"><img src="a.html">', b='<p id="x"><a href="https://x.org">'
    )


def test_a_dead_link_is_found(tmp_path):
    assert site(tmp_path, a='<a href="b.html">') == ["a.html links to b.html, which is not there"]


def test_a_dead_anchor_is_found(tmp_path):
    assert site(tmp_path, a='<a href="#x">') == ["a.html links to #x, which has no such place"]


def test_what_is_loaded_from_another_host_is_found(tmp_path):
    assert site(tmp_path, a='<script src="//cdn.org/a.js">') == ["a.html loads //cdn.org/a.js"]


def test_an_indented_block_of_a_docstring_is_kept_line_by_line():
    lines = ["The sum.", "", "    x = a", "    y = |b|", "", "of |a|.", "", "Args:", "    a: a number."]
    kept = [
        "The sum.",
        "",
        "::",
        "",
        "    x = a",
        "    y = |b|",
        "",
        "of \\|a\\|.",
        "",
        "Args:",
        "    a: a number.",
    ]
    assert list(loaded("conf", ".").literal_blocks(lines)) == kept


def test_a_break_within_a_chinese_sentence_makes_no_space_and_blocks_stay():
    text = "前一行\n后一行，\n`代码`\n\n```python\n甲\n乙\n```\nEnglish\nstays"
    assert (
        loaded("conf", ".").joined(text) == "前一行后一行，`代码`\n\n```python\n甲\n乙\n```\nEnglish\nstays"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x_t and x̂_0", [("x", "t"), ("x̂", "0")]),
        ("√ᾱ_{t−1} · z", [("ᾱ", "{t−1}")]),
        ("scaled_linear, x_test, self.x_0", []),
    ],
)
def test_subscripts_are_set_for_letters_alone(text, found):
    pytest.importorskip("docutils")
    assert loaded("formulas").INDEXED.findall(text) == found


def test_chinese_is_indexed_by_characters_and_pairs():
    pytest.importorskip("sphinx")
    assert set(loaded("search_zh").SearchChinese({}).split("采样器 DDIM")) == {
        *"采样器",
        "采样",
        "样器",
        "DDIM",
    }
