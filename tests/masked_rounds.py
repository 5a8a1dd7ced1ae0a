"""What tests of masked rounds share: seven hospitals, the steps of a round, and whether words look uniform."""

import numpy as np

SEVEN = ("alder", "birch", "cedar", "damson", "elm", "fir", "gean")


def contribute(coordinator, clients, absent=()):
    invitations = coordinator.invite()
    for name in clients:
        if name not in absent:
            coordinator.receive(clients[name].contribute(invitations[name]))
    return invitations


def unmask(coordinator, clients, unsigned=(), silent=()):
    """The two exchanges; some hospitals vanish before signing, others before revealing."""
    for name, survivors in coordinator.fix_survivors().items():
        if name not in unsigned:
            coordinator.receive(clients[name].sign_survivors(survivors))
    for name, request in coordinator.unmask().items():
        if name not in silent:
            coordinator.receive(clients[name].reveal(request))


def chi_square(words, modulus, bins=16):
    counts = np.bincount((words.astype(np.float64) * (bins / modulus)).astype(np.int64), minlength=bins)
    return float(((counts - words.size / bins) ** 2 / (words.size / bins)).sum())
