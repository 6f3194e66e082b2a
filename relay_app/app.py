"""The only place where things are wired.

The rule: parts get what they need as arguments and never look for it, so every one of them can
be replaced: ``create_app(settings, store=…, dial=…, clock=…)``.
"""

import os
import time
from collections.abc import Callable

import gevent
from flask import Flask
from werkzeug.exceptions import HTTPException

from relay_app.errors import ClientFault, RelayFault
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.budgets import LEASE_SECONDS, Budgets
from relay_app.ledger.journal import Journal
from relay_app.ledger.price_list import price_list
from relay_app.ledger.pricer import Pricer
from relay_app.ledger.retention import Retention
from relay_app.ledger.stored_keys import REFRESH_SECONDS, StoredKeys
from relay_app.ledger.stores.base import Store
from relay_app.meter import vocabulary
from relay_app.moderation import Moderation
from relay_app.observe.logs import configure, logger
from relay_app.observe.metrics import Metrics, Snapshot
from relay_app.session.greenlet_pool import GreenletPool
from relay_app.session.keeper import Keeper
from relay_app.session.tap import open_sink
from relay_app.settings import Settings
from relay_app.settings_file import settings_from_environment
from relay_app.upstream.catalogue import Catalogue
from relay_app.upstream.choice import Choice
from relay_app.upstream.dial import Dial, Dialler
from relay_app.upstream.trust import check_ca_files, warn_of_clear_text
from relay_app.web.auth import Authenticator
from relay_app.web.conversation import Sessions
from relay_app.web.door import Door
from relay_app.web.hub import SessionHub
from relay_app.web.ops import Operations, not_a_page
from relay_app.web.preflight import open_configured
from relay_app.web.realtime import RealtimeEndpoint
from relay_app.wire.rooms import Rooms

__all__ = ["Relay", "create_app"]

CLOSE_SECONDS = 10.0
GIVE_BACK_SECONDS = 2.0
"""How long a worker that ends tries to give back its leases; they lapse anyway."""
LAG_SECONDS = 1.0
"""A record that has waited this long, or longer than a frame is held for it, says that a write
hangs rather than fails."""
TRY_SECONDS = 1.0
"""How long the first sessions of a worker wait to hear that their records can be written."""


class Relay:
    """One worker's relay: what ``create_app`` and the extension put behind their routes.

    Building it starts nothing: no thread, no greenlet, no connection; it may precede a fork.
    ``lease_seconds`` is how long what a worker held stays taken after it died, ``key_seconds``
    how often the keys of the store are read.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store | None = None,
        dial: Dial | None = None,
        clock: Callable[[], float] = time.time,
        lease_seconds: float = LEASE_SECONDS,
        key_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.hub = SessionHub()
        self._moderation = Moderation()
        self.keeper = Keeper(on_rounds=self.publish, moderation=self._moderation)
        self.store = store or open_configured(settings)
        self.accountant = Accountant(
            self.store,
            journal=None if self.store.local else _journal(settings),
            durability=settings.store.durability,
        )
        self.budgets = Budgets(
            self.store,
            lease_seconds=lease_seconds,
            on_leased=self.metrics.leased,
            on_refused=self.metrics.limit_refused,
            clock=clock,
        )
        self._pricer = Pricer(
            price_list(settings), {u.name: u.price_prefix for u in settings.upstreams}
        )
        self._rooms = Rooms(settings.server.max_buffered_bytes)
        self._audit = open_sink(settings.audit.sink) if settings.audit.sink else None
        self._announced = self._draining = False
        self._told = False
        self._prepared_in: int | None = None
        self._loading: gevent.event.AsyncResult[None] | None = None
        self.stored_keys = StoredKeys(
            self.store, on_read=self._keys_read, refresh_seconds=key_seconds
        )
        days = settings.store.retention_days
        self._retention = None if days is None else Retention(self.store, days, clock=clock)
        self._authenticator = Authenticator(settings.auth.mode, settings.keys, self.stored_keys)
        check_ca_files(settings.upstreams, settings.source)
        warn_of_clear_text(settings.upstreams)
        self._choice = Choice(
            settings.upstreams,
            dial or Dialler(settings.server, self._rooms),
            seconds=settings.server.dial_seconds,
            on_attempt=self.metrics.attempted,
            on_spoiled=self.metrics.spoiled,
            on_resting=self.metrics.resting,
        )
        self._clock = clock

    def register(self, app: Flask) -> None:
        """Adds the relay's routes to ``app``."""
        settings = self.settings
        door = Door(settings.server, settings.auth, on_refused=self.metrics.limit_refused)
        sessions = Sessions(
            limits=settings.server,
            hub=self.hub,
            keeper=self.keeper,
            choice=self._choice,
            accountant=self.accountant,
            budgets=self.budgets,
            rooms=self._rooms,
            pool=GreenletPool(),
            give_way=self._moderation.give_way,
            before_forward=settings.store.durability == "before-forward",
            price=self._pricer,
            audit=self._audit,
            on_hold=self.metrics.held,
            on_limit=self.metrics.limit_stopped,
            clock=self._clock,
        )
        self.endpoint = RealtimeEndpoint(
            sessions=sessions,
            door=door,
            authenticator=self._authenticator,
            catalogue=Catalogue(settings.upstreams),
            ready=self.check_ready,
            prepare=self.prepare,
            on_refused=self.metrics.refused,
        )
        self.endpoint.register(app)
        Operations(
            hub=self.hub,
            door=door,
            accountant=self.accountant,
            store=self.store,
            authenticator=self._authenticator,
            metrics=self.metrics,
            publish=self.publish,
            ready=self.check_announced,
            warning=self._warning,
        ).register(app)
        app.extensions["relay_app"] = self

    def start(self) -> None:
        """Has a worker do what it does beside its sessions: look for what dead ones left behind,
        for keys, and for records that are too old. The first session does so too."""
        self.hub.run(self._start)

    def _start(self) -> None:
        self.accountant.start()
        if self.settings.auth.mode == "keys":
            self.stored_keys.start()
        if self._retention is not None:
            self._retention.start()

    def load(self) -> None:
        """Loads what estimates need. Blocks for half a second: for a worker's start."""
        try:
            vocabulary.load()
        except Exception:  # noqa: BLE001 - text is then counted by its length, and that is counted
            logger.exception("no vocabulary: estimates of text are rough")

    def prepare(self) -> None:
        """The same for hosts that tell nobody when a worker starts: the first session waits for
        it, and so do those that begin meanwhile, so that no open session is stopped by it."""
        if self._prepared_in == os.getpid():
            return
        self._start()
        self.accountant.wait_tried(TRY_SECONDS)
        if vocabulary.loaded() is None:
            if self._loading is None:
                self._loading = gevent.get_hub().threadpool.spawn(self.load)
            self._loading.get()
        self._prepared_in = os.getpid()

    def check_ready(self) -> None:
        """Raises RelayFault while no new session may begin."""
        if self._draining:
            raise _leaving()
        if not self.accountant.healthy or self._lags():
            raise RelayFault(
                "This relay cannot record usage at the moment. Try again later.",
                code="ledger_unavailable",
                headers={"Retry-After": "5"},
            )

    def check_announced(self) -> None:
        """Raises RelayFault while no balancer is to send anybody; who comes all the same is let
        in until the drain begins."""
        if self._announced:
            raise _leaving()
        self.check_ready()

    def _lags(self) -> bool:
        patience = max(LAG_SECONDS, self.settings.server.hold_seconds)
        return self.accountant.lag_seconds > patience

    def _warning(self) -> str | None:
        found = (self.accountant.warning, self.stored_keys.warning)
        return "; ".join(warning for warning in found if warning) or None

    def _keys_read(self) -> None:
        if not (self._told or self.settings.keys or len(self.stored_keys)):
            logger.warning("there is no key yet: relay-app keys create NAME makes one")
        self._told = True
        fault = ClientFault("the key of this session was revoked", code="key_revoked", status=401)
        self.keeper.cancel(fault, unless=self._authenticator.knows)
        self.budgets.update(self._authenticator.stored)

    def announce_drain(self) -> None:
        """Makes readiness 503, before the listener closes and new sessions are refused."""
        self._announced = True

    def drain(self) -> None:
        """Ends sessions: idle ones at once with 1001, the others after their response."""
        self._draining = True
        self.hub.run(
            self.keeper.drain,
            _leaving(),
            self.settings.server.drain_seconds,
        )

    def close(self) -> None:
        """Ends every session now and makes every record durable. For a worker's last moments."""
        self.hub.run(self._close)

    def _close(self) -> None:
        self._draining = True
        self.keeper.drain(_leaving(), 0)
        self.keeper.wait_empty(CLOSE_SECONDS)
        self.stored_keys.stop()
        if self._retention is not None:
            self._retention.stop()
        self.budgets.close(GIVE_BACK_SECONDS)
        if not self.accountant.close(CLOSE_SECONDS):
            for record in self.accountant.unwritten:
                logger.error("usage record lost record=%s", record.as_dict())
        if self._audit is not None:
            self._audit.close()
        self.publish()

    def publish(self) -> None:
        """Brings the metrics up to date, and says which models had no price."""
        self._pricer.tell()
        keeper, accountant = self.keeper, self.accountant
        tally = keeper.tally()  # first, for this takes time
        journal, shipper = accountant.journal, accountant.shipper
        self.metrics.publish(
            Snapshot(
                open=len(keeper),
                opened=keeper.opened,
                closes=dict(keeper.closes),
                tally=tally,
                records=accountant.records_written,
                pending=accountant.pending,
                store_failures=shipper.writer.failures if shipper else accountant.failures,
                journal_bytes=journal.backlog.unshipped_bytes if journal else 0,
                journal_seconds=shipper.oldest_seconds if shipper else 0.0,
                journal_entries=journal.entries if journal else 0,
                journal_syncs=journal.syncs if journal else 0,
                journal_failures=accountant.failures if journal else 0,
                journal_damaged_bytes=journal.backlog.damaged_bytes if journal else 0,
                buffered_bytes=self._rooms.taken_bytes,
                unpriced=dict(self._pricer.unpriced),
                forgotten=0 if self._retention is None else self._retention.forgotten,
                key_failures=self.stored_keys.failures,
                key_seconds=self.stored_keys.age_seconds,
            )
        )


def _leaving() -> RelayFault:
    """What newcomers hear, and sessions when they end."""
    return RelayFault(
        "This relay is shutting down. Connect again to reach another.",
        code="relay_draining",
        close_code=1001,
        headers={"Retry-After": "1"},
    )


def create_app(
    settings: Settings | None = None,
    *,
    store: Store | None = None,
    dial: Dial | None = None,
    clock: Callable[[], float] = time.time,
    lease_seconds: float = LEASE_SECONDS,
    key_seconds: float = REFRESH_SECONDS,
) -> Flask:
    """The relay as a WSGI application.

    Without ``settings`` they are read from the file that ``RELAY_CONFIG`` names. Raises
    SettingsError.
    """
    configure()
    app = Flask("relay_app")
    relay = Relay(
        settings or settings_from_environment(),
        store=store,
        dial=dial,
        clock=clock,
        lease_seconds=lease_seconds,
        key_seconds=key_seconds,
    )
    relay.register(app)
    app.register_error_handler(HTTPException, not_a_page)
    return app


def _journal(settings: Settings) -> Journal:
    return Journal(settings.store.journal, max_bytes=settings.store.journal_max_bytes)
