"""The accuracies of every architecture on a grid, without computing anything twice that several of them share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.graph.program import Count, Named, Node, Program, Value, leaves, map_argument
from prune_gym.scoring.aliasing import written_tensors
from prune_gym.scoring.recalibration import Recalibration
from prune_gym.surgery.slicing import slice_tensors


@dataclass(frozen=True)
class Segment:
    """The nodes that can run once a group is decided, and could not before, as a program of its own.

    Attributes:
        group: the number of the group; -1 for what depends on none.
        program: its inputs are the images and then ``needs``, its output is a list of ``gives``.
        positions: of its nodes in the whole program.
        needs, gives: values of the whole program, by their numbers.
        tensors: names of those that it reads.
    """

    group: int
    program: Program
    positions: list[int]
    needs: list[int]
    gives: list[int]
    tensors: list[str]


def segments(graph: ChannelGraph) -> list[Segment]:
    """The program in segments, the groups in the order in which it first depends on them."""
    program = graph.program
    group_of = np.repeat(np.arange(len(graph.groups)), graph.widths)
    known: dict[int, set[int]] = {index: set() for index in range(program.inputs)}  # the groups that a value depends on
    by_node, order = [], [-1]
    for node in program.nodes:
        groups: set[int] = set()
        for leaf in node.arguments():
            if isinstance(leaf, Value):
                groups |= known[leaf.index]
            else:
                units = _units(leaf, graph)
                groups |= set(group_of[units[units >= 0]].tolist())
        order += sorted(groups - set(order))
        known |= dict.fromkeys(_outputs(node), groups)
        by_node.append(groups)
    depth = {group: number for number, group in enumerate(order)}
    depths = [max((depth[group] for group in groups), default=0) for groups in by_node]
    return [_segment(program, group, [i for i, d in enumerate(depths) if d == number]) for number, group in enumerate(order)]


def _segment(program: Program, group: int, positions: list[int]) -> Segment:
    nodes = [program.nodes[i] for i in positions]
    made = {index for node in nodes for index in _outputs(node)}
    others = [node for i, node in enumerate(program.nodes) if i not in set(positions)]
    read_elsewhere = {leaf.index for node in others for leaf in node.arguments() if isinstance(leaf, Value)}
    read_elsewhere |= {leaf.index for leaf in leaves(program.output) if isinstance(leaf, Value)}
    reads = {leaf.index for node in nodes for leaf in node.arguments() if isinstance(leaf, Value)}
    needs, gives = sorted(reads - made - {0}), sorted(made & read_elsewhere)
    numbers = {index: number for number, index in enumerate([0, *needs, *sorted(made)])}

    def renumber(argument: object) -> object:
        return Value(numbers[argument.index]) if isinstance(argument, Value) else argument

    def moved(node: Node) -> Node:
        outputs = node.outputs
        new = numbers[outputs] if isinstance(outputs, int) else tuple(numbers[index] for index in outputs)
        return replace(node, args=map_argument(renumber, node.args), kwargs=map_argument(renumber, node.kwargs), outputs=new)

    part = Program(1 + len(needs), tuple(map(moved, nodes)), [Value(numbers[index]) for index in gives])
    tensors = sorted({leaf.name for node in nodes for leaf in node.arguments() if isinstance(leaf, Named)})
    return Segment(group, part, positions, needs, gives, tensors)


def _units(leaf: object, graph: ChannelGraph) -> np.ndarray:
    """The units that an argument depends on; -1 where it depends on none."""
    if isinstance(leaf, Count):
        return leaf.units.ravel()
    per_dim = graph.units.get(leaf.name, ()) if isinstance(leaf, Named) else ()
    return np.concatenate([np.array([-1]), *(units.ravel() for units in per_dim if units is not None)])


def _outputs(node: Node) -> tuple[int, ...]:
    return node.outputs if isinstance(node.outputs, tuple) else (node.outputs,)


class Grid:
    """Runs recalibrated networks on images, every architecture of a grid, depth first over the groups: networks that agree in the
    first groups share the activations there.

    Args:
        graph: the channel graph, whose forward pass writes to none of its tensors and to no value that it reads again.
        tensors: those of the original network by name.
        calibration: the images (N, C, H, W) that networks are calibrated on.
        images: what they are run on (N, C, H, W).
        kept: for every group the units that each level keeps, bool (levels, width), nested.

    Raises ValueError for a network that cannot be calibrated in the same pass.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        tensors: Mapping[str, Tensor],
        calibration: Tensor,
        images: Tensor,
        kept: Sequence[np.ndarray],
    ):
        self.recalibration = Recalibration(graph, tensors, calibration)
        if not self.recalibration.takes_others_along or written_tensors(graph.program):
            raise ValueError("graph: expected a network that can be calibrated in the pass that scores it.")
        self.graph, self.tensors, self.kept = graph, tensors, kept
        self.segments = segments(graph)
        self._calibration = len(calibration)
        self._images = torch.cat([calibration, images])

    @property
    def order(self) -> list[int]:
        """The groups in the order in which they are decided."""
        return [segment.group for segment in self.segments[1:]]

    @torch.inference_mode()
    def outputs(self, first: Sequence[int] = ()) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """The levels of all groups and the network's outputs for the images, for every architecture of the grid; only those with
        the levels ``first`` of the first groups of ``order``."""
        mask = np.ones(self.graph.n_units, bool)
        values = self._run(self.segments[0], {}, mask)
        yield from self._below(list(first), (), values, mask)

    def _below(
        self, first: list[int], levels: tuple[int, ...], values: dict[int, Tensor], mask: np.ndarray
    ) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        depth = len(levels)
        if depth == len(self.order):
            output = self.graph.program.output
            by_group = dict(zip(self.order, levels, strict=True))
            yield tuple(by_group[group] for group in range(len(by_group))), values[output.index][self._calibration :]
            return
        group = self.order[depth]
        place = slice(self.graph.starts[group], self.graph.starts[group + 1])
        for level in [first[depth]] if depth < len(first) else range(len(self.kept[group])):
            mask[place] = self.kept[group][level]
            yield from self._below(first, (*levels, level), self._run(self.segments[depth + 1], values, mask), mask)
        mask[place] = True

    def _run(self, segment: Segment, values: dict[int, Tensor], mask: np.ndarray) -> dict[int, Tensor]:
        """The values that are known once the segment has run."""
        architecture = Architecture(self.graph, mask.copy())
        own = {name: self.tensors[name] for name in segment.tensors}
        small = slice_tensors(own, {name: self.graph.units[name] for name in own if name in self.graph.units}, architecture)
        estimate = self.recalibration.estimator(small, architecture, segment.positions)
        inputs = [self._images, *(values[index] for index in segment.needs)]
        found = segment.program.at(mask).run(
            small, inputs, before_call=lambda position, arguments: estimate(segment.positions[position], arguments)
        )
        return values | dict(zip(segment.gives, found, strict=True))
