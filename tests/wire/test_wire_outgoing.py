"""Outgoing: frames go out whole and in turn, and control frames never wait."""

import os

import gevent
import pytest
from gevent import socket
from websockets.frames import Opcode
from wire_support import (
    MANY,
    SECONDS,
    Open,
    blocked_sender,
    fill,
    receiver,
    tcp_pair,
    tls_pair,
    until,
)

from relay_app.wire.frames import TEXT, Close, encode
from relay_app.wire.link import LinkEnded

# -- sending -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unix", "tcp", "stdlib", "tls"])
def test_many_bytes_reach_a_slow_reader_whole(opened: Open, kind: str) -> None:
    link, peer = opened(kind)
    data = os.urandom(1_000_000) * 30
    sender = blocked_sender(link, encode(TEXT, data))
    assert peer.receive_data() == data
    sender.get(timeout=SECONDS)
    assert link.blocked_since is None


def test_sends_of_many_greenlets_do_not_mix(opened: Open) -> None:
    link, peer = opened(pair_=tcp_pair(send_buffer=4_096, receive_buffer=4_096))
    words = [bytes((65 + i,)) * 50_000 for i in range(10)]
    senders = [gevent.spawn(link.send, encode(TEXT, word)) for word in words]
    assert [peer.receive_data() for _ in words] == words
    gevent.joinall(senders, timeout=SECONDS, raise_error=True)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_a_send_killed_in_the_middle_kills_the_link_and_nothing_follows_it(
    opened: Open, kind: str
) -> None:
    link, peer = opened(kind)
    sender = blocked_sender(link, encode(TEXT, bytes(MANY)))
    sent = link.bytes_out
    sender.kill()
    assert link.end == Close(1006)
    link.send(encode(TEXT, b"never"))
    link.ping()
    link.close(Close(1000))
    link.pulse(1.0, 20.0)
    assert not link.send_text("never")
    assert link.bytes_out == sent
    link.finish(0.1)
    if kind == "tcp":
        assert len(peer.rest()) == sent


def test_a_send_killed_before_its_first_byte_leaves_no_trace(opened: Open) -> None:
    link, peer = opened()
    first = blocked_sender(link, encode(TEXT, bytes(MANY)))
    second = gevent.spawn(link.send, encode(TEXT, b"never"), ends_message=False)
    gevent.idle()
    second.kill()
    assert peer.receive_data() == bytes(MANY)
    first.get(timeout=SECONDS)
    assert not link.mid_message
    link.send(encode(TEXT, b"after"))
    assert peer.receive_data() == b"after"


def test_a_send_that_waits_for_its_first_byte_can_be_killed_as_well(opened: Open) -> None:
    # A Unix socket takes a frame whole or not at all.
    link, peer = opened("unix")
    sent = fill(link)
    assert link.end is None
    link.close(Close(1001, b"so long"))
    finisher = gevent.spawn(link.finish, SECONDS)
    for _ in range(len(sent) // 102):
        peer.receive_data()
    assert peer.receive_close() == (1001, "so long")
    peer.sock.close()
    finisher.get(timeout=SECONDS)


def test_a_greenlet_killed_while_it_waits_for_its_turn_does_not_keep_the_lock(
    opened: Open,
) -> None:
    link, peer = opened()
    sender = blocked_sender(link, encode(TEXT, bytes(MANY)))
    waiters = [gevent.spawn(link.send, encode(TEXT, b"w%d" % i)) for i in range(3)]
    gevent.idle()
    sender.link(lambda _: waiters[0].kill(block=False))  # in the instant of the release
    assert peer.receive_data() == bytes(MANY)
    gevent.joinall([sender, *waiters], timeout=SECONDS)
    link.send(encode(TEXT, b"end"))
    assert [peer.receive_data() for _ in range(2)][-1] in (b"w1", b"w2", b"w0")
    until(lambda: all(w.ready() for w in waiters))


def test_a_peer_that_vanishes_under_a_send_ends_it(opened: Open) -> None:
    link, peer = opened()
    sender = blocked_sender(link, encode(TEXT, bytes(MANY)))
    peer.sock.close()
    with pytest.raises(LinkEnded):
        sender.get(timeout=SECONDS)
    assert receiver(link).get(timeout=SECONDS) == "ended 1006"


def test_a_link_whose_writing_failed_is_given_up_when_all_is_read(opened: Open) -> None:
    link, peer = opened()
    peer.sock.shutdown(socket.SHUT_RD)
    link.abort()
    assert not link.pulse(1.0, 20.0) or not link.reading


# -- control frames ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "tls", "stdlib"])
def test_a_ping_is_answered_at_the_boundary_behind_a_blocked_send(opened: Open, kind: str) -> None:
    link, peer = opened(kind)
    reader = receiver(link)
    sender = blocked_sender(link, encode(TEXT, bytes(MANY)))
    queued = gevent.spawn(link.send, encode(TEXT, b"queued"))
    for word in (b"one", b"two", b"three"):
        peer.send(Opcode.PING, word)
    peer.text("heard")
    until(lambda: reader.got)  # the reader is not blocked by the pong
    frames = [peer.receive() for _ in range(3)]
    assert [frame.opcode for frame in frames] == [Opcode.TEXT, Opcode.PONG, Opcode.TEXT]
    assert frames[0].data == bytes(MANY)
    assert frames[1].data == b"three"  # the latest is enough: section 5.5.3
    gevent.joinall([sender, queued], timeout=SECONDS, raise_error=True)


def test_pings_are_answered_at_once_when_nobody_is_sending(opened: Open) -> None:
    link, peer = opened()
    receiver(link)
    for word in (b"one", b"two"):
        peer.send(Opcode.PING, word)
        frame = peer.receive()
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, word)


def test_a_pong_may_come_between_fragments(opened: Open) -> None:
    link, peer = opened()
    receiver(link)
    link.send(b"\x01\x01a", ends_message=False)
    peer.send(Opcode.PING, b"?")
    assert peer.receive().opcode is Opcode.TEXT
    assert peer.receive().opcode is Opcode.PONG
    link.send(b"\x80\x01b")
    assert peer.receive().opcode is Opcode.CONT


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_a_flood_of_pings_from_a_peer_that_reads_nothing_keeps_memory_bounded(
    opened: Open, kind: str
) -> None:
    small = {"send_buffer": 4_096, "receive_buffer": 4_096}
    pairs = {"tcp": tcp_pair, "tls": tls_pair}
    link, peer = opened(kind, pair_=pairs[kind](**small) if kind in pairs else None)
    reader = receiver(link)
    flood = b"".join(peer.frame_bytes(Opcode.PING, b"%0125d" % i) for i in range(500))
    for _ in range(40):
        peer.sock.sendall(flood)
    peer.text("done")
    until(lambda: reader.got)
    end = gevent.spawn(link.send, encode(TEXT, b"end"))
    pongs = 0
    while (frame := peer.receive()).opcode is Opcode.PONG:
        pongs += 1
    assert frame.opcode is Opcode.TEXT
    # What the kernel held and one batch of ours: the other pongs were never kept.
    assert pongs < 6_000
    end.get(timeout=SECONDS)


def test_a_pong_that_did_not_fit_goes_out_with_a_later_beat(opened: Open) -> None:
    link, peer = opened(pair_=tcp_pair(send_buffer=4_096, receive_buffer=4_096))
    receiver(link)
    pings = 0
    while not link.out.waits:
        peer.send(Opcode.PING, b"%0120d" % pings)
        pings += 1
        until(lambda: link.controls == pings)  # noqa: B023
    for word in range(pings - 1):
        assert int(bytes(peer.receive().data)) == word
    until(lambda: link.pulse(0.0, 20.0) and not link.out.waits)
    assert int(bytes(peer.receive().data)) == pings - 1


@pytest.mark.parametrize("blocked", [True, False])
def test_a_control_frame_that_went_out_in_part_is_finished_before_anything_else(
    opened: Open, blocked: bool
) -> None:
    link, peer = opened(pair_=tcp_pair(send_buffer=4_096, receive_buffer=4_096))
    reader = receiver(link)
    pings = 3_000
    asked = gevent.spawn(lambda: [peer.send(Opcode.PING, b"%0120d" % i) for i in range(pings)])
    asked.join(1.0)  # as many as fit while nobody reads the pongs
    senders = [gevent.spawn(link.send, encode(TEXT, bytes((i,)) * 3_000)) for i in range(9)]
    texts = []
    while len(texts) < 9:
        frame = peer.receive()  # any byte out of place breaks this parser
        if frame.opcode is Opcode.TEXT:
            texts.append(frame.data[0])
            assert len(set(frame.data)) == 1
        else:
            assert frame.opcode is Opcode.PONG
            assert len(frame.data) == 120
    assert texts == list(range(9))
    gevent.joinall(senders, timeout=SECONDS, raise_error=True)
    asked.get(timeout=SECONDS)
    if blocked:
        peer.close()
        assert reader.get(timeout=SECONDS) == "ended 1000"


def test_we_close_once(opened: Open) -> None:
    link, peer = opened()
    link.close(Close(1001, b"first"))
    link.close(Close(1011, b"second"))
    assert peer.receive_close() == (1001, "first")
    peer.close(1001)
    assert receiver(link).get(timeout=SECONDS) == "ended 1001"
    gevent.spawn(link.finish, SECONDS)
    assert peer.rest() == b""


def test_nothing_goes_out_behind_our_close(opened: Open) -> None:
    link, peer = opened()
    reader = receiver(link)
    sender = blocked_sender(link, encode(TEXT, bytes(MANY)))
    queued = gevent.spawn(link.send, encode(TEXT, b"never"))
    own = gevent.spawn(link.send_text, "never")
    gevent.idle()
    link.close(Close(1001))
    peer.send(Opcode.PING, b"never")
    peer.text("heard")
    until(lambda: reader.got)
    assert peer.receive_data() == bytes(MANY)
    assert peer.receive_close() == (1001, "")
    gevent.joinall([sender, queued], timeout=SECONDS, raise_error=True)
    assert own.get(timeout=SECONDS) is False
    link.send(encode(TEXT, b"never"))
    link.ping()
    peer.close(1001)
    reader.get(timeout=SECONDS)
    gevent.spawn(link.finish, SECONDS)
    assert peer.rest() == b""


def test_a_pending_pong_and_ping_go_out_before_the_close(opened: Open) -> None:
    link, peer = opened()
    reader = receiver(link)
    blocked_sender(link, encode(TEXT, bytes(MANY)))
    link.ping()
    peer.send(Opcode.PING, b"p")
    peer.text("x")
    until(lambda: reader.got)
    link.close(Close(1000))
    order = [peer.receive().opcode for _ in range(4)]
    assert order[0] is Opcode.TEXT
    assert set(order[1:3]) == {Opcode.PING, Opcode.PONG}
    assert order[3] is Opcode.CLOSE


def test_1006_is_never_sent(opened: Open) -> None:
    link, peer = opened()
    link.close(Close(1006))
    assert peer.receive_close() == (None, "")


# -- messages of our own -------------------------------------------------------------------------


def test_our_own_text_goes_between_two_messages(opened: Open) -> None:
    link, peer = opened(name="target")
    sender = blocked_sender(link, encode(TEXT, bytes(MANY), b"mask"))
    own = gevent.spawn(link.send_text, "ours", seconds=SECONDS)
    gevent.idle()
    assert peer.receive_data() == bytes(MANY)
    assert peer.receive_data() == b"ours"
    assert own.get(timeout=SECONDS) is True
    sender.get(timeout=SECONDS)


def test_our_own_texts_wait_for_the_end_of_a_fragmented_message(opened: Open) -> None:
    link, peer = opened()
    link.send(b"\x01\x01a", ends_message=False)
    own = [gevent.spawn(link.send_text, "ours", seconds=SECONDS) for _ in range(3)]
    gevent.idle()
    link.send(b"\x00\x01b", ends_message=False)
    gevent.idle()
    assert link.mid_message
    link.send(b"\x80\x01c")
    got = [bytes(peer.receive().data) for _ in range(6)]
    assert got == [b"a", b"b", b"c", b"ours", b"ours", b"ours"]
    assert [greenlet.get(timeout=SECONDS) for greenlet in own] == [True] * 3


def test_our_own_text_gives_up_when_a_fragmented_message_stays_open(opened: Open) -> None:
    link, peer = opened()
    link.send(b"\x01\x01a", ends_message=False)
    assert link.send_text("ours", seconds=0.05) is False
    assert link.end is None
    link.send(b"\x80\x01b")
    link.send(encode(TEXT, b"next"))
    assert [bytes(peer.receive().data) for _ in range(3)] == [b"a", b"b", b"next"]


def test_our_own_text_waits_one_second_and_no_longer(opened: Open) -> None:
    link, _ = opened()
    link.send(b"\x01\x01a", ends_message=False)
    with gevent.Timeout(1.9):
        assert link.send_text("ours") is False


def test_who_waits_for_a_turn_need_not_once_the_link_ends(opened: Open) -> None:
    link, peer = opened()
    reader = receiver(link)
    link.send(b"\x01\x01a", ends_message=False)
    own = gevent.spawn(link.send_text, "ours", seconds=SECONDS)
    gevent.idle()
    peer.close()
    assert reader.get(timeout=SECONDS) == "ended 1000"
    assert own.get(timeout=1.0) is False


def test_a_pong_due_while_our_own_text_is_blocked_goes_out_behind_it(opened: Open) -> None:
    link, peer = opened()
    reader = receiver(link)
    own = gevent.spawn(link.send_text, "x" * MANY, seconds=SECONDS)
    until(lambda: link.blocked_since is not None)
    peer.send(Opcode.PING, b"?")
    peer.text("heard")
    until(lambda: reader.got)
    assert len(peer.receive().data) == MANY
    assert peer.receive().opcode is Opcode.PONG
    assert own.get(timeout=SECONDS) is True


def test_our_own_text_cut_off_in_the_middle_kills_the_link(opened: Open) -> None:
    link, peer = opened()
    assert link.send_text("x" * MANY, seconds=0.05) is False
    assert link.end == Close(1006)
    link.close(Close(1008))
    link.finish(0.1)
    assert len(peer.rest()) == link.bytes_out < MANY
