"""What is due when."""

from relay_app.ledger.agenda import Agenda


def test_things_are_taken_in_the_order_in_which_they_are_due():
    agenda: Agenda[str] = Agenda()
    for thing, due in (("late", 3.0), ("early", 1.0), ("between", 2.0)):
        assert agenda.put(thing, due)
    assert agenda.next_due() == 1.0
    assert agenda.take(2.0, 10) == ["early", "between"]
    assert agenda.take(2.0, 10) == []
    assert agenda.next_due() == 3.0


def test_a_thing_is_due_once_at_its_earliest_moment():
    agenda: Agenda[str] = Agenda()
    agenda.put("a", 5.0)
    assert agenda.put("a", 2.0), "put forward"
    assert not agenda.put("a", 4.0), "not put off"
    assert not agenda.put("a", 2.0)
    assert agenda.take(9.0, 10) == ["a"]
    assert agenda.next_due() is None


def test_no_more_is_taken_than_was_asked_for():
    agenda: Agenda[str] = Agenda()
    for thing in "abc":
        agenda.put(thing, 0.0)
    assert agenda.take(1.0, 2) == ["a", "b"]
    assert agenda.take(1.0, 2) == ["c"]
