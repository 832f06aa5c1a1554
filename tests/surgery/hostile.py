"""Throws hostile pruned files at ``load_pruned``, in a process with a limit of memory: ``python hostile.py FOLDER FILES SEED``.

Half of the files are good ones with some of their header's values replaced; the others call any one of the operators that
PyTorch has, with random arguments. What loads is run. Only ValueError may come of loading, and of running also what operators
raise; a crash ends the process with a signal.
"""

from __future__ import annotations

import copy
import json
import random
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import zoo
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import prune_gym
from prune_gym.surgery.pruned_file import _digest

MEMORY = 2 * 1024**3  # bytes that the process may take beside what PyTorch itself takes
MAX_ELEMENTS = 2**22
NETWORKS = (
    "plain", "paddings_and_poolings", "places", "parametrized", "norms_by_hand", "group_norms", "vision_transformer", "segnet",
    "activations", "transposed_grouped", "convolution_by_hand", "channels_that_stay", "compiled_and_checkpointed",
    "pixel_shuffles", "three_dimensional", "in_place", "shuffle_with_groups", "halves_added",
)  # fmt: skip
NUMBERS = [0, 1, -1, 2, -2, 3, 7, 64, 1000, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), 2**64, 10**30, 0.5, -1.5, 1e308]
WORDS = ["", "a", "none", "inf", "forward", "__class__", "a..b", "program", "aten.add.Tensor", "\ud800", "float32"]
ODD: list[Any] = [None, True, False, [], {}, [[]], {"value": 0}, {"value": -1}, {"value": 10**9}, {"tensor": "nowhere"},
    {"batch": [1, 0]}, {"batch": [2**62, 0]}, {"batch": [0, -5]}, {"dtype": "int64"}, {"dtype": "bool"}, {"dtype": "complex64"},
    {"float": "nan"}, {"float": "inf"}, {"training": True}, {"float type": True}, {"tuple": []},
    {"dict": {"a": 1}}, [1] * 70]  # fmt: skip


def good_files(folder: Path) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Headers and tensors of pruned networks of the zoo."""
    found = []
    for name in NETWORKS:
        entry = zoo.NETWORKS[name]
        graph = prune_gym.trace(entry.build().eval(), [torch.zeros(2, *shape) for shape in entry.shapes])
        network = prune_gym.compact(entry.build().eval(), graph, graph.full())
        prune_gym.save_pruned(folder / "good", network)
        with safe_open(folder / "good", framework="pt") as file:
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118  # not a dict
            found.append((json.loads(file.metadata()["prune_gym"]), tensors))
    return found


def odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(rng.choice([NUMBERS, NUMBERS, WORDS, ODD])))


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every container and key below ``content``."""
    items = list(content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else [])
    return [(content, key) for key, _ in items] + [place for _, item in items for place in places(item)]


def mutated(rng: random.Random, header: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, tensors = copy.deepcopy(header), dict(tensors)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.random()
        if kind < 0.15:
            name = rng.choice(list(tensors))
            shape = [rng.choice([0, 1, 2, n, n + 1]) for n in tensors[name].shape]
            values = rng.choice([torch.zeros, torch.ones])(shape) * rng.choice([1, -1, 1000, 2**40, float("nan")])
            tensors[name] = values.to(rng.choice([tensors[name].dtype, torch.int64, torch.float64, torch.uint8, torch.bfloat16]))
            continue
        container, key = rng.choice(places(header["nodes"] if kind < 0.9 else header))
        if isinstance(container, list) and kind < 0.25:
            container.insert(key, copy.deepcopy(container[rng.randrange(len(container))]))
        elif kind < 0.35:
            del container[key]
        elif type(container[key]) is int and kind < 0.6:
            container[key] = rng.choice([container[key] + 1, container[key] - 1, -container[key], container[key] * 2])
        else:
            container[key] = odd(rng)
    return header, tensors


def one_call(rng: random.Random, overload: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A program of one call, and tensors for it."""
    tensors: dict[str, Tensor] = {}

    def argument(kind: str) -> Any:
        if kind.startswith("Optional["):
            return None if rng.random() < 0.5 else argument(kind[9:-1])
        if kind.startswith("List["):
            return [argument(kind[5:-1]) for _ in range(rng.choice([0, 1, 2, 2, 3, 4]))]
        if kind == "Tensor" and rng.random() < 0.9:
            if rng.random() < 0.5:
                return {"value": 0}
            name = f"t{len(tensors)}"
            shape = [rng.choice([0, 1, 2, 3, 4, 8]) for _ in range(rng.randrange(5))]
            tensors[name] = (torch.randn(shape) * rng.choice([1, 5])).to(rng.choice([torch.float32, torch.float32, torch.int64]))
            return {"tensor": name}
        if kind == "int" and rng.random() < 0.8:
            return rng.choice([0, 1, 1, 2, 3, -1, 2**40])
        return rng.choice([True, False]) if kind == "bool" else odd(rng)

    arguments = overload._schema.arguments
    args = [argument(str(a.real_type)) for a in arguments if not a.kwarg_only]
    kwargs = {a.name: argument(str(a.real_type)) for a in arguments if a.kwarg_only and rng.random() < 0.3}
    outputs = list(range(1, 1 + len(overload._schema.returns)))
    op = f"{overload._schema.name.replace('::', '.')}.{overload._overloadname}"
    header = {
        "format": "prune_gym network 2", "inputs": 1, "shapes": [[None, *rng.choice([[8], [4, 6], [3, 8, 8]])]], "dtype": None,
        "nodes": [[op, args, {"dict": kwargs}, 1 if len(outputs) == 1 else outputs]], "output": {"value": len(outputs)},
        "parameters": [], "frozen": [], "buffers": list(tensors), "transient": [], "info": {},
    }  # fmt: skip
    return header, tensors


def overloads() -> list[Any]:
    found = []
    for name in sorted(torch._C._dispatch_get_all_op_names()):
        namespace, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if namespace == "aten":
            found.append(getattr(getattr(torch.ops.aten, packet), overload or "default"))
    return found


def attempt(path: Path, header: dict[str, Any], tensors: dict[str, Tensor], images: int) -> str:
    header["digest"] = _digest(header, tensors)
    save_file(tensors, path, {"prune_gym": json.dumps(header)})
    try:
        network = prune_gym.load_pruned(path, max_elements=MAX_ELEMENTS, max_nodes=500)
    except ValueError:
        return "refused"
    shapes = [
        [images if n is None else n for n in sizes[:1]] + [16 if n is None else n for n in sizes[1:]]
        for sizes in header["shapes"]
    ]
    try:
        network(*(torch.randn(shape) for shape in shapes))
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        return "raised"
    return "ran"


def main(folder: Path, files: int, seed: int) -> None:
    torch.set_num_threads(1)
    good, every, rng = good_files(folder), overloads(), random.Random(seed)
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (address_space + MEMORY,) * 2)
    outcomes: Counter[str] = Counter()
    for i in range(files):
        torch.manual_seed(i)
        content = mutated(rng, *rng.choice(good)) if i % 2 else one_call(rng, every[(i // 2) % len(every)])
        outcomes[attempt(folder / "hostile", *content, images=rng.choice([1, 2, 5]))] += 1
    # not ru_maxrss, which begins with what the process that started this one takes
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(json.dumps(outcomes | {"peak": int(peak.split()[1]) * 1024}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
