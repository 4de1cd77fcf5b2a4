"""Scenes coded by a model's own entropy model: round trips, bounds, tables, and what is refused."""

import numpy as np
import pytest
import torch

from benchmarks.rd.points import Bench, measured
from coding import PLANE_CODERS
from coding.base import CodingError, DamagedError
from coding.learned.codec import open_with
from coding.learned.factory import ModelFactory, factory_of
from coding.learned.network import Network, load_network, recognize
from coding.samples import CubeSamples
from models import models
from tests.coding import roundtrip
from utils.errors import UsageError

BANDS = 12


@pytest.fixture(scope="module")
def make_model(make_cube):
    """make_model(name) -> a model of 12 bands whose entropy model suits the cubes of `make_cube`, with tables."""

    def make(name):
        torch.manual_seed(0)
        model = models[name](src_channels=BANDS)
        if not model.has_entropy_model:
            model.attach_entropy_model()
        x = torch.from_numpy(make_cube((BANDS, 24, 24), "float32"))[None]
        model.start_from(x)
        with torch.no_grad():
            y = model.encode(x)
        model.start_latent_codec(y, 0.1 * float(y.std()))
        model.update(update_quantiles=True)
        return model

    return make


def coded_scene(cube, network, max_error=None, tile_size=128, coder=None, nodata=None):
    """Return the bytes of a file, and the decoded cube."""
    header = roundtrip.header_of(cube, "learned", nodata, 10000.0, max_error, tile_size)

    def choose(factory):
        return factory.quantized() if max_error is None else factory.bounded(max_error)

    data = roundtrip.encode(cube, header, choose, lambda samples: factory_of(samples, network, coder))[0]
    reader = roundtrip.read(data)
    return data, roundtrip.decoded(data, open_with(reader.header, reader.shared, network))


@pytest.mark.parametrize("name", ["ours_hyperprior_s0", "ours_factorized_s0"])
def test_side_information_is_the_hyperprior(make_model, make_cube, name):
    network, cube = Network(name, make_model(name)), make_cube((BANDS, 16, 16))
    valid = np.ones(cube.shape, bool)
    factory = factory_of(CubeSamples(cube, valid, 10000.0), network)
    codec = factory.quantized()
    data = codec.encode(cube, valid)
    side_strings = network.compress(codec.latents(cube, valid))[1:]
    assert codec.side_bytes(data) == sum(map(len, side_strings)) < len(data)
    assert bool(side_strings) == ("hyperprior" in name)
    assert factory.bounded(10).side_bytes(data) is None
    by_context = factory_of(CubeSamples(cube, valid, 10000.0), network, "context").lossy(1.0)
    assert by_context.side_bytes(by_context.encode(cube, valid)) == len(by_context.shared) == 32


@pytest.mark.parametrize("name", ["ours_klt", "ours_hyperprior_s1", "ours_factorized_s0", "cae1d", "cae3d_1bpppc"])
def test_scenes_decode_to_the_models_reconstruction(make_model, make_cube, name):
    """In tiles whose sizes are no multiples of what the model takes."""
    network, cube = Network(name, make_model(name)), make_cube((BANDS, 20, 27))
    data, decoded = coded_scene(cube, network, tile_size=16)
    factory = factory_of(CubeSamples(cube, np.ones(cube.shape, bool), 10000.0), network)
    codec = factory.quantized()
    assert codec.shared == b"" and codec.parameters == {"coder": "model"}
    valid = np.ones((BANDS, 16, 16), bool)
    tile = np.ascontiguousarray(cube[:, :16, :16])
    bits, expected = codec.encode_and_decode(tile, valid)
    assert np.array_equal(codec.decode(bits, valid), expected)
    assert np.array_equal(codec.reconstruct(tile, valid), expected)
    assert np.array_equal(decoded[:, :16, :16], expected)
    x = torch.from_numpy(np.clip(tile / np.float32(10000), 0, 1))[None].float()
    with torch.no_grad():
        x_hat = network.model(x)["x_hat"][0].clamp(0, 1).numpy()
    assert np.abs(expected - 10000 * x_hat).max() <= 0.51
    rate = 8 * len(data) / cube.size
    assert rate < 16


@pytest.mark.parametrize("name", ["ours_klt", "ours_factorized_s0"])
def test_bounds_hold_and_gaps_are_kept(make_model, make_cube, name):
    network, cube = Network(name, make_model(name)), make_cube((BANDS, 20, 27))
    cube[:, 3:6, 4:9] = cube[2, 11, 11] = -32768
    for bound in (0, 5):
        _, decoded = coded_scene(cube, network, bound, tile_size=16, nodata=-32768)
        assert np.array_equal(decoded == -32768, cube == -32768)
        assert np.abs(decoded.astype(int) - cube).max() <= bound


def test_other_coders_take_the_latents_of_these_models_too(make_model, make_cube):
    network, cube = Network("ours_factorized_s0", make_model("ours_factorized_s0")), make_cube((BANDS, 20, 24))
    for coder in PLANE_CODERS:
        assert coded_scene(cube, network, coder=coder)[1].shape == cube.shape


def test_modes_that_the_training_decided_are_missing(make_model, make_network, make_cube):
    cube = make_cube()
    samples = CubeSamples(cube, np.ones(cube.shape, bool), 10000.0)
    factory = factory_of(samples, Network("ours_klt", make_model("ours_klt")))
    assert factory.lossy is None and factory.fixed is None and factory.quantized and factory.lossless
    with pytest.raises(CodingError, match="steps of ours_klt are learned"):
        factory.bounded(3, 0.1)
    with pytest.raises(CodingError, match="cae1d with these weights has no entropy model: give another --coder"):
        factory_of(samples, make_network(), "model").quantized()


def test_damaged_tiles_and_headers_are_refused(make_model, make_cube):
    network, cube = Network("ours_klt", make_model("ours_klt")), make_cube((BANDS, 16, 16))
    data, _ = coded_scene(cube, network)
    reader = roundtrip.read(data)
    codec = open_with(reader.header, reader.shared, network)
    valid = np.ones(cube.shape, bool)
    coded = codec.encode(cube, valid)
    with pytest.raises(DamagedError):
        codec.decode(coded[:-1], valid)
    with pytest.raises(DamagedError, match="shared block must have 0 bytes"):
        open_with(reader.header, b"1", network)
    other = Network("ours_klt", make_model("ours_klt"))
    other.sha256 = "0" * 64
    with pytest.raises(CodingError, match="give those weights as --checkpoint"):
        open_with(reader.header, reader.shared, other)


def test_weights_are_recognized_and_missing_tables_are_noted(make_model, tmp_path, capsys):
    for name in ("ours_klt", "cae1d"):
        torch.save({"state_dict": make_model(name).state_dict()}, tmp_path / f"{name}.pth.tar")
        assert recognize(str(tmp_path / f"{name}.pth.tar"), BANDS) == name
    network = load_network("cae1d", str(tmp_path / "cae1d.pth.tar"), BANDS, "cpu")
    assert network.has_entropy_model and capsys.readouterr().err == ""
    fresh = models["ours_klt"](src_channels=BANDS).state_dict()
    torch.save(fresh, tmp_path / "last.pth.tar")
    first, second = (load_network("ours_klt", str(tmp_path / "last.pth.tar"), BANDS, "cpu") for _ in range(2))
    assert "holds no tables of the range coder" in capsys.readouterr().err
    assert first.sha256 == second.sha256


def test_compress_uses_the_entropy_model(make_model, make_cube, scripts, tmp_path):
    weights, scene = tmp_path / "final.pth.tar", tmp_path / "scene.npy"
    torch.save({"state_dict": make_model("ours_klt").state_dict()}, weights)
    cube = make_cube((BANDS, 32, 40))
    np.save(scene, cube)
    flags = ["-m", "ours_klt", "--checkpoint", str(weights), "--num-channels", str(BANDS), "--axes", "brc"]
    files = str(scene), str(tmp_path / "scene.hsc")
    assert scripts.compress.main([*files, *flags]) == 0
    assert scripts.decompress.main([files[1], str(tmp_path / "out.npy"), "--checkpoint", str(weights)]) == 0
    decoded = np.load(tmp_path / "out.npy")
    assert decoded.shape == cube.shape and np.abs(decoded.astype(int) - cube).mean() < 300
    with pytest.raises(UsageError, match="steps of this model are learned: leave step, quality and target out"):
        scripts.compress.main([*files, *flags, "--overwrite", "--target-bpppc", "1"])


def test_rd_measures_the_modes_that_these_models_have(make_model, make_cube, tmp_path):
    torch.save(make_model("ours_factorized_s0").state_dict(), tmp_path / "final.pth.tar")
    cube = make_cube((BANDS, 16, 24))
    bench = Bench(cube, np.ones(cube.shape, bool), 10000.0)
    modes = [(kind, None) for kind in ("fixed", "quantized", "trained")]
    wanted = [*modes, ("lossy", 1.0), ("bounded", 5), ("lossless", None)]
    rows = measured(ModelFactory("ours_factorized_s0", str(tmp_path / "final.pth.tar"), BANDS), bench, wanted)
    rates = {kind: point["bpppc"] for kind, _, point in rows if point}
    assert list(rates) == ["trained", "bounded", "lossless"]
    assert 0 < rates["trained"] < rates["bounded"] < rates["lossless"]
