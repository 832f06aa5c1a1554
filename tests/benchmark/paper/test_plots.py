"""The pictures of the experiments: which numbers become curves, and that they are drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from prune_gym.benchmark.paper import plots
from prune_gym.benchmark.paper.plots import Curve, Row, curves, picture


def table_row(sparsity: float, top1: object, **more: object) -> Row:
    row = {"network": "mine", "data": "digits", "paper_network": "vgg19", "paper_data": "cifar100", "sparsity": sparsity}
    row |= {"top1": top1, "top1_before_posttraining": "", "paper_top1": ""}
    return {name: str(value) for name, value in (row | more).items()}


def figure_row(group: str, **more: object) -> Row:
    row = {"network": "mine", "data": "digits", "sparsity": 0.5, "channel_sparsity": 0.49, "group": group, "width": 8, "kept": 4}
    return {name: str(value) for name, value in (row | {"share": 0.5, "reward": "flops", "step": 0} | more).items()}


def test_one_curve_for_each_reward() -> None:
    rows = [table_row(s, 90 - 10 * s, reward=reward) for reward in ("flops", "accuracy") for s in (0.2, 0.4)]
    points = [(0.2, 88.0), (0.4, 86.0)]
    assert curves(rows, "table1", "") == [Curve("flops", points), Curve("accuracy", points)]
    assert curves(rows, "table1", "paper_") == []  # the paper has no numbers there
    theirs = [row | {"paper_top1": "70.5"} for row in rows[:1]]
    assert curves(theirs, "table1", "paper_") == [Curve("flops", [(0.2, 70.5)])]


def test_methods_also_show_the_accuracy_before_post_training() -> None:
    rows = [table_row(0.2, 80, method="uniform", top1_before_posttraining=30), table_row(0.4, 70, method="uniform")]
    rows += [table_row(0.5, "", method="greg", paper_top1=60)]
    assert curves(rows, "table2", "") == [
        Curve("uniform", [(0.2, 80.0), (0.4, 70.0)]),
        Curve("uniform", [(0.2, 30.0)], "before post-training"),
    ]
    assert curves(rows, "table2", "paper_") == [Curve("greg", [(0.5, 60.0)])]


def test_exploration_is_named_by_epsilon_and_its_decay() -> None:
    rows = [table_row(0.2, 80, epsilon=0.4, decay=decay) for decay in ("linear", "cosine")]
    assert [curve.label for curve in curves(rows, "table3", "")] == ["0.4 linear", "0.4 cosine"]


def test_pruned_and_from_scratch() -> None:
    numbers = {"pruned_top1": 50, "scratch_top1": 40, "paper_pruned_top1": 70, "paper_scratch_top1": 69}
    rows = [table_row(0.4, "", **numbers)]
    assert curves(rows, "table4", "") == [Curve("pruned", [(0.4, 50.0)]), Curve("from scratch", [(0.4, 40.0)])]
    assert curves(rows, "table4", "paper_") == [Curve("pruned", [(0.4, 70.0)]), Curve("from scratch", [(0.4, 69.0)])]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    seen: list[Figure] = []
    inner = plots.png

    def png(figure: Figure) -> bytes:
        seen.append(figure)
        return inner(figure)

    monkeypatch.setattr(plots, "png", png)
    return seen


def test_our_numbers_and_the_paper_are_panels_side_by_side(figures: list[Figure]) -> None:
    one = [table_row(s, 80, reward="flops", paper_top1=75) for s in (0.2, 0.4)]
    other = [row | {"network": "other"} for row in one]
    third = [row | {"network": "third", "paper_network": "resnet56", "paper_top1": ""} for row in one]
    images = [imread(io.BytesIO(picture("table1", rows, "a title"))) for rows in (one, one + other, one + other + third)]
    titles = [[axes.get_title() for axes in figure.axes] for figure in figures]
    paper = "vgg19, cifar100: the paper"
    assert titles[0] == ["mine, digits: ours", paper]
    assert titles[1] == ["mine, digits: ours", paper, "other, digits: ours"]
    assert titles[2] == [*titles[1], "third, digits: ours"]
    assert images[0].shape[0] < images[1].shape[0] == images[2].shape[0]
    assert all(image.std() > 0.02 for image in images)
    ours, theirs = figures[0].axes
    assert figures[0].get_suptitle() == "a title"
    assert np.array_equal(ours.lines[0].get_xydata(), [(0.2, 80), (0.4, 80)])
    assert np.array_equal(theirs.lines[0].get_xydata(), [(0.2, 75), (0.4, 75)])
    assert ours.lines[0].get_color() == theirs.lines[0].get_color()  # the same label


def test_importance_has_a_line_for_every_sparsity(figures: list[Figure]) -> None:
    rows = [
        figure_row(group, sparsity=s, channel_sparsity=s + 0.01, share=share)
        for s in (0.0, 0.5)
        for group, share in (("conv1", 0.25 + s), ("conv2", 0.75 - s))
    ]
    assert imread(io.BytesIO(picture("figure1", rows, "title"))).std() > 0.02
    (axes,) = figures[0].axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.25, 0.75], [0.75, 0.25]]
    assert [line.get_label() for line in axes.lines] == ["1%", "51%"]
    picture("figure1", rows + [row | {"network": "other"} for row in rows], "title")
    assert [axes.get_title() for axes in figures[1].axes] == ["mine, digits", "other, digits"]


def test_channels_have_a_panel_for_every_reward_and_a_line_for_every_group(figures: list[Figure]) -> None:
    rows = [
        figure_row(group, reward=reward, step=step, kept=width - step - offset, width=width)
        for offset, reward in enumerate(("accuracy", "flops"))
        for step in range(3)
        for group, width in (("conv1", 8), ("conv2", 4))
    ]
    assert imread(io.BytesIO(picture("figure3", rows, "title"))).std() > 0.02
    accuracy, flops = figures[0].axes
    assert [axes.get_title() for axes in (accuracy, flops)] == ["mine, digits, reward: accuracy", "mine, digits, reward: flops"]
    assert [line.get_label() for line in flops.lines] == ["conv1 (8)", "conv2 (4)"]
    assert np.array_equal(accuracy.lines[0].get_xydata(), [(0, 1), (1, 7 / 8), (2, 6 / 8)])
    assert np.array_equal(flops.lines[1].get_xydata(), [(0, 3 / 4), (1, 2 / 4), (2, 1 / 4)])
