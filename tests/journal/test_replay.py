"""What a replay does in bulk, beside the plain way to do it: record by record."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.facts import AnyFact
from supervisor.journal import JournalBroken, JournalTooNew, recovery
from supervisor.journal.frame import HEADER, Chain, encode_record, ends_of, payloads, records
from supervisor.journal.journal import ENCODER
from tests.journal.facts import DATA, ONE_OF_EACH, facts, open_journal
from tests.journal.memory_disk import MemoryDisk
from tests.journal.test_journal import MindRead

BATCHES = st.lists(st.lists(st.sampled_from(ONE_OF_EACH), min_size=1, max_size=40), min_size=1, max_size=20)


def plain_ends(data: bytes, chain: Chain) -> tuple[list[int], Chain]:
    """Record by record."""
    ends = []
    for record in records(data, HEADER, chain):
        ends.append(record.end)
        chain = record.chain
    return ends, chain


def bulk_ends(data: bytes, chain: Chain) -> tuple[list[int], Chain]:
    ends, behind = ends_of(data, HEADER, chain)
    return list(ends), behind


def written(batches: list[list[AnyFact]]) -> bytes:
    chain, parts = Chain(), [b"\0" * HEADER]
    for batch in batches:
        record, chain = encode_record(ENCODER.encode(batch), len(batch), chain)
        parts.append(record)
    return b"".join(parts)


@given(
    batches=BATCHES,
    zeros=st.integers(0, 50),
    flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=2),
    cut=st.none() | st.integers(0),
)
def test_the_good_records_are_found_in_bulk_as_one_by_one(batches, zeros, flips, cut):
    data = bytearray(written(batches) + b"\0" * zeros)
    for place, bits in flips:
        data[HEADER + place % (len(data) - HEADER)] ^= bits
    if cut is not None:
        del data[HEADER + cut % (len(data) - HEADER) :]

    assert bulk_ends(bytes(data), Chain()) == plain_ends(bytes(data), Chain())


@pytest.mark.parametrize(
    "chain", [Chain(2, 1, 0), Chain(1, 2, 0), Chain(1, 1, 7)], ids=["its number", "its fact", "the checksum before it"]
)
def test_a_good_record_in_another_place_is_none(chain: Chain):
    data = written([facts(0, 3)])

    assert bulk_ends(data, Chain())[0] == [len(data)]
    assert bulk_ends(data, chain) == plain_ends(data, chain) == ([], chain)


@given(batches=BATCHES, at_once=st.integers(1, 20_000))
def test_what_is_in_records_that_verified_is_found_without_asking_again(batches, at_once):
    data = written(batches)
    found = list(records(data, HEADER, Chain()))

    several = list(payloads(data, HEADER, [record.end for record in found], at_once))

    assert [each for some in several for each in some] == [record.payload(data) for record in found]
    assert all(sum(map(len, some[:-1])) < at_once for some in several), "no more than is wanted at a time"


@given(batches=BATCHES, at_once=st.integers(1, 20_000))
def test_batches_that_are_decoded_together_are_those_that_were_written(batches, at_once):
    disk = MemoryDisk()
    journal = open_journal(disk, segment_bytes=16_384)
    for batch in batches:
        journal.write(batch)
    journal.close()
    journal = open_journal(disk, segment_bytes=16_384)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "AT_ONCE_BYTES", at_once)
        patch.setattr(recovery, "facts_of", lambda *_: pytest.fail("record by record"))
        assert list(journal.replay()) == batches


def test_what_stands_before_a_fact_of_a_later_version_is_told_and_its_record_is_named():
    disk = MemoryDisk()
    journal = open_journal(disk)
    for batch in (facts(0, 2), facts(2, 1), [MindRead(1, 2, "lunch")], facts(3, 1)):
        journal.write(batch)
    journal.close()
    batches = open_journal(disk).replay()

    assert [next(batches), next(batches)] == [facts(0, 2), facts(2, 1)]
    with pytest.raises(JournalTooNew, match="record 3: "):
        next(batches)


def test_what_stands_before_a_byte_that_has_changed_since_is_told_and_its_place_is_named():
    disk = MemoryDisk()
    journal = open_journal(disk)
    for number in range(3):
        journal.write(facts(number, 1))
    journal.close()
    journal = open_journal(disk)
    segment = DATA / "journal" / "00000001.segment"
    second = list(records(bytes(disk.names[segment].data), HEADER, Chain()))[1]
    disk.names[segment].data[second.end - 1] ^= 1
    batches = journal.replay()

    assert next(batches) == facts(0, 1)
    with pytest.raises(JournalBroken, match=f"byte {second.offset}: a record that was good cannot be read any more"):
        next(batches)
