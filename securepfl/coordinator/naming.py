"""What a coordinator says of hospitals that did something wrong, by round, and whom it no longer invites."""

from dataclasses import dataclass, field
from typing import Final

from securepfl.coordinator.store import Named

_LINE: Final = 240
"""Characters of what a hospital did: some of it may be what its bytes led to."""


def line(text: str) -> str:
    """`text` as it may be kept, printed and sent on."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_LINE]


@dataclass
class Names:
    """`named`: what was done by round and hospital, a line each. `excluded`: who is not invited, and why."""

    named: dict[tuple[int, str], str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)

    def knows(self, named: Named) -> bool:
        """Whether it would change nothing: what was said of a hospital in a round first stays, until it is excluded."""
        key = (named.number, named.hospital)
        return named.hospital in self.excluded if named.excluded else key in self.named

    def add(self, named: Named) -> None:
        """Take one in.

        >>> names = Names()
        >>> names.add(Named(number=3, hospital="birch", what="sent two contributions"))
        >>> names.add(Named(number=2, hospital="cedar", what="its sketch broke the rules", excluded=True))
        >>> names.said(3)["cedar"]
        'round 2: its sketch broke the rules; not invited until the coordinator readmits it'
        """
        said = f"round {named.number}: {named.what}"
        self.named[named.number, named.hospital] = said
        if named.excluded:
            self.excluded[named.hospital] = said

    def said(self, number: int) -> dict[str, str]:
        """What is told to hospitals: of round `number`, and of all who are not invited."""
        out = {name: f"{why}; not invited until the coordinator readmits it" for name, why in self.excluded.items()}
        return {name: why for (round_, name), why in self.named.items() if round_ == number} | out

    def kept(self) -> tuple[tuple[Named, ...], dict[str, str]]:
        """What goes from round to round."""
        named = (
            Named(number=number, hospital=hospital, what=said.partition(": ")[2])
            for (number, hospital), said in self.named.items()
        )
        return tuple(named), dict(self.excluded)

    def go_on(self, named: tuple[Named, ...], excluded: dict[str, str]) -> None:
        """Take in what `kept` gave."""
        self.named.clear()
        for its in named:
            self.add(its)
        self.excluded = dict(excluded)
