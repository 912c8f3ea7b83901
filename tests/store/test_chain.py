from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from interlock.records import digest, facts_of
from interlock.store.chain import GENESIS, Head, Row, chained, check_chain, event_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
entries = st.lists(st.tuples(texts, texts, texts, st.dictionaries(texts, values, max_size=3)), max_size=8)


def build(parts: list[tuple[str, str, str, dict[str, object]]]) -> list[Row]:
    rows: list[Row] = []
    for turn, kind, subject, facts in parts:
        head = Head(rows[-1].sequence, rows[-1].hash) if rows else Head()
        rows.append(chained(head, NOW, turn, kind, subject, facts))
    return rows


@given(entries)
def test_a_hash_is_the_digest_of_the_other_fields_of_the_event(parts):
    for row in build(parts):
        rest = facts_of(event_of(row))
        assert rest.pop("hash") == digest(rest) == row.hash


@given(entries.filter(len), st.data())
def test_any_change_of_any_field_is_found_where_it_is(parts, data):
    rows = build(parts)
    assert check_chain(rows).broken_at is None
    position = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(Row._fields))
    old = getattr(rows[position], column)
    new = old + 1 if isinstance(old, int) else data.draw(texts.filter(lambda text: text != old))
    rows[position] = rows[position]._replace(**{column: new})
    outcome = check_chain(rows)
    assert outcome.broken_at == position + 1
    assert outcome.events == position
    assert outcome.reason


@given(entries.filter(lambda parts: len(parts) > 1), st.data())
def test_missing_and_reordered_events_are_found(parts, data):
    rows = build(parts)
    position = data.draw(st.integers(0, len(rows) - 2))
    missing = rows[:position] + rows[position + 1 :]
    assert check_chain(missing).broken_at == position + 1
    assert "missing" in check_chain(missing).reason
    swapped = rows.copy()
    swapped[position : position + 2] = [
        rows[position + 1]._replace(sequence=position + 1),
        rows[position]._replace(sequence=position + 2),
    ]
    assert check_chain(swapped).broken_at == position + 1


def test_a_chain_made_again_from_the_middle_does_not_fit_the_noted_head():
    rows = build([("t", "k", str(number), {}) for number in range(4)])
    forged = [*rows[:2], chained(Head(2, rows[1].hash), NOW, "t", "k", "forged", {})]
    assert check_chain(forged).broken_at is None
    assert check_chain(forged).head != rows[2].hash
    patched = [*rows[:2], forged[2], rows[3]]
    assert check_chain(patched).broken_at == 4


def test_the_first_event_follows_nothing():
    assert build([("", "k", "s", {})])[0].previous == GENESIS == "0" * 64


def test_a_reason_is_bounded():
    (row,) = build([("", "k" * 10_000, "s", {})])
    assert len(check_chain([row._replace(turn="x")]).reason) < 400
