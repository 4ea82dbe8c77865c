"""YAML from anywhere: only plain values come out, and nothing in it takes long or unpacks to a lot."""

from typing import Any

import yaml
from yaml.constructor import ConstructorError

from e2llm.errors import E2LLMError

_MAX_NESTING = 50
_MAX_VALUES = 100_000  # with every alias counted as what it stands for


class _PlainLoader(yaml.SafeLoader):
    """A safe loader to which a key that stands twice in a mapping is an error: the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise ConstructorError(
                        problem=f"{key.value} stands there twice", problem_mark=key.start_mark
                    )
                seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; raises where it lies too deep for this process's stack."""
        self._depth = getattr(self, "_depth", 0) + 1
        if self._depth > _MAX_NESTING:
            raise ConstructorError(problem=f"more than {_MAX_NESTING} levels of nesting")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def get_single_node(self) -> yaml.Node | None:
        """The document; raises if its aliases unpack to too much, or to themselves."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count_values(node, {})
        return node


def _count_values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Values in a node, each alias counted as what it stands for."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise ConstructorError(problem="an alias stands inside what it stands for")
        return count
    known[id(node)] = None
    total = 1
    if not isinstance(node, yaml.ScalarNode):
        for item in node.value:
            total += sum(_count_values(part, known) for part in (item if isinstance(item, tuple) else [item]))
    if total > _MAX_VALUES:
        raise ConstructorError(problem=f"more than {_MAX_VALUES:,} values, aliases unpacked")
    known[id(node)] = total
    return total


def load_yaml(text: str | bytes, subject: str) -> Any:
    """The value of a YAML text.

    Args:
        text: The text, or its bytes in UTF-8.
        subject: What it is, for the message.

    Raises:
        E2LLMError: If it is not valid YAML, has a key twice, nests too deep or unpacks to too much.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return yaml.load(decoded, _PlainLoader)
    except (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # The last ones are the constructors' own, for a tag whose value does not fit: `!!int abc`.
        problem = " ".join(str(error).split())[:500]
        raise E2LLMError(f"{subject}: not valid YAML: {problem or type(error).__name__}") from error
