"""How rows are declared to train or to test."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from securepfl.data.labels import Comparison, Listed, rule_of
from securepfl.data.source import Source
from securepfl.data.values import Value, in_both, require
from securepfl.spelling import look

if TYPE_CHECKING:
    from securepfl.data.cells import Cells


@dataclass(frozen=True, kw_only=True)
class Split:
    """`[data.split]`: which rows test. `test` is their share; another `random_state` gives another split.

    "hash" decides each patient (each row, where no patient column is declared) by its own SHA-256 alone, so
    the share is met on average and no other row matters. "stratified" is scikit-learn's train_test_split on
    the label, site by site: exact shares, but it looks at private labels. "column" takes it from `column`: rows with
    one of `test_values` test (a value, a list, or a comparison as "> 2018"), and rows with one of `train_values` train,
    or where those aren't declared all others. Raises ValueError.
    """

    method: Literal["hash", "stratified", "column"] = "hash"
    test: float = 0.34
    random_state: int = 43
    column: str | None = None
    test_values: str | int | float | tuple[Value, ...] | None = None
    train_values: str | int | float | tuple[Value, ...] | None = None

    def __post_init__(self) -> None:
        known = self.method in ("hash", "stratified", "column")
        require(known, f'method = "{self.method}": hash, stratified or column')
        require(0 < self.test < 1, f"test = {self.test}: must be between 0 and 1 (try 0.34)")
        require(0 <= self.random_state < 2**32, f"random_state = {self.random_state}: must be in [0, 2^32)")
        whole = self.column is not None and self.test_values is not None
        if self.method == "column":
            require(whole, 'method = "column": declare column = "..." and test_values = ["..."]')
            both = in_both(self.test_rule.listed, self.train_rule.listed if self.train_rule else ())
            require(both is None, f"test_values and train_values both name {both!r}; keep it in one")
        else:
            parts = (self.column, self.test_values, self.train_values)
            nothing = all(part is None for part in parts)
            require(nothing, 'column, test_values and train_values need method = "column"; set it, or remove them')

    @property
    def test_rule(self) -> Comparison | Listed:
        """Which values of the column test."""
        return rule_of("test_values", self.test_values if self.test_values is not None else ())

    @property
    def train_rule(self) -> Comparison | Listed | None:
        """Which values of the column train; None where all others do."""
        return None if self.train_values is None else rule_of("train_values", self.train_values)

    def held_out(self, source: Source) -> NDArray[np.bool_] | None:
        """Which rows the declared column holds out for testing, [rows]; None where another method decides.

        Raises DataError for a row whose cell is empty, or none or both of what is declared.
        """
        if self.column is None:
            return None
        cells = source.column(self.column, "the split")
        mend = "mend the cell, or declare it in [data.split] test_values or train_values"
        source.refuse(cells.missing(), self.column, f"says neither train nor test; {mend}")
        test = self.test_rule.holds(cells)
        if self.train_rule is None:
            source.refuse(~test & self._like_test(cells), self.column, f"looks like one of test_values; {mend}")
            return test
        train = self.train_rule.holds(cells)
        source.refuse(test & train, self.column, "is both train and test; mend [data.split]")
        source.refuse(~(test | train), self.column, f"is neither of train nor of test; {mend}")
        return test

    def _like_test(self, cells: "Cells") -> NDArray[np.bool_]:
        looks = {look(str(value)) for value in self.test_rule.listed}
        like = [text for text in cells.texts.unique().to_pylist() if text is not None and look(text) in looks]
        return cells.matches(like)
