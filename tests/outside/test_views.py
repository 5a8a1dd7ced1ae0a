import pytest
import torch

from securepfl.errors import ConfigError
from securepfl.outside.recipe import SEGMENTATION, Recipe
from securepfl.outside.views import VIEWS, require_views, seen, seen_back, turns_sides
from securepfl.outside.zooms import zoomed, zoomed_back


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [(2, 1, 5, 7), (1, 3, 6, 6)])
def test_views_are_undone_exactly(view, shape):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seen_back(seen(image, view), view), image)
    assert (seen(image, view).shape == image.shape) or turns_sides(view)


def test_all_eight_views_differ():
    image = torch.arange(9).reshape(3, 3)
    assert len({tuple(seen(image, view).flatten().tolist()) for view in VIEWS}) == 8


def test_a_zoom_comes_back_to_the_images_own_size():
    images = torch.zeros(1, 1, 50, 70) + 3.0
    assert zoomed(images, 0.5).shape == (1, 1, 16, 32)
    torch.testing.assert_close(zoomed_back(zoomed(images, 1.33), (50, 70), 1.33), images)
    assert zoomed(images, 1.0) is images


@pytest.mark.parametrize("views", [(), ("same", "same"), ("sideways",)])
def test_views_that_mean_nothing_are_refused(views):
    with pytest.raises(ConfigError, match="view"):
        require_views(views)


def test_a_recipe_keeps_its_digest():
    assert SEGMENTATION.digest == Recipe.from_mapping(SEGMENTATION.to_mapping()).digest
    assert len({SEGMENTATION.digest, Recipe().digest, Recipe(guard=False).digest}) == 3
    # A change here is a new recipe for every hospital: say so where it is made.
    assert SEGMENTATION.digest == "0b55358484b4bb65167a380d879fdd30f188e5fc8beeccbaee518004632e6305"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": 0.0}, "above 0"),
        ({"prior_weight": 2.0}, "between 0 and 1"),
        ({"criterion": "luck"}, "none of"),
        ({"zooms": [2.0]}, "name 1"),
        ({"criterion": "margin", "granularity": "sample"}, "is a site's"),
        ({"granularity": "layer", "mixing": "parameters"}, "gates by layer"),
        ({"colour": "red"}, "no part of a recipe"),
        ({"views": 3}, "not a recipe"),
        ({"layers": {"passes": 0}}, "not a recipe"),
        ({"guard": "perhaps"}, "guard"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        Recipe.from_mapping(wrong)
