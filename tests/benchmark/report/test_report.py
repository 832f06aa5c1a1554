"""The report: its files, and the page in a browser."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report as script
from PIL import Image

from prune_gym.benchmark.games import Game
from prune_gym.benchmark.play import DEFAULT, Play, play
from prune_gym.benchmark.report.curves import Line
from prune_gym.benchmark.report.drawing import styles
from prune_gym.benchmark.report.figures import Figure, figures_of
from prune_gym.benchmark.report.report import HOW_TO_READ, markdown, write_report
from prune_gym.benchmark.report.standings import fields_of, verdict
from prune_gym.benchmark.results import Played, add_results, read_results
from prune_gym.benchmark.store import Store

pytest.importorskip("plotly")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def made_up(agents: tuple[str, ...] = ("good", "random", "<b>bad</b>"), seeds: int = 5) -> list[Played]:
    """Plays of two problems, live and on a table."""
    rng, plays = np.random.default_rng(0), []
    for task in ("tabular-digits-mobilenet", "digits"):
        for reduction in (0.7, 0.8):
            for rank, agent in enumerate(agents):
                for seed in range(seeds):
                    accuracy = 0.8 - 0.1 * rank - 0.05 * rng.random()
                    row: dict[str, Any] = {
                        "task": task, "base": 1, "macs_reduction": reduction, "budget": 100, "agent": agent, "settings": DEFAULT,
        "reward": "accuracy",
                        "seed": seed, "val_accuracy": accuracy, "test_accuracy": accuracy, "policy_accuracy": accuracy - 0.1,
                        "compute": 9000, "policy_macs": 250, "hypervolume": 0.4, "full_cost": 100, "full_macs": 1000,
                        "commit": "abc",
                        "regret": 0.85 - accuracy if "tabular" in task else float("nan"),
                    }  # fmt: skip
                    best = np.array([[3, 200, 280, accuracy / 2], [40 + rank, 4000, 250, accuracy]])
                    plays.append(Played(row, best, best[::-1]))
    return plays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, made_up())
    return folder


def test_everything_is_there(folder: Path) -> None:
    fields = fields_of(made_up())
    figures = [figure for field in fields for figure in figures_of(field)]
    pictures = {f"{figure.name}.png" for figure in figures}
    assert len(pictures) == len(figures) == 2 * 6
    assert {path.name for path in folder.iterdir()} == pictures | {"report.html", "report.md", "tabular_100.csv", "live_100.csv"}
    assert (folder / "report.md").read_text() == markdown(fields)
    for name in pictures:
        assert Image.open(folder / name).size[0] > 600
    csv = (folder / "tabular_100.csv").read_text().splitlines()
    assert len(csv) == 4
    assert csv[0].startswith('agent,regret,"regret, low","regret, high",final policy,')
    assert csv[1].startswith("good,")


@pytest.mark.slow
def test_two_budgets_have_figures_of_their_own(tmp_path: Path) -> None:
    other = [replace(play, row={**play.row, "budget": 1000}) for play in made_up()]
    write_report(tmp_path, [*made_up(), *other])
    assert len(list(tmp_path.glob("*.png"))) == 24
    names = re.findall(r'<div id="([^"]+)"', (tmp_path / "report.html").read_text())
    assert len(names) == len(set(names)) == 24


def test_the_same_results_give_the_same_report(folder: Path, tmp_path: Path) -> None:
    write_report(tmp_path, made_up())
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_page_needs_no_network_and_says_what_the_table_says(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    outside_of_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"(src|href)\s*=", outside_of_scripts)
    assert "<b>bad</b>" not in text
    assert "&lt;b&gt;bad&lt;/b&gt;" in text
    for field in fields_of(made_up()):
        for sentence in verdict(field):
            assert sentence.replace("<b>bad</b>", "&lt;b&gt;bad&lt;/b&gt;") in text
    assert HOW_TO_READ in text


def test_the_table_is_read_from_the_verdict_on(folder: Path) -> None:
    lines = (folder / "report.md").read_text().splitlines()
    assert lines[0].startswith("On tables, after 100 evaluations, good is ahead: ")
    assert lines[2] == "| agent | regret | final policy | P(better than random) | compute | seeds |"
    assert lines[4].startswith("| good | ")
    assert lines[4].endswith(" | 1.00 (1.00 to 1.00) | 90 | 5 |")


def test_the_script_from_a_store_and_from_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    for agent in ("uniform", "random"):
        one = Play(Game("tabular-digits-mobilenet", 1, 0.6, 40), agent, 100)
        store.add(one, play(one))
    script.main(script.ReportConfig(store.folder, tmp_path / "out"))
    first = capsys.readouterr().out
    assert "fter 40 evaluations, " in first
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    script.main(script.ReportConfig(out=tmp_path / "out"))
    assert capsys.readouterr().out == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert len(read_results(tmp_path / "out")) == 2


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="results: expected plays, got none"):
        write_report(tmp_path, [])
    add_results(tmp_path, [])
    with pytest.raises(ValueError, match="results: expected plays, got none"):
        script.main(script.ReportConfig(out=tmp_path))


# ------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Chromium and its driver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def first_column(browser: Any) -> list[str]:
    return browser.execute_script("return [...document.querySelector('tbody').rows].map(row => row.cells[0].textContent)")


@pytest.mark.slow
def test_the_page_in_chromium(folder: Path, browser: Any) -> None:
    by = pytest.importorskip("selenium.webdriver.common.by").By
    chains = pytest.importorskip("selenium.webdriver").ActionChains
    browser.get((folder / "report.html").as_uri())
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
    plots = browser.find_elements(by.CSS_SELECTOR, ".js-plotly-plot")
    assert len(plots) == 12
    assert all(plot.find_elements(by.CSS_SELECTOR, ".scatterlayer .trace") for plot in plots)
    # the table, sorted by a click, and the other way by another one
    assert first_column(browser) == ["good", "random", "<b>bad</b>"]
    heading = browser.find_elements(by.CSS_SELECTOR, "th button")[1]
    assert heading.text.startswith("regret")
    for expected, order in ((["good", "random", "<b>bad</b>"], "ascending"), (["<b>bad</b>", "random", "good"], "descending")):
        heading.click()
        assert first_column(browser) == expected
        assert heading.find_element(by.XPATH, "..").get_attribute("aria-sort") == order
    # hovering shows a value
    plot = browser.find_element(by.ID, "tabular_100_curves")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    point = browser.execute_script(
        "const box = arguments[0].querySelector('.nsewdrag').getBoundingClientRect(); return [box.width, box.height]", plot
    )
    area = plot.find_element(by.CSS_SELECTOR, ".nsewdrag")
    seen = []
    for share in np.linspace(-0.4, 0.4, 15):
        chains(browser).move_to_element_with_offset(area, 0, int(share * point[1])).pause(0.15).perform()
        seen += [text.text for text in plot.find_elements(by.CSS_SELECTOR, ".hoverlayer .hovertext")]
    assert any("good" in text for text in seen)
    # a click in the legend hides a line
    before = len(plot.find_elements(by.CSS_SELECTOR, ".scatterlayer .trace"))
    plot.find_element(by.CSS_SELECTOR, ".legendtoggle").click()
    browser.implicitly_wait(1)
    chains(browser).pause(1).perform()
    assert len(plot.find_elements(by.CSS_SELECTOR, ".scatterlayer .trace")) < before


@pytest.mark.slow
def test_the_page_on_a_narrow_screen_and_on_paper(folder: Path, browser: Any) -> None:
    metrics = {"width": 375, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get((folder / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
    pdf = base64.b64decode(browser.print_page())
    assert pdf.startswith(b"%PDF")


def test_forty_players_are_told_apart() -> None:
    nothing = np.zeros(0)
    figure = Figure("name", "title", "caption", "x", "y", tuple(Line(f"player {i}", nothing, nothing) for i in range(40)))
    assert len(set(styles(figure).values())) == 41  # and what is exact is black
