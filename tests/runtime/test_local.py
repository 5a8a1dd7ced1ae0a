"""What `simulate` hands on to its hospitals."""

import torch
from torch import nn

from securepfl.runtime.local import simulate
from securepfl.settings.federation import Federation

SEEN = []


class Watched(nn.Linear):
    """Notes how many records it is given at once; not in itself, as models that keep something are refused."""

    def forward(self, x):
        SEEN.append(len(x))
        return super().forward(x).flatten()


def test_no_more_records_are_in_memory_at_once_than_asked_for(tmp_path):
    rows = torch.utils.data.TensorDataset(torch.eye(40)[:, :4], torch.arange(40) % 2.0)
    settings = {"rounds": 1, "model": {"kind": "own", "personal": []}, "encryption": {"scheme": "none"}}
    bound = Federation.from_mapping(settings).bound(("alder", "birch", "cedar"), lambda: Watched(4, 1), units=40)
    training = dict.fromkeys(bound.roster, rows)
    with simulate(bound, training, lambda: Watched(4, 1), tmp_path / "all", ledgers=tmp_path / "one", device="cpu"):
        assert 40 in SEEN
    SEEN.clear()
    with simulate(
        bound,
        training,
        lambda: Watched(4, 1),
        tmp_path / "few",
        ledgers=tmp_path / "two",
        device="cpu",
        physical_batch=3,
    ):
        assert 3 in SEEN and max(SEEN) < 10, "a probe takes a few together"
