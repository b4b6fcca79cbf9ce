"""Localizers as a person names them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaelens.errors import UsageError
from vaelens.localizers import LOCALIZERS, options_of, parse_spec
from vaelens.localizers.spec import check_options, split_specs
from vaelens.models import build


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("kl", "kl", {}),
        ("attention:layer=encoder.relu1", "attention", {"layer": "encoder.relu1"}),
        ("matching:neighbours=5:window=2", "matching", {"neighbours": 5, "window": 2}),
        ("matching:neighbours=all", "matching", {"neighbours": None}),
        ("deviation:neighbours=None", "deviation", {"neighbours": None}),
        ("deviation:layer=all", "deviation", {"layer": "all"}),
        ("deviation:layer=None", "deviation", {"layer": None}),
        ("deviation:layer=3", "deviation", {"layer": "3"}),
        ("deviation:ridge=0.5", "deviation", {"ridge": 0.5}),
        (" deviation : ridge = 1e-3 ", "deviation", {"ridge": 0.001}),
        ("feature-dictionary:weights=a=b.pth", "feature-dictionary", {"weights": "a=b.pth"}),
        ("learned:fixed_camera=true:brightness=False", "learned", {"fixed_camera": True, "brightness": False}),
        ("feature-dictionary:seed=-1", "feature-dictionary", {"seed": -1}),
        ("", "", {}),
    ],
)
def test_a_name_and_its_options(text: str, name: str, options: dict[str, object]) -> None:
    found = parse_spec(text)
    assert found == (name, options)
    assert [type(value) for value in found[1].values()] == [type(value) for value in options.values()]


@pytest.mark.parametrize("text", ["kl:", ":", "kl:layer", "kl:layer=", "kl:=3", "kl:a=1:a=2", "kl::a=1"])
def test_what_cannot_be_read_is_shown_with_the_form(text: str) -> None:
    with pytest.raises(UsageError, match="NAME:OPTION=VALUE") as error:
        parse_spec(text)
    assert repr(text) in str(error.value)


words = st.text("abcdefg-._", min_size=1).filter(lambda word: word not in ("none", "all", "true", "false"))


@given(words, st.dictionaries(words, st.integers() | st.floats(allow_nan=False) | words | st.none(), max_size=4))
def test_what_is_written_is_read(name: str, options: dict[str, int | float | str | None]) -> None:
    spelt = ":".join([name, *(f"{option}={value}" for option, value in options.items())])
    assert parse_spec(spelt) == (name, options)


def test_several_are_separated_by_commas() -> None:
    assert split_specs("kl, matching:window=1 ,floor-mean") == ["kl", "matching:window=1", "floor-mean"]


def test_the_options_are_those_of_the_constructor() -> None:
    assert options_of(LOCALIZERS["matching"])[:3] == ("layer", "neighbours", "window")
    assert options_of(LOCALIZERS["floor-mean"]) == ()
    for name, localizer in LOCALIZERS.items():
        for option in options_of(localizer):
            check_options(name, localizer, {option: None})
        with pytest.raises(UsageError, match=f"unknown option of localizer '{name}' 'nonsense'") as error:
            check_options(name, localizer, {"nonsense": 1})
        assert all(option in str(error.value) for option in options_of(localizer) or ("none",))


# An option's value comes from the command line: whatever it is, the answer is one line of ours.
WRONG = [
    "matching:neighbours=x", "matching:neighbours=0", "matching:neighbours=2.5", "matching:window=-1", "matching:window=x",
    "matching:frames=3",
    "matching:layer=nope", "matching:layer=5", "matching:layer=encoder.linear", "deviation:neighbours=x",
    "deviation:neighbours=0", "deviation:layer=encoder.relu1+nope", "deviation:layer=encoder.relu1+encoder.relu1",
    "deviation:layer=encoder.relu1+", "matching:layer=all", "mean-sum:layer=all",
    "deviation:ridge=x", "deviation:ridge=nan", "deviation:ridge=inf", "deviation:layer=3", "attention:score=x",
    "attention:variant=x", "attention:variant=expvae", "attention:layer=12", "mean-sum:variant=x", "kl:variant=3",
    "ae-ssim:window=x", "ae-ssim:window=3.0", "ae-ssim:window=4", "ae-ssim:window=0", "feature-dictionary:variance=x",
    "feature-dictionary:variance=2", "feature-dictionary:variance=nan", "feature-dictionary:seed=x",
    "feature-dictionary:seed=-1", "feature-dictionary:seed=99999999999", "feature-dictionary:words=0",
    "feature-dictionary:grid=x", "feature-dictionary:layer=nope", "learned:fixed_camera=maybe", "learned:brightness=1",
    "learned:steps=0", "learned:pool=1", "learned:seed=-1",
]  # fmt: skip


@pytest.mark.parametrize("spec", WRONG)
def test_a_value_that_cannot_be_is_one_line(spec: str) -> None:
    import torch

    from vaelens.localizers import build_localizer

    name, options = parse_spec(spec)
    images = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UsageError) as error:
        build_localizer(name, build("mnist", 3, (1, 12, 12)).eval(), **options).fit(images).localize(images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"weight": "x"}, {"weight": 2}, {"learning_rate": "x"}, {"learning_rate": 0}, {"seed": "x"}]
)
def test_a_value_that_a_generator_cannot_be_searched_with(options: dict[str, object]) -> None:
    from vaelens.localizers import build_localizer

    with pytest.raises(UsageError, match=next(iter(options))):
        build_localizer("anogan", build("dcgan", 4, (1, 32, 32)).eval(), **options)
