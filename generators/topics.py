"""Topics to be covered, as a tree or a graph in a YAML file: read, checked, cut down to their ends.

A tree is nested mappings and lists under `tree`; the same word at two places is two topics. A graph is
a mapping of topics to lists of subtopics under `graph`; a topic may stand below several, and is covered once
for each root, by its shortest path. What is covered are the ends: topics without subtopics. What is
written about them, and which slice they belong to, is not decided here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from factory.errors import RecipeError
from factory.explain import Loc
from factory.layers import Layer
from factory.sources import slug
from factory.types import Json

TopicPath = tuple[str, ...]  # from the root to the topic


class _Misplaced(Exception):
    """What cannot be a topic, with its place in the file; becomes a RecipeError with its line."""

    def __init__(self, loc: Loc, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.loc, self.what, self.hint = loc, what, hint


def read_topics(layer: Layer) -> list[TopicPath]:
    """The paths of the topics to cover, in the file's order.

    Raises RecipeError naming file and line for what is no name, a topic that stands twice in one place, a
    circle in a graph, and a file without topics.
    """
    key = "tree" if "tree" in layer.data else "graph"
    read = _ends_of_tree if key == "tree" else _ends_of_graph
    try:
        if extra := [other for other in layer.data if other != key]:
            raise _Misplaced((extra[0],), f"unknown key '{extra[0]}' beside '{key}'")
        found = list(read(layer.data[key], (key,)))
        if not found:
            raise _Misplaced((key,), "no topics")
    except _Misplaced as error:
        raise RecipeError(error.what, where=_place(layer, error.loc), hint=error.hint) from error
    return found


def _place(layer: Layer, loc: Loc) -> str:
    known = (loc[:length] for length in range(len(loc), 0, -1) if loc[:length] in layer.lines)
    return f"{layer.path}:{layer.lines[next(known)]}"


def _ends_of_tree(tree: Json, loc: Loc) -> Iterator[TopicPath]:
    seen: dict[TopicPath, Loc] = {}

    def walk(value: Json, path: TopicPath, loc: Loc) -> Iterator[TopicPath]:
        if isinstance(value, str):
            yield from walk({value: None}, path, loc)
        elif isinstance(value, list) and value:
            for index, entry in enumerate(value):
                if not isinstance(entry, str | dict):
                    raise _Misplaced((*loc, index), "a topic must be a text", "put it in quotes")
                yield from walk(entry, path, (*loc, index))
        elif isinstance(value, dict) and value:
            for name, below in value.items():
                inner = (*path, _name(name, loc))
                if inner in seen:
                    raise _Misplaced((*loc, name), f"'{name}' stands twice below the same topic")
                seen[inner] = loc
                yield from walk(below, inner, (*loc, name))
        elif value in (None, [], {}):
            if path:
                yield path
        else:
            raise _Misplaced(loc, "subtopics must be a list, a mapping or a text", "put a number in quotes")

    return walk(tree, (), loc)


def _ends_of_graph(graph: Json, loc: Loc) -> Iterator[TopicPath]:
    below = _graph(graph, loc)
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        what = f"the topics go round in a circle: {circle}"
        raise _Misplaced((*loc, error.args[1][0]), what, "drop one of these links") from error
    inner = {name for names in below.values() for name in names}
    for root in (name for name in below if name not in inner):
        paths: dict[str, TopicPath] = {root: (root,)}
        queue = deque([root])
        while queue:  # breadth first, so that the first path found is a shortest one
            topic = queue.popleft()
            if not below.get(topic):
                yield paths[topic]
            for name in below.get(topic, ()):
                if name not in paths:
                    paths[name] = (*paths[topic], name)
                    queue.append(name)


def _graph(graph: Json, loc: Loc) -> Mapping[str, list[str]]:
    """Each topic that stands before a colon with the names of its subtopics."""
    if not isinstance(graph, dict):
        raise _Misplaced(loc, "must be a mapping of topics to lists of their subtopics")
    below: dict[str, list[str]] = {}
    for topic, names in graph.items():
        if not isinstance(names, list | None):
            raise _Misplaced((*loc, topic), "subtopics must be a list of names")
        below[_name(topic, loc)] = [_name(name, (*loc, topic, i)) for i, name in enumerate(names or [])]
    return below


def _name(name: Json, loc: Loc) -> str:
    if not isinstance(name, str):
        raise _Misplaced(loc, f"a topic must be a text, found {name!r}", "put it in quotes")
    if not slug(name):
        raise _Misplaced(loc, f"'{name}' is no name for a topic", "it needs a letter or a digit")
    return " ".join(name.split())
