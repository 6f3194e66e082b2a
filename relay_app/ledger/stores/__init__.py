"""Which store a URL names.

The rule: a store is found by its URL's scheme among the entry points ``relay_app.stores``, so
that one installed from elsewhere is as good as one of ours; and ours are found even where no
package metadata is, as in a bare source tree.
"""

from importlib.metadata import EntryPoint, entry_points

from relay_app.ledger.stores.base import Store, StoreError
from relay_app.ledger.stores.totals import By, Total

__all__ = ["By", "Store", "StoreError", "Total", "open_store"]

GROUP = "relay_app.stores"

_OURS = {
    "memory": "relay_app.ledger.stores.memory:MemoryStore",
    "sqlite": "relay_app.ledger.stores.sql:SQLStore",
}
_NOT_YET = {"postgresql", "redis", "rediss"}


def open_store(url: str) -> Store:
    """The store that ``url`` names, unopened: see :class:`Store`.

    ``scheme+driver://`` is looked up as it stands and then as ``scheme``. Raises ValueError
    for a URL that names no store; messages repeat nothing of the URL but its scheme.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme:
        raise ValueError(f"a store is a URL such as sqlite:///var/relay.db; known: {_names()}")
    stores = _known()
    base = scheme.partition("+")[0]
    found = stores.get(scheme) or stores.get(base)
    if found is None:
        reason = "not supported yet" if base in _NOT_YET else "not a known store"
        raise ValueError(f"{scheme}:// is {reason}; known: {_names()}")
    return _load(found).from_url(url)


def _known() -> dict[str, EntryPoint]:
    """Every store by its scheme. Ours cannot be taken over by a package that happens along."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    return found | {name: EntryPoint(name, value, GROUP) for name, value in _OURS.items()}


def _names() -> str:
    return ", ".join(f"{name}://" for name in sorted(_known()))


def _load(point: EntryPoint) -> type[Store]:
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the store {point.name}:// ({point.value}) cannot be loaded: {error}"
        ) from None
    if not (isinstance(loaded, type) and issubclass(loaded, Store)):
        raise ValueError(f"the store {point.name}:// ({point.value}) is no Store")
    return loaded
