"""The explorer in a real browser: each tab shows what its controls say, in two languages and widths."""

import os
import re
from io import BytesIO
from pathlib import Path

import pytest
from explorer import TIMEOUT, browser, page_of, served
from PIL import Image

from alphabar.explorer.asking import texts_of

TABS = ("forward", "schedules", "reverse", "plane", "samplers")
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(chromium):
    with served(page_of()) as where:
        yield where


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Where screenshots go: SCREENSHOTS, or a folder of pytest's."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def opened(chromium, address):
    """Opens a tab in a page of its own; the page must load nothing from elsewhere and report no error."""
    from playwright.sync_api import expect

    expect.set_options(timeout=TIMEOUT)
    contexts, troubles = [], []

    def open_tab(tab, language="en", size="wide"):
        width, height = SIZES[size]
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda said: said.type == "error" and troubles.append(said.text))
        page.on("pageerror", lambda wrong: troubles.append(str(wrong)))
        page.on(
            "request", lambda asked: asked.url.startswith((address, "data:")) or troubles.append(asked.url)
        )
        page.goto(f"{address}/?lang={language}#{tab}")
        expect(page.locator("body[data-ready]")).to_have_count(1)
        if tab != "reverse":
            quiet(page, tab)
        return page

    yield open_tab
    for context in contexts:
        context.close()
    assert [each for each in troubles if "400 (Bad Request)" not in each] == []


def quiet(page, tab):
    """Wait until a tab has its answer."""
    from playwright.sync_api import expect

    expect(page.locator(f"#{tab}")).to_have_attribute("aria-busy", "false")


def expects(*arguments):
    from playwright.sync_api import expect

    return expect(*arguments)


def test_the_slider_noises_the_picture_and_the_numbers_follow(opened):
    page = opened("forward")
    images = page.locator("#f-panes img")
    expects(images).to_have_count(2)
    before = images.first.get_attribute("src")
    page.locator("#f-t").fill("999")
    expects(images.first).to_have_attribute("alt", re.compile(r"t = 999: 0\.006"))
    assert images.first.get_attribute("src") != before
    expects(page.locator("#f-t + output")).to_have_text("999")
    page.locator("#f-t").press("ArrowLeft")  # by key
    expects(images.first).to_have_attribute("alt", re.compile("t = 998"))
    expects(page.locator("#f-thinned")).to_have_text("")
    assert both_ways_agree(page, pixels=512 * 512 * 3)
    page.locator("[name=f-way][value=steps]").check()
    expects(page.locator("#f-thinned")).to_contain_text("64×64 of the 512×512 pixels")
    expects(images.first).to_have_js_property("naturalWidth", 64)
    assert both_ways_agree(page, pixels=64 * 64 * 3)


def both_ways_agree(page, pixels):
    """Whether mean and variance are the predicted ones, to four errors of their estimates."""
    cells = page.locator("#f-moments tbody tr").first.locator("td").all_inner_texts()
    mean, mean_predicted, variance, variance_predicted = (float(text.replace("−", "-")) for text in cells)
    assert mean == pytest.approx(mean_predicted, abs=4 / pixels**0.5)
    return variance == pytest.approx(variance_predicted, abs=4 * (2 / pixels) ** 0.5)


def test_a_control_point_moves_by_key_and_by_hand_and_all_curves_follow(opened):
    page = opened("schedules")
    last = page.locator("#s-plots .handle").last
    path = page.locator("#s-plots .curve").nth(1)
    before = path.get_attribute("d")
    expects(page.locator("#s-warnings")).to_have_class(re.compile("none"))
    for _ in range(8):
        page.locator("#s-plots .handle").nth(3).press("PageDown")
        last.press("PageDown")
    expects(page.locator("#s-warnings")).to_contain_text("Signal left at the end")
    quiet(page, "schedules")
    assert path.get_attribute("d") != before
    assert float(last.get_attribute("aria-valuenow")) < 1e-3
    box = last.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 200)
    page.mouse.up()
    expects(last).to_have_attribute("aria-valuenow", re.compile(r"0\.\d+"))
    expects(page.locator("#s-code")).to_contain_text("NoiseSchedule.from_beta")
    page.locator("[name=s-kind][value=log_snr]").check()
    expects(page.locator("#s-code")).to_contain_text("from_alpha_bar")


def test_digits_are_trained_on_the_spot_and_sampled_by_two_samplers(opened, shots):
    page = opened("reverse")
    page.locator("#r-train").click()
    expects(page.locator("#reverse")).to_have_attribute("data-run", "ready", timeout=4 * TIMEOUT)
    page.locator("#r-0-evaluations").fill("5")
    page.locator("#r-1-evaluations").fill("8")
    page.locator("#r-label").select_option("3")
    page.locator("#r-sample").click()
    expects(page.locator("#reverse")).to_have_attribute("data-sampled", "1")
    images = page.locator("#r-sides img")
    expects(images).to_have_count(4)
    end = [image.get_attribute("src") for image in images.all()]
    page.locator("#r-step").fill("0")
    expects(images.first).to_have_attribute("alt", re.compile("after 0 evaluations, t = 999"))
    start = [image.get_attribute("src") for image in images.all()]
    assert start[0] == start[2] != end[0]  # the same noise on both sides
    assert len(set(end)) == 2  # at the end, x̂_0 is the state itself; the samplers differ
    page.locator("#r-step").fill("5")
    for language in ("en", "zh"):
        for size, (width, height) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            page.locator("#language").select_option(language)
            expects(page.locator("#r-sides figcaption").first).to_contain_text("t = 399")
            expects(page.locator("#r-sides img").first).to_have_attribute(
                "alt", re.compile("标准差" if language == "zh" else "standard deviation")
            )
            page.screenshot(path=shots / f"reverse-{language}-{size}.png", full_page=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("tab", [tab for tab in TABS if tab != "reverse"])
def test_each_tab_fits_the_screen_and_speaks_its_language(opened, shots, tab, language, size):
    page = opened(tab, language, size)
    texts = texts_of(language)
    expects(page.locator(f"#{tab} .intro")).to_have_text(texts[f"{tab}_intro"])
    page.screenshot(path=shots / f"{tab}-{language}-{size}.png", full_page=True)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size][0]
    for picture in page.locator(f"#{tab} img:visible, #{tab} [role=img]:visible").all():
        assert re.search(r"\d", picture.get_attribute("alt") or picture.get_attribute("aria-label"))


def test_particles_flow_to_the_data_and_points_are_drawn_by_hand_and_by_key(opened, shots):
    page = opened("plane")
    page.locator("#p-flow").click()
    expects(page.locator("#p-frame")).to_have_value("20")  # the flow has been played to its end
    expects(page.locator("#p-told")).to_contain_text("200 particles, 20 evaluations")
    expects(page.locator("#p-plane .particle")).to_have_count(200)
    page.locator("#p-frame").fill("12")
    expects(page.locator("#p-plane .under [role=img]")).to_have_attribute("aria-label", re.compile("t = 399"))
    quiet(page, "plane")
    page.screenshot(path=shots / "plane-flow.png", full_page=True)
    box = page.locator("#p-plane").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.4)
    expects(page.locator("#p-reverse-told")).to_contain_text("times as wide")
    expects(page.locator("#p-x")).not_to_have_value("0")
    page.locator("#p-data").select_option("drawn")
    page.locator("#p-flow").click()
    expects(page.locator("#trouble")).to_contain_text("draw at least one point first")
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.locator("#p-x").fill("-2")
    page.locator("#p-add").press("Enter")
    expects(page.locator("#p-plane .drawn")).to_have_count(2)
    expects(page.locator("#trouble")).to_be_hidden()
    page.locator("#p-clear").press("Enter")
    expects(page.locator("#p-plane .drawn")).to_have_count(0)


def test_two_samplers_are_compared_and_a_wrong_setting_is_a_sentence(opened):
    page = opened("samplers")
    page.locator("#t-1-sampler").select_option("unipc")
    page.locator("#t-1-evaluations").fill("7")
    expects(page.locator("#t-tables caption").last).to_have_text("unipc: 7 rows")
    expects(page.locator("#t-tables tbody").last.locator("tr")).to_have_count(7)
    expects(page.locator("#t-plot [role=img]")).to_have_attribute("aria-label", re.compile("unipc: .* at 50"))
    page.locator("#language").select_option("zh")
    page.locator("#t-1-sampler").select_option("fitted")
    page.locator("#t-1-evaluations").fill("999")
    expects(page.locator("#trouble")).to_contain_text("这样设置行不通")
    expects(page.locator("#trouble")).to_contain_text("999")


def test_the_tabs_are_moved_through_by_keys(opened):
    page = opened("forward")
    tabs = page.get_by_role("tab")
    tabs.first.focus()
    for name, key in zip(TABS[1:], ["ArrowRight"] * 4, strict=True):
        page.keyboard.press(key)
        expects(page.locator(f"#{name}")).to_be_visible()
        expects(page.locator(f"#tab-{name}")).to_be_focused()
        expects(page.locator(f"#tab-{name}")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Home")
    expects(page.locator("#forward")).to_be_visible()
    expects(page.locator("[role=tabpanel]:visible")).to_have_count(1)


def test_the_language_is_switched_on_the_page_and_kept_by_a_reload(opened):
    page = opened("forward")
    page.locator("#f-t").fill("700")
    page.locator("#language").select_option("zh")
    for _ in range(2):
        expects(page.locator("html")).to_have_attribute("lang", "zh-CN")
        expects(page.locator("#tab-samplers")).to_have_text("采样器")
        expects(page.locator("#f-panes img").first).to_have_attribute("alt", re.compile("信噪比"))
        page.reload()


def test_each_control_has_a_name(opened):
    page = opened("forward")
    for tab in TABS:
        page.locator(f"#tab-{tab}").click()
        nameless = page.locator("input:visible, select:visible, button:visible").evaluate_all(
            "all => all.filter(one => !(one.labels?.length ? one.labels[0] : one).textContent.trim())"
            ".map(one => one.id)"
        )
        assert nameless == []


def test_a_broken_and_a_huge_file_are_refused_in_a_sentence(opened, tmp_path):
    page = opened("forward", "zh")
    texts = texts_of("zh")
    broken, bomb, large = (tmp_path / name for name in ("broken.png", "bomb.png", "large.png"))
    buffer = BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    broken.write_bytes(buffer.getvalue()[:-40])
    Image.new("1", (8_300, 8_300)).save(bomb)
    large.write_bytes(bytes(11 * 2**20))
    said = {
        broken: texts["upload_broken"],
        bomb: texts["upload_pixels"].format(most=67),
        large: texts["upload_bytes"].format(most=10),
    }
    for file, sentence in said.items():
        page.locator("#f-file").set_input_files(file)
        expects(page.locator("#trouble")).to_contain_text(sentence)
    good = tmp_path / "good.png"
    Image.new("RGB", (300, 200), "red").save(good)
    page.locator("#f-file").set_input_files(good)
    expects(page.locator("#trouble")).to_be_hidden()
    expects(page.locator("#f-panes img").first).to_have_js_property("naturalWidth", 200)
