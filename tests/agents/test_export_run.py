"""Exporting the network of a run: the file, its report, and runs that are refused."""

from __future__ import annotations

import json
from functools import partial

import onnxruntime
import pytest

import prune_gym
from prune_gym import tasks
from prune_gym.agents import RunConfig, export_run, run
from prune_gym.agents.export_run import ExportConfig
from prune_gym.scoring.latency import latencies
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import accuracy


@pytest.fixture(scope="module", autouse=True)
def brief_measurements():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_run, "latencies", partial(latencies, budget=0.02))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(
        RunConfig(agent="uniform", sparsity=0.3, step_ratio=0.1, evaluations=10, device="cpu", out=tmp_path_factory.mktemp("run"))
    )


@pytest.mark.slow
def test_report_of_a_run(finished):
    config = ExportConfig(finished.folder, round_to=8, device="cpu")
    report = export_run.export_run(config)
    assert json.loads((finished.folder / "export.onnx.json").read_text()) == report
    task = tasks.load("digits")
    content = (finished.folder / "export.onnx").read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    classes = session.run(None, {"images": task.test.images.numpy()})[0].argmax(1)
    original, small, rounded = (report["networks"][name] for name in ("original", "pruned", "rounded to 8"))
    assert rounded["test_accuracy"] == pytest.approx((classes == task.test.labels.numpy()).mean())
    assert rounded["file_bytes"] == len(content)
    for network, key in ((original, "before"), (small, "after")):
        for measure in ("val_accuracy", "test_accuracy", "macs", "params"):
            assert network[measure] == pytest.approx(finished.summary[key][measure])
    assert list(small["channels"].values()) == [kept for _, kept in finished.summary["widths"].values()]
    assert list(rounded["channels"].values()) == [kept - kept % 8 for kept in small["channels"].values()]
    for key in ("macs", "params", "file_bytes"):
        assert original[key] > small[key] > rounded[key]
    for n in ("1", "64"):
        assert original["peak_memory_bytes"][n] > small["peak_memory_bytes"][n] > rounded["peak_memory_bytes"][n]
        assert all(network["latency_ms"][n] > 0 for network in (original, small, rounded))
    assert report["agreement"]["test_images"] == len(task.test)
    assert report["agreement"]["max_difference"] < 1e-4


def test_what_is_no_run_is_refused(finished, tmp_path):
    def export(folder, **settings):
        return export_run.export_run(ExportConfig(folder, device="cpu", **settings))

    with pytest.raises(FileNotFoundError, match=r"run: .* holds no finished run, as it has no summary.json"):
        export(tmp_path)
    for content in ("{", "[]", '{"task": 3}'):
        (tmp_path / "summary.json").write_text(content)
        with pytest.raises(ValueError, match=r"summary.json: .*damaged"):
            export(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(finished.summary))
    with pytest.raises(FileNotFoundError, match=r"pruned.safetensors: no such file"):
        export(tmp_path)
    damaged = bytearray((finished.folder / "pruned.safetensors").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "pruned.safetensors").write_bytes(damaged)
    with pytest.raises(prune_gym.PrunedFileError, match="damaged"):
        export(tmp_path)
    (tmp_path / "pruned.safetensors").write_bytes((finished.folder / "pruned.safetensors").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file; expected the folder of a run"):
        export(tmp_path)
    (tmp_path / "config.json").write_text((finished.folder / "config.json").read_text().replace('"digits"', '"digit"'))
    with pytest.raises(ValueError, match=r"Did you mean 'digits'\?"):
        export(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "pruned.safetensors", "config.json"}
    with pytest.raises(FileExistsError, match=r"out: .*steps.csv exists; choose another name or delete it"):
        export(finished.folder, out=finished.folder / "steps.csv")
    with pytest.raises(ValueError, match=r"Did you mean 'onnx'\?"):
        export(finished.folder, format="onxx")
    with pytest.raises(ValueError, match="round_to: expected an integer >= 1, got 0"):
        export(finished.folder, round_to=0)


def test_what_is_written_may_be_trained_once_more(finished, tmp_path):
    settings = PostTraining(epochs=3, learning_rate=0.01, batch_size=64)
    out = tmp_path / "small.safetensors"
    config = ExportConfig(
        finished.folder, format="safetensors", round_to=16, compensate=False, out=out, device="cpu", posttraining=settings
    )
    report = export_run.export_run(config)
    rounded, trained = report["networks"]["rounded to 16"], report["networks"]["trained again"]
    assert report["network"] == "trained again"
    assert report["posttraining"]["epochs"] == 3
    assert trained["channels"] == rounded["channels"]
    assert trained["params"] == rounded["params"]
    assert trained["val_accuracy"] > rounded["val_accuracy"] + 0.1
    network = prune_gym.load_pruned(out)
    assert accuracy(network, tasks.load("digits").test) == trained["test_accuracy"]
    assert prune_gym.load_pruned(finished.folder / "pruned.safetensors").state_dict().keys() == network.state_dict().keys()


def test_what_was_cut_is_made_up_for(finished, tmp_path):
    """Without labels or training: for what the run cut, and for what rounding cuts."""
    reports = {}
    for compensate in (False, True):
        out = tmp_path / f"{compensate}.safetensors"
        config = ExportConfig(finished.folder, format="safetensors", round_to=16, compensate=compensate, out=out, device="cpu")
        reports[compensate] = export_run.export_run(config)
    plain, better = reports[False]["networks"], reports[True]["networks"]
    assert list(plain) == ["original", "pruned", "rounded to 16"]
    assert list(better) == ["original", "pruned", "compensated", "rounded to 16"]
    assert better["compensated"]["macs"] == better["pruned"]["macs"]
    assert better["compensated"]["test_accuracy"] > better["pruned"]["test_accuracy"]
    assert better["rounded to 16"]["params"] == plain["rounded to 16"]["params"]
    assert better["rounded to 16"]["test_accuracy"] > plain["rounded to 16"]["test_accuracy"] + 0.1
    network = prune_gym.load_pruned(tmp_path / "True.safetensors")
    assert accuracy(network, tasks.load("digits").test) == better["rounded to 16"]["test_accuracy"]
