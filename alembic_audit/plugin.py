"""The ``alembic.plugins`` entry point."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any


class _Plugin(ModuleType):
    """A module for Alembic from 1.20.1 on, and the collection of modules that it was before."""

    def __iter__(self) -> Iterator[ModuleType]:
        return iter([self])

    def setup(self, plugin: Any) -> None:
        """Make the operations exist, and let "alembic_audit" in autogenerate_plugins compare."""
        from alembic.util import DispatchPriority

        # This runs in the middle of `import alembic`, maybe begun by a module of ours: a plain
        # import is all that works in every order.
        import alembic_audit.operations  # noqa: F401

        for target, hook, priority in _HOOKS:
            plugin.add_autogenerate_comparator(
                hook, target, "alembic_audit", priority=DispatchPriority[priority]
            )


def _finish_deriving(*args: Any) -> Any:
    from alembic_audit.autogenerate import compare

    return compare.finish_deriving(*args)


def _settle(*args: Any) -> Any:
    from alembic_audit.autogenerate import compare

    return compare.settle(*args)


def _compare(*args: Any) -> Any:
    from alembic_audit.autogenerate import compare

    return compare.compare(*args)


_HOOKS = (
    ("autogenerate", _finish_deriving, "FIRST"),
    ("schema", _settle, "FIRST"),
    ("schema", _compare, "LAST"),
)


plugin: _Plugin = _Plugin("alembic_audit.plugin.plugin")
