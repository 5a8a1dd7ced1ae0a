"""What shamir.json and masks.json hold."""

import masks
import shamir
from inputs import CONTEXT, named, numbers
from text import texts

_SALTED = CONTEXT + b"/salt"
_MODULUS = 2**50 - 27
_SLOTS = 6


def shares() -> dict:
    """Values shared among five, any three of whom give them back."""
    values, holders = [0, 1, shamir.PRIME - 1, 123_456_789], 5
    coefficients = [numbers(f"polynomial of {value}", 2, shamir.PRIME) for value in values]
    columns = [shamir.shares(value, powers, holders) for value, powers in zip(values, coefficients, strict=True)]
    for column in columns:
        assert shamir.secret({0: column[0], 3: column[3], 4: column[4]}) in values
    return {
        "prime": str(shamir.PRIME),
        "threshold": 3,
        "values": texts(values),
        "coefficients": [texts(powers) for powers in coefficients],
        "rows": [texts(list(row)) for row in zip(*columns, strict=True)],
    }


def _edges() -> list:
    found = []
    for index, other in ((0, 1), (1, 0), (5, 2), (300, 300)):
        pair = named(f"pair {min(index, other)} {max(index, other)}")
        secret = masks.pair_secret(pair, (index, other), _SALTED)
        case = {
            "index": index,
            "other": other,
            "pair_secret": pair.hex(),
            "secret": str(secret),
            "commitment": masks.commitment((index, other), secret, _SALTED).hex(),
            "stream": texts(masks.total({(index, other): secret}, 4, _MODULUS, _SALTED)),
        }
        found.append(case)
    return found


class _Round:
    """A masked round with fixed randomness: what each client sends, what survivors reveal, what comes off."""

    def __init__(self, clients: int, degree: int, survivors: list[int]) -> None:
        self.clients, self.degree, self.survivors = clients, degree, survivors
        self.threshold = masks.threshold(clients)
        self.graph = masks.graph(clients, degree, _SALTED)
        self.secrets: dict[masks.Edge, int] = {}
        self.shares: dict[masks.Edge, list[int]] = {}

    def name(self, *parts: object) -> str:
        return f"round of {self.clients}: {' '.join(map(str, parts))}"

    def pair(self, one: int, other: int) -> bytes:
        return named(self.name("pair", min(one, other), max(one, other)))

    def case(self) -> dict:
        sent = [self._client(index) for index in range(self.clients)]
        wanted = masks.revealed(self.graph, self.survivors)
        left = {edge: self.secrets[edge] for edge in wanted}
        total = masks.total(left, _SLOTS, _MODULUS, _SALTED)
        self._check(sent, total)
        return {
            "clients": self.clients,
            "degree": self.degree,
            "survivors": self.survivors,
            "sent": sent,
            "reveals": [
                b"".join(self.shares[edge][holder].to_bytes(32, "big") for edge in wanted).hex()
                for holder in range(self.clients)
            ],
            "total_mask": texts(total),
        }

    def _client(self, index: int) -> dict:
        """One client: its inputs and its own randomness (b_i, polynomials from the highest power, nonces); all sent."""
        own = numbers(self.name("own", index), 1, shamir.PRIME)[0]
        edges = masks.shared(self.graph, index)
        polynomials = []
        for edge in edges:
            pair = self.pair(*edge)
            self.secrets[edge] = own if edge == (index, index) else masks.pair_secret(pair, edge, _SALTED)
            powers = numbers(self.name("polynomial", *edge), self.threshold - 1, shamir.PRIME)
            self.shares[edge] = shamir.shares(self.secrets[edge], powers, self.clients)
            polynomials += reversed(powers)
        slots = numbers(self.name("slots", index), _SLOTS, _MODULUS)
        mask = masks.total({edge: self.secrets[edge] for edge in edges}, _SLOTS, _MODULUS, _SALTED)
        nonces = [named(self.name("nonce", index, receiver), 12) for receiver in range(self.clients)]
        blobs = []
        for receiver in range(self.clients):
            row = [self.shares[edge][receiver] for edge in edges]
            pair = self.pair(index, receiver)
            blobs.append(masks.sealed_shares(row, pair, index, receiver, _SALTED, nonces[receiver]).hex())
        return {
            "pair_secrets": [self.pair(index, other).hex() for other in range(self.clients)],
            "slots": texts(slots),
            "drawn": texts([own, *polynomials]),
            "nonces": [nonce.hex() for nonce in nonces],
            "masked": texts([(slot + one) % _MODULUS for slot, one in zip(slots, mask, strict=True)]),
            "blobs": blobs,
            "commitments": b"".join(masks.commitment(edge, self.secrets[edge], _SALTED) for edge in edges).hex(),
        }

    def _check(self, sent: list[dict], total: list[int]) -> None:
        for at in range(_SLOTS):
            plain = sum(int(sent[index]["slots"][at]) for index in self.survivors)
            masked = sum(int(sent[index]["masked"][at]) for index in self.survivors)
            assert (masked - total[at] - plain) % _MODULUS == 0


def round_of_masks() -> dict:
    """Numbers of a roster, graphs, what is signed, pair secrets and their words, and two whole rounds."""
    graphs = ((3, 2, b""), (6, 2, b"pinned"), (9, 3, b"x"), (10, 4, b"y"), (5, 9, b"z"), (8, 5, _SALTED))
    statements = ((3, 2, [0, 1, 2]), (7, 4, [6, 0, 2, 3, 5]))
    return {
        "context": _SALTED.hex(),
        "modulus": str(_MODULUS),
        "edges": _edges(),
        "graphs": [
            {"clients": n, "degree": k, "context": c.hex(), "neighbours": masks.graph(n, k, c)} for n, k, c in graphs
        ],
        "degrees": {str(count): masks.default_degree(count) for count in (3, 4, 5, 8, 9, 10, 16, 17, 100, 1000)},
        "thresholds": {str(count): masks.threshold(count) for count in (3, 4, 5, 6, 8, 9, 10, 100)},
        "statements": [
            {"clients": n, "degree": k, "survivors": s, "statement": masks.statement(n, k, _SALTED, s).hex()}
            for n, k, s in statements
        ],
        "rounds": [_Round(3, 2, [0, 1, 2]).case(), _Round(6, 4, [0, 2, 3, 4, 5]).case()],
    }
