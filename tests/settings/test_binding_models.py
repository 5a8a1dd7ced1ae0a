"""Models that cannot be bound to a federation are refused in one line, by layer."""

import pytest
from torch import nn

from securepfl import Federation, replace_unsupported
from securepfl.errors import ModelError
from securepfl.privacy.training.validation import validate_model


@pytest.mark.parametrize(
    ("layer", "mend"),
    [
        (nn.LazyLinear(8), r"layer 1\.0 \(LazyLinear\) .* write nn\.Linear with its in_features"),
        (nn.LazyConv2d(8, 3), r"LazyConv2d\) .* nn\.Conv2d with its in_channels"),
        (nn.LazyConvTranspose1d(8, 3), r"nn\.ConvTranspose1d with its in_channels"),
        (nn.LazyInstanceNorm2d(affine=True), r"nn\.InstanceNorm2d with its num_features"),
        (nn.LazyBatchNorm1d(), r"nn\.BatchNorm1d with its num_features"),
    ],
)
def test_a_lazy_layer_is_refused_by_name_with_what_it_lacks(layer, mend):
    def build():
        return nn.Sequential(nn.Identity(), nn.Sequential(layer), nn.Linear(8, 1))

    federation = Federation.from_mapping({"model": {"kind": "own"}})
    for refused in (
        lambda: federation.bound(["north", "south", "west"], build, units=40),
        lambda: federation.changed("model", adapters=1).bound(["north", "south", "west"], build, units=40),
        lambda: validate_model(build()),
        lambda: replace_unsupported(build()),
    ):
        with pytest.raises(ModelError, match=mend) as caught:
            refused()
        assert "\n" not in str(caught.value)
