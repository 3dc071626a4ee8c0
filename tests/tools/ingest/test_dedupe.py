"""sort_out: whatever is found where, one of each image stays, under its strictest split, in an order of its own."""

import hashlib
import random

from hypothesis import given
from hypothesis import strategies as st

from tools.ingest.dedupe import BLANK, CONFLICT, IDENTICAL, STRICTEST, Candidate, sort_out
from tools.ingest.originals import Origin, original_id
from tools.ingest.sources import Official

BLANK_IMAGE = 0


def candidate(image: int, point: int, source: str, official: Official, origin: Origin, row: int) -> Candidate:
    return Candidate(
        code_point=point,
        digest=hashlib.sha256(bytes([image])).digest(),
        source=source,
        member=f"{row}.png",
        row=row,
        blank=image == BLANK_IMAGE,
        official=official,
        origin=origin,
    )


candidates = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from([0x4E00, 0x4E00, 0x4E00, 0x4E01]),
        st.sampled_from(["kkanji.tar", "k49-test-imgs.npz"]),
        st.sampled_from(STRICTEST),
        st.sampled_from(Origin),
    ),
    max_size=30,
).map(lambda rows: [candidate(*row, number) for number, row in enumerate(rows)])


@given(candidates, st.randoms(use_true_random=False))
def test_every_candidate_is_kept_once_or_dropped_for_its_reason(found: list[Candidate], order: random.Random) -> None:
    result = sort_out(found)
    assert len(result.kept) + len(result.dropped) == len(found)
    assert len({one.digest for one in result.kept}) == len(result.kept)
    labels = {one.digest: {other.code_point for other in found if other.digest == one.digest} for one in found}
    for reason, one in result.dropped:
        assert (reason == BLANK) == one.blank
        assert (reason == CONFLICT) == (not one.blank and len(labels[one.digest]) > 1)
        assert reason != IDENTICAL or one.digest in {kept.digest for kept in result.kept}
    moved = list(found)
    order.shuffle(moved)
    assert sort_out(moved) == result


@given(candidates)
def test_what_is_test_anywhere_is_test_and_known_origin_wins(found: list[Candidate]) -> None:
    result = sort_out(found)
    twins_of_test = 0
    for kept in result.kept:
        same = [one for one in found if one.digest == kept.digest]
        officials = {one.official for one in same}
        assert kept.official == next(official for official in STRICTEST if official in officials)
        assert kept.origin.number == min(one.origin.number for one in same)
        twins_of_test += sum(one.official != "test" for one in same) if "test" in officials else 0
    assert result.moved == twins_of_test
    assert [one.code_point for one in result.kept] == sorted(one.code_point for one in result.kept)


def test_an_id_is_the_start_of_the_sha256() -> None:
    one = candidate(1, 0x4E00, "kkanji.tar", "", Origin.KNOWN, 0)
    assert one.id == one.digest.hex()[:16] == f"{original_id(one.digest):016x}"
