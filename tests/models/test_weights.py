"""Load weights: every width, both key layouts of 1D-CAE, and the messages of failed loads."""

import pytest
import torch

from models import HYCASS_NAMES, models


@pytest.mark.parametrize("name", [name for name in models if name not in HYCASS_NAMES or "cr032" in name])
def test_from_state_dict_finds_the_width(name):
    model = models[name]()
    copy = type(model).from_state_dict(model.state_dict())
    assert copy.latent_shape == model.latent_shape and copy.size_multiple == model.size_multiple
    for key, tensor in model.state_dict().items():
        assert torch.equal(copy.state_dict()[key], tensor)


def test_from_state_dict_takes_other_numbers_of_bands():
    model = models["cae1d_2bpppc"](src_channels=200)
    assert type(model).from_state_dict(model.state_dict(), src_channels=200).padding == 8
    model = models["sscnet_1bpppc"](src_channels=200)
    assert type(model).from_state_dict(model.state_dict()).src_channels == 200
    with pytest.raises(ValueError, match="for 200 bands, not 202"):
        type(model).from_state_dict(model.state_dict(), src_channels=202)


@pytest.mark.parametrize(
    ("name", "other"), [("sscnet", "cae1d"), ("cae3d", "cae1d"), ("cae1d", "sscnet"), ("cae1da", "cae3d")]
)
def test_from_state_dict_refuses_another_model(name, other):
    with pytest.raises(RuntimeError, match="do not belong to"):
        type(models[name]()).from_state_dict(models[other]().state_dict())


# The same convolutions in the published flat and nested layouts, written out by hand.
FLAT_TO_NESTED = {
    "cae1d": {
        "encoder.0": "encoder.0.0.0",
        "encoder.3": "encoder.0.1.0",
        "encoder.6": "encoder.1",
        "encoder.8": "encoder.3",
        "decoder.0": "decoder.0",
        "decoder.2": "decoder.2",
        "decoder.5": "decoder.5.0.0",
        "decoder.8": "decoder.5.1.0",
    },
    "cae1d_4bpppc": {
        "encoder.0": "encoder.0.0.0",
        "encoder.3": "encoder.0.1.0",
        "encoder.6": "encoder.0.2.0",
        "encoder.9": "encoder.1",
        "encoder.11": "encoder.3",
        "decoder.0": "decoder.0",
        "decoder.2": "decoder.2",
        "decoder.5": "decoder.5.0.0",
        "decoder.8": "decoder.5.1.0",
        "decoder.11": "decoder.5.2.0",
    },
}


@pytest.mark.parametrize("name", FLAT_TO_NESTED)
@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_cae1d_loads_flat_and_nested_keys(name, layout):
    table = FLAT_TO_NESTED[name]
    own_is_flat = name == "cae1d"
    model = models[name]()
    own_names = table.keys() if own_is_flat else table.values()
    names = dict(zip(own_names, table.keys() if layout == "flat" else table.values(), strict=True))
    saved = {}
    for key, tensor in model.state_dict().items():
        layer, parameter = key.rsplit(".", 1)
        saved[f"{names[layer]}.{parameter}"] = tensor
    assert len(saved) == len(model.state_dict())

    for loaded in (models[name](), type(model).from_state_dict(saved)):
        loaded.load_state_dict(saved, strict=True)
        for key, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor)


def test_failed_load_names_five_keys_of_each_kind():
    wrong = models["cae1d"]().state_dict()
    with pytest.raises(RuntimeError) as caught:
        models["cae3d"]().load_state_dict(wrong)
    assert "\n" not in str(caught.value)
    whole, missing, unexpected, shapes = str(caught.value).split("; ")
    assert "CAE3D" in whole
    assert missing.startswith("missing: ") and missing.count(",") == 4 and missing.endswith(" more")
    assert unexpected.startswith("unexpected: ")
    assert shapes.startswith("mis-shaped: encoder.0.weight (64, 1, 11) instead of (16, 1, 2, 5, 5)")


def test_counts_of_a_failed_load_are_right():
    model = models["sscnet_1bpppc"]()
    state = model.state_dict()
    kept = dict(list(state.items())[:-7])
    with pytest.raises(RuntimeError, match="and 2 more"):
        model.load_state_dict(kept)
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict({**state, "extra": torch.zeros(1)})
    assert str(caught.value).split("; ")[1:] == ["unexpected: extra"]


@pytest.mark.parametrize("name", ["cae1da", "cae1de"])
def test_unverified_models_say_so_when_a_load_fails(name):
    with pytest.raises(RuntimeError, match="could not be confirmed"):
        models[name]().load_state_dict(models["cae1d"]().state_dict())
