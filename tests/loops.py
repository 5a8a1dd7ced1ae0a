"""Hospitals and a coordinator on a RoundLoop here: each can go, come back, and be made anew from its files."""

from dataclasses import dataclass, field

from parties import close_all, federation_of, parties, reopened

from securepfl.coordinator.coordinator import Coordinator
from securepfl.protocol.hospital import exchange
from securepfl.protocol.loop import Patience, RoundLoop

FIVE = ("alder", "birch", "cedar", "damson", "elm")
BARE = {"similarity": {"every": 0}, "coupling": {"strength": 0.0}}


@dataclass
class World:
    """`told` are the kinds that each hospital was told in its last visit, `failed` what ended it there."""

    folder: object
    hub: Coordinator
    clients: dict
    loop: RoundLoop
    now: float = 0.0
    told: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)

    @classmethod
    def of(cls, folder, names=FIVE, rounds=3, masking="none", scheme="none", seconds=10.0, **options):
        """On a folder each; `options` as for `parties`."""
        encryption = {"masking": masking, "scheme": scheme}
        made = federation_of(names=names, rounds=rounds, **{"encryption": encryption} | BARE)
        first, clients = parties(made, folder, **options)
        hub = Coordinator(
            first.federation,
            first.identity,
            first.hospitals,
            key_commitment=next(iter(clients.values())).session.key.commitment,
            folder=folder / "hub",
        )
        return cls(folder, hub, clients, RoundLoop(hub, Patience(seconds)))

    def close(self):
        self.hub.stop()
        close_all(self.clients)

    def hub_again(self):
        """The coordinator is killed, and made again from its folder; its engine hears of everybody anew."""
        hub, patience = self.hub, self.loop.patience
        hub.stop()
        key = next(iter(self.clients.values())).session.key.commitment
        self.hub = Coordinator(
            hub.federation, hub.identity, hub.hospitals, key_commitment=key, folder=self.folder / "hub"
        )
        self.loop = RoundLoop(self.hub, patience)

    def hospital_again(self, name):
        self.clients[name] = reopened(self.clients[name])
        self.loop.gone(name)

    def visit(self, name):
        """One exchange: the kinds that it was told."""
        client = self.clients[name]
        self.loop.here(name, client.round)
        told = self.loop.next(name)
        done = exchange(client, [message for _, message in told])
        self.loop.took(name, done.at, done.replies, told=told)
        self.told[name], self.failed[name] = [kind for kind, _ in told], done.failed
        return self.told[name]

    def until(self, over, names, passes=80):
        """Visits of these hospitals until something holds."""
        for name in names:
            self.loop.here(name, self.clients[name].round)
        self.loop.tick(self.now)
        for _ in range(passes):
            if over():
                return
            for name in names:
                self.visit(name)
            self.now += 1.0
            self.loop.tick(self.now)
        raise AssertionError(f"round {self.hub.closed}, asked {self.loop.kind}, waits for {self.loop.waiting}")

    def closes(self, number, names=FIVE):
        """Visits until round `number` is over at the coordinator and at these hospitals."""
        self.until(lambda: self.hub.closed >= number and self.settled(number, names), names)

    def settled(self, number, names):
        return all(self.clients[name].round >= number for name in names)

    def finish(self, names=FIVE):
        self.until(lambda: self.loop.finished, names)
