"""``ReadOnly``: a mapping that cannot be changed, but can be copied, pickled and written as JSON."""

from typing import Any, NoReturn


class ReadOnly(dict[str, Any]):
    """A dict that refuses changes.

    A ``types.MappingProxyType`` refuses them, too, but ``json.dumps``, ``pickle`` and ``copy.deepcopy`` refuse it.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this mapping is read-only; change a copy of it: dict(mapping)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)
