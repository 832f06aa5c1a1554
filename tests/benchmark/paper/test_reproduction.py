"""The settings of a reproduction, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from prune_gym.benchmark.paper import reproduction
from prune_gym.benchmark.paper.reproduction import ReproductionConfig, reproduce
from prune_gym.benchmark.paper.scales import SCALES, Scale


@pytest.mark.parametrize("name", ["table2", "table4", "figure1", "figure3"])
def test_a_csv_and_a_picture(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brief: Scale, name: str) -> None:
    titles = []
    draw = reproduction.picture
    monkeypatch.setattr(reproduction, "picture", lambda *arguments: titles.append(arguments[2]) or draw(*arguments))
    monkeypatch.setitem(SCALES, name, {"small": replace(brief, sparsities=(0.4,))})
    options: dict[str, Any] = {"network": "digits_resnet", "data": "digits", "weights": weights, "protocol": "paper"}
    rows, file = reproduce(ReproductionConfig(name, out=tmp_path, device="cpu", **options))
    assert (rows.path, file) == (tmp_path / f"{name}.csv", tmp_path / f"{name}.png")
    with rows.path.open(newline="") as content:
        assert list(csv.DictReader(content)) == rows.rows
    assert {row["protocol"] for row in rows.rows} - {""} == {"paper: reward on TEST, so test accuracy is tuned on"}
    assert imread(file).std() > 0.02  # something is drawn
    (title,) = titles
    assert re.fullmatch(rf"{name[:-1].title()} {name[-1]}: .*[^.] \(paper: reward on TEST, .*\)", title)


def test_what_is_pruned(tmp_path: Path, weights: Path) -> None:
    small = ReproductionConfig("table1", weights=weights, seed=7, device="cpu", out=tmp_path).make_experiment()
    assert (small.network, small.data, small.weights, small.weights_folder) == ("resnet20_a", "cifar10", weights, None)
    assert (small.protocol, small.seed, small.out, small.scale) == ("validation", 7, tmp_path, SCALES["table1"]["small"])
    own = ReproductionConfig("table1", network="vgg19", data="cifar100", device="cpu").make_experiment()
    assert (own.network, own.data, own.out) == ("vgg19", "cifar100", Path("results/reproduce/small"))
    paper = ReproductionConfig(
        "figure1", scale="paper", weights_folder=tmp_path, protocol="paper", device="cpu"
    ).make_experiment()
    assert (paper.network, paper.weights, paper.weights_folder) == (None, None, tmp_path)
    assert (paper.protocol, paper.out) == ("paper", Path("results/reproduce/paper"))
    assert paper.scale is SCALES["figure1"]["paper"]


def test_missing_weights_name_the_command(tmp_path: Path, weights: Path) -> None:
    config = ReproductionConfig
    with pytest.raises(ValueError, match=r"weights: expected a safetensors file.*train_base"):
        reproduce(config("figure1", out=tmp_path, network="digits_resnet", data="digits"))
    with pytest.raises(ValueError, match="weights_folder: expected the folder"):
        reproduce(config("table1", scale="paper", out=tmp_path))
    (tmp_path / "vgg19_cifar100.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"train_base.py --network resnet56 --data cifar10 --recipe paper") as missing:
        reproduce(config("table2", scale="paper", out=tmp_path, weights_folder=tmp_path))
    assert "vgg19" not in str(missing.value)
    with pytest.raises(ValueError, match="weights: expected none"):
        config("table1", scale="paper", weights=weights)
    with pytest.raises(ValueError, match="weights_folder: expected none"):
        config("table1", weights_folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vgg19_cifar100.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["table5"], {}, r"experiment: .* Did you mean 'table\d'\?"),
        (["table1"], {"scale": "large"}, "scale: expected one of paper, small"),
        (["table1"], {"protocol": "test"}, "protocol: expected one of validation, paper"),
        (["table1"], {"seed": -1}, "seed: expected an integer"),
    ],
)
def test_bad_settings_are_named(arguments: list[Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ReproductionConfig(*arguments, **settings)
