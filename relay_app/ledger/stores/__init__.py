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
    "postgresql": "relay_app.ledger.stores.postgres:PostgresStore",
    "redis": "relay_app.ledger.stores.redis:RedisStore",
    "rediss": "relay_app.ledger.stores.redis:RedisStore",
    "sqlite": "relay_app.ledger.stores.sql:SQLStore",
}
_EXTRAS = {"postgresql": "postgres", "redis": "redis", "rediss": "redis"}
"""Which extra brings the driver, where a store needs one."""


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
        raise ValueError(f"{scheme}:// is not a known store; known: {_names()}")
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
        if point.name in _EXTRAS and isinstance(error, ImportError):
            raise ValueError(
                f"the store {point.name}:// needs a driver that is not installed: "
                f"pip install 'relay_app[{_EXTRAS[point.name]}]'"
            ) from None
        raise ValueError(
            f"the store {point.name}:// ({point.value}) cannot be loaded: {error}"
        ) from None
    if not (isinstance(loaded, type) and issubclass(loaded, Store)):
        raise ValueError(f"the store {point.name}:// ({point.value}) is no Store")
    return loaded
