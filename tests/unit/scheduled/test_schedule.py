"""The schedule under any order of events: no item is lost or ends twice, and no bound is exceeded."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sparkgap.scheduled import schedule
from sparkgap.scheduled.schedule import Close, Command, Kill, Lease, Recall, Schedule, Settle

RETRIES = 2


class Machine(RuleBasedStateMachine):
    """Drives a schedule as a desk full of slots would: each runs its leases front to back."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(retries=RETRIES, backoff=1.0)
        self.now = 0.0
        self.offered = self.slot_count = 0
        self.dry = self.cancelled = False
        self.slots: dict[int, list[tuple[int, list[int]]]] = {}
        self.asked_back: set[int] = set()
        self.closing: set[int] = set()
        self.tries: Counter[int] = Counter()
        self.losses: Counter[int] = Counter()
        self.over: Counter[int] = Counter()

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Lease(slot, lease, items):
                    assert items
                    assert slot not in self.closing
                    assert len(self.slots[slot]) < 2
                    self.slots[slot].append((lease, list(items)))
                case Recall(slot):
                    self.asked_back.add(slot)
                case Kill(slot):
                    self.slots[slot].clear()
                case Close(slot):
                    self.closing.add(slot)
                case Settle(item):
                    self.over[item] += 1
                    assert self.losses[item] == schedule.MAX_LOSSES + 1

    @precondition(lambda self: not self.dry)
    @rule(count=st.integers(1, 40))
    def offer(self, count: int) -> None:
        self.offered += count
        self.perform(self.schedule.offer(count))

    @precondition(lambda self: not self.dry)
    @rule()
    def exhausted(self) -> None:
        self.dry = True
        self.perform(self.schedule.exhausted())

    @rule()
    def open_slot(self) -> None:
        if len(self.slots) < 4:
            self.slot_count += 1
            self.slots[self.slot_count] = []
            self.perform(self.schedule.opened(self.slot_count))

    @precondition(lambda self: self.slots)
    @rule(data=st.data(), ok=st.booleans(), count=st.integers(1, 10), seconds=st.sampled_from([0.0, 1e-4, 0.01, 3.0]))
    def work(self, data: st.DataObject, ok: bool, count: int, seconds: float) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slots)))
        for _ in range(count):
            if not self.slots[slot]:
                break
            lease, items = self.slots[slot][0]
            item = items.pop(0)
            self.tries[item] += 1
            if not items:
                self.slots[slot].pop(0)
            verdict = self.schedule.ended(slot, lease, item, ok, seconds, self.now)
            assert verdict == ("over" if ok or self.tries[item] > RETRIES else "again")
            self.over[item] += verdict == "over"
            assert self.schedule.ended(slot, lease, item, ok, seconds, self.now) is None  # said twice
        self.perform(self.schedule.assign())

    @precondition(lambda self: any(self.slots.values()))
    @rule(data=st.data(), count=st.integers(1, 10))
    def work_well(self, data: st.DataObject, count: int) -> None:
        slot = data.draw(st.sampled_from(sorted(n for n, leases in self.slots.items() if leases)))
        lease, items = self.slots[slot][0]
        done = items[:count]
        del items[:count]
        if not items:
            self.slots[slot].pop(0)
        self.tries.update(done)
        self.over.update(done)
        assert self.schedule.ended_well(slot, lease, done, [0.01] * len(done)) == [
            self.tries[item] + self.losses[item] for item in done
        ]
        assert self.schedule.ended_well(slot, lease, done, [0.01] * len(done)) == [0] * len(done)  # said twice
        self.perform(self.schedule.assign())

    def at_hand_of(self, leases: list[tuple[int, list[int]]]) -> list[int]:
        """Return what counts as lost where a slot vanishes."""
        return [item for _, items in leases for item in items][:1]

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def lose_slot(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.slots)))
        self.losses.update(self.at_hand_of(self.slots.pop(slot)))
        self.asked_back.discard(slot)
        self.closing.discard(slot)
        self.perform(self.schedule.closed(slot))

    @precondition(lambda self: self.asked_back)
    @rule(data=st.data(), begun=st.integers(0, 3))
    def give_back(self, data: st.DataObject, begun: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.asked_back)))
        self.asked_back.discard(slot)
        back = []
        for place, (lease, items) in enumerate(self.slots[slot]):
            keep = begun if place == 0 else 0
            back.append((lease, items[keep:]))
            del items[keep:]
        self.slots[slot] = [(lease, items) for lease, items in self.slots[slot] if items]
        for lease, items in back:
            self.perform(self.schedule.returned(slot, lease, items))

    @rule(seconds=st.floats(0, 5))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.schedule.tick(self.now))

    @precondition(lambda self: self.offered > 20)
    @rule()
    def cancel(self) -> None:
        self.cancelled = self.dry = True
        self.perform(self.schedule.cancel())
        assert not any(self.slots.values())

    @invariant()
    def no_item_ends_twice(self) -> None:
        assert all(count <= 1 for count in self.over.values())

    @invariant()
    def no_item_is_in_two_places(self) -> None:
        held = [item for leases in self.slots.values() for _, items in leases for item in items]
        assert len(held) == len(set(held))
        assert self.schedule.under_way == len(held)
        assert not any(self.over[item] for item in held)

    @invariant()
    def no_item_is_lost(self) -> None:
        if not self.cancelled:
            assert self.schedule.under_way + self.schedule.waiting + sum(self.over.values()) == self.offered

    @invariant()
    def tries_are_bounded(self) -> None:
        assert all(n <= RETRIES + 1 for n in self.tries.values())
        assert all(n <= schedule.MAX_LOSSES + 1 for n in self.losses.values())

    @invariant()
    def no_slot_is_idle_while_work_is_ready(self) -> None:
        self.perform(self.schedule.tick(self.now))
        idle = [s for s, leases in self.slots.items() if not leases and s not in self.closing]
        delayed = self.schedule.next_time() is not None
        assert not idle or not self.schedule.waiting or delayed

    def teardown(self) -> None:
        """Whatever happened: with a slot that works, everything comes to an end."""
        if self.cancelled:
            assert self.schedule.done
            assert self.closing == set(self.slots)
            return
        if not self.dry:
            self.exhausted()
        self.slots[0] = []
        self.perform(self.schedule.opened(0))
        for _ in range(100_000):
            if self.schedule.done:
                break
            self.now += 100
            self.perform(self.schedule.tick(self.now))
            for slot in sorted(self.slots):
                if slot in self.asked_back:
                    self.asked_back.discard(slot)
                for lease, items in [*self.slots[slot]]:
                    for item in items:
                        if self.schedule.ended(slot, lease, item, True, 0.001, self.now) == "over":
                            self.over[item] += 1
                    self.slots[slot] = [x for x in self.slots[slot] if x[0] != lease]
                self.perform(self.schedule.assign())
        assert self.schedule.done
        assert dict(self.over) == dict.fromkeys(range(self.offered), 1)
        assert self.closing == set(self.slots)


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestSchedule = Machine.TestCase


def test_short_items_travel_in_large_leases_and_long_ones_alone() -> None:
    for seconds, size in ((1e-5, 1000), (0.01, 5), (2.0, 1)):
        made = Schedule()
        made.opened(1)
        (lease,) = made.offer(1)
        assert isinstance(lease, Lease)
        made.ended(1, lease.lease, 0, True, seconds, 0.0)
        first = made.offer(100_000)[0]
        assert isinstance(first, Lease)
        assert len(first.items) == size


def test_one_at_a_time_asks_for_items_only_where_a_slot_is_free() -> None:
    made = Schedule(single=True)
    assert made.hunger() == 0
    made.opened(1)
    made.opened(2)
    assert made.hunger() == 2
    made.offer(2)
    assert made.hunger() == 0
    made.ended(1, 1, 0, True, 0.0, 0.0)
    assert made.hunger() == 1


def test_retries_wait_longer_each_time() -> None:
    made = Schedule(retries=2, backoff=1.0)
    made.opened(1)
    (lease,) = made.offer(1)
    assert isinstance(lease, Lease)
    assert made.ended(1, lease.lease, 0, False, 0.1, now=10.0) == "again"
    assert made.next_time() == 11.0
    assert made.tick(10.9) == []
    (lease,) = made.tick(11.0)
    assert isinstance(lease, Lease)
    assert made.attempts(0) == 2
    assert made.ended(1, lease.lease, 0, False, 0.1, now=20.0) == "again"
    assert made.next_time() == 22.0


@pytest.mark.parametrize("held", [1, 2])
def test_an_idle_slot_takes_over_from_a_busy_one(held: int) -> None:
    made = Schedule()
    made.opened(1)
    (lease,) = made.offer(1)
    assert isinstance(lease, Lease)
    made.ended(1, lease.lease, 0, True, 0.005, 0.0)
    for _ in range(held):
        made.offer(1)
    made.exhausted()
    told = made.opened(2)
    assert told == ([] if held == 1 else [Recall(1)])


class WholeMachine(Machine):
    """The same, where nobody knows which item of a lease a slot was at when it vanished."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule.leasing = schedule.JOBS

    def at_hand_of(self, leases: list[tuple[int, list[int]]]) -> list[int]:
        return leases[0][1] if leases and len(leases[0][1]) == 1 else []


WholeMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestWholeLeases = WholeMachine.TestCase


def test_the_item_that_takes_its_slots_with_it_is_found_and_the_others_end_well() -> None:
    made = Schedule(leasing=schedule.JOBS)
    made.opened(0)
    told = made.offer(3000)
    made.exhausted()
    culprit, slot, lost, over, losses = 1234, 0, [], set(), 0
    while not made.done:
        lease = told.pop(0)
        if isinstance(lease, Settle):
            lost.append(lease.item)
        elif isinstance(lease, Lease) and culprit in lease.items:
            slot, losses = slot + 1, losses + 1
            told = made.closed(lease.slot) + made.opened(slot)
        elif isinstance(lease, Lease):
            for item in lease.items:
                assert made.ended(lease.slot, lease.lease, item, True, 1e-6, 0.0) == "over"
                over.add(item)
            told += made.assign()
    lost += [c.item for c in told if isinstance(c, Settle)]
    assert lost == [culprit]
    assert over == set(range(3000)) - {culprit}
    assert losses <= schedule.MAX_LOSSES + 1 + 3
