"""Which columns of a file are published beside its answers."""

from pathlib import Path
from typing import Any

import pytest

from interlock.answer.kept import kept_columns, key_columns
from interlock.errors import DataRefused
from interlock.settings import Batch, Data, HoldoutSpec, Model, Settings, Source


def settings(data: Data, **batch: Any) -> Settings:
    return Settings(model=Model(name="m", task="classification"), data=data, batch=Batch(**batch), root=Path())


def test_the_key_is_that_of_the_split_and_of_every_source_once() -> None:
    data = Data(
        holdout=HoldoutSpec(key=("person",)),
        sources={"a": Source(inbox="a", key=("id", "day")), "b": Source(inbox="b", key=("id",))},
    )
    assert key_columns(settings(data)) == ("person", "id", "day")


def test_by_default_the_key_columns_that_are_there() -> None:
    assert kept_columns(settings(Data(inbox="in", key=("id", "day"))), ["x", "id"]) == ("id",)
    assert kept_columns(settings(Data(inbox="in", key=("id",)), files="images"), ["file", "id"]) == ("file", "id")


def test_what_was_asked_for_is_copied_in_that_order_once() -> None:
    assert kept_columns(settings(Data(inbox="in"), keep=("b", "a", "b")), ["a", "b", "c"]) == ("b", "a")


@pytest.mark.parametrize(
    ("name", "message", "next_step"),
    [
        (
            "shop",
            "Column 'shop' of batch.keep is not in the file.",
            "Add it to the file, or take it out of batch.keep.",
        ),
        *(
            (
                name,
                f"Column '{name}' is called like a column of the answers and cannot be kept.",
                "Rename it in the file, or list other columns in batch.keep.",
            )
            for name in ("prediction", "probability_0", "interlock_tier", "interlock_model")
        ),
    ],
)
def test_what_cannot_be_kept_is_said(name: str, message: str, next_step: str) -> None:
    present = [name] if name != "shop" else ["a"]
    with pytest.raises(DataRefused) as caught:
        kept_columns(settings(Data(inbox="in"), keep=(name,)), present)
    assert (caught.value.message, caught.value.next_step) == (message, next_step)
