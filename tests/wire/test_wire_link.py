"""Link: what the peer says is heard to the last word, and who is silent is given up."""

import gc
import os

import gevent
import pytest
from gevent import socket
from support.links import receive
from websockets.frames import Opcode
from wire_support import (
    KINDS,
    MANY,
    SECONDS,
    Open,
    Peer,
    blocked_sender,
    dead_line,
    fill,
    link_on,
    receiver,
    tcp_pair,
    until,
)

from relay_app.wire.frames import TEXT, Close, FrameError, encode, xor
from relay_app.wire.link import LinkEnded
from relay_app.wire.rooms import Rooms

# -- receiving -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["client", "target"])
def test_messages_go_both_ways_on_any_kind_of_socket(opened: Open, kind: str, name: str) -> None:
    link, peer = opened(kind, name=name)
    reader = receiver(link)
    peer.text("hello")
    link.send(encode(TEXT, b"good day", b"mask" if link.masks else b""))
    assert peer.receive_data() == b"good day"
    peer.close(4000, "bye")
    assert reader.get(timeout=SECONDS) == "ended 4000 bye"
    assert reader.got == [b"hello"]
    assert peer.receive_close() == (4000, "")


@pytest.mark.parametrize("kind", KINDS)
def test_16_mib_messages_cross_whole_in_both_directions_at_once(opened: Open, kind: str) -> None:
    link, peer = opened(kind, name="target")
    data = os.urandom(1 << 20) * 16
    reader = receiver(link)
    sender = gevent.spawn(link.send, encode(TEXT, data, b"mask"))
    answer = gevent.spawn(peer.send, Opcode.BINARY, data)
    assert peer.receive_data() == data
    gevent.joinall([sender, answer], timeout=SECONDS, raise_error=True)
    until(lambda: reader.got)
    assert reader.got == [data]


def test_what_came_behind_the_handshake_is_read_first(opened: Open) -> None:
    link, peer = opened(early=encode(TEXT, b"early", b"mask"))
    peer.text("late")
    run = receive(link)
    assert xor(bytes(run.data[6:]), b"mask") == b"early"
    assert receive(link).frames


def test_data_before_a_close_in_the_same_packet_is_delivered_first(opened: Open) -> None:
    link, peer = opened()
    last = peer.frame_bytes(Opcode.TEXT, b"last words")
    peer.sock.sendall(last + peer.frame_bytes(Opcode.CLOSE, b"\x03\xe8") + last)
    reader = receiver(link)
    assert reader.get(timeout=SECONDS) == "ended 1000"
    assert reader.got == [b"last words"]


def test_what_stands_behind_a_close_is_not_looked_at_even_if_it_is_broken(opened: Open) -> None:
    link, peer = opened()
    peer.sock.sendall(peer.frame_bytes(Opcode.CLOSE, b"\x03\xe8") + b"\xff\xff\xff")
    assert receiver(link).get(timeout=SECONDS) == "ended 1000"


def test_data_before_a_violation_is_delivered_first(opened: Open) -> None:
    link, peer = opened()
    peer.sock.sendall(peer.frame_bytes(Opcode.TEXT, b"fine") + b"\xff\xff")
    reader = receiver(link)
    assert reader.get(timeout=SECONDS) == "broken 1002"
    assert reader.got == [b"fine"]
    with pytest.raises(FrameError):
        receive(link)


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        (b"", "ended 1005"),
        (b"\x03", "broken 1002"),
        (b"\x03\xee", "broken 1002"),
        (b"\x03\xe8\xff", "broken 1007"),
        (b"\x0f\xa0gone", "ended 4000 gone"),
    ],
)
def test_a_close_frame_ends_or_breaks_the_link(opened: Open, payload: bytes, outcome: str) -> None:
    link, peer = opened()
    peer.send(Opcode.CLOSE, payload)
    assert receiver(link).get(timeout=SECONDS) == outcome


def test_a_close_without_a_code_is_answered_without_one(opened: Open) -> None:
    link, peer = opened()
    peer.send(Opcode.CLOSE)
    assert receiver(link).get(timeout=SECONDS) == "ended 1005"
    assert peer.receive_close() == (None, "")


def test_the_end_of_the_stream_without_a_close_is_1006(opened: Open) -> None:
    link, peer = opened()
    peer.text("then silence")
    peer.sock.close()
    reader = receiver(link)
    assert reader.get(timeout=SECONDS) == "ended 1006"
    assert reader.got == [b"then silence"]


def test_a_reset_is_1006(opened: Open) -> None:
    link, peer = opened()
    link.send(encode(TEXT, b"unread"))
    peer.sock.close()  # with unread bytes: a reset
    assert receiver(link).get(timeout=SECONDS) == "ended 1006"


@pytest.mark.parametrize("kind", ["tcp", "stdlib"])
def test_the_peers_last_words_are_heard_though_our_write_failed_first(
    opened: Open, kind: str
) -> None:
    link, peer = opened(kind)
    link.send(encode(TEXT, b"unread"))
    peer.close(4001, "session expired")
    peer.sock.close()  # a reset: bytes of ours are unread

    def write_until_it_fails() -> None:
        while True:
            link.send(encode(TEXT, b"audio"))
            gevent.idle()

    with pytest.raises(LinkEnded):
        write_until_it_fails()
    assert receiver(link).get(timeout=SECONDS) == "ended 4001 session expired"


def test_nothing_is_read_before_it_is_asked_for(opened: Open) -> None:
    link, peer = opened(pair_=tcp_pair(receive_buffer=20_000))
    data = bytes(MANY)
    sender = gevent.spawn(peer.send, Opcode.BINARY, data[:10_000_000])
    gevent.sleep(0.05)
    assert not sender.ready()
    assert link.bytes_in == 0
    reader = receiver(link)
    until(lambda: reader.got)
    sender.get(timeout=SECONDS)


# -- large frames --------------------------------------------------------------------------------


def test_a_large_frame_takes_room_and_gives_it_back(opened: Open) -> None:
    rooms = Rooms(1_000_000)
    link, peer = opened(rooms=rooms)
    peer_sends = gevent.spawn(peer.send, Opcode.BINARY, bytes(300_000))
    run = receive(link)
    assert rooms.taken_bytes == run.frames[0].end - run.frames[0].start == 300_014
    peer_sends.join()
    peer.text("small")
    receive(link)
    assert rooms.taken_bytes == 0


def test_small_frames_take_no_room(opened: Open) -> None:
    rooms = Rooms(1)
    rooms.take(1)
    link, peer = opened(rooms=rooms)
    peer.send(Opcode.BINARY, bytes(60_000))
    assert receive(link).frames


def test_who_has_to_wait_for_room_does_not_read_on(opened: Open) -> None:
    rooms = Rooms(100_000)
    rooms.take(100_000)
    link, peer = opened(rooms=rooms)
    sender = gevent.spawn(peer.send, Opcode.BINARY, bytes(5_000_000))
    reader = receiver(link)
    until(lambda: rooms.crowded)
    assert link.bytes_in <= 65_536
    assert not link.reading
    rooms.give_back(100_000)
    until(lambda: reader.got)
    sender.get(timeout=SECONDS)
    peer.close()
    reader.get(timeout=SECONDS)
    link.dispose()
    assert rooms.taken_bytes == 0


def test_room_that_others_wait_for_is_hoarded_after_a_while(opened: Open) -> None:
    now = [0.0]
    rooms = Rooms(100_000)
    link, peer = opened(rooms=rooms, clock=lambda: now[0])
    peer.sock.sendall(peer.frame_bytes(Opcode.BINARY, bytes(90_000))[:70_000])
    reader = receiver(link)
    until(lambda: rooms.taken_bytes)
    now[0] = 100.0
    assert not link.hoards_room(60.0)  # nobody else wants it
    other = gevent.spawn(rooms.take, 50_000)
    until(lambda: rooms.crowded)
    assert link.hoards_room(60.0)
    assert not link.hoards_room(101.0)
    reader.kill()
    link.dispose()
    other.get(timeout=SECONDS)
    assert rooms.taken_bytes == 50_000


def test_a_killed_reader_gives_its_room_back_when_disposed(opened: Open) -> None:
    rooms = Rooms(1_000_000)
    link, peer = opened(rooms=rooms)
    peer.sock.sendall(peer.frame_bytes(Opcode.BINARY, bytes(200_000))[:100_000])
    reader = receiver(link)
    until(lambda: rooms.taken_bytes)
    reader.kill()
    link.dispose()
    assert rooms.taken_bytes == 0


# -- the heartbeat -------------------------------------------------------------------------------


def test_a_silent_peer_is_asked_once_and_given_as_long_again(opened: Open) -> None:
    link, peer = opened()
    reader = receiver(link)
    until(lambda: link.reading)
    assert [link.pulse(5.0, 20.0) for _ in range(7)] == [True] * 7
    assert link.pulse(5.0, 20.0) is False
    assert peer.receive().opcode is Opcode.PING
    link.abort()
    assert reader.get(timeout=SECONDS) == "ended 1006"
    assert peer.rest() == b""


def test_a_pong_or_anything_else_starts_the_count_anew(opened: Open) -> None:
    link, peer = opened()
    receiver(link)
    until(lambda: link.reading)
    for _ in range(3):
        assert all(link.pulse(5.0, 20.0) for _ in range(7))
        assert peer.receive().opcode is Opcode.PING
        before = link.bytes_in
        peer.send(Opcode.PONG)
        until(lambda: link.bytes_in > before)  # noqa: B023
        assert link.pulse(5.0, 20.0)


def test_one_long_round_does_not_condemn_a_peer_that_was_not_asked(opened: Open) -> None:
    link, peer = opened()
    receiver(link)
    until(lambda: link.reading)
    assert link.pulse(1_000.0, 20.0)
    assert peer.receive().opcode is Opcode.PING
    assert not link.pulse(1_000.0, 20.0)


def test_who_cannot_be_written_to_any_more_has_a_beat_to_say_how_it_ended(opened: Open) -> None:
    link, _ = opened()
    receiver(link)
    until(lambda: link.reading)
    sender = gevent.spawn(link.send, bytes(50_000_000))
    until(lambda: link.blocked_since is not None)
    sender.kill()
    assert link.pulse(1.0, 20.0)
    assert not link.pulse(1.0, 20.0)


def test_no_time_counts_in_which_nobody_was_reading(opened: Open) -> None:
    link, peer = opened()
    assert all(link.pulse(100.0, 20.0) for _ in range(50))
    peer.sock.settimeout(0.01)
    with pytest.raises(socket.timeout):
        peer.receive()


def test_no_time_counts_in_which_the_peer_is_still_taking_what_we_sent(opened: Open) -> None:
    link, peer = opened(pair_=tcp_pair(receive_buffer=65_536))
    receiver(link)
    sender = blocked_sender(link, encode(TEXT, bytes(MANY)))
    taken = 0
    while not sender.ready():
        # A listener on a slow line: it says nothing, and its pong is far behind.
        taken += len(peer.sock.recv(1_000_000))
        gevent.sleep(0.001)
        if not sender.ready():
            assert link.pulse(7.0, 20.0)
    sender.get()


def test_a_peer_that_takes_nothing_and_says_nothing_is_given_up(opened: Open) -> None:
    link, _ = opened()
    receiver(link)
    blocked_sender(link, encode(TEXT, bytes(MANY)))
    gevent.sleep(0.05)  # until loopback has delivered what fits
    verdicts = [link.pulse(5.0, 20.0) for _ in range(10)]
    assert verdicts[0]
    assert not verdicts[-1]


def test_blocked_since_is_when_the_peer_took_the_last_byte(opened: Open) -> None:
    now = [10.0]
    link, peer = opened(pair_=tcp_pair(receive_buffer=65_536), clock=lambda: now[0])
    assert link.blocked_since is None
    sender = blocked_sender(link, encode(TEXT, bytes(MANY)))
    assert link.blocked_since == 10.0
    link.pulse(1.0, 20.0)
    now[0] = 24.0
    until(lambda: peer.sock.recv(1_000_000) and link.blocked_since != 10.0)
    assert sender.ready() or link.blocked_since == 24.0
    sender.kill()


def test_a_slow_line_is_not_a_stall_though_the_kernel_wakes_nobody_yet(opened: Open) -> None:
    now = [0.0]
    link, peer = opened(pair_=tcp_pair(receive_buffer=16_384), clock=lambda: now[0])
    sender = blocked_sender(link, encode(TEXT, bytes(MANY)))
    gevent.sleep(0.05)  # until loopback has delivered what fits
    link.pulse(1.0, 20.0)
    before, now[0] = link.bytes_out, 14.0
    assert peer.sock.recv(30_000)
    until(lambda: link.pulse(0.0, 20.0) and link.blocked_since == 14.0)
    assert link.bytes_out - before < 1_000_000
    sender.kill()


# -- what is under way ---------------------------------------------------------------------------


def test_a_peer_that_reads_nothing_takes_nothing_though_the_kernel_has_room(opened: Open) -> None:
    now = [10.0]
    link, peer = opened(pair_=tcp_pair(receive_buffer=4_096), clock=lambda: now[0])
    assert link.pulse(1.0, 20.0)
    assert link.untaken_since is None
    link.send(encode(TEXT, bytes(20_000)))
    gevent.sleep(0.05)  # until loopback has delivered what fits
    link.pulse(1.0, 20.0)
    assert link.untaken_since == 10.0
    now[0] = 24.0
    link.send(encode(TEXT, bytes(500)))
    link.pulse(1.0, 20.0)
    assert link.untaken_since == 10.0
    assert link.untaken_seconds() == 14.0
    assert link.blocked_since is None
    assert [len(peer.receive_data()) for _ in range(2)] == [20_000, 500]
    until(lambda: link.pulse(0.0, 20.0) and link.untaken_since is None)
    assert link.untaken_seconds() == 0.0


@pytest.mark.parametrize("kind", ["tcp", "stdlib", "tls", "stdlib-tls"])
def test_a_dead_line_takes_nothing_until_it_is_back(opened: Open, kind: str) -> None:
    now = [10.0]
    link, peer = opened(kind, clock=lambda: now[0])
    link.send(encode(TEXT, b"before"))
    assert peer.receive_data() == b"before"
    with dead_line(peer.sock):
        link.send(encode(TEXT, b"meanwhile"))
        link.pulse(1.0, 20.0)
        now[0] = 40.0
        link.pulse(1.0, 20.0)
        assert link.untaken_since == 10.0
    assert peer.receive_data() == b"meanwhile"
    until(lambda: link.untaken_seconds() == 0.0)


def test_a_ping_that_is_alone_on_its_way_is_nothing_to_be_taken(opened: Open) -> None:
    link, peer = opened()
    receiver(link)
    until(lambda: link.reading)
    with dead_line(peer.sock):
        link.pulse(20.0, 20.0)
        link.pulse(1.0, 20.0)
        assert link.connection.unacknowledged() == 2
        assert link.untaken_since is None
        link.send(encode(TEXT, b"audio"))
        link.pulse(1.0, 20.0)
        assert link.untaken_since is not None


def test_what_was_not_taken_is_known_when_the_kernel_has_given_up(opened: Open) -> None:
    now = [10.0]
    link, peer = opened(user_timeout_seconds=0.3, clock=lambda: now[0])
    reader = receiver(link)
    with dead_line(peer.sock):
        link.send(encode(TEXT, b"audio"))
        link.pulse(1.0, 20.0)
        now[0] = 25.0
        assert reader.get(timeout=SECONDS) == "ended 1006"
    assert link.untaken_seconds() == 15.0


def test_what_was_taken_since_the_last_beat_is_not_forgotten_at_the_end(opened: Open) -> None:
    now = [10.0]
    link, peer = opened(clock=lambda: now[0])
    reader = receiver(link)
    with dead_line(peer.sock):
        link.send(encode(TEXT, b"audio"))
        link.pulse(1.0, 20.0)
    assert peer.receive_data() == b"audio"
    until(lambda: not link.connection.unacknowledged())
    now[0] = 100.0
    peer.sock.close()
    assert reader.get(timeout=SECONDS) == "ended 1006"
    assert link.untaken_seconds() == 0.0


# -- ending --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_finish_lets_the_peer_read_the_last_words_though_bytes_are_unread(
    opened: Open, kind: str
) -> None:
    link, peer = opened(kind)
    for _ in range(100):
        peer.text("you will not read this")
    link.close(Close(1008, b"that is all"))
    finisher = gevent.spawn(link.finish, SECONDS)
    assert peer.receive_close() == (1008, "that is all")
    peer.sock.close()
    finisher.get(timeout=SECONDS)


def test_finish_sends_what_did_not_fit_in_the_socket_before(opened: Open) -> None:
    link, peer = opened()
    sender = blocked_sender(link, encode(TEXT, bytes(MANY)))
    link.close(Close(1011, b"late but whole"))
    finisher = gevent.spawn(link.finish, SECONDS)
    assert peer.receive_close() == (1011, "late but whole")
    peer.sock.close()
    finisher.get(timeout=SECONDS)
    sender.get()


def test_finish_reads_while_it_still_writes(opened: Open) -> None:
    # A peer that writes before it reads: neither may wait for the other.
    link, peer = opened("unix")
    sent = fill(link)
    link.close(Close(1000))
    finisher = gevent.spawn(link.finish, SECONDS)
    peer.send(Opcode.BINARY, bytes(MANY))
    for _ in range(len(sent) // 102):
        peer.receive_data()
    assert peer.receive_close() == (1000, "")
    peer.sock.close()
    finisher.get(timeout=SECONDS)


def test_finish_spawns_nothing_where_all_was_said(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, peer = opened()
    link.close(Close(1000))
    finisher = gevent.spawn(link.finish, SECONDS)
    monkeypatch.setattr(gevent, "spawn", None)
    assert peer.receive_close() == (1000, "")
    peer.text("one more thing")
    peer.sock.close()
    finisher.get(timeout=SECONDS)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_finish_takes_no_longer_than_it_may(opened: Open, kind: str) -> None:
    link, peer = opened(kind)
    flood = gevent.spawn(peer.send, Opcode.BINARY, bytes(300_000_000))
    with gevent.Timeout(5.0):
        link.finish(0.05)
    flood.kill()


def test_abort_resets(opened: Open) -> None:
    ours, theirs = tcp_pair()
    link, peer = opened(pair_=(ours, theirs))
    blocked = blocked_sender(link, encode(TEXT, bytes(MANY)))
    reader = receiver(link)
    link.abort()
    assert reader.get(timeout=SECONDS) == "ended 1006"
    with pytest.raises(LinkEnded):
        blocked.get(timeout=SECONDS)
    link.dispose()
    ours.close()
    with pytest.raises(ConnectionResetError):
        peer.rest()


def test_everything_but_the_socket_is_given_back(opened: Open) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), gevent.get_hub().loop.activecnt
    for _ in range(20):
        ours, theirs = tcp_pair()
        link = link_on(ours)
        reader = receiver(link)
        peer = Peer(theirs)
        peer.text("hi")
        until(lambda: reader.got)  # noqa: B023
        reader.kill()
        link.dispose()
        link.dispose()  # whoever owns it may do so again
        link.send(encode(TEXT, b"dropped"))
        ours.close()
        theirs.close()
    gc.collect()
    after = len(os.listdir("/proc/self/fd")), gevent.get_hub().loop.activecnt
    assert after == before


def test_a_killed_reader_can_be_followed_by_another(opened: Open) -> None:
    link, peer = opened()
    for word in ("one", "two", "three"):
        reader = receiver(link)
        until(lambda: link.reading)
        reader.kill()
        assert not link.reading
        second = receiver(link)
        peer.text(word)
        until(lambda: second.got)  # noqa: B023
        second.kill()
