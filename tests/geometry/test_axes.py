"""Axes and the roles that their names imply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import AxisError
from engine.geometry.axes import KNOWN_ROLES, Axis, Role, axes_from_names, check_axes, positions

names = st.lists(st.sampled_from(sorted(KNOWN_ROLES)), max_size=5)


@given(names)
def test_names_give_axes_in_their_order_or_are_refused(given_names):
    roles = [KNOWN_ROLES[name] for name in given_names]
    is_sound = len(set(given_names)) == len(given_names) and roles.count(Role.CHANNEL) < 2 and Role.SPACE in roles
    if not is_sound:
        with pytest.raises(AxisError):
            axes_from_names(given_names)
        return
    axes = axes_from_names(given_names)
    assert [axis.name for axis in axes] == given_names
    places = sorted(i for role in Role for i in positions(axes, role))
    assert places == list(range(len(axes)))
    for role in Role:
        assert [axes[i].role for i in positions(axes, role)] == [role] * roles.count(role)


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("inf"), float("nan")])
def test_a_spacing_that_is_no_step_is_refused(spacing):
    with pytest.raises(AxisError, match="axis 'y' must be positive and finite"):
        Axis("y", Role.SPACE, spacing=spacing)


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ([Axis("y", Role.SPACE), Axis("y", Role.SPACE)], "must be unique"),  # one name twice
        ([Axis("a", Role.CHANNEL), Axis("b", Role.CHANNEL), Axis("y", Role.SPACE)], "at most one"),  # two channels
        ([Axis("t", Role.BATCH)], "at least one axis must be space"),  # nothing to tile
        ([], "at least one axis must be space"),  # nothing at all
    ],
)
def test_axes_that_cannot_be_ordered_are_refused(axes, text):
    with pytest.raises(AxisError, match=text):
        check_axes(axes)


def test_an_unknown_name_is_named():
    with pytest.raises(AxisError, match="axis name 'depth' implies no role"):
        axes_from_names(("depth", "y"))
